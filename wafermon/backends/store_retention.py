"""Retention of the store, by age and by size: in steps of milliseconds, called between writes."""

from __future__ import annotations

import sqlite3

from wafermon.backends.store_schema import transaction

AGE, BYTES = "age", "bytes"

_STEP_BYTES, _STEP_BATCHES = 1 << 20, 4096
#: Free pages are used again by later writes; what goes beyond this share of the file, as after a
#: burst that has grown old, is given back to the disk.
_FREE_SHARE, _VACUUM_PAGES = 8, 256


def remove_some(db: sqlite3.Connection, oldest_ms: float, max_bytes: int) -> dict[str, int]:
    """Delete a step's worth of the oldest batches, by order of arrival.

    Args:
        db: the writer's connection.
        oldest_ms: what was received before (Unix ms) is too old.
        max_bytes: how much of the file may be in use.

    Returns:
        Messages deleted, by reason; empty when there is nothing to delete.
    """
    pages, free, page_bytes = _pragmas(db, "page_count", "freelist_count", "page_size")
    over = (pages - free) * page_bytes - max_bytes
    removed: dict[str, int] = {}
    last = size = 0
    rows = db.execute(
        "SELECT id, received_ms, messages, length(lines) FROM batches ORDER BY id LIMIT ?",
        (_STEP_BATCHES,),
    )
    for number, received_ms, messages, length in rows:
        is_old = received_ms < oldest_ms
        if size >= _STEP_BYTES or (size >= over and not is_old):
            break
        reason = AGE if is_old else BYTES
        removed[reason] = removed.get(reason, 0) + messages
        last, size = number, size + length
    rows.close()
    if removed:
        with transaction(db):
            _delete(db, last)
    return removed


def shrink_some(db: sqlite3.Connection) -> bool:
    """Give a step's worth of free pages back to the disk; tell whether it did."""
    free, pages = _pragmas(db, "freelist_count", "page_count")
    if free <= max(_VACUUM_PAGES, pages // _FREE_SHARE):
        return False
    db.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
    return _pragmas(db, "freelist_count")[0] < free


def _delete(db: sqlite3.Connection, last: int) -> None:
    """Delete the batches up to one, and the entries of segments that this leaves empty."""
    db.execute("DELETE FROM batches WHERE id <= ?", (last,))
    emptied = db.execute("SELECT id FROM segments WHERE last_batch <= ?", (last,)).fetchall()
    for (segment,) in emptied:
        db.execute("DELETE FROM facets WHERE segment = ?", (segment,))
        db.execute("DELETE FROM traces WHERE segment = ?", (segment,))
        db.execute("DELETE FROM segments WHERE id = ?", (segment,))


def _pragmas(db: sqlite3.Connection, *names: str) -> list[int]:
    return [db.execute(f"PRAGMA {name}").fetchone()[0] for name in names]
