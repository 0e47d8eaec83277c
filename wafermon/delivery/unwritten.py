"""What the journal has not in its file: it waits for its commit, or could not be written."""

from __future__ import annotations

import bisect
import collections
import itertools
from collections.abc import Iterable, Iterator

from wafermon.message import Batch


class Unwritten:
    """Batches in the order of their numbers, as raw bytes.

    Thread: any, one at a time.

    >>> unwritten = Unwritten()
    >>> for seq in (1, 2, 3, 4):
    ...     unwritten.add(seq, Batch(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n'))
    >>> unwritten.forget(1)
    >>> unwritten.keep([range(3, 4)])
    >>> [batch.seq for batch in unwritten], unwritten.excess
    ([3], 0)
    """

    def __init__(self) -> None:
        self._batches: collections.deque[Batch] = collections.deque()
        self._bytes = self._needed_bytes = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    @property
    def excess(self) -> int:
        """Raw bytes, without what is known to be needed."""
        return self._bytes - self._needed_bytes

    def add(self, seq: int, batch: Batch) -> None:
        """Add the batch of the next number."""
        kept = Batch(
            batch.raw, received_ms=batch.received_ms, sources={}, count=len(batch)
        )
        kept.seq = seq
        self._batches.append(kept)
        self._bytes += len(batch.raw)

    def forget(self, seq: int) -> None:
        """Let go of all up to a number."""
        while self._batches and self._batches[0].seq <= seq:
            self._bytes -= len(self._batches.popleft().raw)
        self._needed_bytes = min(self._needed_bytes, self._bytes)

    def keep(self, spans: Iterable[range]) -> None:
        """Let go of all whose numbers are in none of these."""
        numbers = [batch.seq for batch in self._batches]
        needed = bytearray(len(numbers))
        for span in spans:
            begin = bisect.bisect_left(numbers, span.start)
            end = bisect.bisect_left(numbers, span.stop)
            needed[begin:end] = b"\1" * (end - begin)
        self._batches = collections.deque(itertools.compress(self._batches, needed))
        self._bytes = self._needed_bytes = sum(len(batch.raw) for batch in self._batches)
