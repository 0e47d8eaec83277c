"""The correlator: span trees out of messages that arrive in any order, bounded in every way."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple, Optional

from wafermon.message import Batch, Message
from wafermon.observe import Family, family


class Span(NamedTuple):
    """One span as it was told. `duration_ms` is None while it is open."""

    sid: str
    parent: Optional[str]
    src: str
    name: str
    start_ms: int
    duration_ms: Optional[float]
    status: str
    #: How many other messages belong to it.
    messages: int = 0


@dataclasses.dataclass
class Node:
    """A span in its tree. `orphan`: it names a parent that is not known."""

    span: Span
    children: list[Node]
    orphan: bool = False


@dataclasses.dataclass(frozen=True)
class Trace:
    """What is known of one trace: roots in order of their start.

    A span whose parent is missing stands as a root with its mark; so does one span of a cycle.
    """

    tid: str
    roots: list[Node]
    #: Messages of the trace that belong to no known span.
    loose_messages: int

    def walk(self) -> Iterator[tuple[int, Node]]:
        """All spans, parents before children, each with its depth."""
        stack = [(0, root) for root in reversed(self.roots)]
        while stack:
            depth, node = stack.pop()
            yield depth, node
            stack += [(depth + 1, child) for child in reversed(node.children)]


class _Record:
    """A trace as it comes in: compact tuples only, as dicts that live long slow every garbage
    collection down."""

    __slots__ = ("messages", "spans", "touched")

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self.messages: dict[Optional[str], int] = {}
        self.touched = 0.0


class Correlator:
    """Collect spans and the messages that belong to them.

    Args:
        max_traces: traces remembered; past it the one untouched longest is evicted.
        max_spans: spans, and sids with messages, remembered of one trace; more are counted.
        ttl: seconds after which an untouched trace is forgotten.

    Thread: loop only.

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
        self, *, max_traces: int = 1_000, max_spans: int = 1_000, ttl: float = 3600.0
    ) -> None:
        self._max_traces = max_traces
        self._max_spans = max_spans
        self._ttl = ttl
        self._records: OrderedDict[str, _Record] = OrderedDict()
        #: Spans and messages that were not taken up, by reason.
        self.left_out = {"bad_payload": 0, "trace_full": 0}
        #: Traces that were forgotten, by reason.
        self.evicted = {"traces": 0, "ttl": 0}

    def __len__(self) -> int:
        return len(self._records)

    def observe(self, batch: Batch, now: float) -> None:
        """Take up what belongs to a trace.

        Args:
            batch: any batch; messages without a `tid` are passed over.
            now: monotonic seconds.
        """
        self._expire(now)
        for message in batch.telling:
            if "tid" in message:
                self._take(message, now)

    def trace(self, tid: str) -> Optional[Trace]:
        """The tree of a trace as far as it is known, or None."""
        record = self._records.get(tid)
        return None if record is None else _tree(tid, record)

    def tids(self) -> list[str]:
        """The traces that are remembered, the one touched last at the end."""
        return list(self._records)

    def _take(self, message: Message, now: float) -> None:
        tid = message["tid"]
        record = self._records.get(tid)
        if record is None:
            record = self._records[tid] = _Record()
            if len(self._records) > self._max_traces:
                self._records.popitem(last=False)
                self.evicted["traces"] += 1
        else:
            self._records.move_to_end(tid)
        record.touched = now
        if message["type"] == "span":
            self._take_span(record, message)
        else:
            sid = message.get("sid")
            if sid in record.messages or len(record.messages) < self._max_spans:
                record.messages[sid] = record.messages.get(sid, 0) + 1
            else:
                self.left_out["trace_full"] += 1

    def _take_span(self, record: _Record, message: Message) -> None:
        span = _span(message)
        if span is None:
            self.left_out["bad_payload"] += 1
            return
        known = record.spans.get(span.sid)
        if known is None and len(record.spans) >= self._max_spans:
            self.left_out["trace_full"] += 1
        elif known is None or known.duration_ms is None or span.duration_ms is not None:
            # Of a span that is told twice the finished one counts, whichever came first.
            record.spans[span.sid] = span

    def _expire(self, now: float) -> None:
        while self._records:
            tid, record = next(iter(self._records.items()))
            if record.touched > now - self._ttl:
                return
            del self._records[tid]
            self.evicted["ttl"] += 1

    def collect(self) -> list[Family]:
        """Yield the bounds that were hit."""
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
        ]


def _span(message: Message) -> Optional[Span]:
    """A span out of its message; None where the payload is not one of protocol section 3."""
    data = message["data"]
    name, duration, status = data.get("name"), data.get("duration_ms"), data.get("status", "ok")
    if type(name) is not str or status not in ("ok", "error", "open"):
        return None
    if status == "open":
        duration = None
    elif type(duration) not in (int, float) or not 0 <= duration < float("inf"):
        return None
    return Span(
        message["sid"], message.get("pid"), message["src"], name, message["ts"], duration, status
    )


def _tree(tid: str, record: _Record) -> Trace:
    nodes = {
        sid: Node(span._replace(messages=record.messages.get(sid, 0)), [])
        for sid, span in record.spans.items()
    }
    roots: list[Node] = []
    for node in sorted(nodes.values(), key=lambda node: node.span.start_ms):
        parent = nodes.get(node.span.parent or "")
        if parent is None or _closes_cycle(node, nodes):
            node.orphan = node.span.parent is not None
            roots.append(node)
        else:
            parent.children.append(node)
    loose = sum(count for sid, count in record.messages.items() if sid not in nodes)
    return Trace(tid, roots, loose)


def _closes_cycle(node: Node, nodes: dict[str, Node]) -> bool:
    """Whether a span is its own ancestor, by way of spans of which none was cut loose yet."""
    seen = set()
    step = nodes.get(node.span.parent or "")
    while step is not None and not step.orphan and step.span.sid not in seen:
        if step is node:
            return True
        seen.add(step.span.sid)
        step = nodes.get(step.span.parent or "")
    return False
