"""What several connections bring in one turn is decoded together, and means the same as apart."""

import json
import socket
import struct
import threading

import pytest
from net_host import Host
from support import eventually

from wafermon.delivery import Pipeline, Route
from wafermon.delivery.feeders import Crowd
from wafermon.delivery.queue import BatchQueue
from wafermon.flow import Router, Rule
from wafermon.message import Batch, Reason
from wafermon.testing import frames
from wafermon.wire.blocks import BlockDecoder


class Turn:
    """Everything sent inside of the block reaches the loop in one turn."""

    def __init__(self, host):
        self._loop = host.server.loop
        self._busy, self._release = threading.Event(), threading.Event()

    def __enter__(self):
        self._loop.call_soon(lambda: (self._busy.set(), self._release.wait(20)))
        assert self._busy.wait(20)

    def __exit__(self, *_):
        self._release.set()


@pytest.fixture
def host(tmp_path):
    with Host(tmp_path) as host:
        yield host


def frame(src, n, **fields):
    kind = fields.pop("type", "heartbeat")
    return json.dumps({"v": 1, "src": src, "ts": n, "type": kind, **fields}).encode() + b"\n"


def hello(src, session):
    return frame(src, 0, type="hello", data={"session": session})


def line(sock):
    got = b""
    while not got.endswith(b"\n"):
        got += sock.recv(1)
    return json.loads(got)


def settle(host, clients, first):
    """Have each client known for what it is."""
    for client, data in zip(clients, first):
        client.sendall(data)
    eventually(lambda: len(host.outlet.raw) == len(clients))


def shapes(host):
    """How many peers each batch from now on is of."""
    seen = []
    submit = host.outlet.submit

    def watched(batch, feeder=None):
        if len(batch):
            seen.append(len(feeder.parts) if isinstance(feeder, Crowd) else 1)
        submit(batch, feeder)

    host.server.outlet = type("Watched", (), {"submit": staticmethod(watched),
                                              "expect": host.outlet.expect,
                                              "forget": host.outlet.forget})
    return seen


def test_a_turn_is_one_batch_and_each_peer_keeps_its_order(host):
    clients = [host.connect() for _ in range(20)]
    settle(host, clients, [frame(f"s{i}", 0) for i in range(20)])
    seen = shapes(host)
    with Turn(host):
        for i, client in enumerate(clients):
            client.sendall(b"".join(frame(f"s{i}", n) for n in range(1, 4)) + b'{"half')
    eventually(lambda: host.outlet.all.count(b"\n") == 80)
    assert seen == [20]
    for i, raw in enumerate(host.outlet.raw[feeder] for feeder in host.outlet.feeders):
        assert [(m["src"], m["ts"]) for m in Batch(raw).messages] == [
            (f"s{i}", n) for n in range(4)
        ]
    for client in clients:
        client.close()


def test_rubbish_of_one_peer_is_nobody_elses(host):
    clients = [host.connect() for _ in range(3)]
    settle(host, clients, [frame(f"s{i}", 0) for i in range(3)])
    with Turn(host):
        clients[0].sendall(frame("s0", 1))
        clients[1].sendall(b"[1\n" + frame("s1", 1))  # would close the array of the next one
        clients[2].sendall(b"2]\n" + frame("s2", 1))
    eventually(lambda: host.outlet.all.count(b"\n") == 6)
    assert [r.reason for r in host.outlet.rejects] == [Reason.INVALID_JSON] * 2
    assert sorted(m["src"] for m in Batch(host.outlet.all).messages) == sorted("s0 s1 s2".split() * 2)
    for client in clients:
        client.close()


def sessions(host, count):
    """Clients whose sessions hold number 5."""
    clients = [host.connect() for _ in range(count)]
    for i, client in enumerate(clients):
        client.sendall(hello(f"s{i}", "x") + frame(f"s{i}", 1, q=5))
        assert [line(client)["q"], line(client)["q"]] == [0, 5]
    return clients


def test_the_marks_of_all_sessions_go_with_their_batch(host):
    clients = sessions(host, 3)
    seen = []
    submit = host.outlet.submit
    host.outlet.submit = lambda batch, feeder=None: (seen.append(batch), submit(batch, feeder))
    with Turn(host):
        clients[0].sendall(frame("s0", 2, q=6))
        clients[1].sendall(frame("s1", 2))
        clients[2].sendall(frame("s2", 2, q=9))
    assert [line(clients[0])["q"], line(clients[2])["q"]] == [6, 9]
    batch = max(seen, key=len)
    assert len(batch) == 3 and sorted(batch.marks) == [("s0\nx", 6), ("s2\nx", 9)]
    for client in clients:
        client.close()


