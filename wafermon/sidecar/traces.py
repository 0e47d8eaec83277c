"""What becomes of traces that have settled: calls between services are counted, and, where that
is asked for, each trace that is to be kept is routed as one message."""

from __future__ import annotations

import collections
import logging
import threading
import time
from typing import Any, Callable, Optional

from wafermon.flow.correlator import OWN_SOURCE, Correlator
from wafermon.flow.rule import keeps
from wafermon.flow.service_graph import NOTE_SECONDS
from wafermon.flow.trace_record import Record, Summary
from wafermon.flow.trace_view import has_error, message_of
from wafermon.message import Batch
from wafermon.net import EventLoop
from wafermon.observe import Family, family
from wafermon.sidecar.schema_traces import Keep, Traces
from wafermon.wire import encode

log = logging.getLogger("wafermon.sidecar")

#: How often quiet traces are looked for, and how many wait at most, in number and in memory.
TIDY_SECONDS, MAX_WAITING, MAX_WAITING_BYTES = 0.25, 1_000, 16_000_000
#: So many are submitted at once.
_AT_ONCE = 8


class SettledTraces:
    """Deal with settled traces on a thread of its own: the tree of a trace of 10,000 spans takes
    longer than the loop may be held up.

    Args:
        correlator: whose traces these are.
        config: whether and which traces are routed.
        loop: the one that the correlator works on.
        clock: Unix seconds.

    Thread: `take` and `follow` loop only; `start` and `stop` the owner's; `collect` any.
    """

    def __init__(
        self,
        correlator: Correlator,
        config: Traces,
        loop: EventLoop,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._correlator = correlator
        self._config = config
        self._loop = loop
        self._clock = clock
        self._waiting: collections.deque[Record] = collections.deque()
        self._waiting_bytes = 0
        self._submit: Callable[[Batch], None] = lambda batch: None
        #: What the loop has not submitted yet.
        self._handed: collections.deque[Batch] = collections.deque()
        self._some = threading.Event()
        self._taken = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._ending = False
        #: Traces that were routed, and those that were not, by why.
        self.outcomes = {
            "routed": 0, "sampled": 0, "overflow": 0, "internal_error": 0, "stop": 0,
        }  # fmt: skip
        correlator.on_settled = self.take

    def follow(self, config: Traces) -> None:
        """Take up another configuration."""
        self._config = config
        self._correlator.follow(**bounds(config))

    def start(self, submit: Callable[[Batch], None]) -> None:
        """Begin.

        Args:
            submit: takes a batch; called on the loop thread.
        """
        self._submit = submit
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()
        self._loop.call_soon(self._tidy)
        self._loop.call_soon(self._note)

    def stop(self, seconds: float = 0.0) -> None:
        """End: all traces are forgotten, so all that are to be kept are routed as they are. What
        there is no time for is counted. Twice is harmless, and so is without `start`.

        Args:
            seconds: for that; none while the loop runs, as it alone may submit.
        """
        first, self._ending = not self._ending, True
        self._some.set()
        self._taken.set()
        if self._thread is not None:
            self._thread.join(1.0)
            seconds = 0.0 if self._thread.is_alive() else seconds
        if first and self._config.route:
            self._flush(seconds)

    def _flush(self, seconds: float) -> None:
        """Route what a stop found: not taken up, not quiet yet, or open; in that order."""
        deadline = self._loop.clock() + seconds
        unsettled = [
            record
            for record in self._correlator.records()
            if record.settled_version != record.version and (record.spans or record.error_events)
        ]
        unsettled.sort(key=lambda record: not record.complete)
        left = collections.deque([*self._waiting, *unsettled])
        while self._handed and seconds > 0:
            self._pass_on()
        while left and self._loop.clock() < deadline:
            frames = self._taken_up(left)
            if frames:
                self._handed.append(self._batch(frames))
                self._pass_on()
        self.outcomes["stop"] += len(left)
        if left:
            log.warning("%d traces are not routed whole: the stop had no time for them", len(left))

    def take(self, record: Record) -> None:
        """A trace has settled. What nobody asks for is passed over: a trace of one source that is
        not to be routed, or one that goes on after its calls have been counted."""
        if not self._config.route and (record.only_src is not None or record.is_weighed):
            return
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES:
            self.outcomes["overflow"] += 1
            return
        self._waiting_bytes += record.bytes
        self._waiting.append(record)
        self._some.set()

    def _tidy(self) -> None:
        """Find what is quiet, also while nothing comes."""
        self._correlator.tidy(self._loop.clock())
        self._loop.call_later(TIDY_SECONDS, self._tidy)

    def _note(self) -> None:
        self._correlator.services.note(self._loop.clock())
        self._loop.call_later(NOTE_SECONDS, self._note)

    def _run(self) -> None:
        while not self._ending:
            self._some.wait()
            self._some.clear()
            while self._waiting and not self._ending:
                frames = self._taken_up(self._waiting)
                # The loop adds to it meanwhile; to be off by a trace does no harm.
                self._waiting_bytes = sum([record.bytes for record in list(self._waiting)])
                if frames:
                    self._hand_over(frames)

    def _taken_up(self, waiting: collections.deque[Record]) -> list[bytes]:
        """The messages of the first ones that wait."""
        frames = []
        for _ in range(min(_AT_ONCE, len(waiting))):
            record = waiting.popleft()
            try:
                frames += self._frames(record)
            except Exception:
                log.exception("a trace is not routed, by a fault of our own")
                self.outcomes["internal_error"] += 1
        return frames

    def _frames(self, record: Record) -> list[bytes]:
        if record.is_sent:  # it has settled twice while it waited
            return []
        again, record.is_weighed = record.is_weighed, True
        if record.only_src is None and not again:
            self._correlator.services.add_calls(record.unpacked())
        config, summary = self._config, record.summary()
        if not config.route:
            return []
        if not is_kept(summary, config.keep):
            self.outcomes["sampled"] += not again
            return []
        record.is_sent = True
        message = message_of(record.trace(), summary, OWN_SOURCE, int(self._clock() * 1000))
        return [encode(message)]

    def _batch(self, frames: list[bytes]) -> Batch:
        return Batch(b"".join(frames), received_ms=int(self._clock() * 1000))

    def _hand_over(self, frames: list[bytes]) -> None:
        """Let the loop submit some traces, and wait until it has."""
        self._taken.clear()
        self._handed.append(self._batch(frames))
        self._loop.call_soon(self._pass_on)
        if not self._ending:
            self._taken.wait(10.0)

    def _pass_on(self) -> None:
        batch = self._handed.popleft()
        try:
            self._submit(batch)
            self.outcomes["routed"] += len(batch)
        finally:
            self._taken.set()

    def collect(self) -> list[Family]:
        """Yield what became of settled traces."""
        return [
            family(
                "sidecar_traces_total",
                "counter",
                "Settled traces, by what became of them: those of one source only where traces"
                " are routed.",
                self.outcomes,
                "outcome",
            )
        ]


def is_kept(summary: Summary, keep: Keep) -> bool:
    """Whether a trace is to be routed.

    >>> slow = Summary("t", "load", "x", 0, 2_000.0)
    >>> is_kept(slow, Keep(share=0)), is_kept(slow, Keep(share=0, slower_than_ms=0))
    (True, False)
    """
    if keep.errors and has_error(summary):
        return True
    if keep.slower_than_ms and (summary.duration_ms or 0.0) >= keep.slower_than_ms:
        return True
    return keeps({"tid": summary.tid}, keep.share)


def bounds(config: Traces) -> dict[str, Any]:
    """The arguments of a correlator that a configuration tells."""
    return {
        name: getattr(config, name)
        for name in ("ttl", "max_traces", "max_spans", "max_bytes", "quiet")
    }
