"""The limit on how much one source may send: a token bucket each."""

from __future__ import annotations

import time
from typing import Callable

from wafermon.delivery.overflow import Need, cut
from wafermon.message import Batch


class RateLimit:
    """Drop what a source sends beyond its rate; heartbeats, goodbyes, errors and fatals go last.

    Args:
        per_second: messages of one source in the long run.
        burst: messages of one source at once.
        max_sources: buckets that are kept; full ones are forgotten first, as they tell nothing,
            then the oldest.
        clock: monotonic seconds.

    Thread: one; `evictions` any.

    >>> now = [0.0]
    >>> limit = RateLimit(per_second=1, burst=2, clock=lambda: now[0])
    >>> metric = b'{"v":1,"src":"a","ts":1,"type":"metric","data":{}}\\n'
    >>> len(limit.admit(Batch(metric * 5)))
    2
    >>> now[0] = 1.0; len(limit.admit(Batch(metric * 5)))
    1
    """

    def __init__(
        self,
        per_second: float,
        burst: int,
        *,
        max_sources: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._max_sources = max_sources
        self._clock = clock
        #: What each source may still send, and since when that is so.
        self._buckets: dict[str, tuple[float, float]] = {}
        #: Buckets that were forgotten while they told something.
        self.evictions = 0

    def admit(self, batch: Batch) -> Batch:
        """The part of a batch that is within the limit; all of it is the batch itself."""
        now = self._clock()
        excess = {
            source: count - granted
            for source, count in batch.sources.items()
            if (granted := self._grant(source, count, now)) < count
        }
        if not excess:
            return batch
        parts = []
        for source, part in batch.by_source().items():
            if source in excess:
                need = Need(excess[source], 0)
                part, _ = cut(part.packed(), need, newest_first=True, spare=True)
                part, _ = cut(part, need, newest_first=True, spare=False)
            if len(part):
                parts.append(part.packed())
        admitted = Batch.join(parts) if parts else Batch(received_ms=batch.received_ms)
        admitted.marks = batch.marks
        return admitted

    def _grant(self, source: str, count: int, now: float) -> int:
        """Take so many tokens out of a bucket, or as many as there are."""
        left, since = self._buckets.get(source, (float(self._burst), now))
        left = min(self._burst, left + (now - since) * self._per_second)
        granted = min(count, int(left))
        if source not in self._buckets and len(self._buckets) >= self._max_sources:
            self._forget(now)
        self._buckets[source] = left - granted, now
        return granted

    def _forget(self, now: float) -> None:
        full = [
            source
            for source, (left, since) in self._buckets.items()
            if left + (now - since) * self._per_second >= self._burst
        ]
        for source in full:
            del self._buckets[source]
        if not full:
            del self._buckets[next(iter(self._buckets))]
            self.evictions += 1
