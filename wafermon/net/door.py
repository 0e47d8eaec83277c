"""A door: one bound listener, whom it lets in, and the connections behind it."""

from __future__ import annotations

import collections
import dataclasses
import errno
import logging
import socket
from typing import TYPE_CHECKING, Optional

from wafermon.net import peer
from wafermon.net.connection import Connection, Transport
from wafermon.net.listener import Address
from wafermon.net.watch import Watch
from wafermon.wire import Secret, Session

if TYPE_CHECKING:
    from wafermon.net.server import Server
    from wafermon.net.tls import Handshake, Tls

#: How long accepting pauses when the process has run out of descriptors.
ACCEPT_PAUSE_SECONDS = 0.1
#: Peers of one listener that may be agreeing on keys at a time; further ones wait to be accepted.
MAX_HANDSHAKES = 100
#: Seconds after which one of them counts as stalled, and gives way where others wait: it takes two
#: round trips, and some milliseconds of a processor that others want, too.
STALLED_SECONDS = 1.0
#: Seconds of silence before the kernel asks whether a peer is there, between two such probes, and
#: how many of them. It asks nobody who owes it an acknowledgement, mostly of a receipt: there it
#: sends again, for a quarter of an hour by default. The last, in ms, bounds that to the same time.
KEEPALIVE = {
    "TCP_KEEPIDLE": 60,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 6,
    "TCP_USER_TIMEOUT": 120_000,
}
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = logging.getLogger("wafermon.net")


@dataclasses.dataclass(frozen=True)
class Listen:
    """One listener and the bounds of its connections.

    Args:
        address: where.
        max_connections: at a time; further ones wait in the kernel's backlog.
        read_timeout: seconds that a frame may remain unfinished; 0 for ever.
        idle_timeout: seconds that a connection may be silent; 0 for ever.
        keepalive: let the kernel find peers that vanished, see `KEEPALIVE`.
        secret: what the first frame must show, where it is asked for.
        auth_timeout: seconds within which that must have happened.
        tls: its certificate, where it speaks TLS.
        allow_uids: users who may connect to a Unix socket; None for all who can open it.
    """

    address: Address
    max_connections: int = 100
    read_timeout: float = 30.0
    idle_timeout: float = 0.0
    keepalive: bool = True
    secret: Optional[Secret] = None
    auth_timeout: float = 5.0
    tls: Optional[Tls] = None
    allow_uids: Optional[frozenset[int]] = None


