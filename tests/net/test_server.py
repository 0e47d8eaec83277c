"""The server over real sockets: what clients send arrives, and nothing is ever sent back."""

import os
import resource
import socket
import struct
import subprocess
import sys
import threading

import pytest
from net_host import Host, Outlet
from support import eventually

from wafermon.message import Reason
from wafermon.net import EventLoop, Listen, Server, TcpAddress, UnixAddress
from wafermon.testing import frames


@pytest.fixture
def host(tmp_path):
    with Host(tmp_path) as host:
        yield host


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_everything_before_the_end_arrives_and_no_byte_comes_back(host, unix):
    data = b"".join(frames(5000)) + b"rubbish\n" + b"".join(frames(10))
    with host.connect(unix) as sock:
        sock.sendall(data)
        sock.sendall(b'{"v":1')
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b"", "the server only ever closes"
    eventually(lambda: host.outlet.forgotten)
    assert host.outlet.all == data.replace(b"rubbish\n", b"")
    assert [r.reason for r in host.outlet.rejects] == [Reason.INVALID_JSON, Reason.TRUNCATED]
    assert host.server.ended["eof"] == 1 and host.server.connections == 0


def test_a_client_that_closes_at_once_loses_nothing(host):
    data = b"".join(frames(20_000))
    for _ in range(5):
        with host.connect() as sock:
            sock.sendall(data)
    eventually(lambda: len(host.outlet.forgotten) == 5)
    assert list(host.outlet.raw.values()) == [data] * 5


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_everything_sent_before_a_stop_arrives(tmp_path, unix):
    """Also what was sent on connections that nobody had accepted yet."""
    data = b"".join(frames(300))
    for _ in range(5):
        with Host(tmp_path) as host:
            busy, release = threading.Event(), threading.Event()
            host.server.loop.call_soon(lambda b=busy, r=release: (b.set(), r.wait(20)))
            assert busy.wait(20)
            clients = [host.connect(unix) for _ in range(10)]
            for client in clients:
                client.sendall(data)
            for client in clients[:5]:
                client.close()
            stopper = threading.Thread(target=host.server.stop)
            stopper.start()
            release.set()
            stopper.join(20)
            for client in clients[5:]:
                assert client.recv(1) == b""
                client.close()
        assert list(host.outlet.raw.values()) == [data] * 10


def test_a_reset_costs_only_what_the_kernel_threw_away(host):
    sock = host.connect()
    sock.sendall(b"".join(frames(3)))
    eventually(lambda: len(host.outlet.all.splitlines()) == 3)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    eventually(lambda: host.server.ended["reset"] == 1)


def test_a_paused_connection_is_not_read_and_others_are(host):
    paused = []

    def pause_first(batch, feeder):
        if not paused:
            paused.append(feeder)
            feeder.pause()

    host.outlet.hook = pause_first
    first, second = host.connect(), host.connect()
    first.sendall(b"".join(frames(1)))
    eventually(lambda: paused)
    first.sendall(b"".join(frames(10)))
    second.sendall(b"".join(frames(50)))
    eventually(lambda: len(host.outlet.all.splitlines()) == 51)
    assert len(host.outlet.raw[paused[0]].splitlines()) == 1
    host.server.loop.call_soon(paused[0].resume)
    eventually(lambda: len(host.outlet.all.splitlines()) == 61)
    first.close()
    second.close()


def test_a_stop_waits_for_paused_connections_up_to_its_deadline(tmp_path):
    with Host(tmp_path) as host:
        host.outlet.hook = lambda batch, feeder: feeder.pause()
        with host.connect() as sock:
            sock.sendall(b"".join(frames(1)))
            eventually(lambda: host.outlet.feeders)
            sock.sendall(b"".join(frames(4)))
            host.outlet.hook = None
            stopper = threading.Thread(target=host.server.stop, args=(20,))
            stopper.start()
            eventually(lambda: host.server.draining)
            host.server.loop.call_soon(host.outlet.feeders[0].resume)
            stopper.join(20)
        assert len(host.outlet.all.splitlines()) == 5


def test_abort_lets_a_stop_go_on(tmp_path):
    with Host(tmp_path) as host:
        host.outlet.hook = lambda batch, feeder: feeder.pause()
        with host.connect() as sock:
            sock.sendall(b"".join(frames(1)))
            eventually(lambda: host.outlet.feeders)
            stopper = threading.Thread(target=host.server.stop, args=(3600,))
            stopper.start()
            eventually(lambda: host.server.draining)
            host.server.abort()
            stopper.join(20)
            assert not stopper.is_alive()


