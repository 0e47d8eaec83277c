"""A queue that overflows into the journal: a lagging route reads on from there."""

from __future__ import annotations

import collections
import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Optional

from wafermon.delivery.account import (
    INTERNAL_ERROR,
    JOURNAL_DAMAGED,
    JOURNAL_FULL,
    REROUTED,
    Account,
)
from wafermon.delivery.journal import Journal
from wafermon.delivery.journal_rows import Entry
from wafermon.delivery.overflow import BLOCK
from wafermon.delivery.queue import BatchQueue
from wafermon.delivery.skipped import Skipped
from wafermon.errors import JournalError, RetryableError
from wafermon.message import Batch, check

#: One reading of a lagging route, in raw bytes.
READ_BYTES = 256 << 10
#: How long to wait for a commit that holds what was skipped.
COMMIT_WAIT_SECONDS = 0.01
#: And before a journal that cannot be read is read again.
RETRY_SECONDS = 1.0
#: A route that may drop holds nothing back in a journal that is this full.
FULL_SHARE = 0.8

log = logging.getLogger("wafermon.delivery")


class Unread:
    """Numbers of the journal that a queue has still to read: above one, up to another; None: up to
    whatever comes, as that is skipped."""

    __slots__ = ("after", "end")

    def __init__(self, after: int, end: Optional[int]) -> None:
        self.after = after
        self.end = end