def test_a_goodbye_in_a_turn_ends_just_its_own_session(host):
    clients = sessions(host, 2)
    with Turn(host):
        clients[0].sendall(frame("s0", 2, q=6))
        clients[1].sendall(frame("s1", 2, type="goodbye", q=6))
    assert [line(client)["q"] for client in clients] == [6, 6]
    for client in clients:
        client.close()
    eventually(lambda: len(host.outlet.forgotten) == 2)
    assert list(host.server.sessions._records) == ["s0\nx"]


class Workers:
    """Answer when they are told to, in any order."""

    def __init__(self):
        self.tasks = []
        self.blocks = BlockDecoder()

    def submit(self, block, done):
        self.tasks.append((block, done))
        return True

    def answer(self, index, *, well=True):
        block, done = self.tasks.pop(index)
        done(self.blocks.decode(block) if well else None)

    def on(self, host, *indexes, **how):
        for index in indexes:
            host.server.on_loop(lambda i=index: self.answer(i, **how))


def big(src, first):
    """A full unit."""
    return b"".join(frame(src, n, type="event", q=n, data={"level": "info", "msg": "x" * 9000})
                    for n in range(first, first + 5))  # fmt: skip


@pytest.fixture
def workers(host):
    host.server.workers = Workers()
    return host.server.workers


def numbers(host, index=0):
    return [m["q"] for m in Batch(host.outlet.raw[host.outlet.feeders[index]]).messages]


