"""Worker processes: they decode as the owner does, and whatever happens to them, nobody notices."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest
from support import ROOT, eventually

from wafermon.message import Batch
from wafermon.net.workers import _describe
from wafermon.testing import frames
from wafermon.wire.blocks import BlockDecoder


def frame(src, n, **fields):
    kind = fields.pop("type", "event")
    data = {"level": "info", "msg": "x" * 100, "ctx": {"n": n}}
    return json.dumps({"v": 1, "src": src, "ts": n, "type": kind, "data": data, **fields}).encode() + b"\n"


def hello(src, session):
    data = {"session": session}
    return json.dumps({"v": 1, "src": src, "ts": 0, "type": "hello", "data": data}).encode() + b"\n"


def config(folder, processes=3, **sidecar):
    return {
        "sidecar": {
            "data_dir": str(folder / "data"),
            "tcp": {"port": 0},
            "health": {"metrics_port": 0},
            "performance": {"processes": processes},
            **sidecar,
        },
        "backends": {"file": {"type": "file", "path": str(folder / "out.jsonl"),
                              "rotate": {"max_bytes": 0}}},
    }  # fmt: skip


def children(pid):
    """A process's descendants; one that ends meanwhile may be missing."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)]
    return found


def workers(pid):
    """The nursery, and the workers it has forked."""
    nursery, *rest = children(pid)
    return nursery, rest


