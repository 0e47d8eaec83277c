"""The signals of `wafermon run`: held from its first line on, then heard one after the other."""

from __future__ import annotations

import collections
import contextlib
import signal
import socket
from types import FrameType
from typing import Optional

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def hold() -> None:
    """Let the kernel keep them, one of each, until `Signals` are there to hear them.

    For the time that imports take, 0.2 s. Before, Python itself needs some 30 ms until a program
    can say anything; a signal in these ends the process, unless its parent blocked or ignored it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


class Signals:
    """Hear the signals of the process; one that comes again before it is asked for, once.

    A handler in Python notes the number. The interpreter's C handler wakes the main thread, by a
    byte on the socket that it waits for: a `SimpleQueue` in its place is not always woken. The
    numbers cannot be those bytes: hangups in a row fill the socket, and the SIGTERM behind them
    would be lost.

    Thread: the main thread's; `put` any.
    """

    def __init__(self) -> None:
        self._noted: collections.deque[int] = collections.deque()
        self._out, self._in = socket.socketpair()
        self._in.setblocking(False)
        signal.set_wakeup_fd(self._in.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _note(self, number: int, frame: Optional[FrameType] = None) -> None:
        if number not in self._noted:
            self._noted.append(number)

    def put(self, number: int) -> None:
        """Add a number, as a signal does. Any thread."""
        self._note(number)
        with contextlib.suppress(BlockingIOError):  # full: it wakes anyway
            self._in.send(b"\0")

    def get(self, timeout: Optional[float] = None) -> int:
        """The next one.

        Raises:
            socket.timeout: none came within so many seconds.
        """
        self._out.settimeout(timeout)
        while not self._noted:
            self._out.recv(4096)
        return self._noted.popleft()

    def close(self) -> None:
        """Ignore them from now on: at its end the interpreter lets them end the process again."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