def test_an_unfinished_frame_is_bounded_in_time_however_it_drips(tmp_path):
    with Host(tmp_path, read_timeout=0.2) as host:
        with host.connect() as slow, host.connect() as silent, host.connect() as busy:
            silent.sendall(b"".join(frames(1)))
            closed = threading.Event()

            def drip():
                for byte in frames(1)[0][:-1] * 1000:
                    try:
                        slow.sendall(bytes([byte]))
                        busy.sendall(b"".join(frames(1))[5:] + b"".join(frames(1))[:5])
                    except OSError:
                        break
                    if closed.wait(0.002):
                        break

            busy.sendall(b"".join(frames(1))[:5])
            thread = threading.Thread(target=drip)
            thread.start()
            eventually(lambda: host.server.ended["read_timeout"])
            closed.set()
            thread.join(20)
            assert {k: n for k, n in host.server.ended.items() if n} == {"read_timeout": 1}
        assert [r.reason for r in host.outlet.rejects][:1] == [Reason.TRUNCATED]


def test_idle_connections_are_closed_where_that_is_asked_for(tmp_path):
    with Host(tmp_path, idle_timeout=0.15) as host, host.connect() as sock:
        sock.sendall(b"".join(frames(1)))
        assert sock.recv(1) == b""
        eventually(lambda: host.server.ended["idle_timeout"] == 1)


def test_at_the_limit_connections_wait_and_lose_nothing(tmp_path):
    with Host(tmp_path, max_connections=2) as host:
        clients = [host.connect() for _ in range(6)]
        for client in clients:
            client.sendall(b"".join(frames(2)))
        eventually(lambda: len(host.outlet.feeders) == 2)
        assert host.server.connections == 2
        for client in clients:
            client.close()
        eventually(lambda: len(host.outlet.all.splitlines()) == 12)


EMFILE = """
import resource, socket, sys, time
sys.path.insert(0, {tests!r})
from test_server import Host, eventually
import pathlib
with Host(pathlib.Path({folder!r})) as host:
    used = len(__import__('os').listdir('/proc/self/fd'))
    clients = [socket.socket() for _ in range(12)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12 + 5, 4096))
    for client in clients:
        client.connect(host.tcp)
        client.sendall({frame!r})
    eventually(lambda: host.server.accept_errors)
    began, errors = time.process_time(), host.server.accept_errors
    eventually(lambda: host.server.accept_errors >= errors + 3)  # a tenth of a second apart
    assert time.process_time() - began < 0.2, 'it spins'
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    eventually(lambda: len(host.outlet.all.splitlines()) == 12)
    for client in clients:
        client.close()
print('survived')
"""


def test_running_out_of_descriptors_is_survived_without_spinning(tmp_path):
    code = EMFILE.format(tests=os.path.dirname(__file__), folder=str(tmp_path), frame=frames(1)[0])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(["tests", "."])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=60)
    assert done.stdout == b"survived\n", done.stderr.decode()
    assert resource.RLIMIT_NOFILE is not None


