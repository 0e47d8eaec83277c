"""The bounded queue in front of a backend: batches in, larger batches out, and account of all."""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Callable, Optional

from wafermon.delivery.account import (
    DEAD_LETTERED,
    DELIVERED,
    INTERNAL_ERROR,
    QUEUE_FULL,
    REASONS,
    SAMPLED_FULL,
    Account,
)
from wafermon.delivery.overflow import (
    BLOCK,
    BULK,
    DROP_OLDEST,
    NEARLY_FULL,
    SAMPLE,
    Need,
    Waiting,
    evict,
    sample,
)
from wafermon.message import Batch
from wafermon.observe import CappedCounts

log = logging.getLogger("wafermon.delivery")

#: After this long without a new batch, or without a taker, the queue counts as quiet, and what is
#: there goes out.
QUIET_SECONDS = 0.0005
#: One write is at most about this large, however much is waiting.
WRITE_BYTES = 1 << 20
#: So many small batches in a row become one: each costs 500 bytes beside what it holds, which a
#: backend that is down would make a queue of single messages pay.
SMALL_BATCHES, SMALL_BYTES = 64, 1024
#: Sources whose drops are counted one by one.
MAX_LOSERS = 10_000


class BatchQueue:
    """Hold batches until their backend takes them, and keep account of every message.

    A queue that blocks always admits a batch and then says whether its feeder may go on: what has
    been read from a socket has to go somewhere, and a reader that pauses costs one more batch at
    most. A queue that drops never asks a feeder to pause; its bounds are exact, as long as what a
    worker is busy with leaves room. What a worker took counts as queued until it is `done`.

    Args:
        max_messages: messages at which the queue is full.
        max_bytes: raw bytes at which it is full.
        per_source: messages of one source at which it is full for that source.
        when_full: `block`; `drop_newest` or `drop_oldest`, of the source whose own bound it is;
            `sample`, which keeps a tenth from three quarters on and the oldest when full. On each
            heartbeats, goodbyes, errors and fatals go last.
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
        when_full: str = BLOCK,
        flush_messages: int = 100,
        flush_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.when_full = when_full
        self._per_source = max_messages if per_source is None else per_source
        self._flush_messages = flush_messages
        self._flush_seconds = flush_seconds
        self._clock = clock
        self._condition = threading.Condition(threading.Lock())
        self._waiting: collections.deque[Waiting] = collections.deque()
        self._waiting_messages = 0
        self._puts = 0
        self._taken_at = 0.0
        self._small = 0  # batches that came last and are small
        self._closed = False
        #: What a worker is busy with: messages that are done, bytes that are not, what was before.
        self._taken = Batch()
        self._taken_done = self._taken_left = self._taken_after = 0
        #: What a predecessor was busy with goes out as it was: backends know it by that.
        self._again: Optional[Batch] = None
        #: Where what is left has gone: another queue, or nowhere, for this reason.
        self._given_away = False
        self._given_up: Optional[str] = None
        #: Messages and raw bytes in here, those that a worker is busy with included.
        self.messages = self.bytes = 0
        #: Messages that a queue with a journal left there.
        self.behind = 0
        #: Messages in here by source.
        self.sources: dict[str, int] = {}
        #: Messages that came, and what became of them.
        self.offered = 0
        self.outcomes = dict.fromkeys((DELIVERED, DEAD_LETTERED, *REASONS), 0)
        #: Dropped messages by reason and source, as far as that is known without decoding what is
        #: large: not of the rest of a write of which some was done, nor of what the journal lost.
        self.lost: dict[str, CappedCounts] = {}

    @property
    def is_kept(self) -> bool:
        """Whether what is in here is safe when the process ends."""
        return False

    def account(self) -> Account:
        """What came and what became of it, all of one moment."""
        with self._condition:
            dropped = {reason: self.outcomes[reason] for reason in REASONS}
            return Account(
                self.offered,
                self.outcomes[DELIVERED],
                self.messages + self.behind,
                self.outcomes[DEAD_LETTERED],
                dropped,
            )

    # -- the way in ----------------------------------------------------------------------------

    def put(self, batch: Batch) -> bool:
        """Admit a batch, or as much of it as the policy lets in.

        Returns:
            False where the queue is now full for one of its sources: its feeder should pause.
        """
        with self._condition:
            try:
                return self._admit(batch)
            except Exception:
                if not self.outcomes[INTERNAL_ERROR]:  # once; then it is counted
                    log.exception("a batch, or some of it, is dropped by a fault of our own")
                known = self.messages + self.behind + sum(self.outcomes.values())
                self.outcomes[INTERNAL_ERROR] += self.offered - known
                return True

    def _admit(self, batch: Batch) -> bool:
        self.offered += len(batch)
        if self._given_up is not None:
            self.outcomes[self._given_up] += len(batch)
            self._lose(self._given_up, batch.sources)
            return True
        self._puts += 1
        was_empty = not self._waiting
        self._enqueue(batch)
        if was_empty or self._waiting_messages >= self._flush_messages:
            self._condition.notify()
        return self.when_full != BLOCK or self._is_under(batch.sources, 1.0)

    def _enqueue(self, batch: Batch) -> None:
        if self.when_full == BLOCK:
            self._append(batch)
            return
        try:
            parts = batch.by_source()
        except RecursionError:  # one of its messages was parsed on a shallower stack than this one
            if len(batch) == 1:
                self.outcomes[INTERNAL_ERROR] += 1
                return
            for half in batch.split(len(batch) // 2):
                half.seq = batch.seq
                self._enqueue(half)
            return
        for source, part in parts.items():
            packed = part.packed()
            packed.seq = batch.seq
            self._squeeze(source, packed)

    def _append(self, batch: Batch) -> None:
        self._waiting.append(Waiting(self._clock(), batch, batch.seq - 1))
        self._waiting_messages += len(batch)
        self._hold(batch)
        self._small = self._small + 1 if len(batch.raw) < SMALL_BYTES else 0
        if self._small == SMALL_BATCHES and self.when_full == BLOCK:
            self._condense()

    def _condense(self) -> None:
        """Make one batch of the small ones that came last. One that drops looks for its victims
        by batch, and is left alone."""
        self._small = 0
        if len(self._waiting) < SMALL_BATCHES or self._has_between(self._waiting[-1].batch):
            return
        last = [self._waiting.pop() for _ in range(SMALL_BATCHES)][::-1]
        batch = Batch.join([waiting.batch for waiting in last], keep_parts=False)
        self._waiting.append(Waiting(last[0].since, batch, last[0].after))

    def _squeeze(self, source: str, batch: Batch) -> None:
        """Admit a batch of one source and drop what is then too much."""
        if self.when_full == SAMPLE and not self._is_under([source], NEARLY_FULL):
            kept = sample(batch)
            self.outcomes[SAMPLED_FULL] += len(batch) - len(kept)
            self._lose(SAMPLED_FULL, {source: len(batch) - len(kept)})
            batch = kept
        if len(batch):
            self._append(batch)
        own = self.sources.get(source, 0) - self._per_source
        if own > 0:
            self._evict(Need(own, 0), Need(self._per_source // BULK, 0), source)
        need = Need(self.messages - self.max_messages, self.bytes - self.max_bytes)
        if need:
            self._evict(need, Need(self.max_messages // BULK, 0), None)

    def _evict(self, need: Need, bulk: Need, source: Optional[str]) -> None:
        newest_first = self.when_full != DROP_OLDEST
        for before, after in evict(
            self._waiting, need, bulk, newest_first=newest_first, source=source
        ):
            self.outcomes[QUEUE_FULL] += len(before) - len(after)
            gone = {s: n - after.sources.get(s, 0) for s, n in before.sources.items()}
            self._lose(QUEUE_FULL, gone)
            self._waiting_messages -= len(before) - len(after)
            self._let_go(before)
            self._hold(after)

    def _hold(self, batch: Batch) -> None:
        """Account for a batch that is in memory from now on."""
        self.messages += len(batch)
        self.bytes += len(batch.raw)
        for source, count in batch.sources.items():
            self.sources[source] = self.sources.get(source, 0) + count

    def _let_go(self, batch: Batch) -> None:
        self.messages -= len(batch)
        self.bytes -= len(batch.raw)
        self._forget_sources(batch)

    def _forget_sources(self, batch: Batch) -> None:
        for source, count in batch.sources.items():
            left = self.sources[source] - count
            if left:
                self.sources[source] = left
            else:
                del self.sources[source]

    # -- the way out ---------------------------------------------------------------------------

    def take(self, timeout: Optional[float] = None) -> Optional[Batch]:
        """Take what is to be written next, as one batch.

        Args:
            timeout: seconds to wait for a first batch; None waits for ever.

        Returns:
            None on a timeout, and when the queue is closed and empty.
        """
        with self._condition:
            self._condition.wait_for(self._is_due, timeout)
            if self._waiting and self._clock() < self._taken_at + QUIET_SECONDS:
                self._gather()
            return self._pop() if self._waiting else None

    def _is_due(self) -> bool:
        return bool(self._waiting or self._closed)

    def _gather(self) -> None:
        """Let more batches join while they keep coming, within the bounds."""
        due = self._waiting[0].since + self._flush_seconds
        while self._waiting_messages < self._flush_messages and not self._closed:
            seen, left = self._puts, due - self._clock()
            if left <= 0:
                return
            self._condition.wait(min(QUIET_SECONDS, left))
            if self._puts == seen:
                return

    def _pop(self) -> Batch:
        taken: list[Batch] = []
        size = self._small = 0
        self._taken_after, self._taken_at = self._waiting[0].after, self._clock()
        while self._waiting:
            batch = self._waiting[0].batch
            if taken and (size + len(batch.raw) > WRITE_BYTES or self._has_between(batch)):
                break
            taken.append(self._waiting.popleft().batch)
            size += len(batch.raw)
            self._waiting_messages -= len(batch)
            if batch is self._again:
                self._again = None
                break
        return self._lend(Batch.join(taken))

    def _has_between(self, batch: Batch) -> bool:
        """Whether something from elsewhere comes before a waiting batch."""
        return False

    def _lend(self, batch: Batch) -> Batch:
        self._taken, self._taken_done, self._taken_left = batch, 0, len(batch.raw)
        return batch

    def done(self, batch: Batch, outcome: str = DELIVERED) -> None:
        """Let go of a batch that was taken, or of the next part of it.

        Args:
            batch: what is done, in order.
            outcome: what became of it: `DELIVERED`, `DEAD_LETTERED` or the reason of its drop.
        """
        lost = batch.sources if outcome in REASONS and len(batch) == 1 else {}
        with self._condition:
            self._lose(outcome, lost)
            self._done(len(batch), len(batch.raw), outcome)

    def drop_taken(self, reason: str) -> None:
        """Drop what is not done of the batch that was taken."""
        with self._condition:
            if not self._taken_done:
                self._lose(reason, self._taken.sources)
            self._done(len(self._taken) - self._taken_done, self._taken_left, reason)

    def _done(self, count: int, size: int, outcome: str) -> None:
        if self._given_away or self._given_up is not None:
            return  # it hung: its successor makes this write again, or it is counted already
        self.outcomes[outcome] += count
        self.messages -= count
        self.bytes -= size
        self._taken_done += count
        self._taken_left -= size
        if self._taken_done >= len(self._taken):
            # Sources at the end, all at once: those of a part are known by decoding it only.
            self._forget_sources(self._taken)
            self._lend(Batch())

    def _lose(self, reason: str, sources: Mapping[str, int]) -> None:
        for source, count in sources.items():
            if count:
                if reason not in self.lost:
                    self.lost[reason] = CappedCounts(MAX_LOSERS)
                self.lost[reason].add(source, count)

    def leave(self) -> None:
        """At the end of the process: count as dropped what no journal has any more."""

    def give_up(self, reason: str) -> int:
        """Count what is still in here, and what may yet come, as dropped; how many it were."""
        with self._condition:
            left = self.messages + self.behind
            self.outcomes[reason] += left
            self._lose(reason, self.sources)
            self._given_up = reason
            self._empty()
            return left

    # -- how full ------------------------------------------------------------------------------

    def is_under(self, sources: Iterable[str]) -> bool:
        """Whether it has room, for these sources too."""
        with self._condition:
            return self._is_under(sources, 1.0)

    def is_low(self, sources: Iterable[str]) -> bool:
        """Whether feeders may go on: it is down to half its bounds, for these sources too, or has
        a policy by now that lets nobody wait."""
        with self._condition:
            return self.when_full != BLOCK or self._is_under(sources, 0.5)

    def _is_under(self, sources: Iterable[str], share: float) -> bool:
        return (
            self.messages < self.max_messages * share
            and self.bytes < self.max_bytes * share
            and all(self.sources.get(s, 0) < self._per_source * share for s in sources)
        )

    def oldest_seconds(self) -> float:
        """Age of the batch that has waited longest, those a worker is busy with not included."""
        with self._condition:
            return self._clock() - self._waiting[0].since if self._waiting else 0.0

    @property
    def oldest_ms(self) -> int:
        """When the first of what is in here was received, in Unix ms: of what a worker is busy
        with, else of what waits; 0 where there is nothing, or it waits in the journal. Takes no
        lock."""
        taken = self._taken
        if len(taken):
            return taken.received_ms
        try:
            return self._waiting[0].batch.received_ms
        except IndexError:
            return 0

    # -- life ----------------------------------------------------------------------------------

    def follow(self, other: BatchQueue) -> None:
        """Have the bounds and the policy that another queue, which is not used, was made with."""
        with self._condition:
            self.max_messages, self.max_bytes = other.max_messages, other.max_bytes
            self.when_full, self._per_source = other.when_full, other._per_source
            self._flush_messages = other._flush_messages
            self._flush_seconds = other._flush_seconds

    def adopt(self, other: BatchQueue) -> None:
        """Take over what another queue holds, in its order; nobody takes from that one any more.

        What its worker took and had not done comes first, alone. The other one is empty
        afterwards, so whoever waits for it goes on.
        """
        with other._condition, self._condition:
            if other._taken_done < len(other._taken):
                rest = _after(other._taken, other._taken_done)
                self._again = rest
                entry = Waiting(self._clock(), rest, other._taken_after)
                other._waiting.appendleft(entry)
                other._waiting_messages += len(rest)
            self._inherit(other)
            other._given_away = True
            other._empty()

    def _inherit(self, other: BatchQueue) -> None:
        """Have the state of another queue, in one's own bounds. Both are locked."""
        self._waiting, self._waiting_messages = other._waiting, other._waiting_messages
        self.messages, self.bytes, self.sources = other.messages, other.bytes, other.sources
        self.behind, self.offered, self.outcomes = other.behind, other.offered, other.outcomes
        self.lost = other.lost

    def _empty(self) -> None:
        self._waiting = collections.deque()
        self._waiting_messages = self.messages = self.bytes = self.behind = 0
        self.sources = {}
        self._lend(Batch())

    def close(self) -> None:
        """Wait for nothing any more: takers get what is there at once, and then None."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()


def _after(batch: Batch, count: int) -> Batch:
    """A batch without its first messages; it keeps its number, and in the account its sources."""
    if not count:
        return batch
    rest = batch.split(count)[1]
    rest = Batch(rest.raw, received_ms=rest.received_ms, sources=batch.sources)
    rest.seq = batch.seq
    return rest
