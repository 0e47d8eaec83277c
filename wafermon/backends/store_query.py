"""Reading the store, beside the sidecar that writes it or without one."""

# ruff: noqa: S608 - SQL is put together from words of this module only; values are bound

from __future__ import annotations

import contextlib
import heapq
import logging
import sqlite3
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from wafermon.backends.store_schema import StoreError, connect_reader, tid_hash, unpack
from wafermon.flow.pattern import is_pattern
from wafermon.flow.selection import Selection
from wafermon.message import Batch, Message

_log = logging.getLogger("wafermon.store")

#: When it was received (Unix ms), the line without its line end, the same decoded.
Found = tuple[int, bytes, Message]


class Store:
    """A reader of the store; it never writes.

    Each call works on a connection of its own, and no snapshot is held between two batches: a
    pager that stays open for a night does not keep the writer from folding in its log.

    Args:
        path: the file that a `StoreBackend` writes, or wrote before it was killed.

    Thread: any.

    >>> import os, tempfile
    >>> from wafermon.backends.store import StoreBackend
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "store.db")
    >>> writer = StoreBackend(path)
    >>> writer.write(Batch(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n', received_ms=7))
    >>> for received_ms, line, message in Store(path).query(Selection(src=("a*",), limit=10)):
    ...     print(received_ms, line.decode(), message["type"])
    7 {"v":1,"src":"a","ts":1,"type":"heartbeat"} heartbeat
    >>> Store(path).counts()
    {('a', 'heartbeat'): 1}
    >>> writer.close()
    >>> folder.cleanup()
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def query(self, selection: Selection) -> Iterator[Found]:
        """Find messages, oldest first by event time, in order of arrival where that is equal.

        Args:
            selection: what passes; with a `limit`, the newest so many of it.

        Returns:
            An iterator of (received_ms, line without its line end, message). Without a limit it
            holds no more than the batches whose times overlap.

        Raises:
            StoreError: there is no store or it cannot be read; with the first item.
        """
        with self._connection() as db:
            if selection.limit:
                newest = _Walk(db, selection, newest_first=True)
                found = [item for item, _ in zip(newest.run(), range(selection.limit))]
                yield from reversed(found)
            else:
                yield from _Walk(db, selection, newest_first=False).run()

    def counts(self) -> dict[tuple[str, str], int]:
        """How many messages the store holds of each (src, type).

        Raises:
            StoreError: there is no store or it cannot be read.
        """
        with self._connection() as db:
            rows = db.execute(
                "SELECT src, type, sum(messages) FROM facets"
                " WHERE batch >= (SELECT min(id) FROM batches) GROUP BY src, type"
            )
            return {(src, kind): count for src, kind, count in rows}

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(connect_reader(self.path)) as db:
                yield db
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error


class _Node(NamedTuple):
    """A segment, a batch or a message, in the order in which the walk takes them.

    Attributes:
        time: of a message; of the others the first that may be in there. Negative when walking
            from the newest.
        depth: 0 segment, 1 batch, 2 message: what may hold an equal time is opened before a
            message of that time is taken.
        order: of arrival, among equals.
        payload: None, or what is found.
    """

    time: int
    depth: int
    order: tuple[int, int]
    payload: Any


class _Walk:
    """Best-first search: the store is a tree whose nodes know their range of time.

    Only what can hold the next message is opened, so the newest 100 of two million cost a look
    at a few batches, and a source whose clock is off cannot hide a message or spoil the order.
    """

    def __init__(self, db: sqlite3.Connection, selection: Selection, newest_first: bool) -> None:
        db.create_function("may_match", 2, self._may_match)
        self._db = db
        self._selection = selection
        self._sign = -1 if newest_first else 1
        self._bound = "max_ts" if newest_first else "min_ts"
        self._filter, self._values = _facet_filter(selection)
        self._span = (
            -1 if selection.since_ms is None else selection.since_ms,
            1 << 62 if selection.until_ms is None else selection.until_ms,
        )

    def run(self) -> Iterator[Found]:
        heap = list(self._segments())
        heapq.heapify(heap)
        opened = {0: self._batches, 1: self._messages}
        while heap:
            node = heapq.heappop(heap)
            if node.depth == 2:
                yield node.payload
            else:
                for child in opened[node.depth](abs(node.order[0])):
                    heapq.heappush(heap, child)

    def _node(
        self, time: int, depth: int, number: int, index: int = 0, payload: Any = None
    ) -> _Node:
        sign = self._sign
        return _Node(sign * time, depth, (sign * number, sign * index), payload)

    def _segments(self) -> list[_Node]:
        sql = f"SELECT id, {self._bound} FROM segments WHERE max_ts >= ? AND min_ts < ?"
        return [self._node(time, 0, number) for number, time in self._db.execute(sql, self._span)]

    def _batches(self, segment: int) -> list[_Node]:
        """Batches of a segment that may hold what is looked for."""
        if self._selection.tid is not None:
            sql = (
                f"SELECT b.id AS batch, b.{self._bound}"
                " FROM traces t JOIN batches b ON b.id = t.batch"
                " WHERE t.segment = ? AND t.hash = ? AND b.max_ts >= ? AND b.min_ts < ?"
            )
            values: tuple[Any, ...] = (tid_hash(self._selection.tid), *self._span)
        else:
            best = "max(max_ts)" if self._sign < 0 else "min(min_ts)"
            sql = (
                f"SELECT batch, {best} FROM facets WHERE segment = ?{self._filter}"
                " AND max_ts >= ? AND min_ts < ? GROUP BY batch"
            )
            values = (*self._values, *self._span)
        if self._selection.text:
            # One scan of the segment's blobs: four times as fast as to open them one by one
            # where batches are small, and no text is in most of them.
            sql = (
                f"SELECT c.* FROM ({sql}) AS c JOIN batches b ON b.id = c.batch"
                " WHERE may_match(b.packed, b.lines)"
            )
        rows = self._db.execute(sql, (segment, *values)).fetchall()
        return [self._node(time, 1, number) for number, time in rows]

    def _may_match(self, packed: int, lines: bytes) -> bool:
        try:
            return self._selection.may_match(unpack(packed, lines))
        except zlib.error:
            return True  # `_messages` tells of the damage

    def _messages(self, number: int) -> list[_Node]:
        """Messages of a batch that pass."""
        rows = self._db.execute(
            "SELECT received_ms, packed, lines FROM batches WHERE id = ?", (number,)
        ).fetchall()  # none, where retention was here in between
        found = []
        for received_ms, packed, lines in rows:
            try:
                batch = Batch(unpack(packed, lines))
                pairs = list(zip(batch.messages, batch.lines))
            except (zlib.error, ValueError, RecursionError) as error:
                _log.warning("batch %d is damaged and left out: %s", number, error)
                continue
            for index, (message, line) in enumerate(pairs):
                if self._selection.matches(message, line):
                    payload = (received_ms, line, message)
                    found.append(self._node(message["ts"], 2, number, index, payload))
        return found


def _facet_filter(selection: Selection) -> tuple[str, list[Any]]:
    """The part of WHERE that narrows facets down, and its values."""
    clauses: list[str] = []
    values: list[Any] = []
    if selection.src:
        tests = ["src GLOB ?" if is_pattern(src) else "src = ?" for src in selection.src]
        clauses.append(f"({' OR '.join(tests)})")
        # `[` begins a set in GLOB, and is a letter like any other in ours.
        values += [s.replace("[", "[[]") if is_pattern(s) else s for s in selection.src]
    types = selection.types
    if types:
        clauses.append(f"type IN ({', '.join('?' * len(types))})")
        values += types
    if selection.min_rank is not None:
        clauses.append("type = 'event' AND level >= ?")
        values.append(selection.min_rank)
    return "".join(f" AND {clause}" for clause in clauses), values
