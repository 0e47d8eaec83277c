"""The journal's file: one SQLite database in WAL mode on a local disk.

It holds what some route has not delivered yet, the mark of each session, and the cursor of each
route; it knows nothing of the configuration, as what is read back is routed again.

Measured, 64 KiB blobs, WAL, synchronous=FULL: 590,000 messages a second with one blob a commit,
1,030,000 with 16.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from wafermon.errors import JournalError
from wafermon.message import Batch

log = logging.getLogger("wafermon.journal")

SCHEMA_VERSION = 1
#: One row holds at most about this much: the batches that came together in a commit.
ROW_BYTES = 1 << 20
#: How long to wait for somebody who looks into the file with a tool of SQLite's.
BUSY_SECONDS = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS batches(
    seq INTEGER PRIMARY KEY, -- of the last of its batches; those before it are numbered down by one
    received_ms INTEGER NOT NULL,
    counts TEXT NOT NULL, -- messages of each batch, in order, with commas
    raw BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS sessions(
    key TEXT PRIMARY KEY, q INTEGER NOT NULL, touched REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursors(route TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
"""


class Entry(NamedTuple):
    """A batch that was read back."""

    seq: int
    batch: Batch


class Commit(NamedTuple):
    """What one transaction does."""

    batches: Sequence[Batch]
    #: Session -> highest q that it holds; None where it is forgotten.
    marks: Mapping[str, Optional[int]]
    #: Cursors that moved.
    cursors: Mapping[str, Optional[int]]
    #: Batches up to this number are needed by nobody.
    done: int
    #: Drop the oldest beyond this, where it is bounded so.
    max_bytes: Optional[int] = None


