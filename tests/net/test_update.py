"""Other listeners under a running server: all or nothing, and nobody notices who need not."""

import os
import socket
import stat
import threading

import pytest
from certificates import authority
from net_host import Host
from support import eventually

from wafermon.net import Listen, TcpAddress, UnixAddress
from wafermon.testing import frames
from wafermon.wire import Secret


@pytest.fixture
def host(tmp_path):
    with Host(tmp_path) as host:
        yield host


def test_an_equal_address_keeps_its_socket_and_its_connections(host):
    with host.connect() as before:
        before.sendall(frames(1)[0])
        eventually(lambda: host.outlet.all)
        address = host.server.addresses[0]
        tcp = Listen(TcpAddress("127.0.0.1", 0), secret=Secret("of the second config"))
        host.server.update([tcp, Listen(UnixAddress(host.path))])
        assert host.server.addresses == [address, host.path]
        before.sendall(frames(1)[0])
        eventually(lambda: len(host.outlet.all.splitlines()) == 2)
        with host.connect() as after:
            after.sendall(frames(1)[0])
            assert b'"auth"' in after.recv(100), "new connections find the new secret"


def test_who_waits_in_the_backlog_is_served_all_the_same(tmp_path):
    with Host(tmp_path, max_connections=1) as host, host.connect() as first:
        eventually(lambda: host.server.connections == 1)
        for _ in range(5):
            with host.connect() as sock:
                sock.sendall(frames(1)[0])
        assert host.outlet.all == b""
        host.server.update([Listen(UnixAddress(host.path))])
        eventually(lambda: len(host.outlet.all.splitlines()) == 5)
        assert host.server.addresses == [host.path]
        with pytest.raises(ConnectionRefusedError):
            host.connect()
        first.sendall(frames(1)[0])
        eventually(lambda: len(host.outlet.all.splitlines()) == 6)


def test_connections_of_a_listener_that_is_gone_go_on(host):
    with host.connect(unix=True) as sock:
        eventually(lambda: host.server.connections == 1)
        host.server.update([Listen(TcpAddress("127.0.0.1", 0))])
        assert not os.path.exists(host.path)
        sock.sendall(frames(1)[0])
        eventually(lambda: host.outlet.all)
        assert host.server.connections == 1 and len(host.server._leaving) == 1
    eventually(lambda: not host.server._leaving)


def test_it_is_all_or_nothing(host, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = str(tmp_path / "other.sock")
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already"):
            host.server.update([
                Listen(UnixAddress(host.path, mode=0o600), max_connections=1),
                Listen(UnixAddress(other)), Listen(TcpAddress("127.0.0.1", port)),
            ])
    assert not os.path.exists(other)
    assert stat.S_IMODE(os.stat(host.path).st_mode) == 0o660
    clients = [host.connect(unix) for unix in (False, True, True)]
    for client in clients:
        client.sendall(frames(1)[0])
    eventually(lambda: len(host.outlet.all.splitlines()) == 3)
    for client in clients:
        client.close()
    host.server.stop()
    assert not os.path.exists(host.path), "it is still known as our own"


def test_permissions_and_bounds_of_a_listener_that_stays(host):
    inode = os.stat(host.path).st_ino
    host.server.update([Listen(UnixAddress(host.path, mode=0o600), max_connections=1)])
    assert stat.S_IMODE(os.stat(host.path).st_mode) == 0o600
    assert os.stat(host.path).st_ino == inode
    first, second = host.connect(unix=True), host.connect(unix=True)
    for sock in (first, second):
        sock.sendall(frames(1)[0])
    eventually(lambda: host.outlet.all)
    assert host.server.connections == 1
    host.server.update([Listen(UnixAddress(host.path, mode=0o600), max_connections=2)])
    eventually(lambda: len(host.outlet.all.splitlines()) == 2)
    first.close()
    second.close()
    host.server.stop()
    assert not os.path.exists(host.path)


def test_on_the_loop_and_while_ending(host):
    done = threading.Event()
    listens = [Listen(TcpAddress("127.0.0.1", 0))]
    host.server.loop.call_soon(lambda: (host.server.update(listens), done.set()))
    assert done.wait(20) and len(host.server.addresses) == 1
    host.server.stop()
    with pytest.raises(OSError, match="is ending"):
        host.server.update([Listen(UnixAddress(host.path))])
    assert not os.path.exists(host.path)


def test_many_updates_under_traffic_lose_nothing(host):
    """Connections come and go all the while, on both."""
    stop, sent = threading.Event(), []

    def client(unix):
        count = 0
        while not stop.is_set():
            with host.connect(unix) as sock:
                sock.sendall(frames(1)[0])
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(1) == b""
                count += 1
        sent.append(count)

    threads = [threading.Thread(target=client, args=(unix,)) for unix in (False, True)]
    for thread in threads:
        thread.start()
    for turn in range(50):
        host.server.update([
            Listen(TcpAddress("127.0.0.1", 0), max_connections=5 + turn % 3),
            Listen(UnixAddress(host.path), read_timeout=10 + turn),
        ])
    stop.set()
    for thread in threads:
        thread.join(20)
    eventually(lambda: len(host.outlet.all.splitlines()) == sum(sent))


def test_a_new_certificate_is_shown_to_new_connections(tmp_path):
    from wafermon.net.tls import Tls

    ca = authority()
    old, new = Tls(*ca.issue(days=5)), Tls(*ca.issue(days=9))

    def end_of(sock):
        return sock.getpeercert()["notAfter"]

    with Host(tmp_path, tls=old) as host:
        before = ca.client().wrap_socket(host.connect(), server_hostname="localhost")
        host.server.update([Listen(TcpAddress("127.0.0.1", 0), tls=new)])
        after = ca.client().wrap_socket(host.connect(), server_hostname="localhost")
        assert end_of(before) != end_of(after)
        for sock in (before, after):
            sock.sendall(frames(1)[0])
            sock.close()
        eventually(lambda: len(host.outlet.all.splitlines()) == 2)
        metrics = {f.name: f.samples for f in host.server.collect()}
        sample = metrics["sidecar_tls_certificate_expiry_timestamp_seconds"][0]
        assert sample.value == new.expires
