"""The Python SDK against raw listeners: frames, connection, buffer, spans.

Each test runs with listeners that give receipts and with plain ones, where that makes a difference.
"""

import asyncio
import datetime
import decimal
import gc
import json
import logging
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
import weakref

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wafermon import client as module
from wafermon.client import CLOSED, CONNECTED, DISCONNECTED, OVERFLOW, Client
from wafermon.message import check

TIMEOUT = 15.0

only_plain = pytest.mark.parametrize("delivery", ["send"])


@pytest.fixture
def free_port():
    """A port on which nobody listens, kept bound so that nobody else can."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def until(condition):
    """Wait for what no socket shows."""
    limit = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


# -- frames ---------------------------------------------------------------------------------


def test_life(listener):
    with Client("a", **listener.where) as client:
        assert client.state == DISCONNECTED
        client.log_event("info", "hello")
        assert client.flush(TIMEOUT)
        assert (client.state, client.sent) == (CONNECTED, 1)
    assert client.state == CLOSED
    listener.wait(lambda it: it.ended == 1)
    assert [frame["type"] for frame in listener.frames()] == ["event", "goodbye"]
    assert len(listener.received) == 1


def test_unused_client_says_nothing(listen):
    listener = listen()
    with Client("a", **listener.where) as client:
        assert client.flush(0)
    assert listener.received == []


def test_closed_client_counts_what_comes_later(listen):
    client = Client("a", **listen().where)
    client.log_event("info", "x")
    assert client.close() == 0
    client.log_event("info", "late")
    assert (client.sent, client.dropped, client.state) == (1, 1, CLOSED)
    assert client.close() == 0


def test_close_without_goodbye(listen):
    listener = listen()
    client = Client("a", **listener.where, goodbye=False)
    client.heartbeat()
    client.close()
    listener.wait(lambda it: it.ended == 1)
    assert [frame["type"] for frame in listener.frames()] == ["heartbeat"]


@pytest.mark.parametrize(
    "bad",
    [
        lambda c: c.log_event("info", "\ud800"),
        lambda c: c.log_event("info", "x", {"\udfff": 1}),
        lambda c: c.log_event("info", "x", {"a": object()}),
        lambda c: c.log_event("info", "x", {"a": {1, 2}}),
        lambda c: c.log_event("info", "x", {"a": b"bytes"}),
        lambda c: c.log_event("info", "x", {(1, 2): 3}),
        lambda c: c.log_event("info", "x", {float("nan"): 3}),
        lambda c: c.log_event("info", "x", 7),
        lambda c: c.log_event(None, "x"),
        lambda c: c.log_event([], "x"),
        lambda c: c.log_metric("x", "12"),
        lambda c: c.log_metric("x", None),
        lambda c: c.log_metric("x", 1, tags=["a"]),
        lambda c: c.log_progress("job", "half"),
        lambda c: c.log_resource(cpu=float("inf")),
        lambda c: c.send("hello", {}),
        lambda c: c.send("nonsense", {}),
        lambda c: c.send([], {}),
        lambda c: c.send("event"),
        lambda c: c.send("event", "text"),
        lambda c: c.send("event", {}, ts=-1),
        lambda c: c.send("event", {}, ts=2**53),
        lambda c: c.send("event", {}, ts=1.5),
        lambda c: c.send("event", {}, ts=True),
        lambda c: c.send("event", {}, tid=""),
        lambda c: c.send("event", {}, tid="x" * 129),
        lambda c: c.send("event", {}, sid="a\nb"),
        lambda c: c.send("event", {}, pid=7),
        lambda c: c.send("event", {}, q=1),
        lambda c: c.send("event", {}, v=2),
        lambda c: c.send("event", {}, src="other"),
        lambda c: c.send("span", {"name": "x", "duration_ms": 1}),
        lambda c: c.send("span", {"name": "x", "duration_ms": 1}, tid="t"),
    ],
)
def test_refused(bad, listen):
    listener = listen()
    client = Client("a", **listener.where)
    bad(client)
    assert client.refused == 1
    assert client.refusal
    client.close()
    assert (client.sent, client.dropped, listener.received) == (0, 0, [])


def test_circle_and_depth_are_refused(listen):
    client = Client("a", **listen().where)
    circle = {}
    circle["self"] = circle
    client.log_event("info", "x", circle)
    deep = []
    for _ in range(100_000):
        deep = [deep]
    client.log_event("info", "x", {"deep": deep})
    assert client.refused == 2
    client.close()
    while deep:  # by hand: to free it recursively takes a deep stack, too
        deep = deep.pop()


def test_a_str_that_raises_is_refused(listen):
    class Spiteful:
        def __str__(self):
            raise RuntimeError("no")

    with Client("a", **listen().where) as client:
        client.log_event("info", Spiteful())
        assert client.refused == 1


def test_largest_frame(listen, delivery):
    listener = listen()
    client = Client("a", **listener.where)
    client.send("event", {"level": "info", "msg": ""}, ts=1)
    client.flush()
    longest = {"send": 65536, "ack": 65536 - len(',"q":9007199254740991')}[delivery]
    room = longest - len(listener.frames(1) and listener.raw())
    client.send("event", {"level": "info", "msg": "x" * room}, ts=1)
    client.send("event", {"level": "info", "msg": "x" * (room + 1)}, ts=1)
    client.send("event", {"level": "info", "msg": "\u00b5" * (room // 2 + 1)}, ts=1)
    client.close()
    listener.wait(lambda it: it.ended == 1)
    assert (client.sent, client.refused) == (2, 2)
    assert max(map(len, listener.raw().splitlines(True))) == longest


def test_friendly_values(listen):
    class Number:  # what numpy scalars look like
        def item(self):
            return 7

    listener = listen()
    client = Client("a", **listener.where)
    ctx = {
        "at": datetime.datetime(2024, 1, 2, 3, 4, tzinfo=datetime.timezone.utc),
        "day": datetime.date(2024, 1, 2),
        "price": decimal.Decimal("1.50"),
        "path": pathlib.PurePosixPath("/data/x"),
        "id": uuid.UUID(int=1),
        "count": Number(),
        7: (1, 2),
        None: True,
    }
    client.log_event("warning", ValueError("text of it"), ctx)
    client.log_event("critical", "x", weakref.WeakValueDictionary())
    client.log_metric("m", decimal.Decimal("1.5"))
    client.log_metric("flag", True)
    client.close()
    listener.wait(lambda it: it.ended == 1)
    first, second, metric, flag, _ = (frame.get("data") for frame in listener.frames())
    assert first == {
        "level": "warn",
        "msg": "text of it",
        "ctx": {
            "at": "2024-01-02 03:04:00+00:00",
            "day": "2024-01-02",
            "price": "1.50",
            "path": "/data/x",
            "id": "00000000-0000-0000-0000-000000000001",
            "count": 7,
            "7": [1, 2],
            "null": True,
        },
    }
    assert second["level"] == "fatal"
    assert metric["value"] == 1.5
    assert flag["value"] == 1.0
    assert flag["value"] is not True


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ANY_TEXT = st.text(st.characters(exclude_categories=[]))


@given(
    src=ANY_TEXT,
    level=ANY_TEXT,
    msg=ANY_TEXT,
    ctx=st.none() | st.dictionaries(ANY_TEXT, JSON, max_size=4),
    ids=st.dictionaries(st.sampled_from(["tid", "sid", "pid", "extra"]), ANY_TEXT | st.integers()),
    kind=st.sampled_from(sorted(module._TYPES)),
)
@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
def test_accepted_by_the_sidecar_or_refused(src, level, msg, ctx, ids, kind):
    """Whatever is put in: one line that the sidecar's own rules accept, or a refusal."""
    try:
        client = Client(src, port=1)
    except ValueError:
        return
    frames = []
    client._put = frames.append
    client.log_event(level, msg, ctx)
    client.send(kind, ctx, **ids)
    client.log_metric(level, 1, tags=ctx)
    assert len(frames) + client.refused == 3
    for frame in frames:
        assert frame.endswith(b"\n")
        assert frame.count(b"\n") == 1
        parsed = json.loads(frame.decode("utf-8"), parse_constant=pytest.fail)
        assert check(parsed) is None
        assert parsed["src"] == src


