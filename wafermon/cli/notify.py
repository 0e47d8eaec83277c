"""Tell systemd how the service is, by the protocol of sd_notify(3): one datagram a message.

Without systemd, or anybody else who set `NOTIFY_SOCKET`, nothing is sent.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Callable, Optional

from wafermon.net import EventLoop

#: The service manager reads at once unless it is starved. The loop waits for nobody.
PATIENCE_SECONDS = 5.0

log = logging.getLogger("wafermon.run")


class Notify:
    """What a service says to its manager.

    A message that cannot be told is logged and not tried again: the manager acts on what it misses.

    Args:
        address: path of the manager's socket, `@` in front for an abstract one; None for no one.
        watchdog_seconds: how long it waits for a sign of life; 0 where it does not.

    Thread: any; all but the signs of life may wait a few seconds for a manager that is starved.

    >>> with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
    ...     manager.bind("")  # any abstract address
    ...     notify = Notify(manager.getsockname().decode().replace(chr(0), "@"))
    ...     notify.ready("listening")
    ...     manager.recv(100)
    b'READY=1\\nSTATUS=listening'
    """

    def __init__(self, address: Optional[str] = None, watchdog_seconds: float = 0.0) -> None:
        if address is not None and address[:1] not in ("/", "@"):
            log.warning("NOTIFY_SOCKET: %r is no Unix socket; nothing is told there", address)
            address = None
        self._address = address
        self._watchdog_seconds = watchdog_seconds
        self._lock = threading.Lock()
        self._stopping = False

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], pid: int) -> Notify:
        """Whom to tell, as the environment has it for the process `pid`."""
        microseconds = environ.get("WATCHDOG_USEC", "")
        meant = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        watched = meant and microseconds.isascii() and microseconds.isdigit()
        return cls(
            environ.get("NOTIFY_SOCKET") or None, int(microseconds) / 1e6 if watched else 0.0
        )

    def ready(self, status: str) -> None:
        """The service serves; what it does in words."""
        self._tell("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """What it does, in words for `systemctl status`."""
        self._tell(f"STATUS={status}")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """The service takes another configuration, or finds that it cannot, in this block."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}")
        try:
            yield
        finally:
            self._tell("READY=1")

    def stopping(self, status: str) -> None:
        """The service ends; a reload that is under way calls it ready no more."""
        self._tell("STOPPING=1", f"STATUS={status}")
        with self._lock:
            self._stopping = True

    def watch(self, loop: EventLoop, progresses: Callable[[], bool]) -> None:
        """Give signs of life from the loop, twice as often as they are waited for.

        Args:
            loop: a loop that is stuck gives none.
            progresses: called on its thread; no sign is given while this is false.
        """
        if self._address is None or not self._watchdog_seconds:
            return

        def beat() -> None:
            loop.call_later(self._watchdog_seconds / 2, beat)
            if progresses():
                self._send("WATCHDOG=1", 0.0)

        loop.call_soon(beat)

    def _tell(self, *assignments: str) -> None:
        """One line each, whatever stands in them."""
        with self._lock:
            if not self._stopping:
                lines = (" ".join(assignment.splitlines()) for assignment in assignments)
                self._send("\n".join(lines), PATIENCE_SECONDS)

    def _send(self, text: str, patience: float) -> None:
        """On a socket of its own: nobody has to close it, and a few a minute cost nothing."""
        if self._address is None:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(patience)
                sock.sendto(text.encode("utf-8", "replace"), address)
        except OSError as error:
            log.warning("the service manager was not told %s: %s", text.partition("\n")[0], error)
