"""One series of values that a source tells, with its last minutes."""

from __future__ import annotations

import array
import bisect
from collections.abc import Mapping
from typing import NamedTuple

from wafermon.observe import Buckets

Pairs = tuple[tuple[str, str], ...]

#: One point for each of so many milliseconds, and so many points: ten minutes.
POINT_MS = 5_000
MAX_POINTS = 120
#: Of a histogram, whatever its unit: from a thousandth to ten thousand.
BOUNDS = (
    *[float(f"{digit}e{power}") for power in range(-3, 4) for digit in ("1", "2.5", "5")],
    10_000.0,
)
_EDGES = (*map(str, BOUNDS), "+Inf")


class Tail:
    """The last points of a series: one each five seconds, the last value in there.

    16 bytes a point, as it lives in an array: no object that a garbage collection looks at.

    Thread: one writer; `points` any.

    >>> tail = Tail()
    >>> for ms, value in ((1_000, 1), (4_000, 2), (6_000, 3)):
    ...     tail.add(ms, value)
    >>> tail.points()
    [[4000, 2.0], [6000, 3.0]]
    """

    __slots__ = ("_flat",)

    def __init__(self) -> None:
        self._flat = array.array("d")

    def add(self, ms: int, value: float) -> None:
        """Note a value of a time in Unix milliseconds."""
        flat = self._flat
        if flat:
            slots = ms // POINT_MS - flat[-2] // POINT_MS
            if slots < -1:
                del flat[:]  # the clock was set back
            elif slots <= 0:
                # In one step, as somebody may read meanwhile.
                flat[-2:] = array.array("d", (max(ms, flat[-2]), value))
                return
            elif len(flat) >= 2 * MAX_POINTS:
                del flat[:2]
        flat.extend((ms, value))

    def points(self) -> list[list[float]]:
        """`[ms, value]` of each, oldest first."""
        flat = self._flat.tolist()  # a copy in one step
        return [[int(ms), value] for ms, value in zip(flat[::2], flat[1::2])]


class Owner(NamedTuple):
    """What a series is of: everything that its source said to tell it from others."""

    src: str
    name: str
    kind: str
    tags: Pairs


class Series:
    """The values of one owner.

    Args:
        owner: what it is of.
        unit: as its source told it, or "".

    Attributes:
        value: the last one; of a counter the sum so far.
        touched: when the last one came, in monotonic seconds.

    Thread: one writer; reading any.

    >>> series = Series(Owner("etl", "rows", "counter", ()), "")
    >>> [series.add(5.0, ms, 0.0) for ms in (1_000, 2_000)], series.value
    ([True, True], 10.0)
    """

    __slots__ = ("_counts", "_sum", "owner", "tail", "touched", "unit", "value")

    def __init__(self, owner: Owner, unit: str) -> None:
        self.owner = owner
        self.unit = unit
        self.value = self._sum = 0.0
        self.touched = float("-inf")
        self.tail = Tail()
        self._counts = [0] * len(_EDGES) if owner.kind == "histogram" else []

    def add(self, value: float, ms: int, now: float) -> bool:
        """Take a value; tell whether it is one that this kind takes: what is counted, and what a
        histogram observes, is not negative, and no sum is infinite."""
        if self.owner.kind == "counter":
            value, increment = self.value + value, value
            if increment < 0 or value == float("inf"):
                return False
        elif self._counts:
            total = self._sum + value
            if value < 0 or total == float("inf"):
                return False
            self._counts[bisect.bisect_left(BOUNDS, value)] += 1
            self._sum = total
        self.value = value
        self.touched = now
        self.tail.add(ms, value)
        return True

    def buckets(self, labels: Pairs) -> Buckets:
        """What a histogram has observed, under its labels on the page."""
        return Buckets(labels, _EDGES, list(self._counts), self._sum)

    @property
    def chars(self) -> int:
        """How much text it holds."""
        owner = self.owner
        texts = (owner.src, owner.name, self.unit, *[part for pair in owner.tags for part in pair])
        return sum(map(len, texts))


def number(value: object) -> float:
    """A finite number as a float; NaN for whatever else, a boolean too.

    >>> number(3), number(True), number(float("inf")), number(10**400)
    (3.0, nan, nan, nan)
    """
    if type(value) is float or type(value) is int:
        try:
            found = float(value)
        except OverflowError:
            return float("nan")
        return found if found - found == 0.0 else float("nan")
    return float("nan")


def pairs(tags: Mapping[str, str]) -> Pairs:
    """Tags in an order of their own, so that those of one series are equal; an empty value is the
    same as none."""
    return tuple(sorted([pair for pair in tags.items() if pair[1] != ""]))
