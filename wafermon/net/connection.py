"""A connection: the bytes of one peer, from its socket to the outlet, and its receipts back."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Protocol

from wafermon.wire.codec import Frames
from wafermon.wire.session import Session, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wafermon.message import Batch
    from wafermon.net.door import Door

#: 64 KiB beat 256 KiB nearly always: larger buffers are mapped anew by malloc each time.
READ_BYTES = 65_536
#: Sources that one connection is credited with; a link from another sidecar may carry any number.
MAX_SOURCES = 1_000


class Truncated(ConnectionError):
    """The stream ended without saying so: the peer was cut off, or does not care to."""


class Transport(Protocol):
    """What a connection reads and writes: a non-blocking socket, or TLS before one."""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """What is there; nothing at the end."""

    def send(self, data: bytes, /) -> int:
        """Write; how much of it."""

    def fileno(self) -> int:
        """The descriptor to watch."""

    def close(self) -> None:
        """End it."""


class Connection:
    """Read one peer; write to it only what it asked for.

    A client that only writes is hurt by any byte that it does not read: its close becomes a reset
    that loses what it had just sent. So bytes leave here only as an answer to a `hello` or a `q`,
    and a newer receipt replaces an unsent older one: who does not read costs a line of memory.

    Thread: loop only.
    """

    __slots__ = (
        "_closed",
        "_door",
        "_ended",
        "_expected",
        "_others",
        "_paused",
        "_pending",
        "_unsent",
        "_watch",
        "_writing",
        "origin",
        "session",
        "since",
        "sock",
        "src",
    )

    def __init__(self, door: Door, sock: Transport, session: Session, origin: str) -> None:
        self.sock = sock
        self.session = session
        #: Whom to hold to account for a wrong secret.
        self.origin = origin
        #: Whose first message came, and when; most connections belong to one source.
        self.src = ""
        self.since = 0.0
        self._others: dict[str, float] = {}  # the same of all others that it carries
        session.on_superseded = lambda: self.close("superseded")
        self._door = door
        self._watch = door.watch  # a reload may give the door another one
        #: Inside TLS: whether there is something that `select` does not show.
        self._pending = getattr(sock, "pending", None)
        self._paused = False
        self._closed = False
        self._ended = ""  # once its end-of-file has been read: how it ended
        self._expected = 0  # answers that wait for a commit
        self._unsent: list[bytes] = []  # at most the rest of a line, a welcome and a receipt
        self._writing = False

    @property
    def paused(self) -> bool:
        """Whether reading waits for a queue."""
        return self._paused and not self._ended

    def open(self) -> None:
        """Begin to read."""
        self._watch.accepted(self)
        self._watch_socket()

    @property
    def owes(self) -> bool:
        """Whether the peer has still to be told that something is safe."""
        return self._expected > 0 or bool(self._unsent)

    def read(self) -> bool:
        """Take what is there, at most `READ_BYTES`.

        Returns:
            Whether there may be more.
        """
        try:
            data = self.sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except Truncated:
            self._end("truncated")
            return False
        except OSError:
            self.close("reset")
            return False
        if not data:
            self._end("eof")
            return False
        server = self._door.server
        server.reads += 1
        if len(data) == READ_BYTES:
            server.loop.hurried = True
        frames = self.session.cut(data)
        progressed = bool(frames.block or frames.before or frames.after)
        if progressed:
            server.intake.take(self, frames)
        if self._closed or self._paused:
            return False
        self._watch.seen(self, progressed)
        self._read_hidden()
        return True

    def take(self, frames: Frames) -> None:
        """Deal with what one read has completed, or one of several, by itself."""
        server, now = self._door.server, time.time()
        unknown = self.session.waits_for_hello
        if unknown and server.lockout.holds(self.origin):
            self.refuse("locked_out")  # unjudged: it was let in before its origin was locked out
            return
        batch = self.session.take(frames, now)
        if unknown and not self.session.waits_for_hello:
            known = self.session.state is not State.REFUSED
            server.lockout.note(self.origin, known)
            if not known:
                self.refuse()
                return
        if batch or batch.rejects:
            if batch:
                self.carries(batch.sources)
            self._complain(batch)
            batch.received_ms = int(now * 1000)
            server.outlet.submit(batch, self)
        if batch.receipt or self.session.greets:
            self.expect(batch.receipt)

    def _complain(self, batch: Batch) -> None:
        if batch.rejects:
            self._door.server.rejections.note(self.src, self.origin, batch.rejects)

    @property
    def sources(self) -> dict[str, float]:
        """Whose messages it carried, and when the first one of each came."""
        return {self.src: self.since, **self._others} if self.src else {}

    def carries(self, sources: Iterable[str]) -> None:
        """Messages of these sources have come over it."""
        for src in sources:
            if src != self.src and src not in self._others:
                self._credit(src)

    def _credit(self, src: str) -> None:
        now = self._door.server.loop.clock()
        if not self.src:
            self.src, self.since = src, now
        elif len(self._others) < MAX_SOURCES - 1:
            self._others[src] = now
        else:
            self._door.server.uncredited += 1
            return
        self._door.server.outlet.joined(src)

    def expect(self, q: int) -> None:
        """Have a receipt sent once all that was submitted up to now is safe."""
        self._expected += 1
        self._door.server.outlet.expect(self, q)

    def _read_hidden(self) -> None:
        if self._pending is not None and self._pending():
            self._door.server.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._paused and not self._closed:
            self.read()

    def _end(self, reason: str) -> None:
        """The peer has sent all it will: close, but not before it has its last receipt."""
        self._door.server.intake.settle(self)
        if not self.owes:
            if reason == "eof":
                self.session.part()
            self.close(reason)
            return
        self._ended = reason
        self._stop_reading()

    def _stop_reading(self) -> None:
        if not self._paused:
            self._paused = True
            self._watch_socket()
            self._watch.forget(self)

    def _watch_socket(self) -> None:
        """Tell the loop what to wait for now."""
        reading = None if self._paused else self.read
        self._door.server.loop.watch(self.sock, reading, self._write if self._writing else None)
        if reading is not None:
            self._read_hidden()

    def has_more(self) -> bool:
        """Whether bytes were left unread of a peer that will not send them again."""
        if self.session.state is State.OPENED:
            return False
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def pause(self) -> None:
        """Stop reading: the kernel's buffers, and then the peer, hold the rest."""
        if not self._closed:
            self._stop_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and not self._closed and not self._ended:
            self._paused = False
            self._watch_socket()
            self._watch.seen(self, progressed=True)

    def safe(self, q: int, level: str, answers: int) -> None:
        """Everything up to a batch is safe: tell the peer, in as far as it reads."""
        self._expected -= answers
        if not self._closed:
            self._send(self.session.safe(q, level))

    def _send(self, lines: bytes) -> None:
        if len(self._unsent) > 2:
            del self._unsent[-1]  # an older receipt, of which nothing is sent yet
        if lines:
            self._unsent.append(lines)
        self._write()

    def _write(self) -> None:
        try:
            while self._unsent:
                sent = self.sock.send(self._unsent[0])
                rest = self._unsent[0][sent:]
                self._unsent[:1] = [rest] if rest else []
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.close("reset")
            return
        writing = bool(self._unsent)
        if writing != self._writing:
            self._writing = writing
            self._watch_socket()
        if self._ended and not self.owes:
            self.close(self._ended)

    def refuse(self, reason: str = "auth") -> None:
        """The peer has not shown the secret: one line, as far as it goes, and close."""
        try:
            self.sock.send(self.session.refuse())
        except OSError:
            pass  # it has left already
        self.close(reason)

    def close(self, reason: str) -> None:
        """End it; what was cut off is rejected. Twice is harmless."""
        if self._closed:
            return
        intake = self._door.server.intake
        if intake.is_busy and reason == "reset":
            # A receipt could not be written. What it has sent behind that comes before its end.
            self._door.server.loop.call_soon(lambda: self.close(reason))
            return
        intake.settle(self)  # what it has sent comes before its end
        self._closed = True
        self._door.server.loop.watch(self.sock, None, None)
        self._watch.forget(self)
        batch = self.session.receive_eof()
        self._complain(batch)
        if batch.rejects:
            self._door.server.outlet.submit(batch, self)
        self.sock.close()
        self._door.closed(self, reason)
