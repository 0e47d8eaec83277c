"""The pipeline: what happens to a batch between the server and the queues of the backends."""

from __future__ import annotations

import collections
import logging
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Callable, Optional, Protocol, TypeVar, Union

from wafermon.delivery.account import INTERNAL_ERROR, RATE_LIMITED
from wafermon.delivery.dead_letters import DeadLetters
from wafermon.delivery.feeders import Crowd, Feeder, Feeders
from wafermon.delivery.journal import MEMORY, Journal
from wafermon.delivery.journaled_queue import JournaledQueue
from wafermon.delivery.queue import MAX_LOSERS
from wafermon.delivery.rate_limit import RateLimit
from wafermon.delivery.route import Route
from wafermon.flow.router import Router
from wafermon.message import Batch, Reason, Reject
from wafermon.observe import CappedCounts, Family, family

log = logging.getLogger("wafermon.delivery")

T = TypeVar("T")


class Observer(Protocol):
    """Somebody who looks at every batch as it passes. Loop thread only; must be quick."""

    def observe(self, batch: Batch, now: float) -> None:
        """See a batch; `now` is monotonic seconds."""


class Watcher(Protocol):
    """Somebody who is told which sources are connected. Loop thread only; must be quick."""

    def joined(self, src: str, now: float) -> None:
        """The first message of this source on a connection has come; it is seen by the
        observers right after. `now` is monotonic seconds."""

    def left(self, src: str, lived: float, now: float, abrupt: bool = False) -> None:
        """A connection of this source has ended, so many seconds after its first message there;
        whether it was cut off, or a session that owed a goodbye."""


