"""The rows of the journal: how batches lie in them, and how they are read back, around what a disk
has damaged too."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from wafermon.message import Batch

#: One row holds at most about this much: the batches that came together in a commit.
ROW_BYTES = 1 << 20
#: The highest number that SQLite knows.
END = (1 << 63) - 1

INSERT = "INSERT INTO batches VALUES (?, ?, ?, ?)"

# The casts make sure of the types, whatever a damaged page says.
_QUERY = (
    "SELECT seq, CAST(received_ms AS INTEGER), CAST(counts AS BLOB), CAST(raw AS BLOB)"
    " FROM batches WHERE seq >= ? AND seq <= ? ORDER BY seq"
)


class Entry(NamedTuple):
    """A batch that was read back."""

    seq: int
    batch: Batch
    #: Whether it is known to be as it was written.
    is_sure: bool = True


class Row(NamedTuple):
    """Batches that were committed together; `seq` is that of the last, those before it are numbered
    down by one."""

    seq: int
    received_ms: int
    counts: bytes
    raw: bytes

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> Row:
        """The row of batches with numbers that follow one another."""
        raw = b"".join([batch.raw for batch in batches])
        counts = ",".join(str(len(batch)) for batch in batches).encode()
        described = b"%s %08x" % (counts, zlib.crc32(raw, zlib.crc32(counts)))
        return cls(batches[-1].seq, batches[0].received_ms, described, raw)

    @property
    def values(self) -> tuple[object, ...]:
        """As `INSERT` takes them."""
        return self.seq, self.received_ms, self.counts.decode("ascii", "replace"), self.raw

    @property
    def has_checksum(self) -> bool:
        """Whether damage can be told."""
        return b" " in self.counts

    @property
    def is_sure(self) -> bool:
        """Whether it is known to be as it was written; rows of version 1 have no checksum."""
        counts, _, checksum = self.counts.partition(b" ")
        return b"%08x" % zlib.crc32(self.raw, zlib.crc32(counts)) == checksum

    @property
    def messages(self) -> list[int]:
        """How many each batch has."""
        numbers, lines = messages_of(self.counts), self.raw.count(b"\n")
        is_whole = numbers and sum(numbers) == lines
        return numbers if is_whole else [lines]  # damaged: in one piece

    def entries(self, after: int) -> Iterator[Entry]:
        """Its batches with numbers above `after`."""
        numbers, is_sure = self.messages, self.is_sure
        if len(numbers) == 1:
            # Only damage can take the last line its end.
            raw = self.raw if self.raw.endswith(b"\n") else self.raw + b"\n"
            yield Entry(self.seq, Batch(raw, received_ms=self.received_ms), is_sure)
            return
        lines, at = self.raw.split(b"\n"), 0
        for seq, count in enumerate(numbers, self.seq - len(numbers) + 1):
            if seq > after:
                part = b"\n".join(lines[at : at + count]) + b"\n"
                yield Entry(seq, Batch(part, received_ms=self.received_ms), is_sure)
            at += count


def messages_of(counts: bytes) -> list[int]:
    """How many messages each batch of a row has; none where that cannot be read.

    >>> messages_of(b"1,3 0badcafe"), messages_of(b"1,x")
    ([1, 3], [])
    """
    numbers = counts.partition(b" ")[0].split(b",")
    return [int(n) for n in numbers] if all(n.isdigit() for n in numbers) else []


def rows(
    db: sqlite3.Connection, after: int, end: int = END, limit_bytes: int = ROW_BYTES
) -> list[Row]:
    """Rows with numbers above `after`, in order, at least one where there is any; in a transaction
    of its own, as a snapshot that is held keeps the WAL from being taken in.

    Raises:
        sqlite3.Error: the first one cannot be read.
    """
    found: list[Row] = []
    last, size = after, 0
    try:
        with contextlib.closing(db.execute(_QUERY, (after + 1, end))) as cursor:
            for seq, received_ms, counts, raw in cursor:
                if seq <= last:
                    raise sqlite3.DatabaseError("its rows are out of order")
                found.append(Row(seq, received_ms or 0, counts or b"", raw or b""))
                last, size = seq, size + len(found[-1].raw)
                if size >= limit_bytes:
                    break
    except sqlite3.Error:
        if not found:
            raise
    return found


def counted(db: sqlite3.Connection, after: int = 0) -> Iterator[tuple[int, int]]:
    """The numbers above `after` that have messages, in order, each with how many.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    query = "SELECT seq, CAST(counts AS BLOB) FROM batches WHERE seq > ? ORDER BY seq"
    with contextlib.closing(db.execute(query, (after,))) as cursor:
        for last, counts in cursor:
            numbers = messages_of(counts or b"")
            for seq, count in enumerate(numbers, last - len(numbers) + 1):
                if seq > after:
                    yield seq, count