class Odd(NamedTuple):
    """A message that was read back and cannot be routed, and for which reason it is dropped."""

    reason: str
    batch: Batch


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

    After a restart both begin by reading what their route has not delivered, and what comes goes to
    memory, also where the journal's file could be opened only later: then it comes after what had
    arrived before. While the journal fails nobody lags any further: what comes goes to memory.

    What is left in the journal is counted as queued. Of what a former life left there the number is
    an upper bound, as to know more would be to decode it; once it is read the rest is `rerouted`.
    What the journal dropped is counted as soon as somebody asks, and what its disk has damaged
    becomes a dead letter.

    Args:
        journal: open; where skipped batches are.
        route: the name of the route, for its cursor.
        reroute: the part of a batch that this route gets.
        patience: seconds that feeders of a full queue pause before it lags.
        dead_letter: as that of `Route`; takes lines that are no messages any more.
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
        dead_letter: Optional[Callable[[Batch, str, str], None]] = None,
        **bounds: Any,
    ) -> None:
        super().__init__(**bounds)
        self._patience = patience
        self._full_since: Optional[float] = None  # and its feeders pause
        self._journal = journal
        self._route = route
        self._reroute = reroute
        self._dead_letter = dead_letter
        self._skipped = Skipped()
        self._is_reading = False
        end = journal.assigned
        self._offered_to = self._lag_after = end
        #: What to read from the journal, in order, each before what memory has of higher numbers.
        self._unread: collections.deque[Unread] = collections.deque()
        self.found(journal.cursor(route, end), end)
        self._holds_back = True
        self._read_failed = False
        self._waits_left = int(1 / COMMIT_WAIT_SECONDS)  # once it is closed

    def found(self, cursor: int, end: int) -> None:
        """The journal holds batches above a cursor, up to a number: read them first."""
        if cursor >= end:
            return
        counted = self._journal.counted(cursor, end)
        with self._condition:
            self._unread.appendleft(Unread(cursor, end))
            self.offered += self._skipped.add_before(counted)
            self.behind = self._skipped.total
            self._condition.notify()

    @property
    def _lagging(self) -> bool:
        """Whether what comes is left to the journal."""
        return bool(self._unread) and self._unread[-1].end is None

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
        if self._lagging and self._journal.error is not None and batch.seq > self._offered_to:
            self._unread[-1].end = self._offered_to
        self._offered_to = batch.seq
        if self._lagging and batch.seq > self._lag_after:
            self.offered += len(batch)
            self._skipped.add(batch.seq, len(batch))
            self.behind = self._skipped.total
            return True
        if super()._admit(batch):
            return True
        if self._journal.error is not None:
            return False
        if not self._lagging:
            if self._full_since is None:
                self._full_since = self._clock()
            if self._clock() < self._full_since + self._patience:
                return False
            self._full_since, self._lag_after = None, batch.seq
            self._unread.append(Unread(batch.seq, None))
        return True

    # -- the way out ---------------------------------------------------------------------------

    def take(self, timeout: Optional[float] = None) -> Optional[Batch]:
        """As `BatchQueue.take`; from the journal where what is there comes first."""
        while self._journal_is_next():
            batch = self._read_back()
            if batch is not None:
                return batch
            if self._closed and self._unread:
                self._waits_left -= 1
                if self._waits_left < 0 or self._journal.error is not None:
                    return None
        return super().take(timeout)

    def _is_due(self) -> bool:
        return bool(self._unread) or super()._is_due()

    def _journal_is_next(self) -> bool:
        with self._condition:
            if not self._unread:
                return False
            return not (self._waiting and self._waiting[0].after < self._unread[0].after)

    def _has_between(self, batch: Batch) -> bool:
        return bool(self._unread) and batch.seq > self._unread[0].after

    def _read_back(self) -> Optional[Batch]:
        """What the journal has next for this route; None after a while, or when it caught up."""
        self._is_reading = True
        try:
            return self._read_on()
        except (JournalError, RetryableError) as error:
            self._wait_out(error)
            return None
        finally:
            self._is_reading = False

    def _read_on(self) -> Optional[Batch]:
        while self._unread:
            unread = self._unread[0]
            # Before reading: what is not found then is not there. A batch that is not routed yet is
            # left alone, as it may come by memory.
            readable = min(self._journal.committed, self._journal.routed)
            if unread.end is not None:
                readable = min(readable, unread.end)
            entries = self._journal.read(unread.after, READ_BYTES)
            entries = [entry for entry in entries if entry.seq <= readable]
            if not entries:
                self._end(unread, readable)
                return None
            self._read_failed = False
            parts: list[Batch] = []
            odd: list[Odd] = []
            for entry in entries:
                for part in self._parts_of(entry, odd):
                    part.seq = entry.seq
                    parts.append(part)
            self._put_away(odd)
            whole = self._take_up(unread, entries, parts, odd)
            if whole is not None:
                return whole
        return None

    def _take_up(
        self, unread: Unread, entries: list[Entry], parts: list[Batch], odd: list[Odd]
    ) -> Optional[Batch]:
        """Go on to a number, with what there is for this route up to it."""
        seq = entries[-1].seq
        with self._condition:
            before, unread.after = unread.after, seq
            self._pass_to(entries[0].seq - 1)
            for reason, _ in odd:
                self.outcomes[reason] += 1
            # What was not left behind is of another configuration.
            self.offered += self._pass_to(seq, len(odd) + sum(map(len, parts)))
            if self.when_full != BLOCK:
                self._insert(parts, seq)
                return None
            if not parts:
                return None
            whole = Batch.join(parts)
            self._hold(whole)
            self._taken_after = before
            return self._lend(whole)

    def _parts_of(self, entry: Entry, odd: list[Odd]) -> list[Batch]:
        """What this route gets of a batch. What cannot be routed is found by halving: a message
        that a deeper stack than that of its first reader cannot decode, and a damaged one."""
        batch = entry.batch
        try:
            if not entry.is_sure:
                _prove(batch)
            part = self._reroute(batch).packed()
        except Exception as error:
            if len(batch) > 1:
                halves = batch.split(len(batch) // 2)
                return [
                    part for h in halves for part in self._parts_of(entry._replace(batch=h), odd)
                ]
            ours = entry.is_sure or isinstance(error, RecursionError)
            odd.append(Odd(INTERNAL_ERROR if ours else JOURNAL_DAMAGED, batch))
            return []
        return [part] if len(part) else []

    def _put_away(self, odd: list[Odd]) -> None:
        """Keep what is damaged for somebody to look at.

        Raises:
            RetryableError: that is not possible at the moment.
        """
        damaged = [batch for reason, batch in odd if reason == JOURNAL_DAMAGED]
        for batch in damaged:
            if self._dead_letter is not None:
                self._dead_letter(batch, self._route, JOURNAL_DAMAGED)
        if damaged:
            log.error(
                "backend %s: %d lines in the journal are damaged and no messages any more; %s",
                self._route,
                len(damaged),
                "they are dropped" if self._dead_letter is None else "they are dead letters",
            )

    def _insert(self, parts: list[Batch], end: int) -> None:
        """Put batches before those of higher numbers, within the bounds."""
        newer = []
        while self._waiting and self._waiting[-1].after >= end:
            newer.append(self._waiting.pop())
        for part in parts:
            self._enqueue(part)
        self._waiting.extend(reversed(newer))

    def _wait_out(self, error: Exception) -> None:
        if not self._read_failed:
            log.error("%s; what it holds waits", error)
        self._read_failed = True
        with self._condition:
            if not self._closed:
                self._condition.wait(RETRY_SECONDS)

    def _end(self, unread: Unread, readable: int) -> None:
        """Go on with what comes next, unless there is more to come from the journal."""
        with self._condition:
            if readable < (self._offered_to if unread.end is None else unread.end):
                self._condition.wait(COMMIT_WAIT_SECONDS)
                return
            if unread in self._unread:  # else a successor has it by now
                self._unread.remove(unread)
            self._pass_to(unread.after if self._unread else sys.maxsize)

    def _pass_to(self, seq: int, found: int = 0) -> int:
        """Count what was left up to a number and is not found there; how many of what is found
        had not been left."""
        unknown, missing = self._skipped.pass_to(seq, found)
        self.behind = self._skipped.total
        for first, count in missing:
            if first <= self._journal.dropped_to:
                self.outcomes[JOURNAL_FULL] += count
            else:
                damaged = first <= self._journal.damaged_to
                self.outcomes[JOURNAL_DAMAGED if damaged else REROUTED] += count
        return unknown

    def account(self) -> Account:
        """As `BatchQueue.account`; what the journal has dropped is known by then."""
        with self._condition:
            if not self._is_reading:  # it may have been read just before
                self._pass_to(self._journal.dropped_to)
        return super().account()

    def leave(self) -> None:
        """As `BatchQueue.leave`."""
        with self._condition:
            end, before = self._journal.dropped_to, self.messages
            while self._waiting and self._waiting[0].batch.seq <= end:
                batch = self._waiting.popleft().batch
                self._waiting_messages -= len(batch)
                self._let_go(batch)
            self.outcomes[JOURNAL_FULL] += before - self.messages
            if self.messages > self._waiting_messages and self._taken.seq <= end:
                self._done(self.messages - self._waiting_messages, self._taken_left, JOURNAL_FULL)
                self._given_up = JOURNAL_FULL  # what hangs is counted by now

    def _empty(self) -> None:
        super()._empty()
        self._skipped = Skipped()

    # -- how far -------------------------------------------------------------------------------

    def position(self, routed: int) -> int:
        """Up to which number everything is delivered, or dropped.

        Args:
            routed: the number up to which batches have been offered, read before this call.
        """
        with self._condition:
            in_flight = self.messages > self._waiting_messages
            if not (self._unread or in_flight or self._waiting):
                self._holds_back = True
                return routed
            if self.when_full != BLOCK and not self._unread and self._fills_up():
                self._holds_back = False
                return routed
            lowest = [self._taken_after] if in_flight else []
            if self._waiting:
                lowest.append(self._waiting[0].after)
            if self._unread:
                after = self._unread[0].after
                part_missing = after == self._lag_after and after > routed
                lowest.append(after - part_missing)
            return min(lowest)

    def undelivered(self) -> list[range]:
        """The numbers that it has in memory, or has still to read."""
        with self._condition:
            spans = [range(w.after + 1, w.batch.seq + 1) for w in self._waiting]
            if self.messages > self._waiting_messages:
                spans.append(range(self._taken_after + 1, self._taken.seq + 1))
            for unread in self._unread:
                end = self._offered_to if unread.end is None else unread.end
                spans.append(range(unread.after + 1, end + 1))
            return spans

    def _fills_up(self) -> bool:
        return self._journal.bytes > self._journal.max_bytes * FULL_SHARE

    # -- another configuration -----------------------------------------------------------------

    def follow(self, other: BatchQueue) -> None:
        """As `BatchQueue.follow`; from now on what is read back is routed as the other one does."""
        super().follow(other)
        if isinstance(other, JournaledQueue):
            with self._condition:
                self._reroute, self._dead_letter = other._reroute, other._dead_letter
                self._end_lag()

    def _end_lag(self) -> None:
        """What comes goes to memory where the policy is one that drops by now."""
        if self._lagging and self.when_full != BLOCK:
            self._unread[-1].end = self._offered_to

    def _inherit(self, other: BatchQueue) -> None:
        super()._inherit(other)
        if isinstance(other, JournaledQueue):
            self._unread = collections.deque(Unread(u.after, u.end) for u in other._unread)
            self._skipped = other._skipped
            self._lag_after, self._offered_to = other._lag_after, other._offered_to
            self._end_lag()
            # So that `position` does not move on with what it gave away.
            other._unread = collections.deque([Unread(0, None)])


def _prove(batch: Batch) -> None:
    """Make sure that each line is a message.

    Raises:
        ValueError: there is one that is not.
    """
    if len(batch.messages) != len(batch) or any(map(check, batch.messages)):
        raise ValueError("damaged")
