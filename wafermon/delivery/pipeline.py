"""The pipeline: what happens to a batch between the server and the queues of the backends."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Callable, Optional, Protocol

from wafermon.delivery.dead_letters import DeadLetters
from wafermon.delivery.route import Route
from wafermon.flow.router import Router
from wafermon.message import Batch, Reason, Reject
from wafermon.observe import CappedCounts, Family, family

log = logging.getLogger("wafermon.delivery")


class Feeder(Protocol):
    """Where batches come from: something that can be told to wait."""

    def pause(self) -> None:
        """Stop reading; called on the loop thread."""

    def resume(self) -> None:
        """Read on; called on the loop thread."""


class Observer(Protocol):
    """Somebody who looks at every batch as it passes. Loop thread only; must be quick."""

    def observe(self, batch: Batch, now: float) -> None:
        """See a batch; `now` is monotonic seconds."""


class Pipeline:
    """Count, show to the observers, route, queue; pause the feeders of queues that are full.

    Args:
        router: decides which backend gets what.
        routes: backend name -> its route; `start` and `stop` go to all of them.
        observers: are shown each batch, in order.
        dead_letters: gets the frames that were rejected.
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
        dead_letters: Optional[DeadLetters] = None,
        call_soon: Optional[Callable[[Callable[[], None]], None]] = None,
        max_sources: int = 200,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        missing = sorted(router.backends - set(routes))
        if missing:
            raise ValueError(f"no route for: {', '.join(missing)}")
        self.routes = dict(routes)
        self._router = router
        self._observers = list(observers)
        self._dead_letters = dead_letters
        self._call_soon = call_soon
        self._clock = clock
        #: Feeders that wait, each with the routes and sources that it waits for.
        self._paused: dict[Feeder, list[tuple[Route, Sequence[str]]]] = {}
        self._resume_asked = False
        self._max_sources = max_sources
        self.received = CappedCounts(max_sources)
        self.rejected: dict[str, int] = {reason.value: 0 for reason in Reason}
        self.observer_errors = 0
        for route in self.routes.values():
            route.on_done = self._on_done

    def submit(self, batch: Batch, feeder: Optional[Feeder] = None) -> None:
        """Take a batch and what was rejected with it.

        Args:
            batch: is shared with the observers; what is queued is its packed form.
            feeder: is paused where a queue is full, and resumed when it is low again.
        """
        if batch.rejects:
            self._reject(batch.rejects)
        if not len(batch):
            return
        for source, count in batch.sources.items():
            self.received.add(source, count)
        for observer in self._observers:
            self._show(observer, batch)
        for name, part in self._router.route(batch):
            route = self.routes[name]
            packed = part.packed()
            if not route.offer(packed) and feeder is not None:
                self._pause(feeder, route, list(packed.sources))

    def _reject(self, rejects: Sequence[Reject]) -> None:
        for reject in rejects:
            self.rejected[reject.reason.value] += 1
        if self._dead_letters is not None:
            self._dead_letters.rejected(rejects)

    def _show(self, observer: Observer, batch: Batch) -> None:
        try:
            observer.observe(batch, self._clock())
        except Exception:
            self.observer_errors += 1
            if self.observer_errors == 1:
                log.exception("an observer failed; further failures are only counted")

    def _pause(self, feeder: Feeder, route: Route, sources: Sequence[str]) -> None:
        waits = self._paused.get(feeder)
        if waits is None:
            waits = self._paused[feeder] = []
            feeder.pause()
        waits.append((route, sources))
        if route.queue.is_low(sources):
            self._on_done()  # it ran empty before it was known that somebody waits

    def _on_done(self) -> None:
        """A delivery thread let go of a batch: let the loop see who may go on."""
        if self._paused and self._call_soon is not None and not self._resume_asked:
            self._resume_asked = True
            self._call_soon(self.resume)

    def resume(self) -> None:
        """Let the feeders go on whose queues are low again."""
        self._resume_asked = False
        for feeder, waits in list(self._paused.items()):
            waits[:] = [(r, sources) for r, sources in waits if not r.queue.is_low(sources)]
            if not waits:
                del self._paused[feeder]
                feeder.resume()

    def forget(self, feeder: Feeder) -> None:
        """A feeder is gone."""
        self._paused.pop(feeder, None)

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
        for route in self.routes.values():
            route.begin_stop()
        return sum(
            route.stop(max(0.0, deadline - self._clock())) for route in self.routes.values()
        )

    def abandon(self) -> None:
        """Give up what is not delivered: a `stop` that waits goes on at once. Any thread."""
        for route in self.routes.values():
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
                "sidecar_observer_errors_total",
                "counter",
                "Batches that an observer failed on.",
                {"": self.observer_errors},
            ),
            *self._router.collect(),
        ]
        for route in self.routes.values():
            families += route.collect()
        return families
