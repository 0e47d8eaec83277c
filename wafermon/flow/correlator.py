"""The correlator: traces out of messages that arrive in any order, bounded in every way."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from marshal import dumps
from typing import Callable, Optional

from wafermon.flow.service_graph import ServiceGraph
from wafermon.flow.trace import Trace, merged
from wafermon.flow.trace_record import (
    FIRST_NOTES,
    LAST_NOTES,
    NOTE_BYTES,
    SPAN_BYTES,
    Record,
    pack_note,
    pack_span,
    tells_error,
    unpack_span,
)
from wafermon.message import MAX_INTEGER, Batch, Message
from wafermon.observe import Family, family

#: The source of assembled traces, which belong to no trace themselves.
OWN_SOURCE = "wafermon.traces"
#: Traces that a call looks at beside those that it must, to forget or to settle them.
STEPS = 32
#: No trace may take more than this share of the memory of all, and usual spans a bit less of it,
#: so that there is room for what matters most; past the bound of their number it is one of 100.
_LARGEST_SHARE, _RESERVED_BYTES, _RESERVED_SPANS = 4, 16, 100
#: What a span may say of itself.
_STATUS, _NUMBERS, _LONGEST_MS = ("ok", "error", "open"), (int, float), float(MAX_INTEGER)


class Correlator:
    """Collect spans and the messages that belong to them; trees are built when they are asked for.

    A trace is settled once its root is closed and nothing has come for a while, or when it is
    forgotten before that.

    Args:
        ttl: seconds after which an untouched trace is forgotten.
        max_traces: traces remembered; past it the one untouched longest goes.
        max_spans: spans, and span ids with messages, remembered of one trace; more are counted,
            but for the first without a parent, and for some of those with an error or without a
            parent.
        max_bytes: memory for all of it; past it, too, the one untouched longest goes. One trace
            takes a quarter at most.
        quiet: seconds of silence after which a trace is complete.
        on_settled: is given each settled trace, and again when it has settled once more, with
            something new, unless `is_sent` of it is set; it must be quick.
        services: counts the spans by source and name.

    Thread: `observe`, `tidy` and `follow` loop only; the rest any.

    >>> correlator = Correlator()
    >>> correlator.observe(Batch(
    ...     b'{"v":1,"src":"a","ts":5,"type":"span","tid":"t","sid":"child","pid":"root",'
    ...     b'"data":{"name":"parse","duration_ms":2}}\\n'
    ...     b'{"v":1,"src":"a","ts":3,"type":"span","tid":"t","sid":"root",'
    ...     b'"data":{"name":"load","duration_ms":9}}\\n'), now=0.0)
    >>> [(depth, node.span.name) for depth, node in correlator.trace("t").walk()]
    [(0, 'load'), (1, 'parse')]
    """

    def __init__(
        self,
        *,
        ttl: float = 3600.0,
        max_traces: int = 10_000,
        max_spans: int = 10_000,
        max_bytes: int = 64_000_000,
        quiet: float = 5.0,
        on_settled: Optional[Callable[[Record], object]] = None,
        services: Optional[ServiceGraph] = None,
    ) -> None:
        self.follow(ttl, max_traces, max_spans, max_bytes, quiet)
        self.on_settled = on_settled
        self.services = services or ServiceGraph()
        #: In order of their first message.
        self._records: dict[str, Record] = {}
        #: Those that something came for lately, and the others; the one untouched longest first.
        self._active: OrderedDict[str, Record] = OrderedDict()
        self._quiet: OrderedDict[str, Record] = OrderedDict()
        #: Memory of all traces, as it is counted.
        self.bytes = 0
        #: Spans and messages that were not taken up, by reason.
        self.left_out = {"bad_payload": 0, "trace_full": 0}
        #: Traces that were forgotten, by reason.
        self.evicted = {"traces": 0, "ttl": 0, "bytes": 0}
        #: Traces that settled, by whether their root was closed.
        self.settled = {"complete": 0, "incomplete": 0}

    def follow(
        self, ttl: float, max_traces: int, max_spans: int, max_bytes: int, quiet: float
    ) -> None:
        """Take up other bounds; what is too much by them goes little by little."""
        self._ttl, self._quiet_seconds = ttl, quiet
        self._max_traces, self._max_spans = max_traces, max_spans
        self._max_bytes, share = max_bytes, max_bytes // _LARGEST_SHARE
        self._largest, self._reserve = share - share // _RESERVED_BYTES, share

    def __len__(self) -> int:
        return len(self._records)

    def observe(self, batch: Batch, now: float) -> None:
        """Take up what belongs to a trace.

        Args:
            batch: any batch; messages without a `tid` are passed over.
            now: monotonic seconds.
        """
        told, before = batch.told, self.bytes
        spans: Sequence[Message] = told.get("span", ())
        if spans:
            self._take_spans(spans, now)
        taken = len(spans)
        for kind, messages in told.items():
            if kind != "span":
                for message in messages:
                    if "tid" in message and message["src"] != OWN_SOURCE:
                        self._take_message(message, now)
                        taken += 1
        # As much goes as has come, at the least, or it would pile up.
        self.tidy(now, STEPS + 2 * taken + max(0, self.bytes - before) // 256)

    def record(self, tid: str) -> Optional[Record]:
        """All that is known of a trace, or None."""
        record = self._records.get(tid)
        return None if record is None or record.is_empty else record

    def records(self) -> list[Record]:
        """The traces that are remembered, the newest at the end."""
        copy = list(self._records.values())  # one step, whatever the loop does meanwhile
        return [record for record in copy if not record.is_empty]

    def tids(self) -> list[str]:
        """Their ids, in the same order."""
        return list(self._records)

    def trace(self, tid: str) -> Optional[Trace]:
        """The tree of a trace as far as it is known, or None."""
        record = self.record(tid)
        return None if record is None else record.trace()

    def _take_spans(self, messages: Sequence[Message], now: float) -> None:
        # The one place that every span passes: no call that can be spared.
        recall, count = self._records.get, self.services.count
        for message in messages:
            data = message["data"]
            get = data.get
            name, duration, status = get("name"), get("duration_ms"), get("status", "ok")
            if status == "open":
                duration = None
            elif type(duration) not in _NUMBERS or not 0 <= duration <= _LONGEST_MS:
                name = None
            if type(name) is not str or status not in _STATUS:
                self.left_out["bad_payload"] += 1
                continue
            sid, src, parent = message["sid"], message["src"], message.get("pid")
            record = recall(message["tid"])
            if record is None or record.touched != now or record.only_src != src:
                record = self._touched(message["tid"], src, now)
            fields = (parent, src, name, message["ts"], duration, status, get("kind"), get("ctx"))
            try:
                span = dumps(fields)
            except ValueError:  # what was parsed on one stack is nested too deep for this one
                span = dumps((*fields[:6], None, None))
            spans = record.spans
            known = spans.get(sid)
            if known is not None:
                if known != span:
                    self._again(record, sid, known, span)
                continue
            if duration is not None:
                count(src, name, duration, status)
            if (len(spans) >= self._max_spans or record.bytes >= self._largest) and (
                not self._has_reserve(record, parent, status)
            ):
                self._leave_out(record)
                continue
            spans[sid] = span
            record.version += 1
            size = len(span) + len(sid) + SPAN_BYTES
            record.bytes += size
            self.bytes += size
            if parent is None:
                record.count_root(duration, 1)

    def _has_reserve(self, record: Record, parent: Optional[str], status: str) -> bool:
        """Whether a full trace takes a span nevertheless. Roots are often told last: the first is
        taken in any case, as without it the trace has neither name nor end."""
        if parent is None and not record.closed_roots + record.open_roots:
            return True
        most = self._max_spans + self._max_spans // _RESERVED_SPANS
        matters = parent is None or status == "error"
        return matters and len(record.spans) < most and record.bytes < self._reserve

    def _leave_out(self, record: Record) -> None:
        record.left_out += 1
        self.left_out["trace_full"] += 1

    def _again(self, record: Record, sid: str, known: bytes, span: bytes) -> None:
        """A span is told twice: what both of them say counts from now on."""
        before = unpack_span(sid, known)
        after = merged(before, unpack_span(sid, span))
        if before == after:
            return
        if before.duration_ms is None and after.duration_ms is not None:
            self.services.count(after.src, after.name, after.duration_ms, after.status)
        for told, step in ((before, -1), (after, 1)):
            if told.parent is None:
                record.count_root(told.duration_ms, step)
        record.spans[sid] = span = pack_span(after)
        record.version += 1
        record.bytes += len(span) - len(known)
        self.bytes += len(span) - len(known)

    def _take_message(self, message: Message, now: float) -> None:
        record = self._touched(message["tid"], message["src"], now)
        sid = message.get("sid")
        count, kept = record.notes.get(sid, (0, ()))
        note, is_error = pack_note(message), tells_error(message)
        if is_error:
            if note in kept:
                return  # it was sent twice
            record.error_events += 1
        if is_error or sid not in record.spans:  # what a summary tells of
            record.version += 1
        if not count and (len(record.notes) >= self._max_spans or record.bytes >= self._largest):
            self._leave_out(record)
            return
        size = len(note) + NOTE_BYTES + (0 if count else len(sid or ""))
        if len(kept) == FIRST_NOTES + LAST_NOTES:
            size -= len(kept[FIRST_NOTES]) + NOTE_BYTES
            kept = kept[:FIRST_NOTES] + kept[FIRST_NOTES + 1 :]
        record.notes[sid] = (count + 1, (*kept, note))
        record.bytes += size
        self.bytes += size

    def _touched(self, tid: str, src: str, now: float) -> Record:
        """The record of a trace for which something has come."""
        record = self._records.get(tid)
        if record is None:
            record = self._records[tid] = self._active[tid] = Record(tid, src, now)
            self.bytes += record.bytes
            return record
        if record.only_src != src:
            record.only_src = None
        if record.touched != now:  # once a batch
            record.touched = now
            if record.is_quiet:
                record.is_quiet = False
                del self._quiet[tid]
                self._active[tid] = record
            else:
                self._active.move_to_end(tid)
        return record

    def tidy(self, now: float, steps: int = STEPS) -> None:
        """Settle and forget what is due, a little at a time; for a timer, too.

        Args:
            now: monotonic seconds.
            steps: how much work to do at most: traces, long ones count for several.
        """
        while steps > 0:
            oldest = next(iter((self._quiet or self._active).values()), None)
            if oldest is None:
                return
            if oldest.touched <= now - self._ttl:
                steps -= self._forget(oldest, "ttl")
            elif len(self._records) > self._max_traces:
                steps -= self._forget(oldest, "traces")
            elif self.bytes > self._max_bytes:
                steps -= self._forget(oldest, "bytes")
            elif self._active and self._calm(next(iter(self._active.values())), now):
                steps -= 1
            else:
                return

    def _calm(self, record: Record, now: float) -> bool:
        """Whether a trace is quiet by now; it is moved, and settled where it is complete."""
        if record.touched > now - self._quiet_seconds:
            return False
        del self._active[record.tid]
        self._quiet[record.tid] = record
        record.is_quiet = True
        if record.complete:
            self._settle(record)
        return True

    def _forget(self, record: Record, reason: str) -> int:
        del self._records[record.tid]
        del (self._quiet if record.is_quiet else self._active)[record.tid]
        self.bytes -= record.bytes
        self.evicted[reason] += 1
        self._settle(record)
        return record.weight

    def _settle(self, record: Record) -> None:
        if not (record.spans or record.error_events) or record.settled_version == record.version:
            return
        record.settled_version = record.version
        if not record.is_settled:
            record.is_settled = True
            self.settled["complete" if record.complete else "incomplete"] += 1
        elif record.is_sent:
            return
        if self.on_settled is not None:
            self.on_settled(record)

    def collect(self) -> list[Family]:
        """Yield what is remembered, the bounds that were hit, and what spans tell of services."""
        return [
            family(
                "sidecar_correlator_evicted_traces_total",
                "counter",
                "Traces forgotten because of a bound.",
                self.evicted,
                "reason",
            ),
            family(
                "sidecar_correlator_left_out_total",
                "counter",
                "Spans and messages that the correlator did not take up.",
                self.left_out,
                "reason",
            ),
            family(
                "sidecar_correlator_settled_traces_total",
                "counter",
                "Traces of which nothing more is awaited, by whether their root was closed.",
                self.settled,
                "outcome",
            ),
            family(
                "sidecar_correlator_traces",
                "gauge",
                "Traces that are remembered.",
                {"": len(self._records)},
            ),
            family(
                "sidecar_correlator_bytes",
                "gauge",
                "Memory of the traces that are remembered.",
                {"": self.bytes},
            ),
            *self.services.collect(),
        ]