def test_log_resource_of_this_process(listen):
    listener = listen()
    client = Client("a", **listener.where)
    client.log_resource()
    begun, cpu = time.monotonic(), time.process_time()
    while time.process_time() < cpu + 0.05:
        pass
    client.log_resource()
    passed = time.monotonic() - begun
    client.close()
    listener.wait(lambda it: it.ended == 1)
    first, second = (frame["data"] for frame in listener.of("resource"))
    assert first["mem"] > 1 << 20
    assert second["cpu"] >= 100 * 0.05 / passed * 0.5
    if os.access("/proc/self/io", os.R_OK):
        assert set(second["disk"]) == {"read_bytes", "write_bytes"}


# -- configuration --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"src": ""}, "src must"),
        ({"src": "x" * 129}, "src must"),
        ({"src": "a\nb"}, "src must"),
        ({"src": "\ud800"}, "src must"),
        ({"src": None}, "src must"),
        ({"host": "a..b\u00e9"}, "host must"),
        ({"port": 0}, "port .* must be a number from 1 to 65535"),
        ({"port": 70000}, "port"),
        ({"port": True}, "port"),
        ({"unix": "x" * 108}, "unix must"),
        ({"delivery": "maybe"}, "delivery must be 'ack' or 'send'"),
        ({"secret": b"bytes"}, "secret .* must be a text"),
        ({"tls_ca": __file__}, "tls_ca .* must be a file of certificates"),
        ({"overflow": "block"}, "overflow must be 'drop_oldest' or 'drop_newest'"),
        ({"buffer_messages": 0}, "buffer_messages must"),
        ({"write_timeout": 0}, "write_timeout must"),
        ({"close_timeout": -1}, "close_timeout"),
    ],
)
def test_bad_argument(options, text):
    with pytest.raises(ValueError, match=text):
        Client(**dict({"src": "a"}, **options))


