"""The server: listeners, their connections, and one outlet for what these bring."""

from __future__ import annotations

import dataclasses
import errno
import logging
import socket
import threading
from collections.abc import Sequence
from typing import Callable, Optional, Protocol

from wafermon.delivery.pipeline import Feeder
from wafermon.message import Batch
from wafermon.net.connection import Connection
from wafermon.net.listener import Address, TcpAddress
from wafermon.net.loop import EventLoop
from wafermon.net.watch import Watch
from wafermon.observe import Family, family
from wafermon.wire import Session

#: How long accepting pauses when the process has run out of descriptors.
ACCEPT_PAUSE_SECONDS = 0.1
#: At a stop, connections on which nothing arrived for this long have sent what they had sent.
QUIET_SECONDS = 0.1
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = logging.getLogger("wafermon.net")


class Outlet(Protocol):
    """Where batches go; `delivery.Pipeline` is one. Called on the loop thread only."""

    def submit(self, batch: Batch, feeder: Optional[Feeder] = None) -> None:
        """Take a batch; `feeder` may be told to pause."""

    def forget(self, feeder: Feeder) -> None:
        """That feeder is gone."""


@dataclasses.dataclass(frozen=True)
class Listen:
    """One listener and the bounds of its connections.

    Args:
        address: where.
        max_connections: at a time; further ones wait in the kernel's backlog.
        read_timeout: seconds that a frame may remain unfinished; 0 for ever.
        idle_timeout: seconds that a connection may be silent; 0 for ever.
        keepalive: let the kernel find peers that vanished (60 s, then 6 probes 10 s apart).
    """

    address: Address
    max_connections: int = 100
    read_timeout: float = 30.0
    idle_timeout: float = 0.0
    keepalive: bool = True