def test_answers_count_in_the_order_of_what_was_read(host, workers):
    (client,) = sessions(host, 1)
    for first in (6, 11, 16):
        client.sendall(big("s0", first))
        eventually(lambda f=first: len(workers.tasks) == f // 5)
    workers.on(host, 2, 1)
    assert numbers(host) == [5], "the first is not answered yet"
    workers.on(host, 0)
    assert numbers(host) == list(range(5, 21))
    assert [line(client)["q"] for _ in range(3)] == [10, 15, 20]
    client.close()


def test_what_a_worker_has_no_answer_for_is_decoded_in_its_turn(host, workers):
    (client,) = sessions(host, 1)
    for first in (6, 11):
        client.sendall(big("s0", first))
        eventually(lambda f=first: len(workers.tasks) == f // 5)
    workers.on(host, 1)
    workers.on(host, 0, well=False)
    assert numbers(host) == list(range(5, 16))
    client.close()


def test_a_session_that_moves_takes_what_workers_have_of_it_along(host, workers):
    """What the new connection is told comes after what the old one had sent: nothing is twice."""
    (old,) = sessions(host, 1)
    old.sendall(big("s0", 6))
    eventually(lambda: workers.tasks)
    with host.connect() as new:
        new.sendall(hello("s0", "x") + big("s0", 6) + frame("s0", 11, q=11))
        workers.on(host, 0)
        assert line(new)["q"] == 10
        q = 0
        while q < 11:
            q = line(new)["q"]
    assert numbers(host) + [11] == [*range(5, 12)]
    old.close()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_an_end_does_not_wait_for_a_worker(host, workers, how):
    (client,) = sessions(host, 1)
    client.sendall(big("s0", 6))
    eventually(lambda: workers.tasks)
    if how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    eventually(lambda: host.outlet.forgotten)
    assert numbers(host) == list(range(5, 11))
    workers.on(host, 0)
    assert numbers(host) == list(range(5, 11)), "a late answer changes nothing"


def test_a_fault_with_one_unit_is_not_the_others(host, workers, caplog):
    (client,) = sessions(host, 1)
    with host.connect() as other:
        other.sendall(frame("other", 0))
        eventually(lambda: len(host.outlet.raw) == 2)
        failed = []

        def fail_once(batch, feeder):
            if not failed and b"s0" in batch.raw:
                failed.append(batch)
                raise ValueError("of our own")

        host.outlet.hook = fail_once
        client.sendall(big("s0", 6))
        eventually(lambda: workers.tasks)
        other.sendall(frame("other", 1))
        workers.on(host, 0)
        eventually(lambda: host.outlet.raw[host.outlet.feeders[1]].count(b"\n") == 2)
    assert failed and "a fault of our own" in caplog.text
    client.close()


def test_receipts_and_duplicates_of_sessions_in_one_turn(host):
    clients = sessions(host, 4)
    with Turn(host):
        clients[0].sendall(frame("s0", 2, q=6) + frame("s0", 3) + frame("s0", 4, q=9))
        clients[1].sendall(frame("s1", 2, q=5) + frame("s1", 3, q=6))  # the first is known
        clients[2].sendall(frame("s2", 2))  # asks for none
        clients[3].sendall(frame("s3", 2, q=7) + frame("s3", 3, q=8))
    answers = [line(client)["q"] for client in (clients[0], clients[1], clients[3])]
    assert answers == [9, 6, 8]
    stamps = {
        feeder: [m["ts"] for m in Batch(raw).messages] for feeder, raw in host.outlet.raw.items()
    }
    assert [stamps[feeder] for feeder in host.outlet.feeders] == [
        [1, 2, 3, 4], [1, 3], [1, 2], [1, 2, 3],
    ]  # fmt: skip
    for client in clients:
        client.close()


def test_a_read_that_follows_another_in_one_turn_continues_its_numbers(host):
    """Two blocks of one connection stand side by side: numbers rise over both."""
    with host.connect() as other, host.connect() as client:
        settle(host, [other], [frame("other", 0)])
        client.sendall(hello("s", "x") + frame("s", 1, q=1))
        assert [line(client)["q"], line(client)["q"]] == [0, 1]
        big = b"".join(frame("s", n, q=n, type="event",
                             data={"level": "info", "msg": "x" * 9000, "ctx": {}})
                       for n in range(2, 12))  # fmt: skip
        with Turn(host):
            other.sendall(frame("other", 1))
            client.sendall(big)
        q = 1
        while q < 11:
            q = line(client)["q"]
        raw = host.outlet.raw[host.outlet.feeders[1]]
        assert [m["q"] for m in Batch(raw).messages] == list(range(1, 12))


def test_an_end_in_the_same_turn_comes_after_what_was_sent(host):
    with host.connect() as other:
        settle(host, [other], [frame("other", 0)])
        client = host.connect()
        client.sendall(frame("s", 0))
        eventually(lambda: len(host.outlet.raw) == 2)
        with Turn(host):
            other.sendall(frame("other", 1))
            client.sendall(b"".join(frames(50)))
            client.close()
        eventually(lambda: host.outlet.forgotten)
        assert host.outlet.raw[host.outlet.feeders[1]].count(b"\n") == 51


class Waiting:
    def __init__(self):
        self.paused = 0

    def pause(self):
        self.paused += 1

    def resume(self):
        self.paused -= 1

    def safe(self, q, level, answers):
        pass


def test_of_a_crowd_just_those_wait_for_whose_sources_a_queue_is_full():
    class Sink:
        def open(self): ...
        def write(self, batch): ...
        def close(self): ...
        def idle(self): ...

    route = Route("full", Sink(), queue=BatchQueue(max_messages=1000, per_source=3))
    other = Route("other", Sink())
    router = Router({"loud": [Rule("full")], "calm": [Rule("full")], "*": [Rule("other")]})
    pipeline = Pipeline(router, {"full": route, "other": other})
    loud, calm, elsewhere = Waiting(), Waiting(), Waiting()
    batch = Batch(
        b"".join([frame("loud", n) for n in range(4)])
        + frame("calm", 1)
        + b"".join([frame("else", n) for n in range(4)])
    )
    pipeline.submit(batch, Crowd([(loud, 4), (calm, 1), (elsewhere, 4)], batch))
    assert [f.paused for f in (loud, calm, elsewhere)] == [1, 0, 0]
    taken = route.queue.take()
    route.queue.done(taken)
    pipeline.resume()
    assert loud.paused == 0


def test_a_worker_that_does_not_answer_holds_nobody_up_for_long(host, workers):
    (client,) = sessions(host, 1)
    with host.connect() as other:
        other.sendall(frame("other", 0))
        eventually(lambda: len(host.outlet.raw) == 2)
        client.sendall(big("s0", 6))
        eventually(lambda: workers.tasks)
        other.sendall(frame("other", 1))
        eventually(lambda: host.outlet.raw[host.outlet.feeders[1]].count(b"\n") == 2)
    assert numbers(host) == list(range(5, 11))
    client.close()
