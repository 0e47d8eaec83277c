"""Peers, descriptors and signals: what happens to the process, not to its disks."""

import contextlib
import itertools
import json
import os
import resource
import select
import shutil
import signal
import socket
import time

import pytest
from certificates import authority
from raw import Lines, RawSession, file_config, hello, number_of, numbered, opened
from support import ROOT, eventually
from wallclock import WallClock

from wafermon.backends import Store
from wafermon.delivery.journal import Journal
from wafermon.flow import Selection
from wafermon.message import Batch
from wafermon.testing import FakeClock, frame, frames
from wafermon.wire import SessionTable
from wafermon.wire.sessions import TTL_SECONDS

pytestmark = pytest.mark.slow


def out_of(tmp_path):
    path = tmp_path / "out.jsonl"
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def acked(lines, q):
    while lines.next()["q"] < q:
        pass


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_no_descriptors_left(start_sidecar, tmp_path):
    """Those who are in are served, those who wait get in when there is room; it does not spin."""
    config = file_config(tmp_path)
    config["sidecar"]["tcp"]["max_connections"] = 1000
    sidecar = start_sidecar(config=config)
    sidecar.send(frame(1))
    eventually(lambda: len(out_of(tmp_path)) == 1)
    first, lines, _ = opened(sidecar, "s", unix=False)
    pid = sidecar.process.pid
    limit = len(os.listdir(f"/proc/{pid}/fd")) + 10
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
    crowd = [sidecar.connect() for _ in range(40)]
    try:
        first.sendall(numbered(1))
        acked(lines, 1)
        before = cpu_seconds(pid)
        select.select([first], [], [], 1.0)  # nothing comes; a second in which it might spin
        assert cpu_seconds(pid) - before < 0.5
        for sock in crowd:
            sock.sendall(frame(2))
    finally:
        for sock in [*crowd, first]:
            sock.close()
    eventually(lambda: len(out_of(tmp_path)) == 42, "all who waited")


def test_a_reload_without_descriptors(start_sidecar, tmp_path):
    """What needs one cannot be had: all stays as it is, is told once there is one, and then works."""
    config = file_config(tmp_path)
    sidecar = start_sidecar(config=config)
    client = RawSession(sidecar.ready["unix"], "s")
    client.pump()
    pid = sidecar.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
    config["backends"]["more"] = {"type": "file", "path": str(tmp_path / "more.jsonl")}
    config["sidecar"]["unix"] = {"path": str(tmp_path / "other.sock")}
    (sidecar.folder / "config.json").write_text(json.dumps(config))
    sidecar.process.send_signal(signal.SIGHUP)
    goal = client.acked + 2000
    while client.acked < goal:
        client.pump()
    said = list(itertools.takewhile(lambda line: b"config: not reloaded" not in line, sidecar.process.stderr))
    assert b"Too many open files" in b"".join(said)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    health = json.loads(sidecar.get("/health"))
    assert "Too many open files" in health["config_fault"] and list(health["backends"]) == ["out"]
    sidecar.process.send_signal(signal.SIGHUP)
    eventually(lambda: sorted(json.loads(sidecar.get("/health"))["backends"]) == ["more", "out"])
    client.drain()
    client.close()
    assert client.levels.keys() == {"disk"} and client.connects == 1
    eventually(lambda: [number_of(line) for line in out_of(tmp_path)] == list(range(1, client.sent + 1)))


def patiently(sidecar):
    """A connection; None while the backlog of a Unix socket is full."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        sock.connect(sidecar.ready["unix"])
    except BlockingIOError:
        sock.close()
        return None
    sock.settimeout(30)
    return sock


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def descriptors():
    """Allow this process, and those it starts, so many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def allow(wanted):
        if hard != resource.RLIM_INFINITY and hard < wanted:
            pytest.skip(f"no more than {hard} descriptors may be open here")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))

    yield allow
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ten_thousand_connections(start_sidecar, tmp_path, descriptors):
    """They cost memory, a little, and time while they talk; who comes after them waits for a place."""
    descriptors(10_500)
    config = file_config(tmp_path)
    config["sidecar"]["unix"] = {"max_connections": 10_000}
    sidecar = start_sidecar(config=config)
    pid = sidecar.process.pid
    before = resident_bytes(pid)
    with contextlib.ExitStack() as crowd:
        socks = []
        for _ in range(10_000):
            socks.append(eventually(lambda: patiently(sidecar), "a place in the backlog"))
            crowd.enter_context(socks[-1])
        eventually(lambda: sidecar.total("sidecar_active_connections") == 10_000)
        assert resident_bytes(pid) - before < 10_000 * 8192
        spent = cpu_seconds(pid)
        select.select([socks[0]], [], [], 1.0)  # nothing comes: a second in which it might poll them
        assert cpu_seconds(pid) - spent < 0.3
        for number, sock in enumerate(socks[::100]):
            sock.sendall(hello(f"s{number}") + numbered(1))
        for sock in socks[::100]:
            lines = Lines(sock)
            assert [lines.next()["type"], lines.next()["q"]] == ["welcome", 1]
        eventually(lambda: len(out_of(tmp_path)) == 100)
        extra = crowd.enter_context(sidecar.connect(unix=True))  # waits in the backlog
        extra.sendall(frame(2))
        socks.pop().close()
        eventually(lambda: len(out_of(tmp_path)) == 101)
    eventually(lambda: sidecar.total("sidecar_active_connections") == 0)


