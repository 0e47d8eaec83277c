"""Raw listeners on port 0 for the tests of the Python SDK: plain ones, and ones that answer."""

import json
import os
import re
import selectors
import socket
import threading

import pytest

TIMEOUT = 15.0


class Listener:
    """Reads every connection into memory in a thread of its own.

    Args:
        unix: path of a Unix socket; else TCP on 127.0.0.1.
        port: TCP port, to come back where another listener was.
        recv_buffer: bytes of SO_RCVBUF, to make writes partial.
        reading: whether it reads what it accepts, before `read` is called.
        delivery: "send" knows sockets and lines only, and never sends a byte. "ack" gives receipts:
            what it keeps has no hello, no number, and nothing twice.
        answering: the types of line that it says, with "ack".
        held: session -> highest number, of a listener that was here before.
    """

    def __init__(
        self,
        unix=None,
        port=0,
        recv_buffer=None,
        reading=True,
        delivery="send",
        answering=("welcome", "ack"),
        held=None,
    ):
        self.sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        if unix:
            self.sock.bind(unix)
            self.where = {"unix": unix, "delivery": delivery}
        else:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if recv_buffer:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, recv_buffer)
            self.sock.bind(("127.0.0.1", port))
            self.where = {"port": self.sock.getsockname()[1], "delivery": delivery}
        self.sock.listen(64)
        self.sock.setblocking(False)
        self.reading = reading
        self.peers = {} if delivery == "ack" else None  # socket -> its session, and half a line
        self.answering = answering
        self.held = {} if held is None else held
        self.hellos = []
        self.numbers = []  # q of each frame that is kept
        self.duplicates = 0
        self.changed = threading.Condition()
        self.received = []  # one bytearray a connection
        self.ended = 0
        self.open = []
        self.told, self.teller = socket.socketpair()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self.sock, selectors.EVENT_READ, None)
            selector.register(self.told, selectors.EVENT_READ, None)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self.told:
                        if self.told.recv(1) == b"s":
                            return
                        self.reading = True
                        for peer, data in zip(self.open, self.received):
                            selector.register(peer, selectors.EVENT_READ, data)
                        continue
                    if key.fileobj is self.sock:
                        peer, _ = self.sock.accept()
                        with self.changed:
                            self.received.append(bytearray())
                            self.open.append(peer)
                            self.changed.notify_all()
                        if self.reading:
                            selector.register(peer, selectors.EVENT_READ, self.received[-1])
                        continue
                    try:
                        data = key.fileobj.recv(65536)
                    except OSError:
                        data = b""
                    with self.changed:
                        plain = self.peers is None
                        key.data.extend(data if plain else self.take(key.fileobj, data))
                        if not data:
                            selector.unregister(key.fileobj)
                            key.fileobj.close()
                            self.open.remove(key.fileobj)
                            self.ended += 1
                        self.changed.notify_all()

    def take(self, peer, data):
        """Do as a sidecar does; the frames to keep."""
        session, rest = self.peers.get(peer, (None, b""))
        *lines, rest = (rest + data).split(b"\n")
        kept, top = b"", 0
        for line in lines:
            frame = json.loads(line)
            if frame["type"] == "hello":
                assert session is None
                session = frame["data"]["session"]
                self.hellos.append(frame)
                self.say(peer, "welcome", self.held.setdefault(session, 0))
                continue
            top = frame["q"]
            if top <= self.held[session]:
                self.duplicates += 1
                continue
            self.held[session] = top
            self.numbers.append(top)
            line, count = re.subn(rb',"q":\d+}$', b"}", line)
            assert count == 1
            kept += line + b"\n"
        self.peers[peer] = (session, rest)
        if top:
            self.say(peer, "ack", self.held[session])
        return kept

    def say(self, peer, kind, q):
        if kind in self.answering:
            try:
                peer.send(b'{"v":1,"type":"%s","q":%d,"level":"disk"}\n' % (kind.encode(), q))
            except OSError:
                pass

    def read(self):
        self.teller.send(b"r")

    def wait(self, reached):
        """Wait until `reached(self)` holds."""
        with self.changed:
            assert self.changed.wait_for(lambda: reached(self), TIMEOUT), bytes(self.raw())[-500:]

    def raw(self):
        return b"".join(self.received)

    def frames(self, count=None):
        """The frames so far, after waiting for so many; fails on a torn line."""
        if count is not None:
            self.wait(lambda it: it.raw().count(b"\n") >= count)
        with self.changed:
            return [json.loads(line) for data in self.received for line in data.splitlines()]

    def of(self, kind, count=None):
        if count is not None:
            self.wait(lambda it: it.raw().count(b'"type":"%s"' % kind.encode()) >= count)
        return [frame for frame in self.frames() if frame["type"] == kind]

    def messages(self, count=None):
        return [frame["data"]["msg"] for frame in self.of("event", count)]

    def stop(self):
        """Close the listening socket first, then what was accepted, as a sidecar does."""
        if self.thread is None:
            return
        self.teller.send(b"s")
        self.thread.join(TIMEOUT)
        assert not self.thread.is_alive()
        self.thread = None
        self.sock.close()
        for peer in self.open:
            peer.close()
        self.open = []
        self.told.close()
        self.teller.close()


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("MONITORING_", "WAFERMON_")) or name == "TRACEPARENT":
            monkeypatch.delenv(name)


@pytest.fixture(params=["ack", "send"])
def delivery(request):
    """The way of delivery; a test that is for one only says so by parametrize."""
    return request.param


@pytest.fixture
def listen(delivery):
    """Make listeners that are stopped after the test; `where` says how a client has to send."""
    made = []

    def make(**options):
        made.append(Listener(**{"delivery": delivery, **options}))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture(params=["tcp", "unix"])
def listener(request, listen, tmp_path):
    """One listener, over TCP and then over a Unix socket."""
    return listen(unix=str(tmp_path / "s")) if request.param == "unix" else listen()
