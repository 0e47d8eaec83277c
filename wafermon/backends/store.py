"""The local store: an SQLite file that answers `wafermon query` and the dashboard.

The schema and its reasons are in `store_schema`, the reader is `store_query.Store`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from typing import Callable, NamedTuple, Optional

from wafermon.backends.store_retention import AGE, BYTES, remove_some, shrink_some
from wafermon.backends.store_schema import (
    StoreError,
    connect_writer,
    is_damage,
    pack,
    tid_hash,
    transaction,
)
from wafermon.delivery.backend import Backend
from wafermon.errors import PermanentError, RetryableError
from wafermon.message import LEVELS, Batch

_log = logging.getLogger("wafermon.store")

_MIN_BYTES = 1_000_000
_SEGMENT_MESSAGES = 16_384
#: A segment is at most this part of the store in raw lines: its entries go only with the last of
#: its batches, and must not outweigh the store.
_SEGMENT_SHARE = 16
#: Retention looks after so many raw bytes: less than it deletes at a time.
_LOOK_EVERY_BYTES = 1 << 18
_SOON_S, _LATER_S = 0.01, 60.0

_RANKS = {level: rank for rank, level in enumerate(LEVELS)}


class _Entries(NamedTuple):
    """What the index says of a batch: (src, type, level) -> [min_ts, max_ts, messages]."""

    facets: dict[tuple[str, str, int], list[int]]
    hashes: set[int]

    @property
    def min_ts(self) -> int:
        return min(facet[0] for facet in self.facets.values())

    @property
    def max_ts(self) -> int:
        return max(facet[1] for facet in self.facets.values())


class StoreBackend(Backend):
    """Keep messages in a local SQLite file, for as long and as large as told.

    Each batch is one transaction: a retry after an error never doubles it. A damaged file is
    moved aside as `<path>.corrupt-<stamp>` and a new one begun.

    Args:
        path: the file, on a local disk (WAL does not work over a network); folders are made.
        max_age: seconds after receipt that a message is kept.
        max_bytes: size of the file beyond which the oldest batches go, 1,000,000 or more. Up
            to 16 MB of write-ahead log come on top.
        clock: Unix seconds; for tests.

    Raises:
        ValueError: an argument that can never work, or an SQLite older than 3.8.3.

    Thread: owned by its delivery thread.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> store = StoreBackend(os.path.join(folder.name, "store.db"), max_age=3600)
    >>> store.write(Batch(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n'))
    >>> store.removed
    {'age': 0, 'bytes': 0}
    >>> store.close()
    >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str,
        *,
        max_age: float = 7 * 86_400,
        max_bytes: int = 2 * 10**9,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not path:
            raise ValueError("path: expected the name of a file")
        if not max_age > 0:
            raise ValueError(f"max_age {max_age}: expected seconds, more than 0")
        if max_bytes < _MIN_BYTES:
            raise ValueError(f"max_bytes {max_bytes}: expected {_MIN_BYTES} or more")
        if sqlite3.sqlite_version_info < (3, 8, 3):
            raise ValueError(f"SQLite {sqlite3.sqlite_version}: the store needs 3.8.3 or newer")
        self.path = path
        self._max_age_ms = max_age * 1000
        self._max_bytes = max_bytes
        self._clock = clock
        self._db: Optional[sqlite3.Connection] = None
        self._identity = (0, 0)
        self._unlooked = 0
        self._checkpoint_due = False
        #: Messages that retention removed, by reason.
        self.removed = {AGE: 0, BYTES: 0}
        #: Where damaged files were moved, the last one last.
        self.set_aside: list[str] = []

    def open(self) -> None:
        """Open or create the file; one that is damaged is moved aside first."""
        if self._db is not None:
            return
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            with self._errors():
                try:
                    db = connect_writer(self.path)
                except sqlite3.DatabaseError as error:
                    if not is_damage(error):
                        raise
                    self._move_aside(error)
                    db = connect_writer(self.path)
            self._db, self._identity = db, _identity(self.path)
        except (OSError, StoreError) as error:
            raise RetryableError(str(error)) from error

    def write(self, batch: Batch) -> None:
        """Store a batch in one transaction; now and then delete a little of what is too old."""
        if not len(batch):
            return
        try:
            entries = _entries(batch)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise PermanentError(f"not an accepted frame: {error!r}") from error
        db = self._here()
        with self._errors():
            self._unlooked += len(batch.raw)
            if self._unlooked >= _LOOK_EVERY_BYTES:
                self._unlooked = 0
                # Before the batch: were it after, an error would store the batch twice.
                self._retain(db)
            with transaction(db):
                self._insert(db, batch, entries)
            self._checkpoint_due = True

    def idle(self) -> Optional[float]:
        """Go on with retention, give space back, and let the file catch up with its log."""
        with self._errors():
            db = self._here()
            if self._retain(db) or shrink_some(db):
                return _SOON_S
            if self._checkpoint_due:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                self._checkpoint_due = False
        return _LATER_S

    def close(self) -> None:
        """Let go of the file; its log is folded in when nobody else reads."""
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def _opened(self) -> sqlite3.Connection:
        self.open()
        db = self._db
        if db is None:
            raise RetryableError(f"{self.path}: closed while it was opened")
        return db

    def _here(self) -> sqlite3.Connection:
        """The connection, anew when somebody deleted or replaced the file under it; a look, 2 us,
        as SQLite would go on writing to what has no name."""
        db = self._opened()
        if _identity(self.path) != self._identity:
            _log.warning("%s was deleted or replaced: beginning anew", self.path)
            self.close()
            db = self._opened()
        return db

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what SQLite raises into what a worker knows, and let go of the file."""
        try:
            yield
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            if not isinstance(error, sqlite3.Error) or "binding" in str(error):
                # A value that no column takes: the worker splits the batch and finds its line.
                raise PermanentError(f"{self.path}: {error}") from error
            self.close()
            if is_damage(error):
                self._move_aside(error)
            raise RetryableError(f"{self.path}: {error}") from error

    def _move_aside(self, error: sqlite3.Error) -> None:
        """Rename the file and its side files, so that the next `open` begins anew."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
        aside = base = f"{self.path}.corrupt-{stamp}"
        while os.path.exists(aside):
            aside = f"{base}-{len(self.set_aside)}-{os.getpid()}-{time.monotonic_ns()}"
        try:
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self.path + suffix, aside + suffix)
        except OSError as failure:
            raise RetryableError(f"{self.path}: {error}; not moved aside: {failure}") from error
        self.set_aside.append(aside)
        _log.error("%s: %s; moved to %s, beginning anew", self.path, error, aside)

    def _insert(self, db: sqlite3.Connection, batch: Batch, entries: _Entries) -> None:
        low, high, size = entries.min_ts, entries.max_ts, len(batch.raw)
        received_ms = batch.received_ms or int(self._clock() * 1000)
        number = db.execute(
            "INSERT INTO batches(received_ms, messages, min_ts, max_ts, packed, lines)"
            " VALUES(?, ?, ?, ?, ?, ?)",
            (received_ms, len(batch), low, high, *pack(batch.raw)),
        ).lastrowid
        segment = self._segment(db)
        updated = db.execute(
            "UPDATE segments SET last_batch = ?, messages = messages + ?, bytes = bytes + ?,"
            " min_ts = min(min_ts, ?), max_ts = max(max_ts, ?) WHERE id = ?",
            (number, len(batch), size, low, high, segment),
        )
        if not updated.rowcount:
            db.execute(
                "INSERT INTO segments VALUES(?, ?, ?, ?, ?, ?)",
                (segment, number, len(batch), size, low, high),
            )
        db.executemany(
            "INSERT INTO facets VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (segment, *key, last, number, first, count)
                for key, (first, last, count) in entries.facets.items()
            ],
        )
        db.executemany(
            "INSERT INTO traces VALUES(?, ?, ?)",
            [(segment, value, number) for value in sorted(entries.hashes)],
        )

    def _segment(self, db: sqlite3.Connection) -> int:
        """Number of the segment that the next batch belongs to."""
        last = db.execute("SELECT id, messages, bytes FROM segments ORDER BY id DESC LIMIT 1")
        number, messages, size = last.fetchone() or (1, 0, 0)
        full = messages >= _SEGMENT_MESSAGES or size >= self._max_bytes // _SEGMENT_SHARE
        return int(number) + full

    def _retain(self, db: sqlite3.Connection) -> bool:
        """Delete a step's worth of what is too old or too much; tell whether there was any."""
        oldest_ms = self._clock() * 1000 - self._max_age_ms
        removed = remove_some(db, oldest_ms, self._max_bytes)
        for reason, count in removed.items():
            self.removed[reason] += count
        return bool(removed)


def _entries(batch: Batch) -> _Entries:
    """Index a batch: the loop over messages of this backend, 0.5 us each."""
    facets: dict[tuple[str, str, int], list[int]] = {}
    tids = set()
    for message in batch.messages:
        kind, ts, rank = message["type"], message["ts"], -1
        if kind == "event":
            level = message["data"].get("level")
            if type(level) is str:
                rank = _RANKS.get(level, -1)
        key = (message["src"], kind, rank)
        facet = facets.get(key)
        if facet is None:
            facets[key] = [ts, ts, 1]
        else:
            facet[2] += 1
            if ts > facet[1]:
                facet[1] = ts
            elif ts < facet[0]:
                facet[0] = ts
        if "tid" in message:
            tids.add(message["tid"])
    return _Entries(facets, {tid_hash(tid) for tid in tids})


def _identity(path: str) -> tuple[int, int]:
    """Which file a name stands for now; (0, 0) where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino
