"""A server for the tests of what it does with connections."""

import socket

from wafermon.delivery.feeders import Crowd
from wafermon.net import Listen, Server, TcpAddress, UnixAddress


class Outlet:
    """Keeps what it is given."""

    def __init__(self):
        self.raw, self.rejects, self.feeders, self.forgotten = {}, [], [], []
        self.present = []
        self.abrupt = []
        self.hook = None

    def submit(self, batch, feeder=None):
        if isinstance(feeder, Crowd):
            first = 0
            for one, count in feeder.parts:
                self.submit(batch.select(range(first, first + count)), one)
                first += count
            return
        if feeder not in self.raw:
            self.raw[feeder] = b""
            self.feeders.append(feeder)
        self.raw[feeder] += batch.raw
        self.rejects += batch.rejects
        if self.hook:
            self.hook(batch, feeder)

    def expect(self, feeder, q):
        feeder.safe(q, "memory", 1)

    def joined(self, src):
        self.present.append(src)

    def left(self, src, lived, abrupt):
        self.present.remove(src)
        self.abrupt.append(abrupt)

    def forget(self, feeder):
        self.forgotten.append(feeder)

    @property
    def all(self):
        return b"".join(self.raw.values())


class Host:
    """A server with a TCP and a Unix listener.

    What is said of the listeners holds for both, but `tls` and `allow_uids`.
    """

    def __init__(self, folder, *, tls=None, allow_uids=None, lockout=None, **listen):
        self.outlet = Outlet()
        self.path = str(folder / "s.sock")
        self.listens = [
            Listen(TcpAddress("127.0.0.1", 0), tls=tls, **listen),
            Listen(UnixAddress(self.path), allow_uids=allow_uids, **listen),
        ]
        self.server = Server(self.listens, self.outlet, lockout=lockout)

    def __enter__(self):
        self.server.start()
        host, _, port = self.server.addresses[0].rpartition(":")
        self.tcp = (host, int(port))
        return self

    def __exit__(self, *_):
        self.server.stop(10)

    @property
    def door(self):
        """The TCP one."""
        return self.server._doors[0]

    def connect(self, unix=False):
        sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        sock.settimeout(20)
        try:
            sock.connect(self.path if unix else self.tcp)
        except OSError:
            sock.close()
            raise
        return sock
