"""The server: listeners, their connections, and one outlet for what these bring."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import logging
import socket
import threading
from collections.abc import Collection, Sequence
from typing import Callable, Optional, Protocol, Union

from wafermon.delivery.feeders import Crowd, Feeder
from wafermon.message import Batch
from wafermon.net.connection import Connection
from wafermon.net.door import Door, Listen
from wafermon.net.intake import Intake
from wafermon.net.lockout import Lockout
from wafermon.net.loop import EventLoop
from wafermon.net.rejections import Rejections
from wafermon.net.workers import Workers
from wafermon.observe import Family, family
from wafermon.wire import SessionTable

#: At a stop, connections on which nothing arrived for this long have sent what they had sent.
QUIET_SECONDS = 0.1
#: How a connection may end; after the first line, how it may before it was let in.
REASONS = (
    "eof", "reset", "truncated", "read_timeout", "idle_timeout", "superseded", "shutdown", "auth",
    "locked_out", "user", "tls_failed", "tls_timeout", "tls_stalled",
)  # fmt: skip


#: Ends that a peer that only writes may have meant.
_ORDERLY = ("eof", "idle_timeout")

log = logging.getLogger("wafermon.net")


class Outlet(Protocol):
    """Where batches go; `delivery.Pipeline` is one. Called on the loop thread only."""

    def submit(self, batch: Batch, feeder: Union[Feeder, Crowd, None] = None) -> None:
        """Take a batch; those whom it comes from may be told to pause."""

    def expect(self, feeder: Feeder, q: int) -> None:
        """Call `feeder.safe` once all that was submitted up to now is safe."""

    def forget(self, feeder: Feeder) -> None:
        """That feeder is gone."""

    def joined(self, src: str) -> None:
        """The first message of this source on a connection has come."""

    def left(self, src: str, lived: float, abrupt: bool) -> None:
        """A connection of this source has ended, so many seconds after its first message there;
        whether it was cut off, or a session that owed a goodbye."""


class Server:
    """Listen, read, decode, and hand batches to one outlet.

    Life cycle: `start` binds and serves from a thread of its own, `stop` takes what has arrived
    and ends; both also by `with`. `stop` is safe without `start` and twice.

    Args:
        listens: where to listen.
        outlet: gets the batches.
        sessions: what is held of each session; it outlives connections.
        lockout: of whom no notice is taken after wrong secrets; an own one by default.
        loop: an own event loop by default.
        workers: processes that help with decoding; they use the same loop.

    Thread: `start`, `update`, `stop` and `abort` any; the rest happens on the loop thread.

    >>> import socket
    >>> from wafermon.net import TcpAddress
    >>> class Print:
    ...     def submit(self, batch, feeder=None): print(len(batch))
    ...     def expect(self, feeder, q): pass
    ...     def forget(self, feeder): pass
    ...     def joined(self, src): pass
    ...     def left(self, src, lived, abrupt): pass
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
        sessions: Optional[SessionTable] = None,
        lockout: Optional[Lockout] = None,
        loop: Optional[EventLoop] = None,
        workers: Optional[Workers] = None,
    ) -> None:
        self.loop = loop or EventLoop()
        self.workers = workers
        self.lockout = Lockout(clock=self.loop.clock) if lockout is None else lockout
        self.outlet = outlet
        self.sessions = SessionTable() if sessions is None else sessions
        self.intake = Intake(self)
        self.rejections = Rejections(self.loop)
        self.draining = False
        self.accepted = 0
        self.accept_errors = 0
        #: Connections that ended, by reason.
        self.ended: dict[str, int] = dict.fromkeys(REASONS, 0)
        self._listens = list(listens)
        self._doors: list[Door] = []
        self._leaving: list[Door] = []  # they listen no more, and have connections
        self._updating = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        #: Reads that brought bytes, and handshakes that ended, all together.
        self.reads = 0
        self._reads_before = -1
        #: Times that a connection brought a source past those that it is credited with.
        self.uncredited = 0
        #: Connections that a stop closed although they had more to read.
        self.cut_off = 0
        self._drain_until = self._drain_paused_until = 0.0

    @property
    def addresses(self) -> list[str]:
        """Where it listens, in the order of `listens`: `host:port`, or a path."""
        return [door.address for door in self._doors]

    @property
    def unbound(self) -> list[str]:
        """Those of them that cannot be bound at the moment."""
        return [door.address for door in self._doors if door.sock is None]

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return sum(len(door.connections) for door in self._all_doors)

    @property
    def _all_doors(self) -> list[Door]:
        return [*self._doors, *self._leaving]

    def bind(self, later: Collection[int] = ()) -> None:
        """Bind all listeners, or none. `start` does so where nobody did before.

        Args:
            later: errors, as `errno` has them, after which a listener is left to `mend`.

        Raises:
            OSError: an address cannot be bound; the text names it and the reason.
        """
        if not self._doors:
            self.update(self._listens, later)

    def update(self, listens: Sequence[Listen], later: Collection[int] = ()) -> None:
        """Listen on these, and no others; all or nothing.

        A listener whose address is equal keeps its socket, its backlog and its connections; who
        connects from now on finds the new bounds, secret and certificate. One that is not named any
        more takes what waits in its backlog and listens no more; its connections go on until they
        end. An address that overlaps with one that is given up, such as the same port on all
        interfaces, cannot be bound while that stands: it takes a restart.

        Binding, and looking up the name of a host, is done by the calling thread; the change is one
        step of the loop, and done when this returns.

        Args:
            listens: in the order that `addresses` is to have.
            later: as for `bind`.

        Raises:
            OSError: an address cannot be bound, or the server is ending; the text says so, and
                everything is as it was.
        """
        with self._updating, contextlib.ExitStack() as undo:
            standing = {door.listen.address: door for door in self._doors}
            doors: list[tuple[Door, Listen]] = []
            for listen in listens:
                door = standing.pop(listen.address, None)
                if door is None:
                    sock = _bound(listen, later)
                    if sock is not None:
                        undo.callback(listen.address.unbind, sock)
                    door = Door(self, listen, sock)
                else:
                    undo.callback(door.listen.address.adopt, listen.address)
                    listen.address.adopt(door.listen.address)
                doors.append((door, listen))
            self.on_loop(lambda: self._swap(doors))
            undo.pop_all()

    def on_loop(self, change: Callable[[], object]) -> None:
        """Make a change between two steps of the loop, and wait for it. Any thread.

        Raises:
            OSError: the server is ending; and whatever the change raises.
        """
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            change()
            return
        made: concurrent.futures.Future[object] = concurrent.futures.Future()

        def make() -> None:
            try:
                made.set_result(change())
            except Exception as error:
                made.set_exception(error)

        self.loop.call_soon(make)
        while not concurrent.futures.wait([made], timeout=0.2).done:
            if not thread.is_alive():
                raise _ending()
        made.result()

    def _swap(self, doors: list[tuple[Door, Listen]]) -> None:
        if self.draining:
            raise _ending()
        before, self._doors = self._doors, [door for door, _ in doors]
        for door, listen in doors:
            door.furnish(listen)
        for door in before:
            if door not in self._doors:
                self._leaving.append(door)
                door.close()
        self._forget_left()

    def _forget_left(self) -> None:
        self._leaving = [door for door in self._leaving if door.busy]

    def start(self) -> None:
        """Bind, and serve from a thread of its own.

        Raises:
            OSError: as `bind`.
        """
        self.bind()
        self._thread = threading.Thread(target=self.loop.run, name="loop", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Stop accepting, take what clients have sent, end.

        Args:
            timeout: seconds; at most half of them are given to clients that go on sending, nearly
                all to those whose queue is full or who wait for a receipt.
        """
        if self._thread is None:
            for door in self._doors:
                if door.sock is not None:
                    door.listen.address.unbind(door.sock)
        elif self._thread.is_alive():
            self.loop.call_soon(lambda: self._drain(timeout))
            self._thread.join(timeout)
        if self._thread is None or not self._thread.is_alive():
            self.loop.close()

    @property
    def is_serving(self) -> bool:
        """Whether its thread runs: also after a `stop` whose time was too short. Any thread."""
        return self._thread is not None and self._thread.is_alive()

    def mend(self) -> None:
        """Listen anew where a Unix socket's file was deleted, or could not be made so far. Loop
        thread only."""
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
        for door in self._all_doors:
            for connection in list(door.connections):
                while not connection.paused and connection.read():
                    if self.loop.clock() > self._drain_until:
                        break
        self.intake.settle()
        self._check_quiet()

    def _check_quiet(self) -> None:
        """End once nothing arrives any more and nobody waits for a queue."""
        doors = self._all_doors
        open_ones = [c for door in doors for c in door.connections]
        shaking = any(door.handshakes for door in doors)
        before, self._reads_before = self._reads_before, self.reads
        now = self.loop.clock()
        reading = (shaking or self.reads != before) and now < self._drain_until
        held_back = any(c.paused or c.owes for c in open_ones) and now < self._drain_paused_until
        if (open_ones or shaking) and (reading or held_back):
            # Not past the end of patience, or `stop` would no longer be there to hear of it.
            left = max(0.0, self._drain_paused_until - now) or QUIET_SECONDS
            self.loop.call_later(min(QUIET_SECONDS, left), self._check_quiet)
        else:
            self._finish()

    def _finish(self) -> None:
        self.draining = True
        self.intake.settle()
        for door in self._all_doors:
            self.cut_off += sum(connection.has_more() for connection in door.connections)
            door.end("shutdown")
        self.rejections.tell()
        self.loop.stop()

    def closed(self, connection: Connection, reason: str) -> None:
        """A connection ended; called by its door."""
        self.outlet.forget(connection)
        if reason != "shutdown":  # of who is sent away it tells nothing
            abrupt = reason not in _ORDERLY or connection.session.owes_goodbye
            for src, since in connection.sources.items():
                self.outlet.left(src, self.loop.clock() - since, abrupt)
        self.count_end(reason)

    def count_end(self, reason: str) -> None:
        """Somebody has left, or was not let in; called by its door."""
        self.ended[reason] += 1
        if self._leaving:
            self._forget_left()

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
                "sidecar_connection_capacity",
                "gauge",
                "Connections that a listener accepts at a time.",
                {door.address: door.listen.max_connections for door in self._doors},
                "listener",
            ),
            family(
                "sidecar_sessions",
                "gauge",
                "Sessions that are remembered.",
                {"": len(self.sessions)},
            ),
            family(
                "sidecar_session_evictions_total",
                "counter",
                "Sessions that were forgotten while they might still have been wanted.",
                {"": self.sessions.evicted},
            ),
            family(
                "sidecar_lockouts",
                "gauge",
                "Origins that have shown a wrong secret lately.",
                {"": len(self.lockout)},
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
                "sidecar_connection_sources_uncredited_total",
                "counter",
                "Reads of a source on a connection that carries over 1,000 others; its end tells"
                " nothing of that one.",
                {"": self.uncredited},
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
            family(
                "sidecar_tls_handshakes",
                "gauge",
                "Peers that are agreeing on keys.",
                {"": sum(len(door.handshakes) for door in self._all_doors)},
            ),
            family(
                "sidecar_tls_certificate_expiry_timestamp_seconds",
                "gauge",
                "When the certificate of a listener ends, in Unix seconds.",
                {d.address: d.listen.tls.expires for d in self._doors if d.listen.tls is not None},
                "listener",
            ),
        ]


def _bound(listen: Listen, later: Collection[int]) -> Optional[socket.socket]:
    try:
        return listen.address.bind()
    except OSError as error:
        if error.errno not in later:
            raise
        log.error("%s; tried again later", error.strerror)
        return None


def _ending() -> OSError:
    return OSError(errno.ESHUTDOWN, "the server is ending and listens on nothing new")
