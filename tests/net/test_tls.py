"""TLS over real sockets, with certificates of the openssl command."""

import calendar
import os
import socket
import ssl
import subprocess
import threading
import time

import pytest
from certificates import authority
from net_host import Host
from support import eventually

from wafermon.net.certificate import expiry
from wafermon.net.tls import Tls
from wafermon.testing import frames

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.fixture(scope="module")
def ca():
    return authority()


@pytest.fixture(scope="module")
def pair(ca):
    return ca.issue()


@pytest.fixture
def host(tmp_path, pair):
    with Host(tmp_path, tls=Tls(*pair)) as host:
        yield host


def wrap(ca, host, **limits):
    return ca.client(**limits).wrap_socket(host.connect(), server_hostname="localhost")


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])
def test_a_client_that_only_sends_loses_nothing(ca, host, version):
    """3 MB, then a close without reading: one unread byte would turn that into a reset."""
    data = b"".join(frames(20_000))
    data *= 1 + 3_000_000 // len(data)
    with host.connect() as raw:
        client = ca.client(minimum_version=version, maximum_version=version)
        with client.wrap_socket(raw, server_hostname="localhost") as sock:
            assert sock.version() == ("TLSv1.3" if version == TLS_1_3 else "TLSv1.2")
            sock.sendall(data)
    eventually(lambda: host.server.connections == 0 and host.outlet.forgotten)
    assert host.outlet.all == data
    assert host.server.ended["truncated"] == 1, "it did not say that this was all"


def test_no_byte_comes_back(ca, host):
    """Not even a ticket, which would be there before the first answer."""
    sock = wrap(ca, host)
    sock.sendall(b"".join(frames(10)))
    eventually(lambda: len(host.outlet.all.splitlines()) == 10)
    raw = socket.socket(fileno=sock.detach())
    raw.settimeout(20)
    raw.shutdown(socket.SHUT_WR)
    assert raw.recv(1) == b"", "not an alert, either"
    raw.close()


def test_the_end_is_told_from_a_cut(ca, host):
    sock = wrap(ca, host)
    sock.sendall(frames(1)[0])
    sock.unwrap().close()  # waits for the server's closing alert
    eventually(lambda: host.server.ended["eof"] == 1)
    sock = wrap(ca, host)
    sock.sendall(frames(1)[0] + b'{"v":1')
    sock.close()
    eventually(lambda: host.server.ended["truncated"] == 1)
    assert len(host.outlet.all.splitlines()) == 2
    assert len(host.outlet.rejects) == 1


def test_receipts_arrive_and_the_stream_is_closed_properly(ca, host):
    with wrap(ca, host) as sock:
        # SSL sockets cannot half-close: what asks for a receipt is answered, then it ends.
        sock.sendall(b'{"v":1,"src":"a","ts":1,"type":"heartbeat","q":7}\n')
        assert sock.recv(100) == b'{"v":1,"type":"ack","q":7,"level":"memory"}\n'
        sock.suppress_ragged_eofs = False
        host.server.loop.call_soon(lambda: next(iter(host.door.connections)).close("shutdown"))
        assert sock.recv(100) == b"", "with an alert"


