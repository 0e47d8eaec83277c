"""What db-loader has put into the database."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import NamedTuple

_SQL = """
    SELECT count(DISTINCT lot), count(*), coalesce(sum(dies), 0), coalesce(sum(good), 0)
    FROM wafers WHERE lot BETWEEN ? AND ?
"""


class Loaded(NamedTuple):
    """How much it is."""

    lots: int = 0
    wafers: int = 0
    dies: int = 0
    good: int = 0

    def __str__(self) -> str:
        share = 100 * self.good / self.dies if self.dies else 0.0
        return f"{self.wafers} wafers, {self.dies} dies, yield {share:.1f} %"


def loaded(path: str, first: str, last: str) -> Loaded:
    """What there is of the lots from one name to another; nothing where nothing was ever loaded."""
    if not os.path.exists(path):
        return Loaded()
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as db:
            return Loaded(*db.execute(_SQL, (first, last)).fetchone())
    except sqlite3.OperationalError:  # no such table
        return Loaded()
