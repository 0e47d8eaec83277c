"""Figures of several rounds as tables: on stdout, and in the page."""

from __future__ import annotations

import math
import os
import re
import statistics
from collections.abc import Mapping, Sequence

from bench import BenchError
from bench.receiver import ROOT

PAGE = os.path.join(ROOT, "docs", "benchmarks.md")


class Table:
    """Rows of figures; each cell is the median of its rounds, and their range.

    Args:
        heading: of the first column.
        columns: heading of a column -> how one figure of it is written, such as `{:,.0f}`.

    >>> table = Table("Case", {"Messages/s": "{:,.0f}"})
    >>> for rate in (1000, 3000, 2000): table.add("plain", {"Messages/s": rate})
    >>> print(table.text())
    | Case | Messages/s |
    |---|---:|
    | plain | 2,000 (1,000-3,000) |
    """

    def __init__(self, heading: str, columns: Mapping[str, str]) -> None:
        self._heading = heading
        self._columns = dict(columns)
        self._rows: dict[str, list[Mapping[str, float]]] = {}

    def add(self, row: str, figures: Mapping[str, float]) -> None:
        """Add what a round measured, at once or in parts; a column without any stays empty."""
        self._rows.setdefault(row, []).append(figures)

    def median(self, row: str, column: str) -> float:
        """The figure that a cell shows."""
        found = [figures[column] for figures in self._rows[row] if column in figures]
        return statistics.median(found)

    def text(self) -> str:
        """The table in Markdown."""
        lines = [_line([self._heading, *self._columns]), "|---|" + "---:|" * len(self._columns)]
        for row, rounds in self._rows.items():
            lines.append(_line([row, *(self._cell(column, rounds) for column in self._columns)]))
        return "\n".join(lines)

    def _cell(self, column: str, rounds: Sequence[Mapping[str, float]]) -> str:
        figures = [figures[column] for figures in rounds if column in figures]
        if not figures:
            return ""
        write = self._columns[column].format
        low, high, middle = (write(f(figures)) for f in (min, max, statistics.median))
        return middle if low == high else f"{middle} ({low}-{high})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def write_page(sections: Mapping[str, str], path: str = PAGE) -> None:
    """Put the sections that were measured into the page, between their marks.

    Raises:
        BenchError: the page has no such marks.
    """
    with open(path, encoding="utf-8") as file:
        page = file.read()
    for name, text in sections.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        marked = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        before, *after = marked.split(page)
        if len(after) != 1:
            raise BenchError(f"{path} has no place for {name}: {begin} and {end}")
        page = f"{before}{begin}\n\n{text}\n\n{end}{after[0]}"
    with open(path, "w", encoding="utf-8") as file:
        file.write(page)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of the sorted values is not above.

    >>> percentile(range(1, 101), 0.99)
    99
    """
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
