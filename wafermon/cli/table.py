"""Tables for terminals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Optional

from wafermon.cli.lines import COLOURS, PLAIN, RESET, Style, clipped, columns, visible

#: A name that is longer is cut where somebody looks at it.
MAX_CELL = 32


def table(
    rows: Sequence[Sequence[str]], style: Style = PLAIN, ranks: Sequence[Optional[int]] = ()
) -> list[str]:
    """Rows as aligned lines, everything in them escaped; the first one is the header.

    Args:
        rows: of equal length. The last column takes what is left of the width.
        style: from `style_of`; in a terminal cells are cut, in a file never.
        ranks: for each row the level whose colour it has, as `coloured`; None for none.

    >>> table([("JOB", "STATE"), ("load", "running"), ("工程", "died")])
    ['JOB   STATE', 'load  running', '工程  died']
    """
    shown = [[visible(cell) for cell in row] for row in rows]
    if style.width:
        shown = [[clipped(cell, MAX_CELL) for cell in row[:-1]] + row[-1:] for row in shown]
    widths = [max(map(columns, column)) for column in zip(*shown)]
    lines = []
    for row in shown:
        padded = [cell + " " * (width - columns(cell)) for cell, width in zip(row, widths)]
        line = "  ".join(padded).rstrip()
        lines.append(clipped(line, style.width) if style.width else line)
    return [coloured(line, rank, style) for line, rank in itertools.zip_longest(lines, ranks)]


def coloured(line: str, rank: Optional[int], style: Style) -> str:
    """A line in the colour of a level (0 debug to 4 fatal), which words in it say, too."""
    if rank is None or not style.colour:
        return line
    return f"{COLOURS[rank]}{line}{RESET}"
