"""What the times in a trace mean: self time, critical path, error path, gaps, clocks that differ.

Pure functions over a `Trace`; none recurses. Times are the ones that the spans told, which clocks
that disagree may have spoilt: nothing is moved, what cannot be is shown as skew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, Optional

from wafermon.flow.trace import Node, Trace

#: Starts are whole milliseconds, so a child may seem to lie outside of its parent by this much.
ROUNDING_MS = 1.0
#: Spans that are meant to be dealt with later than, or apart from, the one that they belong to.
_APART = ("producer", "consumer")


class Gap(NamedTuple):
    """A stretch between two spans of one parent in which neither of them ran.

    Attributes:
        parent: the id of that parent; None between roots.
        before: the id of the span that begins when it ends.
    """

    parent: Optional[str]
    before: str
    start_ms: float
    duration_ms: float


class Service(NamedTuple):
    """The part of one source in a trace."""

    src: str
    spans: int
    errors: int
    self_ms: float


def self_ms(node: Node) -> Optional[float]:
    """The time of a span in which none of its children ran; None while it is open.

    An open child is taken to run to the end of its parent.
    """
    if node.span.duration_ms is None:
        return None
    alone = node.span.duration_ms
    for start, end in _covered(node):
        alone -= end - start
    return max(0.0, alone)


def skew_ms(node: Node, parent: Optional[Node]) -> Optional[float]:
    """How far a span lies outside of its parent, which tells of another clock; None where it fits.

    Below 0 it begins before its parent. Above 0 it ends after it, or where it is open, it begins
    after its end. One of the same source has the same clock, and goes on later on purpose, as a
    producer or consumer does.
    """
    if parent is None or node.span.src == parent.span.src:
        return None
    early = node.span.start_ms - parent.span.start_ms
    if early < -ROUNDING_MS:
        return float(early)
    if parent.span.duration_ms is None or node.span.kind in _APART:
        return None
    late = node.span.end_ms - parent.span.end_ms
    return late if late > ROUNDING_MS else None


def critical_path(trace: Trace) -> dict[str, float]:
    """The spans that decide how long the trace takes, each with the time that it alone holds it up.

    From the end of the main root backwards: what ran last, what ran last before that began, and
    so on. Work that outlives its parent counts, so the path also runs through hand-overs. The
    times add up to the time from the root's start to the last end below it.

    Returns:
        Span id -> milliseconds, in order of the tree.

    >>> from wafermon.flow.trace import Span, assemble
    >>> trace = assemble("t", [Span("a", None, "x", "all", 0, 10.0),
    ...     Span("b", "a", "x", "long", 1, 8.0), Span("c", "a", "x", "beside it", 2, 3.0)])
    >>> critical_path(trace)
    {'a': 2.0, 'b': 8.0}
    """
    ends = _extents(trace)
    if not trace.roots:
        return {}
    main = max(
        trace.roots,
        key=lambda root: (not root.orphan, ends[root.span.sid] - root.span.start_ms),
    )
    found: dict[str, float] = {}
    stack = [(main, float(main.span.start_ms), ends[main.span.sid])]
    while stack:
        node, begin, until = stack.pop()
        alone = 0.0
        for child in sorted(node.children, key=lambda c: ends[c.span.sid], reverse=True):
            end, start = ends[child.span.sid], max(float(child.span.start_ms), begin)
            if end > until + ROUNDING_MS:
                continue  # it ran beside what came next, which did not wait for it
            end = min(end, until)
            if start < end:
                alone += until - end
                stack.append((child, start, end))
                until = start
        found[node.span.sid] = alone + until - begin
    return {sid: found[sid] for sid in trace.nodes if sid in found}


def error_path(trace: Trace) -> list[str]:
    """The way from a root down to where an error began: the deepest span with one, of several the
    first.

    >>> from wafermon.flow.trace import Span, assemble
    >>> error_path(assemble("t", [Span("a", None, "x", "all", 0, 9.0),
    ...                           Span("b", "a", "x", "parse", 0, 5.0, "error")]))
    ['a', 'b']
    """
    failed = [node for node in trace.nodes.values() if node.span.status == "error"]
    if not failed:
        return []
    step: Optional[Node] = max(failed, key=lambda node: (node.depth, -node.span.start_ms))
    path = []
    while step is not None:
        path.append(step.span.sid)
        step = trace.parent(step)
    return path[::-1]


def services(trace: Trace) -> list[Service]:
    """The sources of a trace, the one with the most time of its own first; among them those of
    messages that belong to no span."""
    totals: dict[str, list[float]] = {}
    for node in trace.nodes.values():
        total = totals.setdefault(node.span.src, [0, 0, 0.0])
        total[0] += 1
        total[1] += node.span.status == "error"
        total[2] += self_ms(node) or 0.0
    for note in trace.loose:
        totals.setdefault(note.src, [0, 0, 0.0])
    found = [Service(src, int(n), int(errors), own) for src, (n, errors, own) in totals.items()]
    return sorted(found, key=lambda service: (-service.self_ms, service.src))


def gaps(trace: Trace, least_ms: float) -> list[Gap]:
    """The stretches of at least so many milliseconds between two spans of one parent, or two
    roots, in which neither of them ran; spans whose clock differs are passed over.

    >>> from wafermon.flow.trace import Span, assemble
    >>> spans = [Span("a", None, "x", "in", 0, 5.0), Span("b", None, "y", "out", 9, 1.0)]
    >>> gaps(assemble("t", spans), least_ms=1)
    [Gap(parent=None, before='b', start_ms=5.0, duration_ms=4.0)]
    """
    found = list(_between(None, trace.roots, least_ms))
    for sid, node in trace.nodes.items():
        children = [child for child in node.children if skew_ms(child, node) is None]
        found += _between(sid, children, least_ms)
    return found


def _between(parent: Optional[str], nodes: list[Node], least_ms: float) -> Iterator[Gap]:
    reached = math.inf
    for node in nodes:
        if node.span.start_ms - reached >= least_ms:
            yield Gap(parent, node.span.sid, reached, node.span.start_ms - reached)
        if node.span.duration_ms is None:
            return  # it may run still
        reached = node.span.end_ms if reached == math.inf else max(reached, node.span.end_ms)


def _covered(node: Node) -> Iterator[tuple[float, float]]:
    """The stretches of a span in which a child ran, in order, none twice."""
    reached, end = float(node.span.start_ms), node.span.end_ms
    for child in node.children:  # in order of their start
        until = end if child.span.duration_ms is None else min(end, child.span.end_ms)
        start = max(reached, float(child.span.start_ms))
        if until > start:
            yield start, until
            reached = until


def _extents(trace: Trace) -> dict[str, float]:
    """When each span and all that is below it had ended, as far as is known."""
    ends: dict[str, float] = {}
    for sid, node in reversed(list(trace.nodes.items())):
        below = [ends[child.span.sid] for child in node.children]
        ends[sid] = max([node.span.end_ms, *below])
    return ends
