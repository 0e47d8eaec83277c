"""When a session that has said goodbye is forgotten: once its client is known to be through."""

import contextlib
import socket
import struct

import pytest
from certificates import authority
from net_host import Host
from raw import Lines, hello
from support import eventually

from wafermon.net import connection
from wafermon.net.tls import Tls

GOODBYE = b'{"v":1,"src":"raw","ts":1,"type":"goodbye","q":2}\n'
FRAME = b'{"v":1,"src":"raw","ts":1,"type":"heartbeat","q":1}\n'


def told(lines):
    """What a session is told first, and its receipts up to that of the goodbye."""
    welcome = lines.next()
    while lines.next()["q"] < 2:
        pass
    return welcome["q"]


def held(host, unix=False):
    """What the sidecar says that it holds of the session."""
    with host.connect(unix) as sock:
        sock.sendall(hello("s"))
        return Lines(sock).next()["q"]


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_who_has_read_its_receipt_and_closes_is_forgotten(tmp_path, unix):
    with Host(tmp_path) as host:
        with host.connect(unix) as sock:
            sock.sendall(hello("s") + FRAME + GOODBYE)
            assert told(Lines(sock)) == 0
        eventually(lambda: host.server.ended["eof"] == 1)
        assert len(host.server.sessions) == 0 == held(host, unix)


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_whose_receipt_is_lost_is_remembered(tmp_path, unix):
    """Else its client would begin at 0 again, and all its frames would enter twice."""
    with Host(tmp_path) as host:
        with host.connect(unix) as sock:
            sock.sendall(hello("s") + FRAME + GOODBYE)
            eventually(lambda: host.outlet.all.count(b"\n") == 2)
            if not unix:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        eventually(lambda: host.server.connections == 0 and host.outlet.forgotten)
        assert held(host, unix) == 2
        with host.connect(unix) as sock:
            sock.sendall(hello("s") + FRAME + GOODBYE)
            assert told(Lines(sock)) == 2
        eventually(lambda: len(host.server.sessions) == 0)
        assert host.outlet.all == FRAME + GOODBYE


def test_who_closes_before_its_receipt_is_remembered(tmp_path):
    waiting = []
    with Host(tmp_path) as host:
        host.outlet.expect = lambda feeder, q: waiting.append((feeder, q))
        with host.connect() as sock:
            sock.sendall(hello("s") + FRAME + GOODBYE)
            sock.shutdown(socket.SHUT_WR)
            feeder = eventually(lambda: host.outlet.feeders and host.outlet.feeders[0])
            eventually(lambda: feeder.paused is False and feeder._ended)
            host.server.loop.call_soon(lambda: feeder.safe(2, "disk", len(waiting)))
            assert told(Lines(sock)) == 0 and sock.recv(1) == b""
        eventually(lambda: host.server.connections == 0)
        assert len(host.server.sessions) == 1


def test_a_stream_that_is_cut_off_is_no_end(tmp_path):
    """Inside TLS: without the closing alert it may be somebody else who ends it."""
    with Host(tmp_path, tls=Tls(*authority().issue())) as host:
        for orderly in (False, True):
            client = authority().client().wrap_socket(host.connect(), server_hostname="localhost")
            with client:
                client.sendall(hello("s") + FRAME + GOODBYE)
                told(Lines(client))
                if orderly:
                    client.unwrap()
            eventually(lambda: host.server.connections == 0)
            assert len(host.server.sessions) == int(not orderly)


@pytest.mark.parametrize("how, abrupt", [
    ("plain", False), ("session", True), ("command", False), ("reset", True), ("stop", None),
])  # fmt: skip
def test_how_a_connection_ended(tmp_path, how, abrupt):
    opening = {
        "session": hello("s"), "command": hello("s").replace(b'"s"}', b'"s","goodbye":false}'),
    }.get(how, b"")  # fmt: skip
    with contextlib.ExitStack() as after, Host(tmp_path) as host:
        sock = after.enter_context(host.connect())
        sock.sendall(opening + FRAME.replace(b',"q":1', b""))
        eventually(lambda: host.outlet.present == ["raw"])
        if opening:
            assert Lines(sock).next()["type"] == "welcome"
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how != "stop":
            sock.close()
            eventually(lambda: host.outlet.abrupt)
    assert host.outlet.abrupt == ([] if abrupt is None else [abrupt])


def test_a_source_too_many_is_not_credited_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "MAX_SOURCES", 2)
    with Host(tmp_path) as host, host.connect() as sock:
        plain = FRAME.replace(b',"q":1', b"")
        sock.sendall(b"".join(plain.replace(b"raw", b"%c" % name) for name in b"abc"))
        eventually(lambda: host.server.uncredited == 1)
        assert sorted(host.outlet.present) == ["a", "b"]
