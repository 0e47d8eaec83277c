"""The bounded queue in front of a backend: batches in, larger batches out."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Iterable
from typing import Callable, Optional

from wafermon.message import Batch

#: After this long without a new batch the queue counts as quiet, and what is there goes out.
QUIET_SECONDS = 0.0005
#: One write is at most about this large, however much is waiting.
WRITE_BYTES = 1 << 20


class BatchQueue:
    """Hold batches until their backend takes them.

    A queue always admits a batch and then says whether its feeder may go on: what has been read
    from a socket has to go somewhere, and a reader that pauses costs one more batch at most. What
    a worker took still counts as queued until it is `done`.

    Args:
        max_messages: messages at which the queue is full.
        max_bytes: raw bytes at which it is full.
        per_source: messages of one source at which it is full for that source.
        flush_messages: this many waiting messages go out at once,
        flush_seconds: and no message waits longer than this for others to join it. Neither is
            waited for when nothing new comes in.
        clock: monotonic seconds.

    Thread: any; one takes.

    >>> queue = BatchQueue(max_messages=2)
    >>> beat = Batch(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n')
    >>> queue.put(beat), queue.put(beat)
    (True, False)
    >>> taken = queue.take(); len(taken), queue.messages
    (2, 2)
    >>> queue.done(taken); queue.messages, queue.is_low(["a"])
    (0, True)
    """

    def __init__(
        self,
        *,
        max_messages: int = 10_000,
        max_bytes: int = 64 << 20,
        per_source: Optional[int] = None,
        flush_messages: int = 100,
        flush_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self._per_source = max_messages if per_source is None else per_source
        self._flush_messages = flush_messages
        self._flush_seconds = flush_seconds
        self._clock = clock
        self._condition = threading.Condition(threading.Lock())
        self._waiting: collections.deque[tuple[float, Batch]] = collections.deque()
        self._waiting_messages = 0
        self._puts = 0
        self._closed = False
        #: Messages and raw bytes in here, those that a worker is busy with included.
        self.messages = 0
        self.bytes = 0
        #: Messages in here by source.
        self.sources: dict[str, int] = {}

    def put(self, batch: Batch) -> bool:
        """Admit a batch.

        Returns:
            False where the queue is now full for one of its sources: its feeder should pause.
        """
        sources = batch.sources
        with self._condition:
            self._waiting.append((self._clock(), batch))
            self._waiting_messages += len(batch)
            self._puts += 1
            self.messages += len(batch)
            self.bytes += len(batch.raw)
            for source, count in sources.items():
                self.sources[source] = self.sources.get(source, 0) + count
            if len(self._waiting) == 1 or self._waiting_messages >= self._flush_messages:
                self._condition.notify()
            return self._is_under(sources, 1.0)

    def take(self, timeout: Optional[float] = None) -> Optional[Batch]:
        """Take what is to be written next, as one batch.

        Args:
            timeout: seconds to wait for a first batch; None waits for ever.

        Returns:
            None on a timeout, and when the queue is closed and empty.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._closed, timeout)
            if not self._waiting:
                return None
            self._gather()
            return self._pop()

    def _gather(self) -> None:
        """Let more batches join while they keep coming, within the bounds."""
        due = self._waiting[0][0] + self._flush_seconds
        while self._waiting_messages < self._flush_messages and not self._closed:
            seen, left = self._puts, due - self._clock()
            if left <= 0:
                return
            self._condition.wait(min(QUIET_SECONDS, left))
            if self._puts == seen:
                return

    def _pop(self) -> Batch:
        taken: list[Batch] = []
        size = 0
        while self._waiting and (not taken or size + len(self._waiting[0][1].raw) <= WRITE_BYTES):
            batch = self._waiting.popleft()[1]
            taken.append(batch)
            size += len(batch.raw)
            self._waiting_messages -= len(batch)
        return Batch.join(taken)

    def done(self, batch: Batch) -> None:
        """Let go of a batch that was taken: it is delivered, or counted otherwise."""
        with self._condition:
            self.messages -= len(batch)
            self.bytes -= len(batch.raw)
            for source, count in batch.sources.items():
                left = self.sources[source] - count
                if left:
                    self.sources[source] = left
                else:
                    del self.sources[source]

    def is_under(self, sources: Iterable[str]) -> bool:
        """Whether it has room, for these sources too."""
        with self._condition:
            return self._is_under(sources, 1.0)

    def is_low(self, sources: Iterable[str]) -> bool:
        """Whether it is down to half its bounds, for these sources too: feeders may go on."""
        with self._condition:
            return self._is_under(sources, 0.5)

    def _is_under(self, sources: Iterable[str], share: float) -> bool:
        return (
            self.messages < self.max_messages * share
            and self.bytes < self.max_bytes * share
            and all(self.sources.get(s, 0) < self._per_source * share for s in sources)
        )

    def oldest_seconds(self) -> float:
        """Age of the batch that has waited longest, those a worker is busy with not included."""
        with self._condition:
            return self._clock() - self._waiting[0][0] if self._waiting else 0.0

    def close(self) -> None:
        """Wait for nothing any more: takers get what is there at once, and then None."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
