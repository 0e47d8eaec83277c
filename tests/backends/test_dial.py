"""The way to another host: all that a connection does ends by its deadline."""

import contextlib
import socket
import ssl
import threading
import time

import pytest
from certificates import authority

from wafermon.backends.dial import Address, ClientTls

SECONDS = 0.5  # what is allowed; the peers take 3


@pytest.fixture
def peer(tmp_path):
    """A Unix server that does with its one connection what it is told; gives the address."""
    path = str(tmp_path / "peer.sock")
    listener, ends, threads = socket.socket(socket.AF_UNIX), threading.Event(), []
    listener.bind(path)
    listener.listen()

    def start(play):
        def run():
            with contextlib.suppress(OSError), listener.accept()[0] as sock:
                sock.settimeout(30)
                play(sock, lambda: ends.wait(0.05))

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return Address(path)

    yield start
    ends.set()
    listener.close()
    for thread in threads:
        thread.join(30)


def tls():
    return ClientTls(ca=authority().path, server_name="localhost")


def test_a_handshake_that_drips(peer):
    def slow(sock, wait):
        sock.recv(65_536)
        for byte in b"\x16\x03\x03\x40\x00" + bytes(55):
            sock.sendall(bytes([byte]))
            wait()

    with pytest.raises(socket.timeout):
        peer(slow).connect(time.monotonic() + SECONDS, tls())


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_peer_that_reads_slowly(peer, secure):
    """A little now and then is not enough."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority().issue())
    size = 4_000_000

    def slow(sock, wait):
        with context.wrap_socket(sock, server_side=True) if secure else sock as stream:
            for step in range(size):
                if not stream.recv(16_384):
                    return
                if step < 60:
                    wait()

    sock = peer(slow).connect(time.monotonic() + 30, tls() if secure else None)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        sock.deadline = time.monotonic() + SECONDS
        with pytest.raises(socket.timeout):
            sock.sendall(bytes(size))


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_lines_that_drip(peer, secure):
    """To who reads calls of the socket, and to who reads a file of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority().issue())

    def slow(sock, wait):
        with context.wrap_socket(sock, server_side=True) if secure else sock as stream:
            for _ in range(60):
                stream.sendall(b"x")
                wait()
            stream.sendall(b"\n")

    with peer(slow).connect(time.monotonic() + 30, tls() if secure else None) as sock:
        sock.deadline = time.monotonic() + SECONDS / 2
        with pytest.raises(socket.timeout):
            while sock.recv(100) != b"\n":
                pass
        sock.deadline = time.monotonic() + SECONDS / 2
        with sock.makefile("rb") as file, pytest.raises(socket.timeout):
            file.readline()


def test_addresses_share_the_time(monkeypatch):
    """One that swallows everything leaves the next one its share; in the end all of it is over."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0)).getsockname()
        good = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full)
        found = []
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in found])
        found[:] = [full, good]
        Address("many:1").connect(time.monotonic() + 1).close()
        found[:] = [full, full]
        with pytest.raises(socket.timeout):
            Address("many:1").connect(time.monotonic() + SECONDS)
