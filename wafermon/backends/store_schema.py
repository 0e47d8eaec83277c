"""What the store's file looks like, shared by its writer (`store`) and its reader (`store_query`).

A batch is one row, and its raw lines are one compressed blob. Beside it stand the entries by
which queries find it: a *facet* says what it holds of one source, type and level, with first and
last time; a *trace* that it mentions a trace id. An entry is a hint: `Selection.matches` decides.

Entries begin with the number of their *segment*, about 16,384 messages that came one after the
other. So new ones land in the same few pages however large the store is, a query visits only
segments of its time, and what has grown old goes as one range.

A row a message was measured at 59,000 messages a second with three indexes; this at 240,000,
with a file a quarter of the raw lines.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
import zlib
from collections.abc import Iterator

from wafermon.errors import WafermonError

#: "WFMN", in the file's header: tells a store from a database of another program.
_APPLICATION_ID = 0x57464D4E

#: Index n leads from schema version n to n + 1; the first creates.
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE batches(
            id INTEGER PRIMARY KEY,  -- rises in order of arrival
            received_ms INTEGER, messages INTEGER, min_ts INTEGER, max_ts INTEGER,
            packed INTEGER,          -- 1: lines are zlib-compressed
            lines BLOB)""",
        """CREATE TABLE segments(
            id INTEGER PRIMARY KEY, last_batch INTEGER,
            messages INTEGER, bytes INTEGER, min_ts INTEGER, max_ts INTEGER)""",
        """CREATE TABLE facets(
            segment INTEGER, src TEXT, type TEXT,
            level INTEGER,           -- 0 debug to 4 fatal, -1 none
            max_ts INTEGER, batch INTEGER, min_ts INTEGER, messages INTEGER,
            PRIMARY KEY(segment, src, type, level, max_ts, batch)) WITHOUT ROWID""",
        """CREATE TABLE traces(
            segment INTEGER, hash INTEGER, batch INTEGER,
            PRIMARY KEY(segment, hash, batch)) WITHOUT ROWID""",
    ),
)
VERSION = len(_MIGRATIONS)

#: 8 KB: as fast as 16 for full batches, and a batch of one message rewrites half as much.
_PAGE_BYTES = 8192
_CHECKPOINT_PAGES = 2000
_BUSY_TIMEOUT_S = 5.0
#: Shorter blobs do not shrink enough to pay for the call.
_PACK_FROM_BYTES = 512


class StoreError(WafermonError):
    """The store cannot be read, and the text says what to do."""


def connect_writer(path: str) -> sqlite3.Connection:
    """Open the store for writing; create it, or bring its schema up to date.

    Durability: WAL with synchronous=NORMAL syncs at checkpoints only. A killed process loses
    nothing, a power cut the last moments before the checkpoint. A sync a commit would cost
    milliseconds for a promise that nobody was given: receipts rest on the journal.

    Raises:
        StoreError: the file belongs to another program or a newer version.
        sqlite3.Error: anything else.
    """
    # Others of the group may read it, as they may the socket and the dead letters.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
    db = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        version = _version(db, path)
        if version == 0:  # both are fixed by the first page written
            db.execute(f"PRAGMA page_size={_PAGE_BYTES}")
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
            f"journal_size_limit={_CHECKPOINT_PAGES * _PAGE_BYTES}",
            "cache_size=-8000",
            "secure_delete=OFF",  # some builds overwrite what is deleted: twice the writing
        ):
            db.execute(f"PRAGMA {pragma}").fetchall()
        if version < VERSION:
            _migrate(db, path)
    except BaseException:
        db.close()
        raise
    return db


def connect_reader(path: str) -> sqlite3.Connection:
    """Open the store for reading, beside a writer or after one was killed.

    Raises:
        StoreError: there is no store, or none that this version reads.
        sqlite3.Error: anything else.
    """
    file = pathlib.Path(path).absolute()
    if not file.exists():
        raise StoreError(
            f"{path}: no store there. Start the sidecar (wafermon run), "
            "or say where it keeps its data (--data DIR, or --store FILE)"
        )
    uri = f"{file.as_uri()}?mode=ro"
    try:
        return _opened(uri, path)
    except sqlite3.OperationalError:
        # A store at rest in a folder that we may not write: SQLite cannot make its side files
        # there, and needs none.
        if pathlib.Path(f"{file}-wal").exists():
            raise
        return _opened(f"{uri}&immutable=1", path)


def _opened(uri: str, path: str) -> sqlite3.Connection:
    db = sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    try:
        version = _version(db, path)
        if version < VERSION:
            state = "is empty" if version == 0 else f"has the old schema {version}"
            raise StoreError(f"{path}: {state}; start the sidecar on it once")
    except BaseException:
        db.close()
        raise
    return db


def _version(db: sqlite3.Connection, path: str) -> int:
    """The schema's version, 0 for an empty file."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    (application,) = db.execute("PRAGMA application_id").fetchone()
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != _APPLICATION_ID and (tables or version):
        raise StoreError(f"{path}: a database of another program; choose another path")
    if version > VERSION:
        raise StoreError(
            f"{path}: written by a newer wafermon (schema {version}, this one knows {VERSION}); "
            "upgrade, or choose another path"
        )
    return version


def _migrate(db: sqlite3.Connection, path: str) -> None:
    with transaction(db):
        for statements in _MIGRATIONS[_version(db, path) :]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={VERSION}")


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of the block or, on any exception, nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite itself rolls back on some errors
            db.execute("ROLLBACK")
        raise


def is_damage(error: sqlite3.Error) -> bool:
    """Tell a file that is broken from one that is busy, full or out of reach.

    By the text: the error's number is at hand from Python 3.11 on only.
    """
    return "malformed" in str(error) or "not a database" in str(error)


def pack(raw: bytes) -> tuple[int, bytes]:
    """Values of the columns `packed` and `lines`; level 1 costs about as much as it saves I/O."""
    if len(raw) >= _PACK_FROM_BYTES:
        packed = zlib.compress(raw, 1)
        if len(packed) < len(raw):
            return 1, packed
    return 0, raw


def unpack(packed: int, lines: bytes) -> bytes:
    """The raw lines again, byte for byte.

    >>> unpack(*pack(b"a line" * 100)) == b"a line" * 100
    True
    """
    return zlib.decompress(lines) if packed else lines


def tid_hash(tid: str) -> int:
    """What stands for a trace id in `traces`; the rare collision costs a look at one batch."""
    return zlib.crc32(tid.encode("utf-8"))
