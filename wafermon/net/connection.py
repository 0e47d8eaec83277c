"""A connection: the bytes of one peer, from its socket to the outlet."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from wafermon.wire import Session

if TYPE_CHECKING:
    from wafermon.net.server import Door

#: 64 KiB beat 256 KiB nearly always: larger buffers are mapped anew by malloc each time.
READ_BYTES = 65_536


class Connection:
    """Read one peer; never write to it.

    A client that only writes is hurt by any byte that it does not read: its close becomes a reset
    that loses what it had just sent.

    Thread: loop only.
    """

    __slots__ = ("_closed", "_door", "_paused", "session", "sock")

    def __init__(self, door: Door, sock: socket.socket, session: Session) -> None:
        self.sock = sock
        self.session = session
        self._door = door
        self._paused = False
        self._closed = False

    @property
    def paused(self) -> bool:
        """Whether reading waits for a queue."""
        return self._paused

    def read(self) -> bool:
        """Take what is there, at most `READ_BYTES`.

        Returns:
            Whether there may be more.
        """
        try:
            data = self.sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self.close("reset")
            return False
        if not data:
            self.close("eof")
            return False
        server = self._door.server
        server.reads += 1
        batch = self.session.receive(data)
        progressed = bool(batch or batch.rejects)
        if progressed:
            batch.received_ms = int(time.time() * 1000)
            server.outlet.submit(batch, self)
        if not self._closed and not self._paused:
            self._door.watch.seen(self, progressed)
        return not self._paused and not self._closed

    def has_more(self) -> bool:
        """Whether bytes have arrived that were not read."""
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def pause(self) -> None:
        """Stop reading: the kernel's buffers, and then the peer, hold the rest."""
        if not self._paused and not self._closed:
            self._paused = True
            self._door.server.loop.remove_reader(self.sock)
            self._door.watch.forget(self)

    def resume(self) -> None:
        """Read on."""
        if self._paused and not self._closed:
            self._paused = False
            self._door.server.loop.add_reader(self.sock, self.read)
            self._door.watch.seen(self, progressed=True)

    def close(self, reason: str) -> None:
        """End it; what was cut off is rejected. Twice is harmless."""
        if self._closed:
            return
        self._closed = True
        if not self._paused:
            self._door.server.loop.remove_reader(self.sock)
        self._door.watch.forget(self)
        batch = self.session.receive_eof()
        if batch.rejects:
            self._door.server.outlet.submit(batch, self)
        self.sock.close()
        self._door.closed(self, reason)