@pytest.mark.parametrize(
    ("name", "value", "options"),
    [
        ("MONITORING_SECRET", "hidden value", {"delivery": "send"}),
        ("MONITORING_SECRET", "hidden \udcff", {}),
        ("MONITORING_TLS_CA", "/none", {}),
    ],
)
def test_no_other_sending_behind_the_back(monkeypatch, name, value, options):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=name) as caught:
        Client("a", **options)
    assert "hidden" not in str(caught.value)


def test_address(monkeypatch):
    def address(**options):
        return Client("a", **options)._sender.address

    assert address() == (b"127.0.0.1", 17000)
    monkeypatch.setenv("MONITORING_TCP_HOST", "fab7")
    monkeypatch.setenv("MONITORING_TCP_PORT", "17001")
    assert address() == (b"fab7", 17001)
    assert address(port=5) == (b"fab7", 5)
    assert address(host="fab8") == (b"fab8", 17001)
    monkeypatch.setenv("MONITORING_UNIX_SOCKET", "/run/s")
    assert address() == ("/run/s",)
    assert address(host="fab8", port=5) == (b"fab8", 5)
    assert address(host="fab8", port=5, unix="/run/t") == ("/run/t",)
    monkeypatch.setenv("MONITORING_UNIX_SOCKET", "")
    monkeypatch.setenv("MONITORING_TCP_PORT", "many")
    with pytest.raises(ValueError, match="MONITORING_TCP_PORT"):
        Client("a")


