"""The journal: batches are committed here, and only then do receipts go back.

One transaction a group of batches. Where the file cannot be written the journal goes on from
memory, says so in every receipt, and keeps what a route may still have to read from here.
"""

from __future__ import annotations

import collections
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Optional

from wafermon.delivery.journal_file import ROW_BYTES, Commit, Entry, JournalFile
from wafermon.errors import JournalError
from wafermon.message import Batch
from wafermon.observe import Family, family
from wafermon.wire.sessions import MAX_SESSIONS, TTL_SECONDS

log = logging.getLogger("wafermon.journal")

DISK, MEMORY = "disk", "memory"
#: What may wait for a commit; past it feeders pause.
PENDING_BYTES = 16 << 20
#: How often a journal that cannot be written is tried again.
RETRY_SECONDS = 1.0
#: How often cursors are looked at when nothing else is to be committed.
CURSOR_SECONDS = 0.2
#: How long the end waits for a commit that hangs.
CLOSE_SECONDS = 10.0


class Journal:
    """Commit batches in groups, and remember how far each route has come.

    Args:
        path: the database file, on a local disk.
        max_bytes: raw bytes that it may hold.
        drop_oldest: past that, drop the oldest batches instead of saying `full`.
        sync: `full` survives a power failure, `normal` only the death of the process.
        commit_interval: seconds between two commits at the least, so that they are worth it.
        clock: Unix seconds.

    Thread: `append` and `routed` loop only; `read` any, one at a time; one thread commits.

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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._drop_oldest = drop_oldest
        self._commit_interval = commit_interval
        self._clock = clock
        self._file = JournalFile(path, sync=sync, clock=clock)
        self._condition = threading.Condition(threading.Lock())
        self._pending: collections.deque[Batch] = collections.deque()
        self._pending_bytes = 0
        #: What could not be written, and some route may have to read.
        self._kept: collections.deque[Batch] = collections.deque()
        self._kept_bytes = 0
        self._marks: dict[str, Optional[int]] = {}
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._closing = self._closed = False
        self._saved: dict[str, int] = {}
        self._retry_at = 0.0
        #: Gives how far each route has come; the pipeline sets it.
        self.positions: Callable[[], Mapping[str, int]] = dict
        #: Called from the journal's thread after each commit, with its number and level.
        self.on_committed: Callable[[int, str], None] = lambda seq, level: None
        #: Called from there several times a second, whatever happens.
        self.on_tick: Callable[[], None] = lambda: None
        #: Numbers: given to the last batch, routed up to, committed up to.
        self.assigned = self.routed = self.committed = 0
        #: What was found at `open`: the cursors of the routes, the marks of the sessions.
        self.cursors: dict[str, int] = {}
        self.marks: dict[str, tuple[int, float]] = {}
        #: Why receipts say `memory` at the moment, and since when (monotonic); None: all is well.
        self.error: Optional[str] = None
        self.failing_since: Optional[float] = None
        #: Why it could not be read the last time.
        self.read_error: Optional[str] = None
        self.commits = self.committed_messages = self.dropped_messages = 0

    @property
    def bytes(self) -> int:
        """Raw bytes in the database."""
        return self._file.bytes

    @property
    def quarantined(self) -> Optional[str]:
        """Where a file that could not be used was moved to."""
        return self._file.quarantined

    # -- life ----------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the database; one that cannot be used is moved to `quarantine/` beside it.

        Raises:
            JournalError: not even a new one could be made; the text names the path and the reason.
        """
        file = self._file
        file.open()
        self.cursors = file.cursors
        self.assigned = self.routed = self.committed = file.last
        self._saved = dict(file.cursors)
        newest = sorted(file.marks.items(), key=lambda item: item[1][1])[-MAX_SESSIONS:]
        alive = self._clock() - TTL_SECONDS
        self.marks = {key: mark for key, mark in newest if mark[1] > alive}
        self._marks = {key: None for key in file.marks if key not in self.marks}

    def start(self) -> None:
        """Commit from a thread of its own. After `open`."""
        self._thread.start()

    def close(self) -> int:
        """Commit what is there, cursors included, and let go. Twice is harmless.

        Returns:
            How many messages some route still needs and could not be written.
        """
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)
        if not self._thread.is_alive() and not self._closed:
            self._closed = True
            self._retry_at = 0.0
            self.commit()
            self._file.close()
        return sum(map(len, self._kept)) + sum(map(len, self._pending))

    # -- the way in ----------------------------------------------------------------------------

    def append(self, batch: Batch) -> int:
        """Number a batch and let it be committed soon.

        Args:
            batch: its `mark`, if any, is committed in the same transaction. It may be empty.

        Returns:
            Its number; it is safe once `committed` has come so far.
        """
        with self._condition:
            if len(batch) or batch.mark is not None:  # a receipt for a mark waits for it, too
                self.assigned += 1
                batch.seq = self.assigned
                if not self._pending:
                    self._condition.notify()
            if len(batch):
                kept = Batch(batch.raw, received_ms=batch.received_ms, sources={})
                kept.seq = batch.seq
                self._pending.append(kept)
                self._pending_bytes += len(batch.raw)
            if batch.mark is not None:
                self._marks[batch.mark[0]] = batch.mark[1]
            return self.assigned

    def forget(self, session: str) -> None:
        """Delete the mark of a session with the next commit."""
        with self._condition:
            self._marks[session] = None

    @property
    def is_full(self) -> bool:
        """Whether feeders should pause: it holds, or waits to hold, what it may."""
        if self._pending_bytes + self._kept_bytes > PENDING_BYTES:
            return True
        return self.error is None and not self._drop_oldest and self.bytes > self.max_bytes

    @property
    def is_low(self) -> bool:
        """Whether feeders may go on."""
        if self._pending_bytes + self._kept_bytes > PENDING_BYTES // 2:
            return False
        return self.error is not None or self._drop_oldest or self.bytes <= self.max_bytes * 0.9

    # -- commits -------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(self._is_due, CURSOR_SECONDS)
                if self._closing:
                    return
            began = time.monotonic()
            try:
                self.commit()
            except Exception:
                log.exception("a commit failed")  # and nothing is ever safe without its thread
            self.on_tick()
            left = self._commit_interval - (time.monotonic() - began)
            if left > 0:
                time.sleep(left)

    def _is_due(self) -> bool:
        return bool(self._pending or self._closing or (self._marks and self.error is None))

    def commit(self) -> None:
        """Commit what is pending, cursors and marks with it. The journal's thread only."""
        with self._condition:
            fresh, self._pending = self._pending, collections.deque()
            size, self._pending_bytes = self._pending_bytes, 0
            marks, self._marks = self._marks, {}
            seq = self.assigned
        moves = self._cursor_moves()
        if not (fresh or marks or moves or self.error):
            return
        written = self._write(fresh, marks, moves)
        with self._condition:
            if written:
                self.committed_messages += sum(map(len, self._kept)) + sum(map(len, fresh))
                self._kept.clear()
                self._kept_bytes = 0
            else:
                self._keep(fresh, size)
                self._marks = {**marks, **self._marks}
            self.committed = seq
        self.on_committed(seq, DISK if written else MEMORY)

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
        fresh: Iterable[Batch],
        marks: Mapping[str, Optional[int]],
        moves: Mapping[str, Optional[int]],
    ) -> bool:
        now = time.monotonic()
        if self.error is not None and now < self._retry_at:
            return False
        both = {**self._saved, **moves}
        saved = {route: seq for route, seq in both.items() if seq is not None}
        done = min((saved.get(route, 0) for route in self.positions()), default=0)
        bound = self.max_bytes if self._drop_oldest else None
        batches = [*self._kept, *fresh]
        if self.error is not None:
            self._file.make_room()
        try:
            dropped = self._file.write(Commit(batches, marks, moves, done, bound))
        except (sqlite3.Error, OSError) as error:
            self._failed(error, now)
            return False
        self._saved = saved
        self.dropped_messages += dropped
        self.commits += 1
        if self.error is not None:
            log.warning("the journal %s works again", self.path)
            self.error = self.failing_since = None
        return True

    def _failed(self, error: Exception, now: float) -> None:
        """Go on from memory: whoever asks for a receipt is told so."""
        if self.error is None:
            self.failing_since = now
        if self.error != str(error):
            log.error("cannot write the journal %s: %s; receipts say memory", self.path, error)
        self.error, self._retry_at = str(error), now + RETRY_SECONDS
        if type(error) is sqlite3.DatabaseError:  # malformed, or no database at all
            try:
                self._file.set_aside(error)
                self._saved = {}
            except (sqlite3.Error, OSError) as again:
                self.error = str(again)

    def _keep(self, fresh: collections.deque[Batch], size: int) -> None:
        """Of what could not be written, keep what a route may still have to read from here."""
        self._kept += fresh
        self._kept_bytes += size
        done = min(self.positions().values(), default=self.assigned)
        while self._kept and self._kept[0].seq <= done:
            self._kept_bytes -= len(self._kept.popleft().raw)

    # -- reading back --------------------------------------------------------------------------

    def read(self, after: int, limit_bytes: int = ROW_BYTES) -> list[Entry]:
        """Committed batches with numbers above `after`, in order, at least one where there is any;
        at the end of the file those that it could not take.

        Raises:
            JournalError: it cannot be read.
        """
        with self._condition:  # before the file: what leaves here is in there
            kept = [Entry(b.seq, _packed(b)) for b in self._kept if b.seq > after]
        try:
            found = self._file.read(after, limit_bytes)
        except JournalError as error:
            if self.read_error is None:
                log.error("%s", error)
            self.read_error = str(error)
            raise
        self.read_error = None
        return found or kept

    def collect(self) -> list[Family]:
        """Yield its counters."""
        return [
            family("sidecar_journal_bytes", "gauge", "Raw bytes in the journal.", {"": self.bytes}),
            family(
                "sidecar_journal_messages_total",
                "counter",
                "Messages of the journal, by what became of them.",
                {"committed": self.committed_messages, "dropped": self.dropped_messages},
                "outcome",
            ),
            family("sidecar_journal_commits_total", "counter", "Commits.", {"": self.commits}),
            family(
                "sidecar_journal_up",
                "gauge",
                "Whether receipts say disk (1) or memory (0).",
                {"": 0 if self.error else 1},
            ),
        ]


def _packed(batch: Batch) -> Batch:
    """As it would come from the file: with its sources unknown."""
    return Batch(batch.raw, received_ms=batch.received_ms)