def test_a_peer_that_dribbles(start_sidecar, tmp_path):
    """One byte now and then and never an end: it is cut off, and only it."""
    config = file_config(tmp_path)
    config["sidecar"]["unix"] = {"read_timeout": 0.5}
    sidecar = start_sidecar(config=config)
    other, lines, _ = opened(sidecar, "s")
    slow = sidecar.connect(unix=True)
    with slow, other:
        for byte in frame(1):
            try:
                slow.sendall(bytes([byte]))
            except OSError:
                break
            if select.select([slow], [], [], 0.05)[0]:
                break
        else:
            pytest.fail("it was never cut off")
        other.sendall(numbered(1))
        acked(lines, 1)
    assert sidecar.total("sidecar_connections_ended_total", reason="read_timeout") == 1
    assert sidecar.total("sidecar_messages_rejected_total", reason="truncated") == 1


def test_a_peer_that_is_only_half_there(start_sidecar, tmp_path):
    """It opened a session and vanished without a word: its successor takes the session over, and
    where silence is bounded its connection goes."""
    config = file_config(tmp_path)
    config["sidecar"]["unix"] = {"idle_timeout": 1}
    sidecar = start_sidecar(config=config)
    gone, lines, _ = opened(sidecar, "a")
    gone.sendall(numbered(1))
    acked(lines, 1)
    eventually(lambda: sidecar.total("sidecar_connections_ended_total", reason="idle_timeout") == 1)
    gone.close()
    sock, lines, welcome = opened(sidecar, "a")
    with sock:
        assert welcome["q"] == 1
        sock.sendall(numbered(2))
        acked(lines, 2)


def test_stopped_and_continued(start_sidecar, tmp_path):
    """SIGSTOP under load, then SIGCONT: the client has waited, nothing is lost, nothing twice."""
    sidecar = start_sidecar(config=file_config(tmp_path))
    client = RawSession(sidecar.ready["unix"], "s")
    for _ in range(3):
        for _ in range(5):
            client.pump()
        sidecar.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, sidecar.process.pid, os.WSTOPPED | os.WNOWAIT)
        sidecar.process.send_signal(signal.SIGCONT)
        goal = client.acked + 1000
        while client.acked < goal:
            client.pump()
    client.drain()
    client.close()
    eventually(lambda: [number_of(line) for line in out_of(tmp_path)] == list(range(1, client.sent + 1)))


def test_killed_clients(start_sidecar, tmp_path):
    """A client that dies in the middle of a line has its whole lines taken, and one truncated."""
    sidecar = start_sidecar(config=file_config(tmp_path))
    sent = frames(1000)
    pid = os.fork()
    if pid == 0:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(sidecar.ready["unix"])
        sock.sendall(b"".join(sent) + frame(1)[:20])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    eventually(lambda: out_of(tmp_path) == sent)
    eventually(lambda: sidecar.total("sidecar_messages_rejected_total", reason="truncated") == 1)


@pytest.mark.parametrize("hours", [-1, 1, -10_000])
def test_the_wall_clock_jumps(tmp_path, hours):
    """Sessions and journal go on; only what is older than a day by the new time is forgotten."""
    clock = FakeClock()
    journal = Journal(str(tmp_path / "journal.db"), clock=clock)
    journal.open()
    table = SessionTable()
    assert table.open("a", clock(), lambda: None) == 0
    for q in range(1, 4):
        batch = Batch(frame(q))
        batch.marks = [("a", q)]
        journal.append(batch)
        table.advance("a", q, clock())
        journal.commit()
        clock.advance(hours * 3600)
    assert journal.committed == 3
    journal.close()
    journal = Journal(str(tmp_path / "journal.db"), clock=clock)
    journal.open()
    assert journal.marks["a"][0] == 3 and len(journal.read(0)) == 3
    assert table.open("a", clock(), lambda: None) == 3
    if hours > 0:
        clock.advance(TTL_SECONDS + 1)
        table.open("b", clock(), lambda: None)
        assert len(table) == 2, "one that is open is never forgotten"
    journal.close()


# -- the wall clock of a real process ----------------------------------------------------------


def rotated(folder, src):
    """What came from a source, in a file and in what it was before, in the order of their names."""
    names = [*sorted(folder.glob("out@*.jsonl"), key=lambda path: _key(path.name)), folder / "out.jsonl"]
    lines = [line for name in names for line in name.read_bytes().splitlines()]
    return [number_of(line) for line in lines if json.loads(line)["src"] == src]