class Pipeline:
    """Count, show to the observers, route, queue; pause the feeders of queues that are full.

    Args:
        router: decides which backend gets what.
        routes: backend name -> its route; `start` and `stop` go to all of them.
        observers: are shown each batch, in order.
        watchers: are told which connections come and go.
        dead_letters: gets the frames that were rejected; its life is the owner's.
        journal: commits every batch, and only then receipts go back; its life is the owner's, too.
        rate_limit: drops what one source sends too fast, before anybody sees it.
        call_soon: runs a function on the loop thread; without it `resume` is the caller's task.
        max_sources: sources with a count of their own.
        clock: monotonic seconds.

    Raises:
        ValueError: the router sends to a backend that has no route.

    Thread: `submit` and `resume` loop only; `start` and `stop` the owner's; `collect` any.

    >>> from wafermon.flow import Rule
    >>> from wafermon.delivery import Backend
    >>> class Sink(Backend):
    ...     def write(self, batch):
    ...         print(batch.raw.decode(), end="")
    >>> with Pipeline(Router({"*": [Rule("sink")]}), {"sink": Route("sink", Sink())}) as pipeline:
    ...     pipeline.submit(Batch(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n'))
    {"v":1,"src":"a","ts":1,"type":"heartbeat"}
    """

    def __init__(
        self,
        router: Router,
        routes: Mapping[str, Route],
        *,
        observers: Iterable[Observer] = (),
        watchers: Iterable[Watcher] = (),
        dead_letters: Optional[DeadLetters] = None,
        journal: Optional[Journal] = None,
        rate_limit: Optional[RateLimit] = None,
        call_soon: Optional[Callable[[Callable[[], None]], None]] = None,
        max_sources: int = 200,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        missing = sorted(router.backends - set(routes))
        if missing:
            raise ValueError(f"no route for: {', '.join(missing)}")
        self.routes = dict(routes)
        #: Nobody looks at the routes, the retired ones and the journal's cursors half changed.
        self._swapping = threading.Lock()
        #: Routes that a `swap` took out and that still drain.
        self.retired: dict[str, Route] = {}
        #: What routes without a backend had not delivered when they ended, by what became of it;
        #: `given_up` is of what was `kept` at first.
        self.orphaned = {"kept": 0, "lost": 0, "given_up": 0}
        self._kept: dict[str, int] = {}
        self._router = router
        self._observers = list(observers)
        self._watchers = list(watchers)
        self.dead_letters = dead_letters
        self._call_soon = call_soon
        self._clock = clock
        self._feeders = Feeders(call_soon)
        self._commits: collections.deque[tuple[int, str]] = collections.deque()
        self.duplicates = self.rate_limited = self.internal_errors = 0
        self.rate_limit = rate_limit
        self.journal = journal
        if journal is not None:
            self._keep_orphans(journal)
            journal.on_found = self._found
            journal.positions = self._positions
            journal.undelivered = self._undelivered
            journal.on_committed = self._on_committed
            # A queue whose patience ends tells nobody by itself.
            journal.on_tick = self._feeders.look_soon
            if dead_letters is not None:
                journal.settle = dead_letters.settle
        self._max_sources = max_sources
        self.received = CappedCounts(max_sources)
        #: What was dropped before it came to a route, by source.
        self.lost = CappedCounts(MAX_LOSERS)
        self.rejected: dict[str, int] = {reason.value: 0 for reason in Reason}
        self.observer_errors = 0
        for route in self.routes.values():
            route.on_done = self._feeders.look_soon

    def submit(self, batch: Batch, feeder: Union[Feeder, Crowd, None] = None) -> None:
        """Take a batch and what was rejected with it.

        Args:
            batch: is shared with the observers; what is queued is its packed form.
            feeder: who sent it, or all who did; one is paused where a queue is full for its
                sources, and resumed when it is low again.
        """
        rejected = bool(batch.rejects)
        if rejected:
            self._reject(batch.rejects)
        self.duplicates += batch.duplicates
        for source, count in batch.sources.items():
            self.received.add(source, count)
        for step in (self._limit, self._router.clean):
            batch = self._passed(step, batch)
        seq = 0 if self.journal is None else self.journal.append(batch, rejected)
        if len(batch):
            self._route(batch, feeder)
        if self.journal is not None:
            self.journal.routed = seq
            if self.journal.is_full and feeder is not None:
                self._feeders.hold_all(
                    feeder, lambda: self.journal is None or self.journal.is_low
                )

    def expect(self, feeder: Feeder, q: int) -> None:
        """Tell a feeder once all that was submitted up to now is safe.

        Args:
            feeder: its `safe` is called, at once where that is so already.
            q: what to tell it.
        """
        if self.journal is None:
            feeder.safe(q, MEMORY, 1)
        elif self.journal.committed >= self.journal.assigned and not self._feeders.expect_receipts:
            feeder.safe(q, self.receipts, 1)
        else:
            self._feeders.expect(self.journal.assigned, feeder, q)

    @property
    def receipts(self) -> str:
        """What a receipt says as things are: `disk`, or `memory`. Any thread."""
        letters_wait = self.dead_letters is not None and not self.dead_letters.is_written
        return MEMORY if self.journal is None or letters_wait else self.journal.level

    def _on_committed(self, seq: int, level: str) -> None:
        """Called on the journal's thread."""
        self._commits.append((seq, level))
        if self._call_soon is not None:
            self._call_soon(self.committed)

    def committed(self) -> None:
        """Send the receipts of what has been committed."""
        while self._commits:
            self._feeders.committed(*self._commits.popleft())
        self._feeders.resume()

    def _positions(self) -> dict[str, int]:
        """How far each route has come. `routed` is read first: see `JournaledQueue.position`."""
        if self.journal is None:
            return {}
        routed = self.journal.routed
        with self._swapping:
            return {
                **self._orphans(self.journal),
                **{
                    name: route.queue.position(routed)
                    for name, route in {**self.retired, **self.routes}.items()
                    if isinstance(route.queue, JournaledQueue)
                },
            }

    def _found(self) -> None:
        """The journal's file could be opened at last: what is in there comes back to each route."""
        if self.journal is None:
            return
        end = self.journal.found_to
        with self._swapping:
            for name, route in {**self.retired, **self.routes}.items():
                if isinstance(route.queue, JournaledQueue):
                    route.queue.found(self.journal.cursor(name, end), end)
            self._keep_orphans(self.journal)

    def _keep_orphans(self, journal: Journal) -> None:
        """Of the cursors that were found, those of backends that are gone stay where they are."""
        journal.cursors = {
            name: seq
            for name, seq in journal.cursors.items()
            if name not in self.routes and name not in self.retired and seq < journal.found_to
        }
        for name in journal.cursors:
            log.warning("no backend %s: what it has not got stays in the journal", name)

    def _undelivered(self) -> list[range]:
        """The numbers that some route has still to deliver; `routed` is read first."""
        spans = [] if self.journal is None else [range(self.journal.routed + 1, sys.maxsize)]
        with self._swapping:
            for route in (*self.retired.values(), *self.routes.values()):
                if isinstance(route.queue, JournaledQueue):
                    spans += route.queue.undelivered()
        return spans

    def _orphans(self, journal: Journal) -> Mapping[str, int]:
        """The cursors of backends that are gone, as long as the others have half of the journal."""
        if journal.cursors and journal.bytes > journal.max_bytes // 2:
            log.error("the journal is half full: what it kept for %s is given up",
                      ", ".join(journal.cursors))  # fmt: skip
            self.orphaned["given_up"] += sum(self._kept.values())
            self._kept.clear()
            journal.cursors = {}
        return dict(journal.cursors)

    def swap(self, router: Router, routes: Mapping[str, Route]) -> list[Route]:
        """Route by another configuration from the next batch on. Loop thread only.

        Args:
            router: in place of the old one; it goes on with its counts.
            routes: all of them. One that is there already stays as it is; one of the same name as
                another, which has been halted, takes over from it. Starting them is the caller's.

        Returns:
            Those that are gone; `retire` each.
        """
        router.go_on(self._router)
        with self._swapping:
            before = {**self.retired, **self.routes}
            for name, route in routes.items():
                if name in before and before[name] is not route:
                    route.take_over(before[name])
                route.on_done = self._feeders.look_soon
            gone = [route for name, route in self.routes.items() if name not in routes]
            self.retired = {n: route for n, route in before.items() if n not in routes}
            self.routes, self._router = dict(routes), router
            if self.journal is not None:
                cursors = self.journal.cursors
                self.journal.cursors = {n: seq for n, seq in cursors.items() if n not in routes}
                self._kept = {n: count for n, count in self._kept.items() if n not in routes}
        self.resume()
        return gone

    def retire(self, route: Route, timeout: float) -> None:
        """Let a route that is gone deliver what it has, then end it. Not on the loop thread.

        Args:
            route: what it has not delivered then stays in the journal for a backend of this name;
                without one it is lost. Either way it is counted and said.
            timeout: seconds.
        """
        route.begin_stop(hurried=False)
        route.wait(timeout)
        with self._swapping:
            if self.retired.get(route.name) is not route or route.halted:
                return  # its backend comes back, and takes over
            lost = route.stop(0.0)
            kept = route.queued
            if kept and self.journal is not None and isinstance(route.queue, JournaledQueue):
                cursor = {route.name: route.queue.position(0)}
                self.journal.cursors = {**self.journal.cursors, **cursor}
                self._kept[route.name] = kept
            self.orphaned["kept"] += kept
            self.orphaned["lost"] += lost
            self.retired = {n: r for n, r in self.retired.items() if r is not route}
        route.abandon()

    def _limit(self, batch: Batch) -> Batch:
        if self.rate_limit is None:
            return batch
        admitted = self.rate_limit.admit(batch)
        if len(admitted) < len(batch):
            self.rate_limited += len(batch) - len(admitted)
            for source, count in batch.sources.items():
                lost = count - admitted.sources.get(source, 0)
                if lost:
                    self.lost.add(source, lost)
        return admitted

    def _passed(self, step: Callable[[Batch], Batch], batch: Batch) -> Batch:
        """What a step on the way in lets pass of a batch."""
        try:
            return step(batch)
        except Exception:
            parts = self._piece_by_piece(lambda piece: [step(piece).packed()], batch)
        passed = Batch.join(parts) if parts else Batch(received_ms=batch.received_ms)
        passed.marks = batch.marks
        return passed

    def _route(self, batch: Batch, feeder: Union[Feeder, Crowd, None]) -> None:
        for life in _lives(batch):
            for observer in self._observers:
                self._show(observer, life)
        try:
            parts = self._parts(batch)
        except Exception:
            parts = self._piece_by_piece(self._parts, batch)
        for name, part in parts:
            route = self.routes[name]
            part.seq = batch.seq
            if not route.offer(part) and feeder is not None:
                self._feeders.hold_back(feeder, list(part.sources), route.queue)

    def _parts(self, batch: Batch) -> list[tuple[str, Batch]]:
        return [(name, part.packed()) for name, part in self._router.route(batch)]

    def _piece_by_piece(self, work: Callable[[Batch], list[T]], batch: Batch) -> list[T]:
        """Do with the halves of a batch, and theirs, what failed with the whole: a message on
        which it fails alone is dropped and counted, and costs no other one anything.

        A message that is nested deeply is such a one: it may be parsed on the stack of its first
        reader, and not on a deeper one.
        """
        try:
            return work(batch)
        except Exception as error:
            fault = error
        if len(batch) > 1:
            halves = batch.split(len(batch) // 2)
            return [done for half in halves for done in self._piece_by_piece(work, half)]
        if not self.internal_errors:
            log.error("a message is dropped by a fault of our own; more are only counted",
                      exc_info=fault)  # fmt: skip
        self.internal_errors += len(batch)
        return []

    def _reject(self, rejects: Sequence[Reject]) -> None:
        for reject in rejects:
            self.rejected[reject.reason.value] += 1
        try:
            if self.dead_letters is not None:
                self.dead_letters.rejected(self._router.clean_rejects(rejects))
        except Exception:
            log.exception("rejected frames leave no dead letters, by a fault of our own")

    def _show(self, observer: Observer, batch: Batch) -> None:
        try:
            observer.observe(batch, self._clock())
        except Exception:
            self.observer_errors += 1
            if self.observer_errors == 1:
                log.exception("an observer failed; further failures are only counted")

    def resume(self) -> None:
        """Let the feeders go on whose queues are low again."""
        self._feeders.resume()

    def forget(self, feeder: Feeder) -> None:
        """A feeder is gone: it is not resumed, and gets no receipt."""
        self._feeders.forget(feeder)

    def joined(self, src: str) -> None:
        """The first message of this source on a connection has come."""
        for watcher in self._watchers:
            watcher.joined(src, self._clock())

    def left(self, src: str, lived: float, abrupt: bool = False) -> None:
        """A connection of this source has ended, so many seconds after its first message there."""
        for watcher in self._watchers:
            watcher.left(src, lived, self._clock(), abrupt)

    def start(self) -> None:
        """Start the delivery threads."""
        for route in self.routes.values():
            route.start()

    def stop(self, timeout: float = 10.0) -> int:
        """Flush now, wait for no timer, end. Safe without `start` and twice.

        Args:
            timeout: seconds for all routes together.

        Returns:
            How many messages were given up.
        """
        deadline = self._clock() + timeout
        routes = [*self.routes.values(), *self.retired.values()]
        for route in routes:
            route.begin_stop()
        return sum(route.stop(max(0.0, deadline - self._clock())) for route in routes)

    def abandon(self) -> None:
        """Give up what is not delivered: a `stop` that waits goes on at once. Any thread."""
        for route in (*self.routes.values(), *self.retired.values()):
            route.abandon()

    def __enter__(self) -> Pipeline:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def buffered(self) -> dict[str, int]:
        """Queued messages by source, all backends together."""
        counts = CappedCounts(self._max_sources)
        for route in self.routes.values():
            for source, count in dict(route.queue.sources).items():
                counts.add(source, count)
        return counts

    def dropped(self) -> dict[str, int]:
        """Dropped messages by source, by the rate limit and on the way to all backends together,
        as far as known: see `BatchQueue.lost`. Any thread."""
        counts = collections.Counter(dict(self.lost))
        for route in (*dict(self.retired).values(), *dict(self.routes).values()):
            for lost in dict(route.queue.lost).values():
                counts.update(dict(lost))
        return counts

    def dropped_of(self, source: str) -> list[tuple[str, str, int]]:
        """The same of one source, as `drops` has it: where, why, and how many. Any thread."""
        found = [("input", RATE_LIMITED, self.lost.get(source, 0))]
        for name, route in {**self.retired, **self.routes}.items():
            for reason, lost in dict(route.queue.lost).items():
                found.append((f"backend {name}", reason, lost.get(source, 0)))
        return [drop for drop in found if drop[2]]

    def drops(self) -> list[tuple[str, str, int]]:
        """Where messages were dropped, why, and how many: on the way in (`input`), by the rules
        (`routing`), and by each backend. Any thread."""
        found = [("input", reason, count) for reason, count in self.rejected.items()]
        found += [("input", RATE_LIMITED, self.rate_limited)]
        found += [("input", INTERNAL_ERROR, self.internal_errors)]
        found += [("routing", reason, count) for reason, count in self._router.dropped.items()]
        for name, route in {**self.retired, **self.routes}.items():
            dropped = dict(route.dropped)
            found += [(f"backend {name}", reason, count) for reason, count in dropped.items()]
        for outcome in ("lost", "given_up"):
            found += [("backends that are gone", outcome, self.orphaned[outcome])]
        return [drop for drop in found if drop[2]]

    def collect(self) -> list[Family]:
        """Yield the counters of the pipeline, of its router and of its routes."""
        families = [
            family(
                "sidecar_messages_received_total",
                "counter",
                "Accepted messages.",
                self.received,
                "source",
            ),
            family(
                "sidecar_messages_rejected_total",
                "counter",
                "Frames that were not accepted, by reason.",
                self.rejected,
                "reason",
            ),
            family(
                "sidecar_buffer_size",
                "gauge",
                "Messages in the queues of all backends.",
                self.buffered(),
                "source",
            ),
            family(
                "sidecar_messages_duplicate_total",
                "counter",
                "Frames that were discarded, as their session held them already.",
                {"": self.duplicates},
            ),
            family(
                "sidecar_observer_errors_total",
                "counter",
                "Batches that an observer failed on.",
                {"": self.observer_errors},
            ),
            family(
                "sidecar_orphaned_messages_total",
                "counter",
                "Messages that a backend had not got when the configuration lost it.",
                self.orphaned,
                "outcome",
            ),
            family(
                "sidecar_messages_dropped_total",
                "counter",
                "Accepted messages that were not delivered, by reason.",
                {RATE_LIMITED: self.rate_limited, INTERNAL_ERROR: self.internal_errors},
                "reason",
            ),
            family(
                "sidecar_rate_limit_evictions_total",
                "counter",
                "Sources whose rate was forgotten, as there were too many.",
                {"": 0 if self.rate_limit is None else self.rate_limit.evictions},
            ),
            *self._router.collect(),
        ]
        for route in {**self.retired, **self.routes}.values():
            families += route.collect()
        return families


def _lives(batch: Batch) -> list[Batch]:
    """What observers are shown one after the other: each takes a goodbye for the end."""
    try:
        return batch.lives()
    except RecursionError:  # a message cannot be parsed here: whoever does not need to, is shown it
        return [batch]
