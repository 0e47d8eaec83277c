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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from wafermon.delivery.journal_database import (
    SCHEMA_VERSION,
    Saved,
    connection,
    is_damage,
    lay_out,
    save,
)
from wafermon.delivery.journal_rows import (
    INSERT,
    ROW_BYTES,
    Entry,
    Row,
    counted,
    messages_of,
    rows,
)
from wafermon.errors import JournalError
from wafermon.message import Batch

log = logging.getLogger("wafermon.journal")


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
        prepare: called before the file is opened or made again, in place of making its folder;
            an `OSError` says why that cannot be.
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
        self,
        path: str,
        *,
        sync: str = "full",
        prepare: Optional[Callable[[], None]] = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._sync = sync
        self._prepare = prepare or self._make_folder
        self._clock = clock
        self._reading = threading.Lock()
        self._db: Optional[sqlite3.Connection] = None
        self._reader: Optional[sqlite3.Connection] = None
        self._inode = 0
        #: What was found at `open`: the last number given, cursors of routes, marks of sessions.
        self.last = 0
        self.cursors: dict[str, int] = {}
        self.marks: dict[str, tuple[int, float]] = {}
        #: Whether cursors were there that could not be read.
        self.cursors_lost = False
        #: Raw bytes in the database.
        self.bytes = 0
        #: Up to which number rows were dropped for `max_bytes`.
        self.dropped_to = 0
        #: How a reader found it damaged: to be set aside.
        self.damage: Optional[sqlite3.Error] = None
        #: Where a file that could not be used was moved to, and how many messages of it were lost,
        #: at the least.
        self.quarantined: Optional[str] = None
        self.lost_messages = 0

    # -- life ----------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the database; of one that is damaged, all that can be read goes to a new one, and
        the file to `quarantine/` beside it.

        Raises:
            sqlite3.Error, OSError: the disk does not let it; nothing of the file has changed.
        """
        try:
            self._connect()
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            self.set_aside(error)

    def _make_folder(self) -> None:
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)

    def _connect(self) -> None:
        self._prepare()
        db = connection(self.path)
        try:
            db.execute("PRAGMA page_size=16384")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(f"PRAGMA synchronous={'FULL' if self._sync == 'full' else 'NORMAL'}")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"of a newer version ({version})")
            if version < SCHEMA_VERSION:  # a disk that is full may still be read
                lay_out(db)
            self._look(db)
            self.damage = None
            self._reader = connection(self.path)
            self._inode = os.stat(self.path).st_ino
        except BaseException:
            db.close()
            raise
        self._db = db

    def _look(self, db: sqlite3.Connection) -> None:
        self.cursors = dict(db.execute("SELECT route, CAST(seq AS INTEGER) FROM cursors"))
        marks = db.execute("SELECT key, CAST(q AS INTEGER), CAST(touched AS REAL) FROM sessions")
        self.marks = {key: (q, touched) for key, q, touched in marks}
        last, self.bytes = db.execute(
            "SELECT coalesce(max(seq), 0), coalesce(sum(length(raw)), 0) FROM batches"
        ).fetchone()
        self.last = max([last, *self.cursors.values()])

    def set_aside(self, why: object, salvage: bool = True) -> None:
        """Move the file to `quarantine/`, and go on in a new one.

        Args:
            why: for the log.
            salvage: whether all of it that can be read goes on in there.

        Raises:
            sqlite3.Error, OSError: that is not possible.
        """
        held = 0 if salvage else sum(count for _, count in self.counted(0))
        self.close()
        copy = self._fresh_copy()
        saved = save(self.path, copy) if salvage else Saved(0, held, False)
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
        if salvage:
            os.rename(copy, self.path)
        self.quarantined = target
        self.lost_messages += saved.lost
        self.cursors_lost = saved.cursors_lost
        log.error(
            "the journal %s cannot be used (%s); it is now %s; %d messages of it were taken over,"
            " at least %d cannot be read", self.path, why, target, saved.taken, saved.lost,
        )  # fmt: skip
        self._connect()

    def _fresh_copy(self) -> str:
        """Where to write a file that is to take the place of this one."""
        copy = f"{self.path}.copy"
        for stale in (copy, f"{copy}-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(stale)
        return copy

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
            dropped = last = 0
            if commit.max_bytes is not None and held > commit.max_bytes:
                freed, dropped, last = _drop_oldest(db, held - commit.max_bytes)
                held -= freed
            db.execute("COMMIT")
        except sqlite3.Error:
            _roll_back(db)
            raise
        self.bytes = held
        self.dropped_to = max(last, self.dropped_to)
        return dropped

    def make_room(self) -> None:
        """Take the WAL into the database and cut it to nothing; what may help on a full disk."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _usable(self) -> sqlite3.Connection:
        self._prepare()  # its lock may have been deleted, or taken by somebody else since
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
        """Make a file again of what is still open."""
        copy = self._fresh_copy()
        for stale in (f"{self.path}-wal", f"{self.path}-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(stale)
        if self._db is not None:
            with contextlib.closing(connection(copy)) as db:
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
        with self._open_reader() as db:
            entries: list[Entry] = []
            size = 0
            for row in rows(db, after, limit_bytes=limit_bytes):
                for entry in row.entries(after):
                    entries.append(entry)
                    size += len(entry.batch.raw)
                    if size >= limit_bytes:
                        return entries
            return entries

    def counted(self, after: int) -> list[tuple[int, int]]:
        """The numbers above `after` that have messages, in order, each with how many.

        Raises:
            JournalError: it cannot be read.
        """
        with self._open_reader() as db:
            return list(counted(db, after))

    @contextlib.contextmanager
    def _open_reader(self) -> Iterator[sqlite3.Connection]:
        with self._reading:
            try:
                if self._reader is None:
                    raise sqlite3.OperationalError("it is not open")
                yield self._reader
            except sqlite3.Error as error:
                if is_damage(error):
                    self.damage = error
                raise JournalError(f"cannot read the journal {self.path}: {error}") from error


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


def _write_row(db: sqlite3.Connection, batches: Sequence[Batch]) -> None:
    db.execute(INSERT, Row.of(batches).values)


def _drop_oldest(db: sqlite3.Connection, excess: int) -> tuple[int, int, int]:
    """Delete the oldest rows until so many bytes are free; bytes and messages that went, and the
    last number."""
    freed = messages = last = 0
    while freed < excess:
        row = db.execute(
            "SELECT seq, CAST(counts AS BLOB), length(raw) FROM batches ORDER BY seq LIMIT 1"
        ).fetchone()
        if row is None:
            break
        last = row[0]
        db.execute("DELETE FROM batches WHERE seq = ?", (last,))
        messages += sum(messages_of(row[1] or b""))
        freed += row[2]
    return freed, messages, last
