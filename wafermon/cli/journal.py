"""look into the journal, beside a running sidecar too

Everything but `compact` only reads, and goes around what is damaged.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Mapping
from typing import Any, Callable, Optional

from wafermon.delivery.journal_database import SCHEMA_VERSION, Salvage, is_damage, read_only
from wafermon.delivery.journal_rows import Row, counted, messages_of
from wafermon.sidecar.data_dir import DataDir

EPILOG = """\
status    bytes, messages, sessions, and how far each route is behind
export    what is in it, as JSON lines; with --route, what that route has not delivered. What is
          delivered everywhere while this runs is left out, as it is deleted
check     prove that every page and every message can be read; status 1 where not
compact   give free space back to the disk; only while no sidecar runs

Without --data the journal of ./wafermon-data is meant. With --file it may be one in quarantine; of
that, what is damaged and cannot be read is told, and the status is 1.

examples:
  wafermon journal status --data /var/lib/wafermon
  wafermon journal export --route archive > undelivered.jsonl
  wafermon journal export --file wafermon-data/quarantine/journal.db.20260101T120000
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("action", choices=_ACTIONS)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--data", metavar="DIR", default="./wafermon-data", help="data folder")
    where.add_argument("--file", metavar="FILE", help="a journal that lies elsewhere")
    parser.add_argument("--route", metavar="NAME", help="export: only from this route's cursor on")
    parser.add_argument("--json", action="store_true", help="status: as JSON")


def run(options: argparse.Namespace) -> int:
    """Do it; faults go to stderr, one line.

    Returns:
        Exit status: 0, or 1 where the journal cannot be used or is damaged.
    """
    try:
        return _ACTIONS[options.action](options)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing at the exit either
        return 1
    except (OSError, sqlite3.Error, ValueError) as error:
        text = (isinstance(error, OSError) and error.strerror) or error
        print(f"wafermon: {_path(options)}: {text}", file=sys.stderr)
        return 1


def _path(options: argparse.Namespace) -> str:
    return options.file or os.path.join(options.data, "journal.db")


def _open(options: argparse.Namespace) -> contextlib.closing[sqlite3.Connection]:
    """A connection that writes nothing and holds nobody up."""
    path = _path(options)
    os.stat(path)  # says better than SQLite why not
    db = read_only(path, is_shared=options.file is None)
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if not 0 < version <= SCHEMA_VERSION:
        db.close()
        raise ValueError(f"not a journal of this version ({version})")
    return contextlib.closing(db)


def _status(options: argparse.Namespace) -> int:
    with _open(options) as db:
        db.execute("BEGIN")  # one moment for all of it
        try:
            found = _summary(db)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            found = _salvaged(db)
    if options.json:
        print(json.dumps(found))
        return _told(options, found.get("lost", 0))
    print(f"messages  {found['messages']} in {found['bytes']} bytes")
    print(f"received  {_stamp(found['oldest_ms'])} to {_stamp(found['newest_ms'])}")
    print(f"sessions  {found['sessions']}")
    for route, state in found["routes"].items():
        print(f"route     {route}: {state['behind']} messages behind (cursor {state['cursor']})")
    return _told(options, found.get("lost", 0))


def _told(options: argparse.Namespace, lost: int) -> int:
    """The exit status, where so many messages cannot be read; that is said."""
    if lost:
        text = f"damaged; at least {lost} messages cannot be read"
        print(f"wafermon: {_path(options)}: {text}", file=sys.stderr)
    return 1 if lost else 0


def _summary(db: sqlite3.Connection) -> dict[str, Any]:
    size, oldest, newest, last = db.execute(
        "SELECT coalesce(sum(length(raw)), 0), min(received_ms), max(received_ms), max(seq)"
        " FROM batches"
    ).fetchone()
    numbers = list(counted(db))
    cursors = db.execute("SELECT route, seq FROM cursors ORDER BY route").fetchall()
    return {
        "bytes": size,
        "messages": sum(count for _, count in numbers),
        "oldest_ms": oldest,
        "newest_ms": newest,
        "last": last,
        "sessions": db.execute("SELECT count(*) FROM sessions").fetchone()[0],
        "routes": {
            route: {"cursor": cursor, "behind": sum(n for seq, n in numbers if seq > cursor)}
            for route, cursor in cursors
        },
    }


def _salvaged(db: sqlite3.Connection) -> dict[str, Any]:
    """The same of a file that is damaged, without what may be there only in part."""
    salvage = Salvage(db)
    seen = [(row.seq, row.received_ms, len(row.raw)) for row in salvage]
    return {
        "bytes": sum(size for *_, size in seen),
        "messages": salvage.read,
        "lost": salvage.lost,
        "oldest_ms": min((ms for _, ms, _ in seen), default=None),
        "newest_ms": max((ms for _, ms, _ in seen), default=None),
        "last": max((seq for seq, *_ in seen), default=None),
        "sessions": None,
        "routes": {},
    }


def _stamp(milliseconds: Optional[int]) -> str:
    if milliseconds is None:
        return "-"
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(milliseconds / 1000))


def _export(options: argparse.Namespace) -> int:
    with _open(options) as db:
        after = 0
        if options.route is not None:
            row = db.execute("SELECT seq FROM cursors WHERE route = ?", (options.route,)).fetchone()
            if row is None:
                raise ValueError(f"it knows no route {options.route!r}")
            after = row[0]
        salvage = Salvage(db, after)
        for row in salvage:
            for entry in row.entries(after):
                sys.stdout.buffer.write(entry.batch.raw)
        sys.stdout.flush()
    return _told(options, salvage.lost)


def _check(options: argparse.Namespace) -> int:
    with _open(options) as db:
        faults = _malformed(db)
        messages = 0
        salvage = Salvage(db)
        for row in salvage:
            try:
                messages += _decoded(row)
            except ValueError as error:
                faults.append(f"batch {row.seq}: {error}")
    if salvage.lost:
        faults.append(f"at least {salvage.lost} messages cannot be read")
    for fault in faults:
        print(f"wafermon: {_path(options)}: {fault}", file=sys.stderr)
    if not faults:
        print(f"ok: {messages} messages")
    return 1 if faults else 0


def _malformed(db: sqlite3.Connection) -> list[str]:
    """What SQLite finds wrong."""
    try:
        return [text for text, in db.execute("PRAGMA integrity_check") if text != "ok"]
    except sqlite3.Error as error:
        return [str(error)]


def _decoded(row: Row) -> int:
    """How many messages a row has; each one is read."""
    lines = row.raw.split(b"\n")
    expected = sum(messages_of(row.counts))
    if lines.pop() or len(lines) != expected:
        raise ValueError(f"{expected} messages expected, {len(lines)} lines found")
    if not row.is_sure and row.has_checksum:
        raise ValueError("not what was written: its checksum is another one")
    for line in lines:
        if not isinstance(json.loads(line), dict):
            raise ValueError("a message is no object")
    return expected


def _compact(options: argparse.Namespace) -> int:
    if options.file:
        raise ValueError("only the journal of a data folder is compacted")
    path = _path(options)
    os.stat(path)
    folder = DataDir(options.data)
    folder.take()
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            before = os.stat(path).st_size
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        print(f"{before} bytes before, {os.stat(path).st_size} after")
    finally:
        folder.release()
    return 0


_ACTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "status": _status,
    "export": _export,
    "check": _check,
    "compact": _compact,
}
