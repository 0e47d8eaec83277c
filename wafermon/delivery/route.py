"""A route: one backend with its queue, its retries and its own thread."""

from __future__ import annotations

import logging
import threading
import time
from typing import Callable, Optional

from wafermon.delivery.backend import Backend
from wafermon.delivery.queue import BatchQueue
from wafermon.delivery.retry import Retry
from wafermon.delivery.slots import Slots
from wafermon.errors import BackendError, PermanentError, RetryableError
from wafermon.message import Batch
from wafermon.observe import Family, Histogram, Sample, family

#: The queue has been quiet for this long when a backend is asked what else is due.
IDLE_AFTER_SECONDS = 0.2

#: Called with a batch of one that was refused for good, the backend's name and the reason.
DeadLetter = Callable[[Batch, str, str], None]

log = logging.getLogger("wafermon.delivery")


class Route:
    """Deliver batches to one backend, in order, each until it is taken.

    offered = delivered + queued + dead-lettered + dropped, at any time.

    Life cycle: `start` once, `stop` any number of times, also without `start`. Batches offered
    before `start` wait.

    Args:
        name: the backend's name, for counters and the log.
        backend: owned from now on.
        queue: its bounds are the route's bounds.
        retry: how long to wait after a failure.
        slots: shared bound on busy threads.
        dead_letter: takes what the backend refuses for good; without it, that is only counted.
        drop_when_full: drop and count what does not fit, where no feeder can be paused.
        on_done: called from the delivery thread after each batch.
        clock: monotonic seconds.

    Thread: `offer` and the counters any; one delivery thread does the rest.

    >>> class Sink(Backend):
    ...     def write(self, batch):
    ...         print(len(batch))
    >>> route = Route("sink", Sink())
    >>> route.start()
    >>> route.offer(Batch(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n'))
    True
    >>> route.stop(timeout=5)
    1
    0
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        *,
        queue: Optional[BatchQueue] = None,
        retry: Optional[Retry] = None,
        slots: Optional[Slots] = None,
        dead_letter: Optional[DeadLetter] = None,
        drop_when_full: bool = False,
        on_done: Optional[Callable[[], None]] = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.backend = backend
        self.queue = queue or BatchQueue()
        self.on_done = on_done
        self._retry = retry or Retry()
        self._slots = slots or Slots(1)
        self._dead_letter = dead_letter
        self._drop_when_full = drop_when_full
        self._clock = clock
        self._thread = threading.Thread(target=self._run, name=f"route-{name}", daemon=True)
        self._stopping = threading.Event()
        self._abandoned = threading.Event()
        self._ended = threading.Event()
        self._opened = False
        self._settled = 0  # messages of the batch at hand that are delivered or dead-lettered
        self.offered = self.delivered = self.dead_lettered = self.retries = 0
        self.dropped: dict[str, int] = {"queue_full": 0, "shutdown": 0, "internal_error": 0}
        self.latency = Histogram()
        #: What the backend last failed with, and since when it fails; None while it works.
        self.error: Optional[str] = None
        self.failing_since: Optional[float] = None

    def start(self) -> None:
        """Start the delivery thread; it opens the backend."""
        self._thread.start()

    def offer(self, batch: Batch) -> bool:
        """Queue a packed batch.

        Returns:
            False where the feeder should pause until the queue is low.
        """
        self.offered += len(batch)
        if self._drop_when_full and not self.queue.is_under(batch.sources):
            self.dropped["queue_full"] += len(batch)
            return True
        return self.queue.put(batch) or self._drop_when_full

    def stop(self, timeout: float) -> int:
        """Flush now and end; a hanging backend is left behind at the deadline.

        Args:
            timeout: seconds.

        Returns:
            How many messages were given up, counted as dropped{shutdown}.
        """
        self.begin_stop()
        if self._thread.ident is not None:
            self._ended.wait(timeout)
        self._abandoned.set()
        if self._thread.is_alive():
            self._thread.join(0.05)  # it may only have been waiting for a retry
        left = self.queued
        if left:
            self.dropped["shutdown"] = left
            log.error("backend %s: %d messages given up at shutdown", self.name, left)
        return self.dropped["shutdown"]

    @property
    def queued(self) -> int:
        """Messages that still wait for their delivery."""
        return 0 if self.dropped["shutdown"] else self.queue.messages - self._settled

    def begin_stop(self) -> None:
        """Tell the thread to flush and end, without waiting for it."""
        self._stopping.set()
        self.queue.close()

    def abandon(self) -> None:
        """Give up what is not delivered: a `stop` that waits goes on at once. Any thread."""
        self._abandoned.set()
        self._ended.set()

    def _run(self) -> None:
        idle_due: Optional[float] = self._clock()
        while not self._abandoned.is_set():
            timeout = None if idle_due is None else max(0.0, idle_due - self._clock())
            batch = self.queue.take(timeout)
            if batch is not None:
                self._serve(batch)
                idle_due = self._clock() + IDLE_AFTER_SECONDS
            elif self._stopping.is_set():
                break
            else:
                idle_due = self._idle()
        self._guarded(self.backend.close)
        self._ended.set()

    def _serve(self, batch: Batch) -> None:
        """Deliver a batch that was taken, and let go of it; nothing ends the thread."""
        try:
            self._deliver(batch)
        except Exception as error:
            self._failed(error)
            self.dropped["internal_error"] += len(batch) - self._settled
        else:
            if self._settled < len(batch):
                return  # abandoned: it stays queued
        self._settled = 0
        self.queue.done(batch)
        if self.on_done is not None:
            self.on_done()

    def _idle(self) -> Optional[float]:
        """Let the backend open itself, or do what is due; tell when to come back."""
        due: list[Optional[float]] = [None]

        def attend() -> None:
            self._open()
            due[0] = self.backend.idle()

        if not self._guarded(attend):
            return self._clock() + self._retry.maximum
        return None if due[0] is None else self._clock() + due[0]

    def _guarded(self, call: Callable[[], None]) -> bool:
        try:
            with self._slots:
                call()
        except Exception as error:
            self._failed(error)
            return False
        return True

    def _open(self) -> None:
        if not self._opened:
            self.backend.open()
            self._opened = True

    def _deliver(self, batch: Batch) -> None:
        """Write a batch until it is taken, refused for good, or the route is abandoned."""
        failures = 0
        while not self._abandoned.is_set():
            error = self._attempt(batch)
            if error is None:
                self.delivered += len(batch)
                self._settled += len(batch)
                return
            if isinstance(error, PermanentError):
                self._refused(batch, error)
                return
            failures += 1
            self.retries += 1
            self._failed(error)
            self._pause(self._retry.delay(failures, getattr(error, "retry_after", None)))

    def _attempt(self, batch: Batch) -> Optional[Exception]:
        began = self._clock()
        try:
            with self._slots:
                self._open()
                self.backend.write(batch)
        except RecursionError as error:
            return PermanentError(f"nested too deeply: {error}")  # the message's fault
        except Exception as error:
            return error
        self.latency.observe(self._clock() - began)
        if self.failing_since is not None:
            log.warning("backend %s works again", self.name)
            self.error = self.failing_since = None
        return None

    def _refused(self, batch: Batch, error: Exception) -> None:
        """Find the guilty line by halving; everything around it is delivered."""
        if len(batch) > 1:
            for half in batch.halves():
                self._deliver(half)
            return
        self.dead_lettered += 1
        self._settled += 1
        if self._dead_letter is not None:
            self._dead_letter(batch, self.name, str(error))

    def _failed(self, error: Exception) -> None:
        text = str(error) if isinstance(error, BackendError) else f"unexpected {error!r}"
        if self.failing_since is None:
            self.failing_since = self._clock()
        if text != self.error:  # once an outage, or when it changes its face
            unknown = not isinstance(error, RetryableError)
            log.error("backend %s: %s", self.name, text[:500], exc_info=unknown and error)
        self.error = text
        self._opened = False

    def _pause(self, seconds: float) -> None:
        """Wait before the next try; at a stop only as long as it takes not to spin."""
        if self._stopping.is_set():
            self._abandoned.wait(min(seconds, 0.1))
        else:
            self._stopping.wait(seconds)

    def collect(self) -> list[Family]:
        """Yield the counters of this route."""
        label = (("backend", self.name),)
        return [
            family(
                "sidecar_messages_routed_total",
                "counter",
                "Messages handed to a backend's queue.",
                {self.name: self.offered},
                "backend",
            ),
            Family(
                "sidecar_backend_latency_seconds",
                "histogram",
                "Time a backend took for a batch.",
                self.latency.samples(label),
            ),
            Family(
                "sidecar_backend_messages_total",
                "counter",
                "What became of the messages of a backend.",
                [
                    Sample("", (*label, ("outcome", outcome)), count)
                    for outcome, count in (
                        ("delivered", self.delivered),
                        ("dead_lettered", self.dead_lettered),
                        *((f"dropped_{reason}", n) for reason, n in self.dropped.items()),
                    )
                ],
            ),
            family(
                "sidecar_backend_queued_messages",
                "gauge",
                "Messages in a backend's queue.",
                {self.name: self.queued},
                "backend",
            ),
            family(
                "sidecar_backend_retries_total",
                "counter",
                "Writes that a backend could not take at first.",
                {self.name: self.retries},
                "backend",
            ),
            family(
                "sidecar_messages_dropped_total",
                "counter",
                "Accepted messages that were not delivered, by reason.",
                self.dropped,
                "reason",
            ),
        ]
