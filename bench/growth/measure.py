"""All curves, point by point, and how fast each grows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from bench.growth import parts
from bench.growth.curve import COST, MEMORY, SHARE, exponent
from bench.growth.whole import Whole
from bench.loadgen import LoadGenerator
from bench.report import Table

_COLUMNS = {COST: "{:.3f}", MEMORY: "{:,.1f}", SHARE: "{:.3f}"}
_SUMMARY = {"Last over first": "{:.2f}", "Exponent": "{:.2f}", "At most": "{:.0f}"}


def measure(rounds: int, frames: int, full: bool) -> Iterator[str]:
    """Every curve.

    Args:
        rounds: how often each point is measured.
        frames: of a run flat out.
        full: with a journal of 10 GB, too.
    """
    table, summary = Table("Work", _COLUMNS), Table("Work", _SUMMARY)
    with tempfile.TemporaryDirectory(prefix="wafermon-bench-") as folder:
        curves = [*parts.curves(full), *Whole(LoadGenerator(folder), frames).curves()]
        for _ in range(rounds):
            for curve in curves:
                for size in curve.sizes:
                    table.add(curve.row(size), curve.run(size))
    for curve in curves:
        costs = {size: table.median(curve.row(size), COST) for size in curve.sizes}
        figures = (costs[curve.sizes[-1]] / costs[curve.sizes[0]], exponent(costs), curve.bound)
        summary.add(f"{curve.name}, {curve.unit}", dict(zip(_SUMMARY, figures)))
    yield (
        "The exponent x says that the cost of a message grows as the x-th power of the size: 0 is "
        "flat, so that the whole is linear; 1 is linear a message, for what has to look at each."
    )
    yield summary.text()
    yield table.text()