def test_a_frame_in_the_packet_of_the_handshake_is_read(ca, host):
    """Nothing more comes, so `select` would never show it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ca.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with host.connect() as sock:
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        sock.sendall(outgoing.read())
        while True:
            incoming.write(sock.recv(65_536))
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                pass
        tls.write(b"".join(frames(5)))
        sock.sendall(outgoing.read())
        eventually(lambda: len(host.outlet.all.splitlines()) == 5)


def test_a_paused_connection_goes_on_with_what_was_decrypted(ca, host):
    paused = []

    def pause(batch, feeder):
        if not paused:
            paused.append(feeder)
            feeder.pause()

    host.outlet.hook = pause
    with wrap(ca, host) as sock:
        sock.sendall(frames(1)[0])
        eventually(lambda: paused)
        sock.sendall(b"".join(frames(100)))
        closing = threading.Thread(target=sock.unwrap)
        closing.start()
        host.server.loop.call_soon(paused[0].resume)
        closing.join(20)
        assert not closing.is_alive()
    eventually(lambda: host.server.ended["eof"] == 1)
    assert len(host.outlet.all.splitlines()) == 101


def test_handshakes_that_stall_take_no_connection_s_place(ca, tmp_path, pair):
    tls = Tls(*pair, handshake_timeout=0.3)
    with Host(tmp_path, tls=tls, max_connections=2) as host:
        stalled = [host.connect() for _ in range(10)]
        stalled[0].sendall(b"\x16\x03\x01")
        eventually(lambda: len(host.door.handshakes) == 10)
        with wrap(ca, host) as first, wrap(ca, host) as second:
            first.sendall(frames(1)[0])
            second.sendall(frames(1)[0])
            eventually(lambda: len(host.outlet.all.splitlines()) == 2)
            eventually(lambda: host.server.ended["tls_timeout"] == 10)
            assert host.server.connections == 2 and not host.door.handshakes
        for sock in stalled:
            assert sock.recv(1) == b""
            sock.close()


def test_the_pool_of_handshakes_is_bounded_and_who_waits_gets_in(ca, tmp_path, pair, monkeypatch):
    monkeypatch.setattr("wafermon.net.door.MAX_HANDSHAKES", 3)
    with Host(tmp_path, tls=Tls(*pair, handshake_timeout=0.3)) as host:
        stalled = [host.connect() for _ in range(7)]
        eventually(lambda: len(host.door.handshakes) == 3)
        with wrap(ca, host) as sock:
            sock.sendall(frames(1)[0])
            eventually(lambda: host.outlet.all)
        for other in stalled:
            other.close()


def test_a_stalled_handshake_gives_way_to_who_waits(ca, tmp_path, pair, monkeypatch):
    monkeypatch.setattr("wafermon.net.door.MAX_HANDSHAKES", 3)
    monkeypatch.setattr("wafermon.net.door.STALLED_SECONDS", 0.1)
    with Host(tmp_path, tls=Tls(*pair, handshake_timeout=3600)) as host:
        stalled = [host.connect() for _ in range(7)]
        with wrap(ca, host) as sock:
            sock.sendall(frames(1)[0])
            eventually(lambda: host.outlet.all)
        assert host.server.ended["tls_stalled"] == 5, "one for each that came after three"
        assert stalled[0].recv(1) == b"", "the oldest first"
        assert len(host.door.handshakes) == 2
        for other in stalled:
            other.close()


def test_a_crowd_pushes_nobody_out(ca, tmp_path, pair, monkeypatch):
    """Only who has stalled gives way: many who come at once all get in."""
    monkeypatch.setattr("wafermon.net.door.MAX_HANDSHAKES", 2)
    monkeypatch.setattr("wafermon.net.door.STALLED_SECONDS", 3600)
    with Host(tmp_path, tls=Tls(*pair, handshake_timeout=3600)) as host:
        stalled, inside = host.connect(), []
        threads = [threading.Thread(target=lambda: inside.append(wrap(ca, host))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(inside) == 8 and host.server.ended["tls_stalled"] == 0
        for sock in (*inside, stalled):
            sock.close()


def test_who_has_agreed_on_keys_waits_for_a_connection_s_place(ca, tmp_path, pair):
    with Host(tmp_path, tls=Tls(*pair), max_connections=1) as host:
        most = []
        host.outlet.hook = lambda batch, feeder: most.append(host.server.connections)
        blocked = threading.Event()
        host.server.loop.call_soon(lambda: blocked.wait(20))
        raw = [host.connect() for _ in range(3)]
        # All are accepted before the first of them is a connection.
        shaken = []
        threads = [
            threading.Thread(target=lambda s=s: shaken.append(
                ca.client().wrap_socket(s, server_hostname="localhost"))) for s in raw
        ]
        for thread in threads:
            thread.start()
        blocked.set()
        data = b"".join(frames(3))

        def all_sent():
            for sock in shaken:
                sock.sendall(data)
                sock.close()
            shaken.clear()
            return len(host.outlet.all) == 3 * len(data)

        eventually(all_sent)
        for thread in threads:
            thread.join(20)
        assert set(most) == {1}


def test_who_speaks_no_tls_or_an_old_one_is_counted(ca, host, caplog):
    with host.connect() as plain:
        plain.sendall(b"".join(frames(3)))
        eventually(lambda: host.server.ended["tls_failed"] == 1)
    with host.connect() as gone:
        gone.close()
    eventually(lambda: host.server.ended["tls_failed"] == 2)
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{host.tcp[1]}", "-tls1_1",
         "-cipher", "ALL:@SECLEVEL=0"],
        input=b"", capture_output=True, timeout=30,
    )
    assert done.returncode != 0
    eventually(lambda: host.server.ended["tls_failed"] == 3)
    assert len(caplog.records) == 1 and "further failures are only counted" in caplog.text
    assert host.outlet.all == b"" and host.server.accepted == 3


def test_clients_show_a_certificate_where_that_is_asked_for(ca, tmp_path, pair):
    with Host(tmp_path, tls=Tls(*pair, client_ca=ca.path)) as host:
        sock = ca.client(*pair).wrap_socket(host.connect(), server_hostname="localhost")
        sock.sendall(frames(1)[0])
        eventually(lambda: host.outlet.all == frames(1)[0])
        sock.close()
        with host.connect() as raw:
            nobody = ca.client().wrap_socket(raw, server_hostname="localhost")
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                nobody.recv(1)
            nobody.close()
        eventually(lambda: host.server.ended["tls_failed"] == 1)


def test_a_stop_takes_what_was_sent_and_who_is_stepping_in(ca, tmp_path, pair):
    data = b"".join(frames(500))
    with Host(tmp_path, tls=Tls(*pair)) as host:
        inside = wrap(ca, host)
        busy, release = threading.Event(), threading.Event()
        host.server.loop.call_soon(lambda: (busy.set(), release.wait(20)))
        assert busy.wait(20)
        inside.sendall(data)
        waiting, stopping = host.connect(), threading.Event()

        def step_in():
            stopping.wait(20)
            sock = ca.client().wrap_socket(waiting, server_hostname="localhost")
            sock.sendall(data)
            sock.close()

        client = threading.Thread(target=step_in)
        client.start()
        stopper = threading.Thread(target=host.server.stop)
        stopper.start()
        release.set()
        eventually(lambda: host.server.draining)
        stopper.join(0.3)  # longer than silent connections are waited for
        assert stopper.is_alive()
        stopping.set()
        client.join(20)
        stopper.join(20)
        inside.close()
    assert host.outlet.all == data * 2


def test_bad_files_are_named(tmp_path, ca, pair):
    other = ca.issue()
    cert, key = pair
    empty = tmp_path / "empty.pem"
    empty.touch()
    locked = str(tmp_path / "locked.key")
    subprocess.run(
        ["openssl", "ec", "-in", key, "-aes256", "-passout", "pass:x", "-out", locked],
        check=True, capture_output=True, timeout=30,
    )
    for arguments, words in [
        (("/nowhere.pem", key), "cert: /nowhere.pem: No such file"),
        ((cert, "/nowhere.key"), "key: /nowhere.key: No such file"),
        ((cert, other[1]), f"key: {other[1]} does not belong to the certificate {cert}"),
        ((str(empty), key), "cert: .* cannot be used"),
        ((cert, locked), "cert: .* cannot be used: .*the key not encrypted"),
        ((cert,), "cert: .*, with its key, cannot be used"),
        ((cert, key, str(empty)), "client_ca: .* holds no certificate"),
        ((cert, key, "/nowhere.pem"), "client_ca: /nowhere.pem: No such file"),
    ]:
        with pytest.raises(ValueError, match=words):
            Tls(*arguments)


def test_the_end_of_a_certificate_is_known(ca, pair):
    for days in (1, 30, 20_000):  # the last one beyond 2049, which is written in another way
        cert, _ = ca.issue(days=days)
        text = subprocess.run(
            ["openssl", "x509", "-enddate", "-noout", "-in", cert],
            capture_output=True, check=True, timeout=30,
        ).stdout.decode().strip().partition("=")[2]
        wanted = calendar.timegm(time.strptime(text, "%b %d %H:%M:%S %Y GMT"))
        with open(cert) as file:
            assert expiry(file.read()) == wanted
    assert os.path.exists(pair[0]) and Tls(*pair).expires > time.time() + 29 * 86_400