def test_start_binds_all_or_nothing(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        path = tmp_path / "s.sock"
        port = taken.getsockname()[1]
        server = Server(
            [Listen(UnixAddress(str(path))), Listen(TcpAddress("127.0.0.1", port))], Outlet()
        )
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            server.start()
        assert not path.exists() and server.addresses == []
        server.stop()


def test_stop_without_start_and_twice(tmp_path):
    host = Host(tmp_path)
    host.server.stop()
    host.server.stop()
    with Host(tmp_path) as host:
        host.server.stop()
        host.server.stop()


def test_many_connections_and_idle_ones_cost_no_work(tmp_path):
    with Host(tmp_path, max_connections=300) as host:
        clients = [host.connect(unix=i % 2 == 0) for i in range(300)]
        eventually(lambda: host.server.connections == 300)
        reads = host.server.reads
        for client in clients[::3]:
            client.sendall(b"".join(frames(1)))
        eventually(lambda: len(host.outlet.all.splitlines()) == 100)
        assert host.server.reads - reads == 100
        for client in clients:
            client.close()
        eventually(lambda: host.server.connections == 0)


def test_a_deleted_socket_file_is_made_anew_and_open_connections_stay(host):
    with host.connect(unix=True) as before:
        eventually(lambda: host.server.connections == 1)
        os.unlink(host.path)
        host.server.loop.call_soon(host.server.mend)
        eventually(lambda: os.path.exists(host.path))
        host.server.loop.call_soon(host.server.mend)  # nothing to do
        with host.connect(unix=True) as after:
            for sock in (before, after):
                sock.sendall(b"".join(frames(1)))
            eventually(lambda: len(host.outlet.all.splitlines()) == 2)


def test_a_callback_that_fails_does_not_end_the_loop(caplog):
    loop, seen = EventLoop(), []
    loop.call_soon(lambda: 1 / 0)
    loop.call_later(0, lambda: 1 / 0)
    loop.call_later(0.01, lambda: (seen.append(1), loop.stop()))
    cancelled = loop.call_later(0, lambda: seen.append("cancelled"))
    cancelled.cancel()
    loop.run()
    loop.close()
    assert seen == [1] and len(caplog.records) == 2
    loop.call_soon(lambda: None)  # after the end: harmless


def test_a_stop_looks_at_its_connections_before_its_deadline(tmp_path, monkeypatch):
    """Not at the next beat, which may come when nobody waits for the answer any more."""
    monkeypatch.setattr("wafermon.net.server.QUIET_SECONDS", 3600)
    with Host(tmp_path) as host, host.connect() as client:
        host.outlet.hook = lambda batch, feeder: feeder.pause()
        client.sendall(b"".join(frames(5)))
        eventually(lambda: host.outlet.raw)
        client.sendall(b"".join(frames(5)))
        host.server.stop(3)
        assert host.server.cut_off == 1


def test_a_connection_is_credited_with_so_many_sources(host, monkeypatch):
    monkeypatch.setattr("wafermon.net.connection.MAX_SOURCES", 2)
    with host.connect() as link:
        for src in "abca":
            link.sendall(b"".join(frames(1, src=src)))
        eventually(lambda: host.outlet.all.count(b"\n") == 4)
        assert sorted(host.outlet.present) == ["a", "b"]
    eventually(lambda: not host.outlet.present)


def test_connections_are_told_of_by_their_source(host):
    """Of many that speak in one turn as of one that opens a session, each once."""
    clients = [host.connect() for _ in range(3)]
    for sock, src in zip(clients, ("a", "b", "a")):
        sock.sendall(b"".join(frames(3, src=src)))
    eventually(lambda: sorted(host.outlet.present) == ["a", "a", "b"])
    clients[0].sendall(b"".join(frames(2, src="other")))  # a connection may carry several
    eventually(lambda: sorted(host.outlet.present) == ["a", "a", "b", "other"])
    with host.connect() as session, host.connect(), host.connect() as rubbish:
        session.sendall(b'{"v":1,"src":"s","ts":1,"type":"hello","data":{"session":"x"}}\n')
        assert b"welcome" in session.recv(1000)
        assert "s" not in host.outlet.present, "it has said nothing yet"
        session.sendall(b"".join(frames(1, src="s")))
        rubbish.sendall(b"rubbish\n" + b"".join(frames(1, src="r")))
        eventually(lambda: sorted(host.outlet.present) == ["a", "a", "b", "other", "r", "s"])
    for sock in clients:
        sock.close()
    eventually(lambda: not host.outlet.present)


def test_sources_that_share_a_connection_are_each_told_of(host):
    """Where several connections speak in one turn, too."""
    busy, release = threading.Event(), threading.Event()
    one, other = host.connect(), host.connect()
    for sock, src in ((one, "a"), (other, "b")):
        sock.sendall(b"".join(frames(1, src=src)))
    eventually(lambda: sorted(host.outlet.present) == ["a", "b"])
    host.server.loop.call_soon(lambda: (busy.set(), release.wait(20)))
    assert busy.wait(20)
    for sock, src in ((one, "x"), (other, "b")):
        sock.sendall(b"".join(frames(1, src=src)))
    release.set()
    eventually(lambda: sorted(host.outlet.present) == ["a", "b", "x"])
    one.close()
    eventually(lambda: host.outlet.present == ["b"])
    other.close()
    eventually(lambda: not host.outlet.present)
