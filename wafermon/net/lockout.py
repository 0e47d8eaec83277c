"""Origins that have shown a wrong secret again and again, and are not listened to for a while."""

from __future__ import annotations

import collections
import time
from typing import Callable


class Lockout:
    """Count wrong secrets by origin, in a table that is bounded.

    Whoever is locked out is taken no notice of, right secret or wrong, also on connections that
    it had before: guessing costs a minute for every few guesses, and tells nothing meanwhile. A
    right secret clears the count, so that one client that is set up badly does not lock out its
    host as long as others there do well.

    Args:
        failures: wrong secrets in a row that lock an origin out.
        seconds: how long it is locked out after the last of them; counts are forgotten as fast.
        max_origins: further ones push out those that have failed longest ago.
        clock: monotonic seconds.

    Thread: loop only.

    >>> lockout = Lockout(failures=2)
    >>> for _ in range(2):
    ...     lockout.note("192.0.2.7", right=False)
    >>> lockout.holds("192.0.2.7"), lockout.holds("192.0.2.8")
    (True, False)
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        seconds: float = 60.0,
        max_origins: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures = failures
        self._seconds = seconds
        self._max_origins = max_origins
        self._clock = clock
        #: Failures and the time of the last one; the latest stands last.
        self._failed: collections.OrderedDict[str, tuple[int, float]] = collections.OrderedDict()

    def __len__(self) -> int:
        """Origins that are remembered."""
        return len(self._failed)

    def holds(self, origin: str) -> bool:
        """Whether that origin is locked out now."""
        return self._count(origin) >= self._failures

    def note(self, origin: str, right: bool) -> None:
        """A secret was shown."""
        if right:
            self._failed.pop(origin, None)
            return
        self._failed[origin] = (self._count(origin) + 1, self._clock())
        self._failed.move_to_end(origin)
        if len(self._failed) > self._max_origins:
            self._failed.popitem(last=False)

    def _count(self, origin: str) -> int:
        count, last = self._failed.get(origin, (0, 0.0))
        if count and self._clock() - last >= self._seconds:
            del self._failed[origin]
            return 0
        return count