class Door:
    """A bound listener with its connections. Loop thread only."""

    def __init__(self, server: Server, listen: Listen) -> None:
        self.server = server
        self.listen = listen
        self.sock = listen.address.bind()
        #: Where it listens, with the port that the system chose.
        self.address = str(listen.address)
        if isinstance(listen.address, TcpAddress):
            self.address = str(TcpAddress(listen.address.host, self.sock.getsockname()[1]))
        self.connections: dict[Connection, None] = {}
        self.watch = Watch(
            server.loop, read_timeout=listen.read_timeout, idle_timeout=listen.idle_timeout
        )
        self._accepting = False
        self._warned = False

    def open(self) -> None:
        """Accept connections."""
        if not self._accepting and not self.server.draining:
            self._accepting = True
            self.server.loop.add_reader(self.sock, self._accept)

    def _shut(self) -> None:
        if self._accepting:
            self._accepting = False
            self.server.loop.remove_reader(self.sock)

    def close(self) -> None:
        """Take the connections that are waiting in the backlog, then stop listening."""
        self._shut()
        while self._accept_one():
            pass
        self.listen.address.unbind(self.sock)

    def mend(self) -> None:
        """Listen anew where the socket file was deleted; connections that are open stay."""
        if self.server.draining or not self.listen.address.is_gone():
            return
        try:
            sock = self.listen.address.bind()
        except OSError as error:
            log.error("%s", error.strerror)
            return
        self._shut()
        while self._accept_one():
            pass
        self.sock.close()
        self.sock = sock
        self.open()
        log.warning("%s had been deleted; listening there again", self.address)

    def _accept(self) -> None:
        while len(self.connections) < self.listen.max_connections:
            if not self._accept_one():
                return
        self._shut()  # until a connection closes

    def _accept_one(self) -> bool:
        try:
            sock, _ = self.sock.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._failed_to_accept(error)
            return False
        self.server.accepted += 1
        sock.setblocking(False)
        if self.listen.keepalive and isinstance(self.listen.address, TcpAddress):
            _keep_alive(sock)
        connection = Connection(self, sock, self.server.session())
        self.connections[connection] = None
        self.server.loop.add_reader(sock, connection.read)
        return True

    def _failed_to_accept(self, error: OSError) -> None:
        """Out of descriptors: come back later, as `select` would report the same at once."""
        self.server.accept_errors += 1
        if error.errno in _EXHAUSTED:
            self._shut()
            self.server.loop.call_later(ACCEPT_PAUSE_SECONDS, self.open)
        if not self._warned:
            self._warned = True
            log.error("cannot accept on %s: %s; further failures are only counted", self.address,
                      error.strerror)

    def closed(self, connection: Connection, reason: str) -> None:
        """A connection ended."""
        del self.connections[connection]
        self.server.closed(connection, reason)
        if len(self.connections) < self.listen.max_connections:
            self.open()


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, option):  # not all of them on macOS
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class Server:
    """Listen, read, decode, and hand batches to one outlet.

    Life cycle: `start` binds and serves from a thread of its own, `stop` takes what has arrived
    and ends; both also by `with`. `stop` is safe without `start` and twice.

    Args:
        listens: where to listen.
        outlet: gets the batches.
        session: makes the session of a new connection.
        loop: an own event loop by default.

    Thread: `start`, `stop` and `abort` any; the rest happens on the loop thread.

    >>> class Print:
    ...     def submit(self, batch, feeder=None): print(len(batch))
    ...     def forget(self, feeder): pass
    >>> with Server([Listen(TcpAddress("127.0.0.1", 0))], Print()) as server:
    ...     host, port = server.addresses[0].split(":")
    ...     with socket.create_connection((host, int(port))) as client:
    ...         client.sendall(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n')
    1
    """

    def __init__(
        self,
        listens: Sequence[Listen],
        outlet: Outlet,
        *,
        session: Callable[[], Session] = Session,
        loop: Optional[EventLoop] = None,
    ) -> None:
        self.loop = loop or EventLoop()
        self.outlet = outlet
        self.session = session
        self.draining = False
        self.accepted = 0
        self.accept_errors = 0
        #: Connections that ended, by reason.
        self.ended: dict[str, int] = dict.fromkeys(
            ("eof", "reset", "read_timeout", "idle_timeout", "shutdown"), 0
        )
        self._listens = list(listens)
        self._doors: list[Door] = []
        self._thread: Optional[threading.Thread] = None
        #: Reads that brought bytes, all connections together.
        self.reads = 0
        self._reads_before = -1
        #: Connections that a stop closed although they had more to read.
        self.cut_off = 0
        self._drain_until = self._drain_paused_until = 0.0

    @property
    def addresses(self) -> list[str]:
        """Where it listens, in the order of `listens`: `host:port`, or a path."""
        return [door.address for door in self._doors]

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return sum(len(door.connections) for door in self._doors)

    def bind(self) -> None:
        """Bind all listeners, or none. `start` does so where nobody did before.

        Raises:
            OSError: an address cannot be bound; the text names it and the reason.
        """
        try:
            for listen in self._listens[len(self._doors) :]:
                self._doors.append(Door(self, listen))
        except OSError:
            while self._doors:
                door = self._doors.pop()
                door.listen.address.unbind(door.sock)
            raise

    def start(self) -> None:
        """Bind, and serve from a thread of its own.

        Raises:
            OSError: as `bind`.
        """
        self.bind()
        for door in self._doors:
            door.open()
        self._thread = threading.Thread(target=self.loop.run, name="loop", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Stop accepting, take what clients have sent, end.

        Args:
            timeout: seconds; at most half of them are given to clients that go on sending, nearly
                all to those whose queue is full.
        """
        if self._thread is None:
            for door in self._doors:
                door.listen.address.unbind(door.sock)
        elif self._thread.is_alive():
            self.loop.call_soon(lambda: self._drain(timeout))
            self._thread.join(timeout)
        if self._thread is None or not self._thread.is_alive():
            self.loop.close()

    def mend(self) -> None:
        """Listen anew where a Unix socket's file was deleted. Loop thread only."""
        for door in self._doors:
            door.mend()

    def abort(self) -> None:
        """Let a `stop` that waits go on at once. Any thread."""
        self.loop.call_soon(self._finish)

    def _drain(self, seconds: float) -> None:
        if self.draining:
            return
        self.draining = True
        self._drain_until = self.loop.clock() + seconds / 2
        self._drain_paused_until = self.loop.clock() + seconds * 0.9
        for door in self._doors:
            door.close()
        for door in self._doors:
            for connection in list(door.connections):
                while not connection.paused and connection.read():
                    if self.loop.clock() > self._drain_until:
                        break
        self._check_quiet()

    def _check_quiet(self) -> None:
        """End once nothing arrives any more and nobody waits for a queue."""
        open_ones = [c for door in self._doors for c in door.connections]
        before, self._reads_before = self._reads_before, self.reads
        now = self.loop.clock()
        reading = self.reads != before and now < self._drain_until
        held_back = any(c.paused for c in open_ones) and now < self._drain_paused_until
        if open_ones and (reading or held_back):
            self.loop.call_later(QUIET_SECONDS, self._check_quiet)
        else:
            self._finish()

    def _finish(self) -> None:
        self.draining = True
        for door in self._doors:
            for connection in list(door.connections):
                self.cut_off += connection.has_more()
                connection.close("shutdown")
        self.loop.stop()

    def closed(self, connection: Connection, reason: str) -> None:
        """A connection ended; called by its door."""
        self.ended[reason] += 1
        self.outlet.forget(connection)

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def collect(self) -> list[Family]:
        """Yield the counters of listeners and connections."""
        return [
            family(
                "sidecar_active_connections",
                "gauge",
                "Connections that are open.",
                {"": self.connections},
            ),
            family(
                "sidecar_connections_total",
                "counter",
                "Connections that were accepted.",
                {"": self.accepted},
            ),
            family(
                "sidecar_connections_ended_total",
                "counter",
                "Connections that ended, by reason.",
                self.ended,
                "reason",
            ),
            family(
                "sidecar_accept_errors_total",
                "counter",
                "Connections that could not be accepted.",
                {"": self.accept_errors},
            ),
            family(
                "sidecar_connections_cut_off_total",
                "counter",
                "Connections that a stop closed although they had more to read.",
                {"": self.cut_off},
            ),
        ]