class JournalFile:
    """Write transactions, read batches back; set aside a file that cannot be used.

    Args:
        path: the database file.
        sync: `full` survives a power failure, `normal` only the death of the process.
        clock: Unix seconds.

    Thread: `open`, `write`, `set_aside` and `close` one at a time; `read` any, one at a time.

    >>> file = JournalFile(os.path.join(tmp, "journal.db"))
    >>> file.open()
    >>> beat = Batch(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n')
    >>> beat.seq = 1
    >>> file.write(Commit([beat], {"a": 7}, {}, done=0))
    0
    >>> [(entry.seq, len(entry.batch)) for entry in file.read(0)]
    [(1, 1)]
    >>> file.close()
    """

    def __init__(
        self, path: str, *, sync: str = "full", clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self._sync = sync
        self._clock = clock
        self._reading = threading.Lock()
        self._db: Optional[sqlite3.Connection] = None
        self._reader: Optional[sqlite3.Connection] = None
        self._inode = 0
        #: What was found at `open`: the last number given, cursors of routes, marks of sessions.
        self.last = 0
        self.cursors: dict[str, int] = {}
        self.marks: dict[str, tuple[int, float]] = {}
        #: Raw bytes in the database.
        self.bytes = 0
        #: Where a file that could not be used was moved to.
        self.quarantined: Optional[str] = None

    # -- life ----------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the database; one that cannot be used is moved to `quarantine/` beside it.

        Raises:
            JournalError: not even a new one could be made; the text names the path and the reason.
        """
        try:
            self._connect()
        except sqlite3.Error as error:
            try:
                if "locked" in str(error):
                    raise
                self._probe()
                self.set_aside(error)
            except (sqlite3.Error, OSError) as again:
                raise JournalError(f"cannot open the journal {self.path}: {again}") from again

    def _connect(self) -> None:
        db = _connection(self.path)
        try:
            db.execute("PRAGMA page_size=16384")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(f"PRAGMA synchronous={'FULL' if self._sync == 'full' else 'NORMAL'}")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"of a newer version ({version})")
            if version < SCHEMA_VERSION:  # a disk that is full may still be read
                db.executescript(f"{_SCHEMA}PRAGMA user_version={SCHEMA_VERSION};")
            self._look(db)
            self._reader = _connection(self.path)
            self._inode = os.stat(self.path).st_ino
        except BaseException:
            db.close()
            raise
        self._db = db

    def _look(self, db: sqlite3.Connection) -> None:
        self.cursors = dict(db.execute("SELECT route, seq FROM cursors"))
        self.marks = {k: (q, t) for k, q, t in db.execute("SELECT key, q, touched FROM sessions")}
        last, self.bytes = db.execute(
            "SELECT coalesce(max(seq), 0), coalesce(sum(length(raw)), 0) FROM batches"
        ).fetchone()
        self.last = max([last, *self.cursors.values()])

    def _probe(self) -> None:
        """See whether a database can be made here at all: else the disk is at fault, not the file,
        and a good journal stays where it is."""
        probe = f"{self.path}.probe"
        try:
            with contextlib.closing(_connection(probe)) as db:
                db.execute("PRAGMA journal_mode=WAL")
                db.executescript(_SCHEMA)
        finally:
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(OSError):
                    os.unlink(probe + suffix)

    def set_aside(self, error: Exception) -> None:
        """Move the file to `quarantine/` and begin a new one.

        Raises:
            sqlite3.Error, OSError: that is not possible.
        """
        self.close()
        folder = os.path.join(os.path.dirname(os.path.abspath(self.path)), "quarantine")
        os.makedirs(folder, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.localtime(self._clock()))
        name = target = os.path.join(folder, f"{os.path.basename(self.path)}.{stamp}")
        tries = 0
        while os.path.exists(target):
            tries += 1
            target = f"{name}.{tries}"
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(self.path + suffix):
                os.rename(self.path + suffix, target + suffix)
        self.quarantined = target
        log.error("the journal %s cannot be used (%s); it is now %s", self.path, error, target)
        self._connect()

    def close(self) -> None:
        """Let go. Twice is harmless."""
        with self._reading:
            for db in (self._reader, self._db):  # the last one out takes the WAL along
                if db is not None:
                    db.close()
            self._db = self._reader = None

    # -- writing -------------------------------------------------------------------------------

    def write(self, commit: Commit) -> int:
        """Do all of it or nothing.

        Returns:
            How many messages were dropped for `max_bytes`.

        Raises:
            sqlite3.Error, OSError: nothing of it was done.
        """
        db = self._usable()
        try:
            db.execute("BEGIN IMMEDIATE")
            _write_cursors(db, commit.cursors)
            held = self.bytes - _delete(db, commit.done)  # before rows come: they take its pages
            _write_rows(db, commit.batches)
            held += sum(len(batch.raw) for batch in commit.batches)
            self._write_marks(db, commit.marks)
            dropped = 0
            if commit.max_bytes is not None and held > commit.max_bytes:
                freed, dropped = _drop_oldest(db, held - commit.max_bytes)
                held -= freed
            db.execute("COMMIT")
        except sqlite3.Error:
            _roll_back(db)
            raise
        self.bytes = held
        return dropped

    def make_room(self) -> None:
        """Take the WAL into the database and cut it to nothing; what may help on a full disk."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _usable(self) -> sqlite3.Connection:
        if self._db is None:
            self._connect()
        elif self._is_gone():
            self._restore()
        if self._db is None:
            raise sqlite3.OperationalError("it is not open")
        return self._db

    def _is_gone(self) -> bool:
        """Whether the file was deleted: SQLite would go on writing to what has no name."""
        try:
            if os.stat(self.path).st_ino != self._inode:
                raise sqlite3.OperationalError("another file is in its place")
        except FileNotFoundError:
            return True
        return False

    def _restore(self) -> None:
        """Make a file again of what is still open, its folder too."""
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        copy = f"{self.path}.copy"
        for stale in (copy, f"{self.path}-wal", f"{self.path}-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(stale)
        if self._db is not None:
            with contextlib.closing(_connection(copy)) as db:
                self._db.backup(db)
        self.close()  # before the new one is there, whose WAL has the same name
        os.rename(copy, self.path)
        self._connect()
        log.warning("the journal %s had been deleted; it was written again", self.path)

    def _write_marks(self, db: sqlite3.Connection, marks: Mapping[str, Optional[int]]) -> None:
        now = self._clock()
        db.executemany(
            "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?)",
            [(key, q, now) for key, q in marks.items() if q is not None],
        )
        gone = [(key,) for key, q in marks.items() if q is None]
        db.executemany("DELETE FROM sessions WHERE key = ?", gone)

    # -- reading back --------------------------------------------------------------------------

    def read(self, after: int, limit_bytes: int = ROW_BYTES) -> list[Entry]:
        """Batches with numbers above `after`, in order, at least one where there is any.

        Raises:
            JournalError: it cannot be read.
        """
        entries: list[Entry] = []
        size = 0
        with self._reading:
            if self._reader is None:
                return []
            try:
                found = stored(self._reader, after)
                for entry in found:
                    entries.append(entry)
                    size += len(entry.batch.raw)
                    if size >= limit_bytes:
                        found.close()
            except sqlite3.Error as error:
                raise JournalError(f"cannot read the journal {self.path}: {error}") from error
        return entries


def stored(db: sqlite3.Connection, after: int = 0) -> Generator[Entry, None, None]:
    """The batches of a database with numbers above `after`, in order. To be read to its end, or
    closed: a snapshot that is held keeps the WAL from being taken in.

    Raises:
        sqlite3.Error: it cannot be read.
        ValueError: a row that no journal has written.
    """
    query = "SELECT seq, received_ms, counts, raw FROM batches WHERE seq > ? ORDER BY seq"
    with contextlib.closing(db.execute(query, (after,))) as rows:
        for last, received_ms, counts, raw in rows:
            yield from _entries(last, received_ms, counts, raw, after)


def _entries(
    last: int, received_ms: int, counts: str, raw: bytes, after: int
) -> Iterator[Entry]:
    """The batches of a row with numbers above `after`."""
    numbers = [int(count) for count in counts.split(",")]
    if len(numbers) == 1:
        yield Entry(last, Batch(raw, received_ms=received_ms))
        return
    lines, at = raw.split(b"\n"), 0
    for seq, count in enumerate(numbers, last - len(numbers) + 1):
        if seq > after:
            part = b"\n".join(lines[at : at + count]) + b"\n"
            yield Entry(seq, Batch(part, received_ms=received_ms))
        at += count


def _connection(path: str) -> sqlite3.Connection:
    return sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS
    )


def _roll_back(db: sqlite3.Connection) -> None:
    try:
        if db.in_transaction:
            db.execute("ROLLBACK")
    except sqlite3.Error:
        log.exception("the journal could not be rolled back")


def _write_cursors(db: sqlite3.Connection, cursors: Mapping[str, Optional[int]]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO cursors VALUES (?, ?)",
        [(route, seq) for route, seq in cursors.items() if seq is not None],
    )
    gone = [(route,) for route, seq in cursors.items() if seq is None]
    db.executemany("DELETE FROM cursors WHERE route = ?", gone)


def _delete(db: sqlite3.Connection, done: int) -> int:
    query = "SELECT coalesce(sum(length(raw)), 0) FROM batches WHERE seq <= ?"
    freed: int = db.execute(query, (done,)).fetchone()[0]
    if freed:
        db.execute("DELETE FROM batches WHERE seq <= ?", (done,))
    return freed


def _write_rows(db: sqlite3.Connection, batches: Iterable[Batch]) -> None:
    row: list[Batch] = []
    size = 0
    for batch in batches:
        if row and (size >= ROW_BYTES or batch.seq != row[-1].seq + 1):
            _write_row(db, row)
            row, size = [], 0
        row.append(batch)
        size += len(batch.raw)
    if row:
        _write_row(db, row)


def _write_row(db: sqlite3.Connection, row: Sequence[Batch]) -> None:
    counts = ",".join(str(len(batch)) for batch in row)
    raw = b"".join([batch.raw for batch in row])
    db.execute(
        "INSERT INTO batches VALUES (?, ?, ?, ?)", (row[-1].seq, row[0].received_ms, counts, raw)
    )


def _drop_oldest(db: sqlite3.Connection, excess: int) -> tuple[int, int]:
    """Delete the oldest rows until so many bytes are free; bytes and messages that went."""
    freed = messages = 0
    while freed < excess:
        row = db.execute(
            "SELECT seq, counts, length(raw) FROM batches ORDER BY seq LIMIT 1"
        ).fetchone()
        if row is None:
            break
        db.execute("DELETE FROM batches WHERE seq = ?", (row[0],))
        messages += sum(map(int, row[1].split(",")))
        freed += row[2]
    return freed, messages