class Door:
    """A bound listener with its connections.

    A peer passes the list of users or of those who are locked out, then agrees on keys in a pool
    that takes no connection's place, then is a connection.

    Thread: loop only; any one makes it.
    """

    def __init__(self, server: Server, listen: Listen, sock: Optional[socket.socket]) -> None:
        self.server = server
        self.listen = listen
        #: None: it cannot be bound at the moment, and `mend` tries again.
        self.sock = sock
        #: Where it listens, with the port that the system chose.
        self.address = str(listen.address) if sock is None else listen.address.name(sock)
        self.connections: dict[Connection, None] = {}
        #: Peers that are agreeing on keys, with their origins.
        self.handshakes: dict[Handshake, str] = {}
        #: Peers that have agreed, and wait for a connection's place.
        self._agreed: collections.deque[tuple[Transport, str]] = collections.deque()
        self._looks_again = False  # whether somebody in the pool has stalled by then
        self.watch: Watch
        self._accepting = False
        self._closed = False
        self._warned: set[str] = set()

    def furnish(self, listen: Listen) -> None:
        """Open, or go on, with new bounds, secret and certificate for whom it lets in from now
        on."""
        self.listen = listen
        self.watch = Watch(
            self.server.loop,
            read_timeout=listen.read_timeout,
            idle_timeout=listen.idle_timeout,
            auth_timeout=listen.auth_timeout,
        )
        self._shut()
        self._make_room()

    @property
    def busy(self) -> bool:
        """Whether there is anybody behind it, or just stepping in."""
        return bool(self.connections or self.handshakes or self._agreed)

    @property
    def _full(self) -> bool:
        if len(self.connections) >= self.listen.max_connections:
            return True
        return self._crowded and self._stalled_in() > 0

    @property
    def _crowded(self) -> bool:
        return len(self.handshakes) + len(self._agreed) >= MAX_HANDSHAKES

    def _stalled_in(self) -> float:
        """Seconds until the oldest handshake counts as stalled."""
        for oldest in self.handshakes:
            return oldest.began + STALLED_SECONDS - self.server.loop.clock()
        return STALLED_SECONDS

    def open(self) -> None:
        """Accept connections."""
        if self.sock is not None and not self._accepting and not self._closed:
            self._accepting = True
            self.server.loop.add_reader(self.sock, self._accept)

    def _shut(self) -> None:
        if self._accepting and self.sock is not None:
            self._accepting = False
            self.server.loop.remove_reader(self.sock)

    def close(self) -> None:
        """Take the connections that are waiting in the backlog, then stop listening.

        Where the socket outlives us, the next one to hold it takes them: whoever connects while
        we end is cut off by nobody then.
        """
        self._shut()
        self._closed = True
        if not self.listen.address.outlives:
            while self._accept_one():
                pass
        if self.sock is not None:
            self.listen.address.unbind(self.sock)

    def end(self, reason: str) -> None:
        """End everything behind it."""
        for handshake in list(self.handshakes):
            handshake.close(reason)
        for connection in list(self.connections):
            connection.close(reason)

    def mend(self) -> None:
        """Listen anew where the socket file was deleted, or could not be made so far; connections
        that are open stay."""
        before = self.sock
        if self._closed or (before is not None and not self.listen.address.is_gone()):
            return
        try:
            sock = self.listen.address.bind()
        except OSError as error:
            log.error("%s", error.strerror)
            return
        self._shut()
        while self._accept_one():
            pass
        if before is not None:
            before.close()
        self.sock = sock
        self.open()
        log.warning("listening on %s again, which had been deleted or could not be made before",
                    self.address)

    def _accept(self) -> None:
        while not self._full:
            if not self._accept_one():
                return
        self._shut()  # until there is room again
        if self._crowded and self.handshakes and not self._looks_again:
            self._looks_again = True
            self.server.loop.call_later(max(0.0, self._stalled_in()), self._look_again)

    def _look_again(self) -> None:
        self._looks_again = False
        self._make_room()

    def _accept_one(self) -> bool:
        if self.sock is None:
            return False
        try:
            sock, address = self.sock.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._failed_to_accept(error)
            return False
        self.server.accepted += 1
        origin = peer.origin(sock, address)
        reason = self._objection(sock, origin)
        if reason:
            sock.close()
            self.server.count_end(reason)
            return True
        sock.setblocking(False)
        if self.listen.keepalive and sock.family != socket.AF_UNIX:
            _keep_alive(sock)
        if self.listen.tls is None:
            self._admit(sock, origin)
        else:
            if self._crowded and self._stalled_in() <= 0:
                next(iter(self.handshakes)).close("tls_stalled")
            handshake = self.listen.tls.greet(self.server.loop, sock, self._shaken)
            self.handshakes[handshake] = origin
            handshake.start()
        return True

    def _objection(self, sock: socket.socket, origin: str) -> str:
        """Why a peer is not even listened to; empty where it is."""
        allowed = self.listen.allow_uids
        if allowed is not None and peer.user(sock) not in allowed:
            return "user"
        guarded = origin and self.listen.secret is not None
        return "locked_out" if guarded and self.server.lockout.holds(origin) else ""

    def _shaken(self, handshake: Handshake, reason: str) -> None:
        """A handshake has ended, well where there is no reason."""
        origin = self.handshakes.pop(handshake)
        self.server.reads += 1
        if not reason:
            self._agreed.append((handshake.transport, origin))
        else:
            self.server.count_end(reason)
            if reason == "tls_failed":
                self._warn("agree on keys", handshake.error)
        self._make_room()

    def _admit(self, transport: Transport, origin: str) -> None:
        session = Session(
            table=self.server.sessions,
            secret=self.listen.secret,
            blocks=self.server.intake.blocks,
        )
        connection = Connection(self, transport, session, origin)
        self.connections[connection] = None
        connection.open()

    def _make_room(self) -> None:
        """Let in who waits, in as far as there is room; at a stop, everybody."""
        while self._agreed and (
            self._closed or len(self.connections) < self.listen.max_connections
        ):
            self._admit(*self._agreed.popleft())
        if not self._full:
            self.open()

    def _failed_to_accept(self, error: OSError) -> None:
        """Out of descriptors: come back later, as `select` would report the same at once."""
        self.server.accept_errors += 1
        if error.errno in _EXHAUSTED:
            self._shut()
            self.server.loop.call_later(ACCEPT_PAUSE_SECONDS, self.open)
        self._warn("accept", error.strerror or str(error))

    def _warn(self, what: str, reason: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            log.error("cannot %s on %s: %s; further failures are only counted", what, self.address,
                      reason)

    def closed(self, connection: Connection, reason: str) -> None:
        """A connection ended."""
        del self.connections[connection]
        self.server.closed(connection, reason)
        self._make_room()


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        if hasattr(socket, option):  # not all of them on macOS
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
