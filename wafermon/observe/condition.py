"""How parts do: in words, and since when; and how fast counts rise."""

from __future__ import annotations

import collections
import time
from collections.abc import Collection
from typing import Callable, NamedTuple, Optional

OK, DEGRADED, DOWN = "ok", "degraded", "down"


class Condition(NamedTuple):
    """How a part does.

    Attributes:
        state: `ok`, `degraded` (it works, and somebody should look) or `down`.
        reason: why it is not `ok`, in words.
        since_ms: Unix milliseconds.
    """

    state: str
    reason: Optional[str]
    since_ms: int


class Conditions:
    """Remember since when each part does as it does.

    Args:
        clock: Unix seconds.

    Thread: any.

    >>> conditions = Conditions(clock=iter((100.0, 105.0)).__next__)
    >>> conditions.note("nas", DOWN, "no route to host", ago=2.0)
    Condition(state='down', reason='no route to host', since_ms=98000)
    >>> conditions.note("nas", DOWN, "timed out").since_ms
    98000
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._since: dict[str, tuple[str, int]] = {}

    def note(
        self, part: str, state: str = OK, reason: Optional[str] = None, ago: float = 0.0
    ) -> Condition:
        """A part does like this now.

        Args:
            part: its name.
            state: as `Condition` has it; so is the reason.
            ago: for how many seconds already, where it is not the first note that tells.
        """
        known, now = self._since.get(part), self._clock()
        if known is None or known[0] != state:
            known = self._since[part] = (state, int((now - ago) * 1000))
        return Condition(state, reason, known[1])

    def keep(self, parts: Collection[str]) -> None:
        """Forget all others."""
        for gone in list(self._since):
            if gone not in parts:
                self._since.pop(gone, None)


class Rate:
    """How fast a count has risen lately.

    Args:
        seconds: what `lately` means, at the most.

    Thread: one notes; `per_second` any.

    >>> rate = Rate()
    >>> rate.per_second is None
    True
    >>> for now in (0, 2, 4):
    ...     rate.note(100 * now, now)
    >>> rate.per_second
    100.0
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self._seconds = seconds
        self._seen: collections.deque[tuple[float, int]] = collections.deque()
        #: None while it is not known.
        self.per_second: Optional[float] = None

    def note(self, count: int, now: float) -> None:
        """The count is this at a time in monotonic seconds."""
        self._seen.append((now, count))
        while self._seen[0][0] < now - self._seconds:
            self._seen.popleft()
        began, first = self._seen[0]
        if now > began:
            self.per_second = (count - first) / (now - began)