def _key(name):
    stamp, _, number = name[len("out@"):-len(".jsonl")].partition("_")
    return stamp, int(number or 0)


def test_the_wall_clock_jumps_under_a_sidecar(start_sidecar, tmp_path):
    """By an hour, ahead and back: timers, sessions, journal, rotation and retention go on."""
    clock = WallClock(tmp_path)
    config = file_config(tmp_path)
    config["sidecar"]["unix"] = {"idle_timeout": 60, "read_timeout": 60}
    config["backends"]["out"]["rotate"] = {"every": "hour", "keep": 100}
    config["backends"]["db"] = {"type": "store", "path": str(tmp_path / "store.db"),
                                "max_age": "3h"}
    sidecar = start_sidecar(config=config, env=clock.env)
    stays = RawSession(sidecar.ready["unix"], "stays", src="stays", window=20)
    client = RawSession(sidecar.ready["unix"], "s", window=20)
    pid = sidecar.process.pid
    for times, hours in enumerate([1, 0, -1, 1, 0], 1):
        clock.set(hours)
        spent = cpu_seconds(pid)
        for one in (client, stays):
            goal = one.acked + 200
            while one.acked < goal:
                one.pump()
        client.close()  # and its session goes on in the next round
        sidecar.process.send_signal(signal.SIGHUP)
        eventually(lambda n=times: sidecar.total("sidecar_config_reloads_total") == n)
        now = sidecar.total("sidecar_config_last_success_timestamp_seconds")
        assert abs(now - time.time() - hours * 3600) < 600, "it has jumped"
        assert json.loads(sidecar.get("/health"))["status"] == "ok"
        assert cpu_seconds(pid) - spent < 5
    for one in (client, stays):
        one.drain()
        assert one.levels.keys() == {"disk"}
        one.close()
    assert stays.connects == 1, "no time limit has struck"
    sent = client.sent + stays.sent
    eventually(lambda: sidecar.total("sidecar_backend_messages_total", outcome="delivered") == 2 * sent)
    assert sidecar.stop()[0] == 0
    assert len(list(tmp_path.glob("out@*.jsonl"))) >= 4, "each jump is into another hour"
    for one in (client, stays):
        assert rotated(tmp_path, one.src) == list(range(1, one.sent + 1)), "each once, in order"
    store = Store(str(tmp_path / "store.db"))
    assert sum(1 for _ in store.query(Selection())) == sent, "of the age of an hour or two, not three"


def test_the_package_is_replaced_under_a_running_sidecar(start_sidecar, tmp_path):
    """As by an upgrade, or a disk that lost it: what runs goes on, tells its faults, reloads, stops."""
    package = tmp_path / "lib" / "wafermon"
    shutil.copytree(ROOT / "wafermon", package, ignore=shutil.ignore_patterns("__pycache__"))
    with open(package / "backends" / "null.py", "a") as file:
        file.write("\n\ndef write(self, batch):\n    1 / 0\n\n\nNullBackend.write = write\n")
    config = file_config(tmp_path)
    config["backends"]["faulty"] = {"type": "null"}
    sidecar = start_sidecar(config=config, root=tmp_path / "lib", env={"PYTHONPATH": ""})
    client = RawSession(sidecar.ready["unix"], "s")
    client.pump()
    for path in package.rglob("*"):
        if path.suffix == ".py":
            path.write_bytes(b"\xff\0(\r\n" * 1000)
        elif path.suffix == ".pyc":
            path.unlink()

    def health():
        return json.loads(sidecar.get("/health"))

    def hup(result):
        before = sidecar.total("sidecar_config_reloads_total", result=result)
        (sidecar.folder / "config.json").write_text(json.dumps(config))
        sidecar.process.send_signal(signal.SIGHUP)
        eventually(lambda: sidecar.total("sidecar_config_reloads_total", result=result) > before)

    eventually(lambda: "ZeroDivisionError" in health()["backends"]["faulty"]["error"])
    sidecar.send(b"rubbish\n")
    for kind in ("file", "store"):
        config["backends"][kind] = {"type": kind, "path": str(tmp_path / kind)}
        hup("ok")
    # What had no use so far would have to come from a file. All stays as it is.
    config["sidecar"]["tcp"]["tls"] = {"cert": authority().issue()[0]}
    hup("failed")
    assert "source code" in health()["config_fault"] or "null bytes" in health()["config_fault"]
    del config["sidecar"]["tcp"]["tls"], config["backends"]["faulty"]
    hup("ok")
    goal = client.acked + 1000
    while client.acked < goal:
        client.pump()
    client.drain()
    client.close()
    eventually(lambda: [number_of(line) for line in out_of(tmp_path)] == list(range(1, client.sent + 1)))
    status, err = sidecar.stop()
    assert status == 0, err
    assert "ZeroDivisionError: division by zero" in err and "Traceback" in err
    letters = (tmp_path / "data" / "dead-letters.jsonl").read_text().splitlines()
    assert [json.loads(letter)["line"] for letter in letters] == ["rubbish"]