# -- connection -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_server_goes_and_returns(listen, tmp_path, family):
    told = []
    path = str(tmp_path / "s")
    first = listen(unix=path) if family == "unix" else listen()
    client = Client("a", on_error=told.append, **first.where)
    client.log_event("info", "0")
    assert client.flush(TIMEOUT)
    assert first.messages(1) == ["0"]
    first.stop()
    if family == "unix":
        os.unlink(path)
    for i in range(1, 10):  # noticed by the peek: none of these is lost in the kernel
        client.log_event("info", str(i))
    until(lambda: client.state == DISCONNECTED and told)
    second = listen(**first.where)
    assert second.messages(9) == [str(i) for i in range(1, 10)]
    assert client.close(TIMEOUT) == 0
    assert (client.sent, client.dropped, len(told)) == (10, 0, 1)
    assert "closed by the sidecar" in told[0] or first.where["delivery"] == "ack"


def test_server_comes_late(listen, free_port, delivery):
    told = threading.Event()
    client = Client("a", port=free_port, delivery=delivery, on_error=lambda text: told.set())
    client.log_event("info", "early")
    assert told.wait(TIMEOUT)
    assert not client.flush(0.01)
    listener = listen(port=0)
    client._sender.address = (b"127.0.0.1", listener.where["port"])
    assert listener.messages(1) == ["early"]
    assert client.close(TIMEOUT) == 0


def test_close_is_bounded_and_counts(free_port):
    client = Client("a", port=free_port, close_timeout=0.2)
    for _ in range(5):
        client.log_event("info", "x")
    begun = time.monotonic()
    assert client.close() == 5
    assert time.monotonic() - begun < 2
    assert (client.sent, client.dropped, client.state) == (0, 5, CLOSED)
    assert not [one for one in threading.enumerate() if one is client._sender.thread]


def test_close_tries_until_its_time_is_up(listen, free_port, delivery):
    client = Client("a", port=free_port, delivery=delivery)
    client.log_event("info", "x")
    until(lambda: client._sender.attempt > 0)
    listener = listen()
    client._sender.address = (b"127.0.0.1", listener.where["port"])
    assert client.close(TIMEOUT) == 0
    assert listener.messages(1) == ["x"]


def test_close_gives_up_a_write_that_hangs(listen):
    listener = listen(recv_buffer=4096, reading=False)
    client = Client("a", **listener.where)
    for _ in range(900):
        client.log_event("info", "x" * 60_000)
    begun = time.monotonic()
    left = client.close(0.3)
    assert time.monotonic() - begun < 3
    assert left > 0
    assert client.sent + left == 900 == client.sent + client.dropped


@only_plain
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_never_a_frame_behind_a_half_written_one(listen, tmp_path, family):
    """The peer reads nothing for a while: the torn frame goes out again, whole, and in order."""
    if family == "unix":
        first = listen(unix=str(tmp_path / "s"), reading=False)
    else:
        first = listen(recv_buffer=4096, reading=False)
    client = Client("a", write_timeout=0.2, **first.where)
    sender = client._sender
    connect = sender.connect

    def connect_small():
        connected = connect()
        if connected:  # else TCP takes a whole batch or nothing of it
            sender.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return connected

    sender.connect = connect_small
    total = 300
    for i in range(total):
        client.log_event("info", f"{i} {'x' * 30_000}")
    first.wait(lambda it: len(it.received) >= 2)  # write_timeout passed: a new connection
    first.read()
    assert client.flush(TIMEOUT)
    client.close()
    first.wait(lambda it: it.ended == len(it.received))
    assert client.sent == total
    assert client.dropped == 0
    whole, torn = [], 0
    for data in first.received:
        *lines, rest = bytes(data).split(b"\n")
        torn += bool(rest)
        whole += [json.loads(line) for line in lines]
    numbers = [int(one["data"]["msg"].split()[0]) for one in whole if one["type"] == "event"]
    assert torn >= 1
    assert numbers == list(range(total))


def test_slow_reader_gets_partial_writes(listen):
    listener = listen(recv_buffer=2048)
    client = Client("a", buffer_messages=5000, **listener.where)
    for i in range(2000):
        client.log_event("info", str(i), {"pad": "y" * 1000})
    assert client.close(TIMEOUT) == 0
    listener.wait(lambda it: it.ended == 1)
    assert listener.messages() == [str(i) for i in range(2000)]


