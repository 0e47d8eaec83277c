"""How often somebody speaks, learned from the gaps in between."""

from __future__ import annotations

from typing import Optional

#: What comes this soon after the last beat belongs to it: a script says several things at a time.
BEAT_SECONDS = 0.5
#: Gaps that are shorter on the average are those of somebody who talks without pause.
LEAST_SECONDS = 0.9
#: So many gaps make a rhythm, if they differ from their mean by no more than this share of it.
ENOUGH, SHARE = 6, 0.25
#: A gap of so many times the mean is an outage; so many of them in a row are another rhythm.
OUTAGE, OUTAGES = 4.0, 3
#: What a new gap weighs, once there are more than enough.
WEIGHT = 0.1


class Rhythm:
    """The moving average of the gaps between beats, and how much they differ from it.

    Thread: loop only; `interval` any.

    >>> rhythm = Rhythm()
    >>> for second in range(0, 80, 10):
    ...     rhythm.beat(second)
    >>> rhythm.interval
    10.0
    """

    __slots__ = ("_count", "_deviation", "_mean", "_outages", "at")

    def __init__(self) -> None:
        #: When the last beat began; None before the first one.
        self.at: Optional[float] = None
        self._count = self._outages = 0
        self._mean = self._deviation = 0.0

    @property
    def interval(self) -> Optional[float]:
        """Seconds from beat to beat; None where there is no rhythm."""
        regular = self._count >= ENOUGH and self._deviation <= SHARE * self._mean
        return self._mean if regular and self._mean >= LEAST_SECONDS else None

    def beat(self, now: float) -> None:
        """Something has come; that of one beat may be told any number of times."""
        if self.at is None:
            self.at = now
            return
        gap = now - self.at
        if gap < BEAT_SECONDS:
            return
        self.at = now
        if gap > OUTAGE * self._mean and self.interval is not None:
            self._outages += 1
            if self._outages == OUTAGES:
                self._count = self._outages = 0
            return
        self._outages = 0
        self._count += 1
        if self._count == 1:
            self._mean, self._deviation = gap, 0.0
            return
        weight = max(1 / self._count, WEIGHT)
        difference = gap - self._mean
        self._mean += weight * difference
        self._deviation += weight * (abs(difference) - self._deviation)
