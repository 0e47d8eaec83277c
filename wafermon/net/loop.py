"""The event loop: readiness of sockets, timers, and a way in for other threads."""

from __future__ import annotations

import collections
import heapq
import itertools
import logging
import selectors
import socket
import time
from typing import Any, Callable, Optional, Protocol

Callback = Callable[[], object]

#: Where a turn begins this soon after the last one, bytes are let gather until so much lies between
#: the two. 50,000 writes a second over 4 connections take 28 % of a core like this, 85 % without.
#: Full buffers are never kept waiting, nor is what comes after 0.5 ms of silence; who asks for a
#: receipt of each message and waits for it before the next gets a thousand a second at most.
BUSY_SECONDS, GATHER_SECONDS = 0.0005, 0.001

log = logging.getLogger("wafermon.net")



class Watched(Protocol):
    """A socket, or what stands before one."""

    def fileno(self) -> int:
        """Its descriptor."""


class Timer:
    """A call that is due later; `cancel` it from the loop thread."""

    __slots__ = ("callback",)

    def __init__(self, callback: Optional[Callback]) -> None:
        self.callback = callback

    def cancel(self) -> None:
        """Do not call. Its entry goes away when its time comes."""
        self.callback = None


class EventLoop:
    """Wait for sockets and timers, call what is due. No callback can end it.

    Args:
        clock: monotonic seconds.

    Thread: whoever calls `run`; `call_soon` and `stop` any, signal handlers included.

    >>> loop = EventLoop()
    >>> _ = loop.call_later(0, lambda: (print("due"), loop.stop()))
    >>> loop.run()
    due
    >>> loop.close()
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        # A deque and a socket pair are safe where queue.Queue is not: in a signal handler that
        # interrupts the very thread that holds the queue's lock.
        self._soon: collections.deque[Callback] = collections.deque()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self.watch(self._wake_out, self._woken, None)
        self._stopped = False
        #: Set by a callback that knows of more to do than the next turn will show: it begins at
        #: once, and nothing is let gather.
        self.hurried = False

    def add_reader(self, sock: Watched, callback: Callback) -> None:
        """Call back each time the socket can be read."""
        self.watch(sock, callback, None)

    def remove_reader(self, sock: Watched) -> None:
        """Forget about a socket; before it is closed."""
        self.watch(sock, None, None)

    def watch(
        self, sock: Watched, reading: Optional[Callback], writing: Optional[Callback]
    ) -> None:
        """Call back each time the socket can be read, or written; None: never."""
        events = selectors.EVENT_READ if reading else 0
        events |= selectors.EVENT_WRITE if writing else 0
        known = sock.fileno() in self._selector.get_map()
        if events and known:
            self._selector.modify(sock, events, (reading, writing))
        elif events:
            self._selector.register(sock, events, (reading, writing))
        elif known:
            self._selector.unregister(sock)

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        """Call once, after so many seconds. Loop thread only."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (self.clock() + seconds, next(self._order), timer))
        return timer

    def call_soon(self, callback: Callback) -> None:
        """Call on the loop thread, as soon as it can. Any thread."""
        self._soon.append(callback)
        try:
            self._wake_in.send(b"\0")
        except OSError:
            pass  # full: it is being woken already; closed: there is no loop to wake

    def call_after_turn(self, callback: Callback) -> None:
        """Call once the sockets that are ready have been dealt with. Loop thread only."""
        self._soon.append(callback)

    def stop(self) -> None:
        """Let `run` return after the callbacks at hand. Any thread."""

        def stop() -> None:
            self._stopped = True

        self.call_soon(stop)

    def run(self) -> None:
        """Serve until `stop`."""
        self._stopped = False
        clock, select = self.clock, self._selector.select
        turned = clock()
        while not self._stopped:
            ready = select(self._timeout())
            began = clock()
            if began - turned < BUSY_SECONDS and not self.hurried:
                time.sleep(turned + GATHER_SECONDS - began)
                ready = select(0)
                began = clock()
            turned, self.hurried = began, False
            for key, events in ready:
                reading, writing = key.data
                try:
                    if writing is not None and events & selectors.EVENT_WRITE:
                        writing()
                    if reading is not None and events & selectors.EVENT_READ:
                        reading()
                except Exception:
                    log.exception("a callback of the event loop failed")
            self._run_due()

    def _timeout(self) -> Optional[float]:
        if self._soon:
            return 0.0
        return max(0.0, self._timers[0][0] - self.clock()) if self._timers else None

    def _run_due(self) -> None:
        for _ in range(len(self._soon)):
            self._guarded(self._soon.popleft())
        while self._timers and self._timers[0][0] <= self.clock():
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                self._guarded(timer.callback)

    def _guarded(self, callback: Callable[[], Any]) -> None:
        try:
            callback()
        except Exception:
            log.exception("a callback of the event loop failed")

    def _woken(self) -> None:
        try:
            while len(self._wake_out.recv(4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Let go of the loop's own sockets. Not while it runs; twice is harmless."""
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()