def test_many_frames_a_write(listen, free_port, delivery):
    """What waited goes out in few writes."""
    listener = listen()
    sends = []
    client = Client("a", port=free_port, delivery=delivery)
    sender = client._sender
    transmit = sender.transmit
    sender.transmit = lambda data: sends.append(data) or transmit(data)
    for i in range(500):
        client.log_event("info", str(i))
    sender.address = (b"127.0.0.1", listener.where["port"])
    assert client.flush(TIMEOUT)
    assert len(sends) <= 2
    client.close()


@pytest.mark.parametrize(
    ("overflow", "kept"), [("drop_oldest", range(7, 12)), ("drop_newest", range(5))]
)
def test_overflow(listen, free_port, overflow, kept, delivery):
    told = []
    listener = listen()
    client = Client(
        "a",
        port=free_port,
        delivery=delivery,
        buffer_messages=5,
        overflow=overflow,
        on_error=told.append,
    )
    for i in range(12):
        client.log_event("info", str(i))
    assert (client.state, client.dropped) == (OVERFLOW, 7)
    until(lambda: told)
    client._sender.address = (b"127.0.0.1", listener.where["port"])
    assert client.flush(TIMEOUT)
    assert client.state == CONNECTED
    *events, note = listener.of("event", 6)
    assert [int(event["data"]["msg"]) for event in events] == list(kept)
    assert note["data"] == {
        "level": "warn",
        "msg": "messages dropped while the sidecar was away",
        "ctx": {"dropped": 7},
    }
    client.log_event("info", "after")
    assert client.close() == (7 if delivery == "ack" else 0)
    listener.wait(lambda it: it.ended == 1)
    assert listener.raw().count(b"dropped") == 2  # one note, once
    assert (client.sent, client.dropped, len(told)) == (6, 7, 1)


def test_full_buffer_and_broken_write_keep_the_bound(listen, delivery):
    listener = listen(recv_buffer=4096, reading=False)
    client = Client("a", buffer_messages=20, write_timeout=TIMEOUT, **listener.where)
    for _ in range(600):
        client.log_event("info", "x" * 30_000)
    assert client.state == OVERFLOW
    listener.stop()
    until(lambda: client._sender.sock is None)
    assert len(client._sender.queue) <= 20
    left = client.close(0)
    assert client.sent + client.dropped == 600
    assert left == client.dropped if delivery == "ack" else left <= 20


def test_caller_never_waits_for_a_stalled_sidecar(listen):
    listener = listen(recv_buffer=4096, reading=False)
    client = Client("a", buffer_messages=10, **listener.where)
    worst = 0.0
    begun = time.monotonic()
    for _ in range(3000):
        before = time.monotonic()
        client.log_event("info", "x" * 10_000)
        worst = max(worst, time.monotonic() - before)
    assert worst < 1
    assert time.monotonic() - begun < 10
    client.close(0)


def test_tight_loop_loses_nothing(listen):
    """With a reader that keeps up, a loop that only logs gives way before it drops."""
    listener = listen()
    client = Client("a", **listener.where)
    for i in range(20_000):
        client.log_event("info", str(i))
    assert client.close(TIMEOUT) == 0
    assert (client.sent, client.dropped) == (20_000, 0)
    listener.wait(lambda it: it.ended == 1)
    assert listener.messages() == [str(i) for i in range(20_000)]


def test_threads(listener):
    client = Client("a", buffer_messages=100_000, **listener.where)

    def work(name):
        for i in range(500):
            client.log_event("info", f"{name} {i}")

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert client.close(TIMEOUT) == 0
    listener.wait(lambda it: it.ended == 1)
    seen = [message.split() for message in listener.messages()]
    for name in range(8):
        assert [int(i) for who, i in seen if who == str(name)] == list(range(500))


