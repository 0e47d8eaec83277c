"""A sink that keeps nothing, to measure with and to switch a route off."""

from __future__ import annotations

from wafermon.delivery.backend import Backend
from wafermon.message import Batch


class NullBackend(Backend):
    """Takes every batch and counts it.

    Attributes:
        batches: batches taken.
        written: messages taken.
        written_bytes: bytes of their raw lines, line ends included.

    Thread: owned by its delivery thread. The attributes may be read from any.

    >>> sink = NullBackend()
    >>> sink.write(Batch(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n'))
    >>> sink.batches, sink.written, sink.written_bytes
    (1, 1, 44)
    """

    def __init__(self) -> None:
        self.batches = 0
        self.written = 0
        self.written_bytes = 0

    def write(self, batch: Batch) -> None:
        """Count a batch; an empty one is nothing."""
        if len(batch):
            self.batches += 1
            self.written += len(batch)
            self.written_bytes += len(batch.raw)
