"""The journal's database: its layout, how it is opened, and what is saved of a damaged one."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple, Optional

from wafermon.delivery.journal_rows import END, INSERT, Row, messages_of, rows

#: Rows of version 1 have no checksum.
SCHEMA_VERSION = 2
#: How long to wait for somebody who looks into the file with a tool of SQLite's.
BUSY_SECONDS = 5.0
#: How often to look for a way around damage; each look costs some 20 us.
LOOKS = 10_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS batches(
    seq INTEGER PRIMARY KEY, -- of the last of its batches; those before it are numbered down by one
    received_ms INTEGER NOT NULL,
    counts TEXT NOT NULL, -- messages of each batch, in order, with commas; CRC-32 of them and raw
    raw BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS sessions(
    key TEXT PRIMARY KEY, q INTEGER NOT NULL, touched REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursors(route TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
"""


class Saved(NamedTuple):
    """What became of a damaged database: messages that were taken over, and that cannot be read, at
    the least; whether cursors are among what is lost."""

    taken: int
    lost: int
    cursors_lost: bool


def connection(path: str) -> sqlite3.Connection:
    """One that writes, in transactions of its user's."""
    return sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS
    )


def read_only(path: str, is_shared: bool = False) -> sqlite3.Connection:
    """A connection that changes nothing; where nobody else has the file open, and it has no WAL,
    it makes no files beside it either."""
    uri = pathlib.Path(path).absolute().as_uri()
    how = "mode=ro" if is_shared or os.path.exists(f"{path}-wal") else "immutable=1"
    return sqlite3.connect(f"{uri}?{how}", uri=True, isolation_level=None, timeout=BUSY_SECONDS)


def lay_out(db: sqlite3.Connection) -> None:
    """Make the tables, as far as they are not there."""
    db.executescript(
        f"PRAGMA page_size=16384;BEGIN;{_SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;"
    )


def is_damage(error: Optional[BaseException]) -> bool:
    """Whether an error is the file's own: malformed, no database, of another program. Any other
    is the disk's, and a good journal stays where it is."""
    text = str(error)
    unknown = isinstance(error, sqlite3.OperationalError) and (
        "no such" in text or text.startswith("Could not decode")
    )
    return unknown or type(error) is sqlite3.DatabaseError


def save(path: str, copy: str) -> Saved:
    """Copy what can be read of a database to a new one.

    Raises:
        sqlite3.Error: the new one cannot be written.
    """
    with contextlib.closing(connection(copy)) as db:
        lay_out(db)
        with contextlib.closing(read_only(path)) as old:
            if not _is_known(old):
                return Saved(0, 0, False)
            salvage = Salvage(old)
            db.execute("BEGIN")
            db.executemany(INSERT, (row.values for row in salvage))
            sessions, _ = _readable(old, "SELECT * FROM sessions ORDER BY key")
            db.executemany("INSERT OR IGNORE INTO sessions VALUES (?, ?, ?)", sessions)
            cursors, cursors_lost = _readable(old, "SELECT * FROM cursors ORDER BY route")
            db.executemany("INSERT OR IGNORE INTO cursors VALUES (?, ?)", cursors)
            db.execute("COMMIT")
    return Saved(salvage.read, salvage.lost, cursors_lost)


def _is_known(db: sqlite3.Connection) -> bool:
    """Whether it is a journal of this version or one before."""
    try:
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error:
        return False
    return 0 < version <= SCHEMA_VERSION


def _readable(db: sqlite3.Connection, query: str) -> tuple[list[tuple[object, ...]], bool]:
    """What an ordered query finds from both ends up to what cannot be read, and whether there is
    such."""
    found: list[tuple[object, ...]] = []
    damaged = False
    for order in (" ASC", " DESC"):
        try:
            found.extend(db.execute(query + order))
            break
        except sqlite3.Error:
            damaged = True
    return found, damaged


class Salvage:
    """Iterate over the rows of a database, in order, around those that cannot be read.

    Behind what fails it looks at the next number, then at the next two, then four, until it can
    read on; and so again within each of these.

    Args:
        db: the database.
        after: rows with numbers above this one.

    Raises:
        sqlite3.Error: while iterating, where somebody has locked it.

    Thread: the owner's.

    >>> with contextlib.closing(sqlite3.connect(":memory:")) as db:
    ...     salvage = Salvage(db)
    ...     list(salvage), salvage.lost  # nothing there can be read
    ([], 1)
    """

    def __init__(self, db: sqlite3.Connection, after: int = 0) -> None:
        self._db = db
        self._after = after
        self._looks = LOOKS
        #: Messages that were read, and that cannot be, at the least: a batch of which nothing is
        #: known is one.
        self.read = self.lost = 0

    def __iter__(self) -> Iterator[Row]:
        end = self._end()
        spans = [(self._after, END if end is None else end)]  # above, up to; the next one last
        behind = 0  # what is lost behind the last row
        while spans:
            low, high = spans.pop()
            try:
                while low < high:
                    found = rows(self._db, low, high)
                    if not found:
                        break
                    yield from found
                    self.read += sum(sum(row.messages) for row in found)
                    low, behind = found[-1].seq, 0
            except sqlite3.Error as error:
                if not (is_damage(error) or "I/O" in str(error)):
                    raise
                before = self.lost
                spans += self._around(low, high)
                behind += self.lost - before
        if end is None:  # there are no such numbers, for all that is known
            self.lost -= max(0, behind - 1)

    def _end(self) -> Optional[int]:
        """The last number; None where that cannot be read."""
        try:
            last = self._db.execute("SELECT max(seq) FROM batches").fetchone()[0]
        except sqlite3.Error:
            return None
        return last or 0

    def _around(self, low: int, high: int) -> list[tuple[int, int]]:
        """Where to look next, as the number after `low` cannot be read."""
        self._looks -= 1
        if high == low + 1 or self._looks < 0:
            self.lost += self._messages(high)
            return []
        spans, step = [], 1
        while low < high:
            spans.append((low, min(low + step, high)))
            low, step = low + step, 2 * step
        return spans[::-1]

    def _messages(self, seq: int) -> int:
        """How many a row has of which the rest cannot be read."""
        try:
            query = "SELECT CAST(counts AS BLOB) FROM batches WHERE seq = ?"
            found = self._db.execute(query, (seq,)).fetchone()
        except sqlite3.Error:
            found = None
        return max(1, sum(messages_of(found[0] or b""))) if found else 1