def test_backoff_doubles_with_full_jitter(free_port, monkeypatch):
    waits = []
    client = Client("a", port=free_port)
    sender = client._sender
    monkeypatch.setattr(module, "monotonic", lambda: 0.0)
    monkeypatch.setattr(os, "urandom", lambda count: b"\xff" * count)
    for _ in range(12):
        sender.lose(OSError("x"))
        waits.append(round(sender.retry_at, 3))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30]
    monkeypatch.setattr(os, "urandom", lambda count: b"\0" * count)
    sender.lose(OSError("x"))
    assert sender.retry_at == 0


def test_on_error_that_logs_or_raises_feeds_nothing(free_port):
    calls = []

    def on_error(text):
        calls.append(text)
        client.log_event("error", text)
        client.flush(1)
        client.close()
        raise RuntimeError(text)

    client = Client("a", port=free_port, close_timeout=0.2, on_error=on_error)
    client.log_event("info", "x")
    until(lambda: calls)
    assert client.close(0.1) == 1
    assert len(calls) == 1
    assert client.dropped == 1


def test_collected_client_still_delivers(listen):
    listener = listen()
    client = Client("a", **listener.where)
    client.log_event("info", "x")
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
    listener.wait(lambda it: it.ended == 1)
    assert [frame["type"] for frame in listener.frames()] == ["event", "goodbye"]


def test_log_within_a_signal_handler(listen):
    """Interrupts the verbs everywhere: no deadlock on a lock that they hold."""
    listener = listen()
    client = Client("a", buffer_messages=3, **listener.where)
    count = 0

    def handler(number, frame):
        nonlocal count
        count += 1
        client.log_event("info", "signal")

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        sent = 0
        while count < 200:
            sent += 1
            client.log_event("info", "x")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    client.close(TIMEOUT)
    assert client.sent + client.dropped == sent + count


def test_sigpipe_at_its_default_does_not_kill(tmp_path):
    """The peer goes while the client writes; the host asked the kernel to kill on SIGPIPE."""
    script = """
import signal, socket, sys
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
from wafermon.client import Client
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1]); server.listen()
client = Client("a", unix=sys.argv[1], close_timeout=0.1, delivery="send")
for _ in range(500):
    client.log_event("info", "x" * 30000)
peer = server.accept()[0]
assert not client.flush(0.3)  # now it hangs in a write
server.close(); peer.close()
client.flush(0.2)
assert client.close() > 0
assert signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL
"""
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "s")],
        cwd=root,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_debug_goes_to_stderr(monkeypatch, capfd, free_port):
    monkeypatch.setenv("WAFERMON_DEBUG", "1")
    client = Client("a", port=free_port)
    client.log_event("info", "\ud800")
    client.log_event("info", "x")
    client.close(0.05)
    out, err = capfd.readouterr()
    assert out == ""
    assert "message refused: UnicodeEncodeError" in err
    assert "no connection" in err


def test_silent_by_default(capfd, free_port):
    client = Client("a", port=free_port)
    client.log_event("info", "\ud800")
    client.log_event("info", "x")
    client.close(0.05)
    assert capfd.readouterr() == ("", "")