class Client(threading.Thread):
    """A session that sends numbered frames as fast as it may, and reads its receipts."""

    def __init__(self, sidecar, src, count):
        super().__init__(daemon=True)
        self.src, self.count, self.acked = src, count, 0
        self.sock = sidecar.connect()
        self.sock.sendall(hello(src, "s"))

    def run(self):
        reader = threading.Thread(target=self.read, daemon=True)
        reader.start()
        for first in range(1, self.count + 1, 500):
            last = min(first + 500, self.count + 1)
            self.sock.sendall(b"".join(frame(self.src, n, q=n) for n in range(first, last)))
        reader.join()
        self.sock.close()

    def read(self):
        rest = b""
        while self.acked < self.count:
            data = self.sock.recv(65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            self.acked = max([self.acked, *(json.loads(line)["q"] for line in lines)])


def stamps(path, src):
    messages = map(json.loads, path.read_bytes().splitlines())
    return [m["ts"] for m in messages if m["src"] == src]


def test_what_a_worker_tells_of_a_block_is_what_the_owner_would_find():
    block = (
        frame("a", 1, q=3) + frame("b", 2) + frame("a", 3, tid="t" * 32)
        + frame("c", 4, type="metric", q=9) + frame("a", 5, q=10)
    )  # fmt: skip
    decoded = BlockDecoder().decode(block)
    told = Batch.described(block, *_describe(decoded))
    assert len(told) == len(decoded) == 5
    for field in ("raw", "sources", "numbers", "numbered", "telling", "messages", "lines"):
        assert getattr(told, field) == getattr(decoded, field), field
    assert [m["ts"] for m in told.telling] == [3, 4]
    plain = BlockDecoder().decode(frame("a", 1))
    assert Batch.described(frame("a", 1), *_describe(plain)).telling == []


@pytest.mark.parametrize("block", [b"rubbish\n", hello("a", "s"), frame("a", 1, type="goodbye")])
def test_what_is_out_of_the_ordinary_is_left_to_the_owner(block):
    assert _describe(BlockDecoder().decode(block)) is None


def test_workers_take_part_and_everything_is_as_without(start_sidecar, tmp_path):
    sidecar = start_sidecar(config=config(tmp_path))
    nursery, _ = eventually(lambda: len(children(sidecar.process.pid)) == 3 and workers(sidecar.process.pid))
    rubbish = b'{"v":1}\n[1\n'
    with sidecar.connect() as plain:
        for part in range(20):
            plain.sendall(b"".join(frame("plain", part * 1000 + n) for n in range(1000)))
            plain.sendall(rubbish)
    clients = [Client(sidecar, f"s{i}", 20_000) for i in range(3)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60)
        assert client.acked == 20_000
    eventually(lambda: sidecar.total("sidecar_messages_received_total") == 80_000)
    assert sidecar.total("sidecar_messages_rejected_total") == 40
    assert sidecar.total("sidecar_worker_blocks_total") > 0
    assert sidecar.total("sidecar_worker_processes_lost_total") == 0
    status, err = sidecar.stop()
    assert (status, "ended" in err) == (0, False)
    assert stamps(tmp_path / "out.jsonl", "plain") == list(range(20_000))
    for i in range(3):
        assert stamps(tmp_path / "out.jsonl", f"s{i}") == list(range(1, 20_001))
    assert not pathlib.Path(f"/proc/{nursery}").exists()


def test_nobody_notices_that_workers_are_killed(start_sidecar, tmp_path):
    sidecar = start_sidecar(config=config(tmp_path))
    pid = sidecar.process.pid
    eventually(lambda: len(children(pid)) == 3)
    clients = [Client(sidecar, f"s{i}", 30_000) for i in range(2)]
    for client in clients:
        client.start()
    killed = 0
    while any(client.is_alive() for client in clients) or killed < 2:
        _, found = workers(pid)
        for worker in found[:1]:
            os.kill(worker, signal.SIGKILL)
            killed += 1
            eventually(lambda k=killed: sidecar.total("sidecar_worker_processes_lost_total") == k)
        eventually(lambda: len(children(pid)) == 3, "another worker")
    for client in clients:
        client.join(60)
        assert client.acked == 30_000
    assert sidecar.total("sidecar_active_connections") == 0
    assert sidecar.total("sidecar_connections_total") == 2, "nobody had to connect again"
    assert sidecar.stop()[0] == 0
    for i in range(2):
        assert stamps(tmp_path / "out.jsonl", f"s{i}") == list(range(1, 30_001))


def test_without_a_nursery_it_goes_on_alone(start_sidecar, tmp_path):
    sidecar = start_sidecar(config=config(tmp_path, 2))
    pid = sidecar.process.pid
    eventually(lambda: len(children(pid)) == 2)
    nursery, (worker,) = workers(pid)
    os.kill(nursery, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: sidecar.total("sidecar_worker_processes_lost_total") == 1)
    data = b"".join(frames(5000))
    sidecar.send(data)
    eventually(lambda: sidecar.total("sidecar_messages_received_total") == 5000)
    assert sidecar.stop()[0] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == data


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(start_sidecar, tmp_path):
    sidecar = start_sidecar(config=config(tmp_path, 2))
    pid = sidecar.process.pid
    eventually(lambda: sidecar.total("sidecar_worker_processes") == 1)
    _, (worker,) = workers(pid)
    os.kill(worker, signal.SIGSTOP)
    client = Client(sidecar, "s", 60_000)  # far more than may wait behind a block
    client.start()
    client.join(60)
    assert client.acked == 60_000
    eventually(lambda: sidecar.total("sidecar_worker_processes_lost_total") == 1)
    eventually(lambda: workers(pid)[1] not in ([], [worker]), "another worker")
    assert sidecar.stop()[0] == 0
    assert stamps(tmp_path / "out.jsonl", "s") == list(range(1, 60_001))


def test_all_end_with_their_owner(start_sidecar, tmp_path):
    sidecar = start_sidecar(config=config(tmp_path))
    eventually(lambda: len(children(sidecar.process.pid)) == 3)
    family = children(sidecar.process.pid)
    sidecar.process.kill()
    sidecar.process.wait()
    eventually(lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in family))


