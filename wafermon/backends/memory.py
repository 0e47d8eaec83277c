"""The newest messages in memory, for tests and for programs that embed the sidecar."""

from __future__ import annotations

import threading
from collections import deque

from wafermon.delivery.backend import Backend
from wafermon.message import Batch, Message


class MemoryBackend(Backend):
    """Keeps the newest messages as raw lines; they outlive `close`.

    Args:
        max_messages: how many are kept. The memory held is that of their lines, and of the rest
            of the oldest batch.

    Attributes:
        written: messages taken.
        evicted: messages that fell out, oldest first.

    Raises:
        ValueError: `max_messages` below 1.

    Thread: `write` is called by its delivery thread; all else may be called from any.

    >>> sink = MemoryBackend(max_messages=1)
    >>> for ts in b"1", b"2":
    ...     sink.write(Batch(b'{"v":1,"src":"a","ts":' + ts + b',"type":"heartbeat"}\\n'))
    >>> [message["ts"] for message in sink.messages], sink.evicted
    ([2], 1)
    """

    def __init__(self, max_messages: int = 10_000) -> None:
        if max_messages < 1:
            raise ValueError(f"max_messages: expected 1 or more, got {max_messages}")
        self._max = max_messages
        self._changed = threading.Condition()
        # Packed, so that a message costs its line; the first `_skipped` lines have fallen out.
        self._batches: deque[Batch] = deque()
        self._skipped = 0
        self.written = 0
        self.evicted = 0

    def write(self, batch: Batch) -> None:
        """Keep a batch; what is too many falls out, oldest first."""
        if not len(batch):
            return
        with self._changed:
            self._batches.append(Batch(batch.raw, received_ms=batch.received_ms))
            self.written += len(batch)
            excess = max(0, self.written - self.evicted - self._max)
            self.evicted += excess
            self._skipped += excess
            while self._skipped >= len(self._batches[0]):
                self._skipped -= len(self._batches.popleft())
            self._changed.notify_all()

    @property
    def lines(self) -> list[bytes]:
        """The raw lines without their `\\n`, oldest first."""
        with self._changed:
            raw = b"".join([batch.raw for batch in self._batches])
            return raw.split(b"\n")[self._skipped : -1]

    @property
    def messages(self) -> list[Message]:
        """The messages, oldest first, decoded anew at each call."""
        lines = self.lines
        return Batch(b"\n".join(lines) + b"\n").messages if lines else []

    def wait_for(self, count: int, timeout: float = 5.0) -> bool:
        """Wait until so many messages have been written in all.

        Args:
            count: messages, those that fell out included.
            timeout: seconds at most.

        Returns:
            Whether they have.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self.written >= count, timeout)

    def clear(self) -> None:
        """Forget what is kept; it does not count as fallen out, nor as written any more."""
        with self._changed:
            self._batches.clear()
            self._skipped = self.written = self.evicted = 0