def test_reads_no_byte_and_resets_nothing():
    """A plain peer is never written to; the client ends by FIN and not by RST."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    with server, Client("a", port=server.getsockname()[1], delivery="send") as client:
        client.log_event("info", "x")
        peer, _ = server.accept()
        client.close()
        with peer:
            data = b""
            while True:
                assert select.select([peer], [], [], TIMEOUT)[0]
                part = peer.recv(65536)
                if not part:
                    break
                data += part
    assert data.count(b"\n") == 2


# -- spans ----------------------------------------------------------------------------------


def test_spans_nest(listen):
    listener = listen()
    client = Client("a", **listener.where)
    with client.span("outer", kind="job", ctx={"lot": "L1"}) as outer:
        client.log_event("info", "in outer")
        with client.span("inner") as inner:
            client.log_metric("m", 1)
            client.send("event", {"level": "info", "msg": "x"}, ts=5)
            client.send("event", {"level": "info", "msg": "x"}, tid="own")
    client.log_event("info", "outside")
    client.close()
    event, metric, timed, own, inner_, outer_, outside, _ = listener.frames(8)
    assert (event["tid"], event["sid"]) == (outer.tid, outer.sid)
    assert (metric["tid"], metric["sid"]) == (inner.tid, inner.sid)
    assert (timed["tid"], timed["sid"], timed["ts"]) == (inner.tid, inner.sid, 5)
    assert own["tid"] == "own"
    assert "sid" not in own
    assert "tid" not in outside
    assert "sid" not in outside
    assert len(outer.tid) == 32
    assert len(outer.sid) == 16
    assert inner_["pid"] == outer.sid
    assert inner_["tid"] == outer.tid
    assert "pid" not in outer_
    data = outer_["data"]
    assert data.pop("duration_ms") >= inner_["data"]["duration_ms"] >= 0
    assert data == {"name": "outer", "status": "ok", "kind": "job", "ctx": {"lot": "L1"}}
    assert outer_["ts"] <= event["ts"]


def test_start_and_end(listen):
    listener = listen()
    client = Client("a", **listener.where)
    span = client.start_span("load", ctx={"a": 1})
    client.log_event("info", "within")
    span.end("error", {"b": 2})
    span.end()
    client.log_event("info", "outside")
    client.close()
    within, frame, outside, goodbye = listener.frames(4)
    assert within["sid"] == span.sid
    assert "sid" not in outside
    assert goodbye["type"] == "goodbye"
    assert frame["data"]["status"] == "error"
    assert frame["data"]["ctx"] == {"a": 1, "b": 2}


def test_exception_makes_an_error(listen):
    class Spiteful(Exception):
        def __str__(self):
            raise RuntimeError

    listener = listen()
    client = Client("a", **listener.where)
    for error in (ValueError("bad \ud800 lot"), Spiteful(), SystemExit(3), SystemExit(0)):
        with pytest.raises(type(error)), client.span("x"):
            raise error
    client.close()
    assert client.refused == 0
    first, second, third, fourth = (frame["data"] for frame in listener.of("span", 4))
    assert (first["status"], first["ctx"]) == ("error", {"error": "ValueError: bad ? lot"})
    assert second["ctx"] == {"error": "Spiteful"}
    assert third["status"] == "error"
    assert fourth["status"] == "ok"
    assert "ctx" not in fourth


def test_span_ended_in_another_thread(listen):
    client = Client("a", **listen().where)
    outer = client.start_span("outer")
    inner = client.start_span("inner")
    thread = threading.Thread(target=inner.end)
    thread.start()
    thread.join()
    with client.span("next") as after:
        assert after.pid == outer.sid
    outer.end()
    assert client.traceparent() == ""
    client.close()


def test_spans_ended_out_of_order(listen):
    client = Client("a", **listen().where)
    outer = client.start_span("outer")
    inner = client.start_span("inner")
    outer.end()
    assert client.traceparent() == inner.traceparent
    inner.end()
    assert client.traceparent() == ""
    client.close()


def test_threads_have_spans_of_their_own(listen):
    client = Client("a", **listen().where)
    meet = threading.Barrier(4, timeout=TIMEOUT)
    seen = []

    def work():
        with client.span("outer") as outer:
            meet.wait()
            with client.span("inner") as inner:
                meet.wait()
                seen.append((outer.pid, inner.pid == outer.sid, inner.tid == outer.tid, outer.tid))

    with client.span("main"):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert [one[:3] for one in seen] == [(None, True, True)] * 4
    assert len({one[3] for one in seen}) == 4
    client.close()


def test_tasks_nest_by_themselves(listen):
    listener = listen()
    client = Client("a", **listener.where)

    async def main():
        entered = asyncio.Event()
        waiting = 0

        @client.span("work", kind="task")
        async def work(name):
            nonlocal waiting
            waiting += 1
            if waiting == 3:
                entered.set()
            await entered.wait()  # all three are open at the same time
            client.log_event("info", name)
            return name

        with client.span("main") as span:
            assert await asyncio.gather(*map(work, "abc")) == ["a", "b", "c"]
            assert client.traceparent() == span.traceparent
        return span

    span = asyncio.run(main())
    client.close()
    listener.wait(lambda it: it.ended == 1)
    spans = {frame["sid"]: frame for frame in listener.of("span")}
    events = listener.of("event")
    assert len({event["sid"] for event in events}) == 3
    for event in events:
        assert spans[event["sid"]]["pid"] == span.sid
        assert event["tid"] == span.tid


def test_decorator(listen):
    listener = listen()
    client = Client("a", **listener.where)

    @client.span("double", kind="math", ctx={"a": 1})
    def double(value, *, plus=0):
        """Twice."""
        return 2 * value + plus

    assert (double(2), double(3, plus=1)) == (4, 7)
    assert (double.__name__, double.__doc__) == ("double", "Twice.")

    @client.span("fails")
    def fails():
        raise KeyError("x")

    with pytest.raises(KeyError):
        fails()
    client.close()
    first, second, third = listener.of("span", 3)
    assert first["sid"] != second["sid"]
    assert first["tid"] != second["tid"]
    assert third["data"]["status"] == "error"
    assert first["data"]["kind"] == "math"
    assert first["data"]["ctx"] == {"a": 1}


TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


def test_traceparent(listen, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", TRACEPARENT)
    client = Client("a", **listen().where)
    assert client.traceparent() == TRACEPARENT
    with client.span("x") as span:
        assert span.tid == "4bf92f3577b34da6a3ce929d0e0e4736"
        assert span.pid == "00f067aa0ba902b7"
        assert client.traceparent() == span.traceparent == f"00-{span.tid}-{span.sid}-00"
    client.close()


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "nonsense",
        TRACEPARENT.upper(),
        TRACEPARENT + "\n",
        TRACEPARENT + "-more",
        "ff" + TRACEPARENT[2:],
        TRACEPARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        TRACEPARENT.replace("00f067aa0ba902b7", "0" * 16),
        TRACEPARENT[:-1],
    ],
)
def test_bad_traceparent_is_ignored_whole(listen, monkeypatch, bad):
    monkeypatch.setenv("TRACEPARENT", bad)
    client = Client("a", **listen().where)
    assert client.traceparent() == ""
    with client.span("x") as span:
        assert span.pid is None
        assert bad == "" or span.tid not in bad
        assert span.traceparent.endswith("-01")
    client.close()


def test_logging_that_fails_cannot_feed_itself(free_port, caplog):
    """A logging handler that sends by the client, and on_error that logs by logging."""
    client = Client("a", port=free_port, on_error=lambda text: logging.error(text))

    class Bridge(logging.Handler):
        def emit(self, record):
            client.log_event("error", record.getMessage())

    bridge = Bridge()
    logging.getLogger().addHandler(bridge)
    try:
        client.log_event("info", "x")
        until(lambda: caplog.records)
        assert client.close(0.05) == 1
    finally:
        logging.getLogger().removeHandler(bridge)


def test_what_the_sidecar_may_not_parse_is_refused(listener):
    deep: list = []
    for _ in range(300):
        deep = [deep]
    shallow = [[i, {"text": "[[[{{{\\\""}] for i in range(500)]
    with Client("a", **listener.where) as client:
        client.log_event("info", "deep", {"x": deep})
        client.log_event("info", "long", {"x": 10**4100})
        client.log_event("info", "1" * 3000, {"x": shallow, "n": 10**300})
        client.log_event("info", "1" * 5000)
        assert client.refused == 2 and "digits" in client.refusal
        assert client.flush(TIMEOUT)
    listener.wait(lambda it: it.ended == 1)
    assert [frame["data"]["msg"][:3] for frame in listener.frames() if frame["type"] == "event"] == ["111"] * 2
