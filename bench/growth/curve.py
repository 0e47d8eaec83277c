"""One cost against one size, and how fast it grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Callable, NamedTuple

#: The columns; a curve fills those that make sense for it.
COST, MEMORY, SHARE = "CPU us/message", "Memory MB", "Idle, % of a core"


class Curve(NamedTuple):
    """A cost that is measured at several sizes.

    Attributes:
        name: what is done.
        unit: of the sizes.
        sizes: rising.
        run: measures at one size; gives figures by column.
        bound: 0 where the cost of a message must not depend on the size, so that the whole is
            linear; 1 where it may grow with it.
    """

    name: str
    unit: str
    sizes: Sequence[int]
    run: Callable[[int], dict[str, float]]
    bound: int = 0

    def row(self, size: int) -> str:
        """The name of a row."""
        return f"{self.name}, {size:,} {self.unit}"


def exponent(costs: dict[int, float]) -> float:
    """The x of a cost that grows as the x-th power of the size: 0 is flat, 1 is linear.

    From the first size that is not 0 to the last one.

    >>> round(exponent({0: 3.0, 10: 5.0, 1000: 500.0}), 2)
    1.0
    """
    sizes = sorted(size for size in costs if size)
    first, last = sizes[0], sizes[-1]
    return math.log(costs[last] / costs[first]) / math.log(last / first)
