"""The bound on how many delivery threads are busy at once."""

from __future__ import annotations

import threading
import time
from typing import Callable

#: A write that takes longer hangs, and gives its slot away: one dead backend never stalls another.
LENT_AFTER_SECONDS = 1.0


class Slots:
    """Let at most so many threads write at a time, hanging ones not counted.

    Args:
        count: threads that may be busy at once.
        clock: monotonic seconds.

    Thread: any.

    >>> slots = Slots(1)
    >>> with slots:
    ...     slots.busy
    1
    """

    def __init__(self, count: int = 4, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._count = count
        self._clock = clock
        self._condition = threading.Condition(threading.Lock())
        self._since: dict[int, float] = {}

    @property
    def busy(self) -> int:
        """Threads that hold a slot, hanging ones included."""
        return len(self._since)

    def __enter__(self) -> Slots:
        with self._condition:
            while True:
                oldest_counted = self._clock() - LENT_AFTER_SECONDS
                counted = [since for since in self._since.values() if since > oldest_counted]
                if len(counted) < self._count:
                    break
                self._condition.wait(min(counted) - oldest_counted)
            self._since[threading.get_ident()] = self._clock()
        return self

    def __exit__(self, *_: object) -> None:
        with self._condition:
            del self._since[threading.get_ident()]
            self._condition.notify()
