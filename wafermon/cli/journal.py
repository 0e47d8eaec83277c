"""look into the journal, beside a running sidecar too

Everything but `compact` only reads, and sees what was committed last.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import sqlite3
import sys
import time
from collections.abc import Mapping
from typing import Any, Callable, Optional

from wafermon.delivery.journal_file import BUSY_SECONDS, SCHEMA_VERSION, stored
from wafermon.sidecar.data_dir import DataDir

EPILOG = """\
status    bytes, messages, sessions, and how far each route is behind
export    what is in it, as JSON lines; with --route, what that route has not delivered
check     prove that every page and every message can be read; status 1 where not
compact   give free space back to the disk; only while no sidecar runs

Without --data the journal of ./wafermon-data is meant.

examples:
  wafermon journal status --data /var/lib/wafermon
  wafermon journal export --route archive > undelivered.jsonl
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("action", choices=_ACTIONS)
    parser.add_argument("--data", metavar="DIR", default="./wafermon-data", help="data folder")
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
    return os.path.join(options.data, "journal.db")


def _open(options: argparse.Namespace) -> contextlib.closing[sqlite3.Connection]:
    """A connection that writes nothing and holds nobody up."""
    path = _path(options)
    os.stat(path)  # says better than SQLite why not
    uri = pathlib.Path(path).absolute().as_uri()
    db = sqlite3.connect(f"{uri}?mode=ro", uri=True, isolation_level=None, timeout=BUSY_SECONDS)
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        db.close()
        raise ValueError(f"not a journal of this version ({version})")
    return contextlib.closing(db)


def _status(options: argparse.Namespace) -> int:
    with _open(options) as db:
        db.execute("BEGIN")  # one moment for all of it
        found = _summary(db)
    if options.json:
        print(json.dumps(found))
        return 0
    print(f"messages  {found['messages']} in {found['bytes']} bytes")
    print(f"received  {_stamp(found['oldest_ms'])} to {_stamp(found['newest_ms'])}")
    print(f"sessions  {found['sessions']}")
    for route, state in found["routes"].items():
        print(f"route     {route}: {state['behind']} messages behind (cursor {state['cursor']})")
    return 0


def _summary(db: sqlite3.Connection) -> dict[str, Any]:
    size, oldest, newest, last = db.execute(
        "SELECT coalesce(sum(length(raw)), 0), min(received_ms), max(received_ms), max(seq)"
        " FROM batches"
    ).fetchone()
    rows = db.execute("SELECT seq, counts FROM batches ORDER BY seq").fetchall()
    cursors = db.execute("SELECT route, seq FROM cursors ORDER BY route").fetchall()
    return {
        "bytes": size,
        "messages": sum(_behind(rows, 0).values()),
        "oldest_ms": oldest,
        "newest_ms": newest,
        "last": last,
        "sessions": db.execute("SELECT count(*) FROM sessions").fetchone()[0],
        "routes": {
            route: {"cursor": seq, "behind": sum(_behind(rows, seq).values())}
            for route, seq in cursors
        },
    }


def _behind(rows: list[tuple[int, str]], cursor: int) -> Mapping[int, int]:
    """The batches above a cursor, each with its number of messages."""
    found = {}
    for last, counts in rows:
        numbers = counts.split(",")
        for seq, count in enumerate(numbers, last - len(numbers) + 1):
            if seq > cursor:
                found[seq] = int(count)
    return found


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
        for entry in stored(db, after):
            sys.stdout.buffer.write(entry.batch.raw)
        sys.stdout.flush()
    return 0


def _check(options: argparse.Namespace) -> int:
    with _open(options) as db:
        faults = [text for text, in db.execute("PRAGMA integrity_check") if text != "ok"]
        messages = 0
        for seq, counts, raw in db.execute("SELECT seq, counts, raw FROM batches ORDER BY seq"):
            try:
                messages += _decoded(counts, raw)
            except (ValueError, TypeError, AttributeError) as error:
                faults.append(f"batch {seq}: {error}")
    for fault in faults:
        print(f"wafermon: {_path(options)}: {fault}", file=sys.stderr)
    if not faults:
        print(f"ok: {messages} messages")
    return 1 if faults else 0


def _decoded(counts: str, raw: bytes) -> int:
    """How many messages a row has; each one is read."""
    lines = raw.split(b"\n")
    expected = sum(map(int, counts.split(",")))
    if lines.pop() or len(lines) != expected:
        raise ValueError(f"{expected} messages expected, {len(lines)} lines found")
    for line in lines:
        if not isinstance(json.loads(line), dict):
            raise ValueError("a message is no object")
    return expected


def _compact(options: argparse.Namespace) -> int:
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
