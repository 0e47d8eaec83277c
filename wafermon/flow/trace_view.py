"""Traces as plain data: the object that pages, the terminal and the dashboard show, and the
message that a trace becomes when it is routed itself."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Optional

from wafermon.flow.trace import Node, Trace
from wafermon.flow.trace_record import Summary
from wafermon.flow.trace_times import (
    Gap,
    critical_path,
    error_path,
    gaps,
    self_ms,
    services,
    skew_ms,
)
from wafermon.message import MAX_FRAME_BYTES, VERSION, Message

#: What a message says of its trace in words; names in there are cut to this.
_NAME_CHARS = 200
#: So many sources, and spans of the error path, are named in there.
_LISTED = 20
#: For what is not measured: the keys of the spans, and how many are left out.
_SPARE_BYTES = 100
_GAP_SHARE, _MOST_GAPS = 0.1, 50


def trace_object(trace: Trace) -> dict[str, Any]:
    """All that is known of a trace, its spans parents first.

    >>> from wafermon.flow.trace import Span, assemble
    >>> found = trace_object(assemble("t", [Span("a", None, "x", "load", 3, 9.0)]))
    >>> found["duration_ms"], found["critical_path"], found["spans"][0]["self_ms"]
    (9.0, ['a'], 9.0)
    """
    critical = critical_path(trace)
    closed = any(node.span.duration_ms is not None for node in trace.nodes.values())
    return {
        "tid": trace.tid,
        "start_ms": trace.start_ms if trace.nodes or trace.loose else None,
        "duration_ms": trace.end_ms - trace.start_ms if closed else None,
        "complete": trace.complete,
        "roots": len(trace.roots),
        "error_events": trace.error_events,
        "loose_messages": trace.loose_messages,
        "loose": [note._asdict() for note in trace.loose],
        "left_out": trace.left_out,
        "critical_path": list(critical),
        "error_path": error_path(trace),
        "services": [service._asdict() for service in services(trace)],
        "gaps": [gap._asdict() for gap in _gaps(trace)],
        "spans": [_span(trace, node, critical) for node in trace.nodes.values()],
    }


def summary_object(summary: Summary) -> dict[str, Any]:
    """One line of a list of traces."""
    return {**summary._asdict(), "services": list(summary.services)}


def chosen(
    summaries: Iterable[Summary],
    src: Optional[str] = None,
    min_ms: Optional[float] = None,
    errors: bool = False,
    text: Optional[str] = None,
) -> list[Summary]:
    """The traces that pass every filter that is set.

    Args:
        summaries: to choose from.
        src: a source of any of its spans, or of a message that belongs to none of them.
        min_ms: it took at least so long.
        errors: a span of it ended in an error, or an event told of one.
        text: stands in its id, the name of its root or a source, whatever the case.

    >>> found = [Summary("t1", "load", "x", 0, 9.0, services=("x", "y")),
    ...          Summary("t2", "move", "y", 0, 5.0, services=("y",))]
    >>> [summary.tid for summary in chosen(found, src="y", min_ms=6)]
    ['t1']
    """
    needle = (text or "").casefold()
    return [
        summary
        for summary in summaries
        if (src is None or src in summary.services)
        and (min_ms is None or (summary.duration_ms or 0.0) >= min_ms)
        and (not errors or has_error(summary))
        and needle in f"{summary.tid}\n{summary.name}\n{' '.join(summary.services)}".casefold()
    ]


def has_error(summary: Summary) -> bool:
    """Whether a span ended in an error, or an event told of one."""
    return summary.errors > 0 or summary.error_events > 0


def message_of(trace: Trace, summary: Summary, src: str, now_ms: int) -> Message:
    """A trace as one event, within the bound of a frame.

    What does not fit is left out and counted: spans of the error path and of the critical path
    stay longest, then those near the roots.

    Args:
        trace: assembled.
        summary: of the same trace.
        src: the source that the event has.
        now_ms: its time.

    >>> from wafermon.flow.trace import Span, assemble
    >>> from wafermon.flow.trace_record import summarize
    >>> spans = [Span("a", None, "x", "load", 3, 9.0, "error")]
    >>> message = message_of(assemble("t", spans), summarize("t", spans), "wafermon.traces", 20)
    >>> message["data"]["level"], message["data"]["msg"]
    ('error', 'x load took 9 ms: 1 span of 1 source, 1 with an error; not complete')
    """
    found = trace_object(trace)
    spans, _, _ = found.pop("spans"), found.pop("gaps"), found.pop("loose")
    paths = set(found.pop("critical_path")) | set(found["error_path"])
    ctx = {
        **found,
        "tid": trace.tid,
        "name": _cut(summary.name),
        "src": summary.src,
        **{key: getattr(summary, key) for key in ("errors", "orphans", "open", "error_events")},
        "span_count": summary.spans,
        "error_path": found["error_path"][:_LISTED],
        "services": found["services"][:_LISTED],
    }
    level = "error" if has_error(summary) else "info"
    data = {"level": level, "msg": _words(summary), "ctx": ctx}
    message = {"v": VERSION, "src": src, "ts": now_ms, "type": "event", "tid": trace.tid}
    message["data"] = data
    # JSON in ASCII is never shorter than what goes out.
    kept = _fitting(spans, paths, MAX_FRAME_BYTES - _SPARE_BYTES - len(json.dumps(message)))
    ctx.update(spans=kept, left_out=trace.left_out + len(spans) - len(kept))
    return message


def _gaps(trace: Trace) -> list[Gap]:
    """The longest gaps, in order of time: those of at least a tenth of the whole."""
    least_ms = max(1.0, (trace.end_ms - trace.start_ms) * _GAP_SHARE)
    found = sorted(gaps(trace, least_ms), key=lambda gap: -gap.duration_ms)
    return sorted(found[:_MOST_GAPS], key=lambda gap: gap.start_ms)


def _span(trace: Trace, node: Node, critical: dict[str, float]) -> dict[str, Any]:
    span = node.span
    return {
        "sid": span.sid,
        "parent": span.parent,
        "depth": node.depth,
        "src": span.src,
        "name": span.name,
        "kind": span.kind,
        "start_ms": span.start_ms,
        "duration_ms": span.duration_ms,
        "self_ms": self_ms(node),
        "status": span.status,
        "orphan": node.orphan,
        "cycle": node.cycle,
        "critical": span.sid in critical,
        "critical_ms": critical.get(span.sid),
        "skew_ms": skew_ms(node, trace.parent(node)),
        "children": len(node.children),
        "messages": node.notes.total,
        "ctx": span.ctx,
        "events": [note._asdict() for note in node.notes.events],
    }


def _fitting(spans: list[dict[str, Any]], first: set[str], room: int) -> list[dict[str, Any]]:
    """As many spans as fit, in order of the tree, without what only a page needs."""
    order = sorted(range(len(spans)), key=lambda at: (spans[at]["sid"] not in first,
                                                      spans[at]["depth"], at))  # fmt: skip
    chosen: dict[int, dict[str, Any]] = {}
    for at in order:
        short = {**spans[at], "name": _cut(spans[at]["name"])}
        for key in ("ctx", "events", "children", "critical_ms"):
            del short[key]
        short = {k: value for k, value in short.items() if value is not None and value is not False}
        room -= len(json.dumps(short))
        if room < 0:
            break
        chosen[at] = short
    return [chosen[at] for at in sorted(chosen)]


def _cut(name: Optional[str]) -> Optional[str]:
    return None if name is None else name[:_NAME_CHARS]


def _words(summary: Summary) -> str:
    took = "" if summary.duration_ms is None else f" took {summary.duration_ms:.0f} ms"
    parts = [f"{_counted(summary.spans, 'span')} of {_counted(len(summary.services), 'source')}"]
    for count, what in (
        (summary.errors, "with an error"),
        (summary.orphans, "without its parent"),
        (summary.open, "open"),
        (summary.error_events, "events of an error"),
    ):
        if count:
            parts.append(f"{count} {what}")
    end = "" if summary.complete else "; not complete"
    name = "no span" if summary.name is None else _cut(summary.name)
    return f"{summary.src or 'several sources'} {name}{took}: {', '.join(parts)}{end}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
