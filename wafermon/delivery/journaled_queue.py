"""A queue that overflows into the journal: a lagging route reads on from there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Optional

from wafermon.delivery.account import INTERNAL_ERROR, JOURNAL_FULL, REROUTED
from wafermon.delivery.journal import Journal
from wafermon.delivery.overflow import BLOCK
from wafermon.delivery.queue import BatchQueue
from wafermon.errors import JournalError
from wafermon.message import Batch

#: One reading of a lagging route, in raw bytes.
READ_BYTES = 256 << 10
#: How long to wait for a commit that holds what was skipped.
COMMIT_WAIT_SECONDS = 0.01
#: And before a journal that cannot be read is read again.
RETRY_SECONDS = 1.0
#: A route that may drop holds nothing back in a journal that is this full.
FULL_SHARE = 0.8

log = logging.getLogger("wafermon.delivery")


class JournaledQueue(BatchQueue):
    """Feed a route from memory while it keeps up, and from the journal where it lags.

    One that blocks skips what comes once it is full, as the journal has it; when the memory is
    used up it reads on where memory ended, and changes back when it has caught up. Since to read
    back costs three times what memory does, its feeder first pauses for a moment: a backend that
    is merely behind catches up meanwhile, and one that is dead holds nobody any longer than that.
    The journal, when it is full, pauses all feeders. What is read back is routed as the
    configuration says then, so it may be more or less than what was skipped.

    One that drops keeps to its bounds in memory, journal or not, and never lags, as its user said
    that these messages may go. In a journal that fills up it holds nothing back: until there is
    room again, a crash loses what it has in memory.

    After a restart both begin by reading what their route has not delivered.

    Args:
        journal: open; where skipped batches are.
        route: the name of the route, for its cursor.
        reroute: the part of a batch that this route gets.
        patience: seconds that feeders of a full queue pause before it lags.
        bounds: as `BatchQueue`.

    Thread: as `BatchQueue`.
    """

    def __init__(
        self,
        journal: Journal,
        route: str,
        reroute: Callable[[Batch], Batch],
        *,
        patience: float = 0.0,
        **bounds: Any,
    ) -> None:
        super().__init__(**bounds)
        self._patience = patience
        self._full_since: Optional[float] = None  # and its feeders pause
        self._journal = journal
        self._reroute = reroute
        self._rerouted = False
        end = journal.assigned
        cursor = journal.cursors.get(route, end)
        self._lagging = cursor < end
        #: Numbers: read up to, in memory before the lag up to, offered last.
        self._read_to = self._lag_after = cursor
        self._offered_to = end
        #: Where the lag ends, as what comes goes to memory. None: what comes is skipped.
        self._lag_end: Optional[int] = None if self.when_full == BLOCK else end
        self._holds_back = True
        self._read_failed = False
        self._waits_left = int(1 / COMMIT_WAIT_SECONDS)  # once it is closed

    @property
    def is_kept(self) -> bool:
        """As `BatchQueue.is_kept`; so it is while the journal works."""
        return self._journal.error is None and self._holds_back

    def is_low(self, sources: Iterable[str]) -> bool:
        """As `BatchQueue.is_low`; once the journal works again one that blocks may lag there."""
        if super().is_low(sources):
            self._full_since = None
            return True
        may_lag = self.when_full == BLOCK and self._journal.error is None
        since = self._full_since
        return may_lag and (since is None or self._clock() >= since + self._patience)

    def _admit(self, batch: Batch) -> bool:
        # A batch comes in a part a source, all of one number: they share one fate.
        self._offered_to = batch.seq
        if self._lagging and self._lag_end is None and batch.seq > self._lag_after:
            self.offered += len(batch)
            self.behind += len(batch)
            return True  # where the journal cannot be written, it has a bound of its own in memory
        if super()._admit(batch):
            return True
        if self._journal.error is not None or (self._lagging and self._lag_end is not None):
            return False
        if not self._lagging:
            if self._full_since is None:
                self._full_since = self._clock()
            if self._clock() < self._full_since + self._patience:
                return False
            self._lagging, self._lag_end, self._full_since = True, None, None
            self._read_to = self._lag_after = batch.seq
        return True

    # -- the way out ---------------------------------------------------------------------------

    def take(self, timeout: Optional[float] = None) -> Optional[Batch]:
        """As `BatchQueue.take`; from the journal where what is there comes first."""
        while self._journal_is_next():
            batch = self._read_back()
            if batch is not None:
                return batch
            if self._closed and self._lagging:
                self._waits_left -= 1
                if self._waits_left < 0 or self._journal.error is not None:
                    return None
        return super().take(timeout)

    def _journal_is_next(self) -> bool:
        with self._condition:
            if not self._lagging or self._lag_end is not None:
                return self._lagging
            return not (self._waiting and self._waiting[0].after < self._read_to)

    def _read_back(self) -> Optional[Batch]:
        """What the journal has next for this route; None after a while, or when it caught up."""
        while True:
            # Both before reading: what is not found then is not there. A batch that is not routed
            # yet is left alone, as it may come by memory.
            readable = min(self._journal.committed, self._journal.routed)
            if self._lag_end is not None:
                readable = min(readable, self._lag_end)
            try:
                entries = self._journal.read(self._read_to, READ_BYTES)
            except JournalError as error:
                self._wait_out(error)
                return None
            entries = [entry for entry in entries if entry.seq <= readable]
            if not entries:
                self._end_lag(readable)
                return None
            self._read_failed = False
            parts = []
            for seq, batch in entries:
                for part in self._parts_of(batch):
                    part.seq = seq
                    parts.append(part)
            whole = self._take_up(entries[-1].seq, parts)
            if whole is not None:
                return whole

    def _take_up(self, seq: int, parts: list[Batch]) -> Optional[Batch]:
        """Go on to a number, with what there is for this route up to it."""
        with self._condition:
            before, self._read_to = self._read_to, seq
            count = sum(map(len, parts))
            skipped = min(self.behind, count)
            self.behind -= skipped
            self.offered += count - skipped  # of a former life, or of another configuration
            if self._lag_end is not None:
                self._insert(parts, self._lag_end)
                return None
            if not parts:
                return None
            whole = Batch.join(parts)
            self._hold(whole)
            self._taken_after = before
            return self._lend(whole)

    def _parts_of(self, batch: Batch) -> list[Batch]:
        """What this route gets of a batch. A message that a deeper stack than that of its first
        reader cannot decode is dropped and counted."""
        try:
            part = self._reroute(batch).packed()
        except RecursionError:
            if len(batch) > 1:
                return [p for half in batch.split(len(batch) // 2) for p in self._parts_of(half)]
            with self._condition:
                self.offered += 1
                self.outcomes[INTERNAL_ERROR] += 1
            return []
        return [part] if len(part) else []

    def _insert(self, parts: list[Batch], end: int) -> None:
        """Put batches before those that came since the lag ended, within the bounds."""
        newer = []
        while self._waiting and self._waiting[-1].after >= end:
            newer.append(self._waiting.pop())
        for part in parts:
            self._enqueue(part)
        self._waiting.extend(reversed(newer))

    def _wait_out(self, error: JournalError) -> None:
        if not self._read_failed:
            log.error("%s; what it holds waits", error)
        self._read_failed = True
        with self._condition:
            if not self._closed:
                self._condition.wait(RETRY_SECONDS)

    def _end_lag(self, readable: int) -> None:
        """Go on from memory, unless there is more to come from the journal."""
        with self._condition:
            if readable < (self._offered_to if self._lag_end is None else self._lag_end):
                self._condition.wait(COMMIT_WAIT_SECONDS)
                return
            self._lagging, self._lag_end = False, None
            # What was skipped and could not be read again: the journal dropped it, unless another
            # configuration sends it elsewhere by now.
            self.outcomes[REROUTED if self._rerouted else JOURNAL_FULL] += self.behind
            self.behind = 0
            self._rerouted = False

    # -- how far -------------------------------------------------------------------------------

    def position(self, routed: int) -> int:
        """Up to which number everything is delivered, or dropped.

        Args:
            routed: the number up to which batches have been offered, read before this call.
        """
        with self._condition:
            in_flight = self.messages > self._waiting_messages
            if not (self._lagging or in_flight or self._waiting):
                self._holds_back = True
                return routed
            if self.when_full != BLOCK and not self._lagging and self._fills_up():
                self._holds_back = False
                return routed
            if in_flight:
                return self._taken_after
            if self._waiting and not (self._lagging and self._waiting[0].after >= self._read_to):
                return self._waiting[0].after
            part_missing = self._read_to == self._lag_after and self._read_to > routed
            return self._read_to - part_missing

    def _fills_up(self) -> bool:
        return self._journal.bytes > self._journal.max_bytes * FULL_SHARE

    # -- another configuration -----------------------------------------------------------------

    def follow(self, other: BatchQueue) -> None:
        """As `BatchQueue.follow`; from now on what is read back is routed as the other one does."""
        super().follow(other)
        if isinstance(other, JournaledQueue):
            with self._condition:
                self._reroute, self._rerouted = other._reroute, self._lagging

    def _inherit(self, other: BatchQueue) -> None:
        super()._inherit(other)
        if isinstance(other, JournaledQueue):
            self._read_to, self._lag_after = other._read_to, other._lag_after
            self._offered_to, self._lag_end = other._offered_to, other._lag_end
            self._lagging = self._rerouted = other._lagging
            if self._lagging and self._lag_end is None and self.when_full != BLOCK:
                self._lag_end = self._offered_to
            other._lagging = True  # so that `position` does not move on with what it gave away
