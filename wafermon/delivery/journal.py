"""The journal: batches are committed here, and only then do receipts go back.

One transaction a group of batches. Where the file cannot be opened or written, or a commit hangs,
the journal goes on from memory, says so in every receipt, and keeps what a route has not delivered.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Optional

from wafermon.delivery.journal_database import is_damage
from wafermon.delivery.journal_file import Commit, JournalFile
from wafermon.delivery.journal_rows import ROW_BYTES, Entry
from wafermon.delivery.unwritten import Unwritten
from wafermon.errors import JournalError
from wafermon.message import Batch
from wafermon.observe import Family, family
from wafermon.wire.sessions import MAX_SESSIONS, TTL_SECONDS

log = logging.getLogger("wafermon.journal")

DISK, MEMORY = "disk", "memory"
#: What may wait for a commit, beside what routes hold anyway; past it feeders pause.
PENDING_BYTES = 16 << 20
#: How often a journal that cannot be written is tried again.
RETRY_SECONDS = 1.0
#: How often cursors are looked at when nothing else is to be committed.
CURSOR_SECONDS = 0.2
#: A commit that takes longer shows.
SLOW_SECONDS = 2.0
#: And from then on it hangs: receipts say memory, and the end does not wait for it.
HANG_SECONDS = 5.0


class Journal:
    """Commit batches in groups, and remember how far each route has come.

    Args:
        path: the database file, on a local disk.
        max_bytes: raw bytes that it may hold.
        drop_oldest: past that, drop the oldest batches instead of saying `full`.
        sync: `full` survives a power failure; `normal` only the death of the process, so receipts
            say `memory`.
        commit_interval: seconds between two commits at the least, so that they are worth it.
        prepare: as `JournalFile`.
        clock: Unix seconds.

    Thread: `append`, `routed` and `watch` loop only; `read` any, one at a time; one thread commits.

    >>> journal = Journal(f"{tmp}/journal.db")
    >>> journal.open()
    >>> seq = journal.append(Batch(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n'))
    >>> journal.commit()
    >>> journal.committed == seq, [len(entry.batch) for entry in journal.read(0)]
    (True, [1])
    >>> journal.close()
    0
    """

    def __init__(
        self,
        path: str,
        *,
        max_bytes: int = 1_000_000_000,
        drop_oldest: bool = False,
        sync: str = "full",
        commit_interval: float = 0.005,
        prepare: Optional[Callable[[], None]] = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._drop_oldest = drop_oldest
        self._commit_interval = commit_interval
        self._clock = clock
        self._file = JournalFile(path, sync=sync, prepare=prepare, clock=clock)
        self._is_synced = sync == "full"
        self._condition = threading.Condition(threading.Lock())
        self._unwritten = Unwritten()
        self._marks: dict[str, Optional[int]] = {}
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._closing = self._closed = False
        self._saved: dict[str, int] = {}
        self._retry_at = 0.0
        #: Whether the file was opened; before that, the number above which those of memory begin.
        self._is_found = False
        self._memory_from: Optional[int] = None
        #: Since when a commit is at work (monotonic).
        self._busy_since: Optional[float] = None
        #: Gives how far each route has come; the pipeline sets it.
        self.positions: Callable[[], Mapping[str, int]] = dict
        #: Gives the numbers that are not delivered, in any order; the pipeline sets it.
        self.undelivered: Callable[[], Iterable[range]] = lambda: [range(self.assigned + 1)]
        #: Called from the journal's thread where the file could be opened only after `open`, and
        #: with the marks in there.
        self.on_found: Callable[[], None] = lambda: None
        self.on_marks: Callable[[Mapping[str, tuple[int, float]]], None] = lambda marks: None
        #: Called from the journal's thread before each commit: makes safe what the marks of it
        #: cover beside its batches, and tells whether it is.
        self.settle: Callable[[], bool] = lambda: True
        #: Called from the journal's thread after each commit, with its number and level.
        self.on_committed: Callable[[int, str], None] = lambda seq, level: None
        #: Called from there several times a second, whatever happens.
        self.on_tick: Callable[[], None] = lambda: None
        #: Numbers: given to the last batch, routed up to, committed up to.
        self.assigned = self.routed = self.committed = 0
        #: What was found in the file: its last number, cursors of routes, marks of sessions.
        self.found_to = 0
        self.cursors: dict[str, int] = {}
        self.marks: dict[str, tuple[int, float]] = {}
        #: Why it cannot be written at the moment, and since when (monotonic); None: all is well.
        self.error: Optional[str] = None
        self.failing_since: Optional[float] = None
        #: Why it could not be read the last time.
        self.read_error: Optional[str] = None
        self.commits = self.committed_messages = self.dropped_messages = 0
        #: Up to which number some messages of a damaged file may be missing.
        self.damaged_to = 0

    @property
    def bytes(self) -> int:
        """Raw bytes in the database."""
        return self._file.bytes

    @property
    def quarantined(self) -> Optional[str]:
        """Where a file that could not be used was moved to."""
        return self._file.quarantined

    @property
    def lost_messages(self) -> int:
        """Messages of a damaged file that cannot be read, at the least."""
        return self._file.lost_messages

    @property
    def dropped_to(self) -> int:
        """Up to which number batches were dropped, as the journal was full."""
        return self._file.dropped_to

    @property
    def hanging_seconds(self) -> float:
        """How long a commit has been at work, where that is too long; else 0."""
        since = self._busy_since
        busy = 0.0 if since is None else time.monotonic() - since
        return busy if busy > SLOW_SECONDS else 0.0

    def cursor(self, route: str, end: int) -> int:
        """Where a route goes on: one that is new at `end`, unless its cursor may have been lost."""
        return self.cursors.get(route, 0 if self._file.cursors_lost else end)

    # -- life ----------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the database; one that is damaged is moved to `quarantine/` beside it.

        Where the disk does not let it, the journal begins in memory, and the file is opened as soon
        as that can be done: what it holds has kept its numbers, and is then read back.
        """
        self._find()
        if not self._is_found:  # no file has come so far: it would take a batch a microsecond
            self._memory_from = self.found_to = int(self._clock() * 1e6)
        self.assigned = self.routed = self.committed = self.found_to

    def _find(self) -> None:
        """Open the file, and take up what is in there."""
        file = self._file
        try:
            file.open()
            if self._memory_from is not None and file.last > self._memory_from:
                file.set_aside("its numbers are ahead of the clock", salvage=False)
        except (sqlite3.Error, OSError, JournalError) as error:
            self._failed(error, time.monotonic())
            return
        self.found_to, self.cursors, self._saved = file.last, file.cursors, dict(file.cursors)
        self._take_up(file.marks)
        self._is_found = True
        self.on_found()
        self.on_marks(self.marks)

    def _take_up(self, found: Mapping[str, tuple[int, float]]) -> None:
        """Know the sessions of the file, as far as they are not too old or ended meanwhile."""
        newest = sorted(found.items(), key=lambda item: item[1][1])[-MAX_SESSIONS:]
        alive = self._clock() - TTL_SECONDS
        with self._condition:
            ended = {key for key, q in self._marks.items() if q is None}
            self.marks = {k: mark for k, mark in newest if mark[1] > alive and k not in ended}
            for key, (q, _) in found.items():
                ours = self._marks.get(key)
                if ours is not None:
                    self._marks[key] = max(q, ours)
                elif key not in self.marks:
                    self._marks[key] = None

    def start(self) -> None:
        """Commit from a thread of its own. After `open`."""
        self._thread.start()

    def close(self) -> int:
        """Commit what is there, cursors included, and let go; a commit that hangs is left behind.
        Twice is harmless.

        Returns:
            How many messages some route still needs and could not be written.
        """
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._thread.ident is None:
            self._finish()
        else:
            began = self._busy_since or time.monotonic()
            self._thread.join(max(0.0, began + HANG_SECONDS - time.monotonic()))
        self._prune()
        return sum(map(len, self._unwritten))

    def _finish(self) -> None:
        if not self._closed:
            self._closed = True
            self._retry_at = 0.0
            try:
                self.commit()
            finally:
                self._file.close()

    # -- the way in ----------------------------------------------------------------------------

    def append(self, batch: Batch, beside: bool = False) -> int:
        """Number a batch and let it be committed soon.

        Args:
            batch: its `marks` are committed in the same transaction. It may be empty.
            beside: whether there is something for `settle`, too.

        Returns:
            Its number; it is safe once `committed` has come so far.
        """
        with self._condition:
            if len(batch) or batch.marks or beside:  # a receipt for these waits for them, too
                self.assigned += 1
                batch.seq = self.assigned
                self._condition.notify()
            if len(batch):
                self._unwritten.add(batch.seq, batch)
            self._marks.update(batch.marks)
            return self.assigned

    def forget(self, session: str) -> None:
        """Delete the mark of a session with the next commit."""
        with self._condition:
            self._marks[session] = None

    @property
    def is_full(self) -> bool:
        """Whether feeders should pause: it holds, or waits to hold, what it may."""
        if self._unwritten.excess > PENDING_BYTES:
            return True
        return self.error is None and not self._drop_oldest and self.bytes > self.max_bytes

    @property
    def is_low(self) -> bool:
        """Whether feeders may go on."""
        if self._unwritten.excess > PENDING_BYTES // 2:
            return False
        return self.error is not None or self._drop_oldest or self.bytes <= self.max_bytes * 0.9

    # -- commits -------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(self._is_due, CURSOR_SECONDS)
                closing = self._closing
            began = time.monotonic()
            try:
                if closing:
                    self._finish()
                    return
                self.commit()
            except Exception:
                log.exception("a commit failed")  # and nothing is ever safe without its thread
                if closing:
                    return
            self.on_tick()
            left = self._commit_interval - (time.monotonic() - began)
            if left > 0:
                time.sleep(left)

    def _is_due(self) -> bool:
        fresh = self.assigned > self.committed
        return bool(fresh or self._closing or (self._marks and self.error is None))

    def commit(self) -> None:
        """Commit what is pending, cursors and marks with it. The journal's thread only."""
        self._busy_since = time.monotonic()
        try:
            self._commit()
        finally:
            self._busy_since = None

    def _commit(self) -> None:
        if self._file.damage is not None:
            self._failed(self._file.damage, time.monotonic())
        may_try = self.error is None or time.monotonic() >= self._retry_at
        if may_try and not self._is_found:
            self._find()
        moves = self._cursor_moves()
        with self._condition:
            marks, self._marks = self._marks, {}
            batches = list(self._unwritten) if may_try else []
            seq = self.assigned
            if not (self._unwritten or marks or moves or self.error or seq > self.committed):
                return
        may_try = may_try and self._is_found
        settled = may_try and self.settle()
        written = may_try and self._write(batches, marks, moves)
        with self._condition:
            if written:
                self._unwritten.forget(seq)
            else:
                self._marks = {**marks, **self._marks}
            self.committed = max(seq, self.committed)
        if not written:
            self._prune()
        self.on_committed(seq, self.level if written and settled else MEMORY)

    @property
    def level(self) -> str:
        """What is safe in a journal like this, as it works now."""
        return DISK if self._is_synced and self.error is None else MEMORY

    def watch(self) -> None:
        """Go on from memory while a commit hangs. To be called about once a second."""
        since, now = self._busy_since, time.monotonic()
        if since is None or now < since + HANG_SECONDS:
            return
        self._failed(TimeoutError("a commit hangs"), since)
        with self._condition:
            seq = self.committed = self.assigned
        self._prune()
        self.on_committed(seq, MEMORY)

    def _cursor_moves(self) -> dict[str, Optional[int]]:
        """The cursors that have moved; None for those of routes that are gone."""
        positions = self.positions()
        gone = self._saved.keys() - positions.keys() if positions else ()
        # While it fails all of them: something to write, as a proof that it works again.
        moves = {
            route: seq
            for route, seq in positions.items()
            if self.error is not None or seq > self._saved.get(route, -1)
        }
        return {**moves, **dict.fromkeys(gone)}

    def _write(
        self,
        batches: Sequence[Batch],
        marks: Mapping[str, Optional[int]],
        moves: Mapping[str, Optional[int]],
    ) -> bool:
        both = {**self._saved, **moves}
        saved = {route: seq for route, seq in both.items() if seq is not None}
        done = min((saved.get(route, 0) for route in self.positions()), default=0)
        bound = self.max_bytes if self._drop_oldest else None
        if self.error is not None:
            self._file.make_room()
        try:
            dropped = self._file.write(Commit(batches, marks, moves, done, bound))
        except (sqlite3.Error, OSError) as error:
            self._failed(error, time.monotonic())
            return False
        self._saved = saved
        self.dropped_messages += dropped
        self.committed_messages += sum(map(len, batches))
        self.commits += 1
        if self.error is not None:
            log.warning("the journal %s works again", self.path)
            self.error = self.failing_since = None
        return True

    def _failed(self, error: Exception, now: float) -> None:
        """Go on from memory: whoever asks for a receipt is told so."""
        if self.error is None:
            self.failing_since = now
        text = str((isinstance(error, OSError) and error.strerror) or error)
        if self.error != text:
            log.error("cannot write the journal %s: %s; receipts say memory", self.path, text)
        self.error, self._retry_at = text, now + RETRY_SECONDS
        if self._is_found and is_damage(error):
            try:
                self._file.set_aside(error)
                self._saved, self.damaged_to, self._retry_at = {}, self.assigned, 0.0
            except (sqlite3.Error, OSError) as again:
                self.error = str(again)

    def _prune(self) -> None:
        """Of what could not be written, keep what some route has not delivered. Those routes have
        it in memory, or read it from here; so it is bounded by what their queues may hold."""
        done = min(self.positions().values(), default=self.assigned)
        with self._condition:
            self._unwritten.forget(done)
            if self._unwritten.excess <= PENDING_BYTES // 2 and not self._closing:
                return
        spans = self.undelivered()
        with self._condition:
            self._unwritten.keep(spans)

    # -- reading back --------------------------------------------------------------------------

    def read(self, after: int, limit_bytes: int = ROW_BYTES) -> list[Entry]:
        """Committed batches with numbers above `after`, in order, at least one where there is any;
        at the end of the file those that it could not take.

        Raises:
            JournalError: it cannot be read.
        """
        kept: list[Entry] = []
        size = 0
        with self._condition:  # before the file: what leaves here is in there
            for batch in self._unwritten:
                if batch.seq > self.committed or size > limit_bytes:
                    break
                if batch.seq > after:
                    kept.append(Entry(batch.seq, _packed(batch)))
                    size += len(batch.raw)
        try:
            found = self._file.read(after, limit_bytes) if self._is_found else []
        except JournalError as error:
            if self.read_error is None:
                log.error("%s", error)
            self.read_error = str(error)
            raise
        self.read_error = None
        return found or kept

    def counted(self, after: int, end: int) -> list[tuple[int, int]]:
        """The numbers above `after`, up to `end`, that have messages, each with how many; none
        where that cannot be read."""
        with self._condition:
            kept = [(batch.seq, len(batch)) for batch in self._unwritten]
        try:
            found = dict(self._file.counted(after)) if self._is_found else {}
        except JournalError:
            return []
        return sorted((s, n) for s, n in {**dict(kept), **found}.items() if after < s <= end)

    def collect(self) -> list[Family]:
        """Yield its counters."""
        return [
            family("sidecar_journal_bytes", "gauge", "Raw bytes in the journal.", {"": self.bytes}),
            family(
                "sidecar_journal_capacity_bytes",
                "gauge",
                "Raw bytes that the journal may hold.",
                {"": self.max_bytes},
            ),
            family(
                "sidecar_journal_messages_total",
                "counter",
                "Messages of the journal, by what became of them.",
                {
                    "committed": self.committed_messages,
                    "dropped": self.dropped_messages,
                    "damaged": self.lost_messages,
                },
                "outcome",
            ),
            family("sidecar_journal_commits_total", "counter", "Commits.", {"": self.commits}),
            family(
                "sidecar_journal_up",
                "gauge",
                "Whether it can be written (1), or all is kept in memory (0).",
                {"": 0 if self.error or self.hanging_seconds else 1},
            ),
        ]


def _packed(batch: Batch) -> Batch:
    """As it would come from the file: with its sources unknown."""
    return Batch(batch.raw, received_ms=batch.received_ms)
