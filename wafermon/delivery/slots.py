"""The bound on how many delivery threads are busy at once."""

from __future__ import annotations

import collections
import threading
import time
from typing import Callable

#: A write that takes longer waits for something else than the processor, and gives its slot away:
#: four slow disks delay a fifth one by this much at most.
LENT_AFTER_SECONDS = 0.1


class Slots:
    """Let at most so many threads write at a time, slow and hanging ones not counted.

    Who comes first is served first: a thread that is done and comes again at once would else keep
    the others out.

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
        self._line: collections.deque[int] = collections.deque()

    @property
    def busy(self) -> int:
        """Threads that hold a slot, hanging ones included."""
        return len(self._since)

    def __enter__(self) -> Slots:
        me = threading.get_ident()
        with self._condition:
            self._line.append(me)
            while True:
                lent = self._clock() - LENT_AFTER_SECONDS
                counted = [since for since in self._since.values() if since > lent]
                if self._line[0] == me and len(counted) < self._count:
                    break
                # Who is not first waits for a slot too, so that it wakes to look again.
                self._condition.wait(min(counted) - lent if counted else LENT_AFTER_SECONDS)
            self._line.popleft()
            self._since[me] = self._clock()
            self._condition.notify_all()  # the next one is first now
        return self

    def __exit__(self, *_: object) -> None:
        with self._condition:
            del self._since[threading.get_ident()]
            self._condition.notify_all()