def test_a_signal_to_all_of_them_is_a_stop_of_the_owner(start_sidecar, tmp_path):
    """A terminal sends it to the group, a service manager to all processes of a service."""
    sidecar = start_sidecar(config=config(tmp_path))
    eventually(lambda: len(children(sidecar.process.pid)) == 3)
    data = b"".join(frames(20_000))
    with sidecar.connect() as sock:
        sock.sendall(data)
        for pid in [*children(sidecar.process.pid), sidecar.process.pid]:
            os.kill(pid, signal.SIGTERM)
        status, err = sidecar.stop(0)
    assert (status, "ended" in err) == (0, False)
    assert (tmp_path / "out.jsonl").read_bytes() == data


ALONE = """
import errno, os, signal, socket
from wafermon.net import EventLoop, Workers
from wafermon.net import workers as module
module.HIRE_SECONDS = 0.01
loop = EventLoop()
workers = Workers(1, loop)
loop.call_later(20, loop.stop)  # a bound on everything below

def when(condition, then):
    '''Call once a condition holds.'''
    def look():
        then() if condition() else loop.call_later(0.002, look)
    look()
"""


def alone(script):
    """What workers without a server do, in a process that has no threads; what it prints."""
    done = subprocess.run([sys.executable, "-c", ALONE + script], capture_output=True, text=True,
                          timeout=60, cwd=ROOT, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("what", ["no descriptors", "no process"])
def test_who_cannot_be_hired_now_is_hired_later(what):
    out, err = alone("""
fork, pair, calls = os.fork, socket.socketpair, []
def fork_later():
    calls.append(1)
    if len(calls) == 2:  # the nursery's first
        raise OSError(errno.EAGAIN, "no process")
    return fork()
def pair_later(*args):
    calls.append(1)
    if len(calls) == 2:
        raise OSError(errno.EMFILE, "no descriptors")
    return pair(*args)
""" + ("socket.socketpair = pair_later" if what == "no descriptors" else "os.fork = fork_later") + """
workers.start()
workers.serve()
when(lambda: workers.pids, lambda: (print("hired"), loop.stop()))
loop.run()
workers.stop()
""")
    assert out == "hired\n" and "Traceback" not in err


def test_a_worker_is_lost_once_and_all_its_tasks_are_told():
    """It ends while more is to be written to it than the kernel takes; one task fails over that."""
    out, err = alone("""
workers.start()
workers.serve()
told = []
def done(batch):
    told.append(batch)
    if len(told) == 1:
        raise ValueError("of our own")
    if len(told) == 3:
        loop.call_later(0.05, loop.stop)
def begin():
    pid = workers.pids[0]
    os.kill(pid, signal.SIGSTOP)
    block = b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n' * 20_000
    assert all(workers.submit(block, done) for _ in range(3))
    os.kill(pid, signal.SIGKILL)
when(lambda: workers.pids, begin)
loop.run()
print(told, workers.lost)
workers.stop()
""")
    assert out == "[None, None, None] 1\n"
    assert "a fault of our own" in err and "callback of the event loop" not in err


def test_a_worker_that_is_gone_takes_no_block():
    out, _ = alone("""
workers.start()
workers.serve()
def begin():
    pid = workers.pids[0]
    os.kill(pid, signal.SIGKILL)
    while os.path.exists(f"/proc/{pid}"):
        pass
    print(workers.submit(b"x\\n", print), len(workers._workers[0].tasks))
    loop.stop()
when(lambda: workers.pids, begin)
loop.run()
workers.stop()
""")
    assert out == "False 0\n"


def test_one_that_has_answered_takes_the_next_block_within_the_same_turn():
    """A turn of the loop may bring as many blocks as may wait for a worker."""
    out, _ = alone("""
import select
from wafermon.net.workers import MAX_WAITING
workers.start()
workers.serve()
told = []
def begin():
    block, link = b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n', workers._workers[0].link
    assert all(workers.submit(block, told.append) for _ in range(MAX_WAITING))
    for _ in range(100):
        select.select([link], [], [], 10)
        if workers.submit(block, told.append):
            break
    print(len(told) > 0, all(len(batch) == 1 for batch in told))
    loop.stop()
when(lambda: workers.pids, begin)
loop.run()
workers.stop()
""")
    assert out == "True True\n"
