"""A route: one backend with its queue, its retries and its own thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import Callable, Optional

from wafermon.delivery.account import (
    DEAD_LETTERED,
    DELIVERED,
    GAVE_UP,
    INTERNAL_ERROR,
    REFUSED,
    SHUTDOWN,
)
from wafermon.delivery.backend import Backend
from wafermon.delivery.breaker import Breaker
from wafermon.delivery.queue import BatchQueue
from wafermon.delivery.retry import Retry
from wafermon.delivery.route_families import families
from wafermon.delivery.slots import Slots
from wafermon.errors import BackendError, PermanentError, RetryableError
from wafermon.message import Batch
from wafermon.observe import Family, Histogram

#: The queue has been quiet for this long when a backend is asked what else is due.
IDLE_AFTER_SECONDS = 0.2

#: Called with a batch of one that was refused for good, the backend's name and the reason. Raises
#: RetryableError where it is kept nowhere.
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
        queue: its bounds and its policy are the route's.
        retry: how long to wait after a failure.
        breaker: while it is open, the batch at hand is tried now and then.
        slots: shared bound on busy threads.
        timeout: seconds after which a write counts as hanging; what ends it is the backend's own.
        dead_letter: takes what the backend refuses for good; without it, that is dropped.
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
        breaker: Optional[Breaker] = None,
        slots: Optional[Slots] = None,
        timeout: float = 10.0,
        dead_letter: Optional[DeadLetter] = None,
        on_done: Optional[Callable[[], None]] = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.backend = backend
        self.queue = queue or BatchQueue()
        self.breaker = breaker or Breaker()
        self.on_done = on_done
        self._retry = retry or Retry()
        self._slots = slots or Slots(1)
        self._timeout = timeout
        self._dead_letter = dead_letter
        self._clock = clock
        self._thread = threading.Thread(target=self._run, name=f"route-{name}", daemon=True)
        self._stopping = threading.Event()
        self._awake = threading.Event()  # set: wait for no retry
        self._hurried = False  # leave to the journal what a failing backend does not take
        self._abandoned = threading.Event()
        self._ended = threading.Event()
        self._after: list[Route] = []
        #: Whether a successor is about to take over.
        self.halted = False
        self._opened = False
        #: Writes that failed or were refused, and those that were to be made again.
        self.failures = self.retries = 0
        self.latency = Histogram()
        #: What the backend last failed with, and since when it fails; None while it works.
        self.error: Optional[str] = None
        self.failing_since: Optional[float] = None
        #: Since when the backend is busy with a call; None while it is not.
        self.busy_since: Optional[float] = None

    def start(self, after: Iterable[Route] = ()) -> None:
        """Start the delivery thread; it opens the backend.

        Args:
            after: routes that write to the same place; it begins when they have closed theirs.
        """
        self._after = list(after)
        self._thread.start()

    def offer(self, batch: Batch) -> bool:
        """Queue a packed batch.

        Returns:
            False where the feeder should pause until the queue is low.
        """
        return self.queue.put(batch)

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
        self.queue.leave()
        left = self.queued
        if left and self.queue.is_kept:
            log.warning("backend %s: %d messages are left in the journal", self.name, left)
        elif left:
            left = self.queue.give_up(SHUTDOWN)
            log.error("backend %s: %d messages given up at shutdown", self.name, left)
        return self.dropped[SHUTDOWN]

    @property
    def offered(self) -> int:
        """Messages that came, from the pipeline or back from the journal."""
        return self.queue.account().offered

    @property
    def delivered(self) -> int:
        """Messages that the backend took."""
        return self.queue.account().delivered

    @property
    def dead_lettered(self) -> int:
        """Messages that it refused for good."""
        return self.queue.account().dead_lettered

    @property
    def queued(self) -> int:
        """Messages that still wait for their delivery."""
        return self.queue.account().queued

    @property
    def dropped(self) -> dict[str, int]:
        """Messages that were dropped, by reason."""
        return self.queue.account().dropped

    @property
    def hanging_seconds(self) -> float:
        """How long the backend has been busy with one call, where that is longer than its timeout;
        else 0."""
        since = self.busy_since
        busy = 0.0 if since is None else self._clock() - since
        return busy if busy > self._timeout else 0.0

    @property
    def is_up(self) -> bool:
        """Whether its last call was answered, and none hangs."""
        return self.failing_since is None and not self.hanging_seconds

    def begin_stop(self, hurried: bool = True) -> None:
        """Tell the thread to flush and end, without waiting for it.

        Args:
            hurried: with a journal, a backend that fails is tried once more and no longer.
        """
        self._hurried = hurried
        self._stopping.set()
        self._awake.set()
        self.queue.close()

    def halt(self) -> None:
        """End after the write at hand and leave the queue to a successor. `wait` for it."""
        self.halted = True
        self._abandoned.set()
        self.begin_stop()

    def wait(self, timeout: float) -> bool:
        """Wait for the end of the delivery thread, at most so many seconds; tell whether it has
        ended and closed its backend."""
        return self._thread.ident is None or self._ended.wait(timeout)

    def follow(self, other: Route) -> None:
        """Go on by the settings of another one, which is not used, with all that is at hand. What
        waits for a retry is tried at once. Any thread."""
        self._retry, self._timeout = other._retry, other._timeout
        self._dead_letter = other._dead_letter
        self.breaker.follow(other.breaker)
        self.queue.follow(other.queue)
        self.backend.follow(other.backend)
        self._awake.set()

    def take_over(self, old: Route) -> None:
        """Go on with the queue and the counts of a route that was halted. Before `start`.

        A write in which the old one hangs is made again: whether it will succeed nobody knows.
        """
        self.queue.adopt(old.queue)
        self.failures, self.retries, self.latency = old.failures, old.retries, old.latency

    def abandon(self) -> None:
        """Give up what is not delivered: a `stop` that waits goes on at once. Any thread."""
        self._abandoned.set()
        self._ended.set()

    def _run(self) -> None:
        for old in self._after:
            while not self._abandoned.is_set() and not old.wait(0.1):
                pass
        idle_due: Optional[float] = self._clock()
        while not self._abandoned.is_set():
            timeout = None if idle_due is None else max(0.0, idle_due - self._clock())
            batch = self._take(timeout)
            if batch is not None:
                self._deliver_or_drop(batch)
                idle_due = self._clock() + IDLE_AFTER_SECONDS
            elif self._stopping.is_set():
                break
            else:
                idle_due = self._idle()
        self._close()
        self._ended.set()

    def _close(self) -> None:
        try:
            self._call(self.backend.close)
        except Exception as error:
            self._failed(error)

    def _take(self, timeout: Optional[float]) -> Optional[Batch]:
        try:
            return self.queue.take(timeout)
        except Exception as error:
            self._failed(error)  # a fault of our own; nothing is lost by it
            self._pause(self._retry.maximum)  # it may come again at once
            return None

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
            self._call(call)
        except Exception as error:
            self._failed(error)
            return False
        self._worked()
        return True

    def _call(self, call: Callable[[], None]) -> None:
        """Let the backend work, among as many as may."""
        with self._slots:
            self.breaker.begin()
            self.busy_since = self._clock()
            try:
                call()
            finally:
                self.busy_since = None

    def _open(self) -> None:
        if not self._opened:
            self.backend.open()
            self._opened = True

    def _deliver_or_drop(self, batch: Batch) -> None:
        try:
            self._deliver(batch, self._clock())
        except Exception:
            log.exception("backend %s: a batch is dropped by a fault of our own", self.name)
            self.queue.drop_taken(INTERNAL_ERROR)
            self._tell_done()

    def _deliver(self, batch: Batch, began: float) -> bool:
        """Write a batch until it is taken, refused for good, given up, or the route is abandoned.

        Args:
            batch: what was taken from the queue, or the next part of it.
            began: when the first part was tried first.

        Returns:
            Whether to go on with the next part.
        """
        while not self._abandoned.is_set():
            error, outcome = self._attempt(batch), DELIVERED
            self.failures += error is not None
            if isinstance(error, PermanentError):
                if len(batch) > 1:  # find the guilty line; everything around it is delivered
                    self._worked()  # who says no is there
                    halves = batch.split(len(batch) // 2)
                    return all(self._deliver(half, began) for half in halves)
                error, outcome = self._put_away(batch, str(error))
            if error is None:
                self._done(batch, outcome)
                return True
            self.retries += 1
            self._failed(error)
            if self._hurried and self.queue.is_kept:
                self._abandoned.set()  # the journal has it: a stop need not wait for this backend
                return False
            left = self._seconds_left(began)
            if left <= 0:
                self.queue.drop_taken(GAVE_UP)
                self._tell_done()
                return False
            asked = getattr(error, "retry_after", None)
            delay = self._retry.delay(self.breaker.failures, asked)
            self._pause(min(max(delay, self.breaker.pause), left))
        return False

    def _seconds_left(self, began: float) -> float:
        limit = self._retry.give_up_after
        return float("inf") if limit is None else began + limit - self._clock()

    def _attempt(self, batch: Batch) -> Optional[Exception]:
        began = self._clock()

        def write() -> None:
            self._open()
            self.backend.write(batch)

        try:
            self._call(write)
        except RecursionError as error:
            return PermanentError(f"nested too deeply: {error}")  # the message's fault
        except Exception as error:
            return error
        self.latency.observe(self._clock() - began)
        self._worked()
        return None

    def _put_away(self, batch: Batch, reason: str) -> tuple[Optional[Exception], str]:
        """Deal with a line that is refused for good.

        It is not done before its dead letter is written: somebody may have been told that it is
        safe. What that fails with is one more reason to try the line again.

        Returns:
            What it failed with, and what becomes of the line otherwise.
        """
        dead_letter = self._dead_letter
        if dead_letter is not None:
            try:
                self._call(lambda: dead_letter(batch, self.name, reason))
            except RetryableError as error:
                return error, DEAD_LETTERED
        self._worked()
        return None, REFUSED if dead_letter is None else DEAD_LETTERED

    def _done(self, batch: Batch, outcome: str) -> None:
        self.queue.done(batch, outcome)
        self._tell_done()

    def _tell_done(self) -> None:
        if self.on_done is not None:
            self.on_done()

    def _worked(self) -> None:
        self.breaker.worked()
        if self.failing_since is not None:
            log.warning("backend %s works again", self.name)
            self.error = self.failing_since = None

    def _failed(self, error: Exception) -> None:
        self.breaker.failed()
        text = str(error) if isinstance(error, BackendError) else f"unexpected {error!r}"
        before, self.error = self.error, text
        if self.failing_since is None:
            self.failing_since = self._clock()
        if text != before:  # once an outage, or when it changes its face
            unknown = not isinstance(error, RetryableError)
            log.error("backend %s: %s", self.name, text[:500], exc_info=unknown and error)
        self._opened = False

    def _pause(self, seconds: float) -> None:
        """Wait before the next try; at a stop only as long as it takes not to spin."""
        if self._stopping.is_set():
            self._abandoned.wait(min(seconds, 0.1))
        else:
            self._awake.wait(seconds)
            self._awake.clear()

    def collect(self) -> list[Family]:
        """Yield the counters of this route."""
        return [*families(self), *self.backend.collect(self.name)]
