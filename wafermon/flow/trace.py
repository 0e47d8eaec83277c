"""A trace as it was told: its spans as a tree, whatever is missing, doubled or in a circle.

Pure functions over spans; nothing here recurses, so a trace may be as deep as it likes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Optional, TypeVar

_T = TypeVar("_T")


class Span(NamedTuple):
    """One span as it was told. `duration_ms` is None while it is open."""

    sid: str
    parent: Optional[str]
    src: str
    name: str
    start_ms: int
    duration_ms: Optional[float]
    status: str = "ok"
    kind: Optional[str] = None
    ctx: Optional[dict[str, Any]] = None

    @property
    def end_ms(self) -> float:
        """When it ended; of an open one, when it began."""
        return self.start_ms + (self.duration_ms or 0.0)


class Note(NamedTuple):
    """A message that belongs to a span, in short."""

    ts: int
    src: str
    type: str
    level: Optional[str]
    msg: Optional[str]


class Notes(NamedTuple):
    """The messages of one span: how many, and some of them."""

    total: int = 0
    events: tuple[Note, ...] = ()


_NO_NOTES = Notes()
#: Of the messages that belong to no known span so many are kept, errors before all others.
MAX_LOOSE = 50
ERROR_LEVELS = ("error", "fatal")


@dataclasses.dataclass(eq=False)
class Node:
    """A span in its tree.

    Attributes:
        span: as it was told.
        children: in order of their start.
        depth: 0 for a root.
        orphan: it names a parent that is not known, and stands as a root.
        cycle: it is its own ancestor; the circle is cut here, and it stands as a root.
        notes: the messages that belong to it.
    """

    span: Span
    children: list[Node] = dataclasses.field(default_factory=list, repr=False)
    depth: int = 0
    orphan: bool = False
    cycle: bool = False
    notes: Notes = _NO_NOTES


@dataclasses.dataclass(frozen=True)
class Trace:
    """What is known of one trace.

    Attributes:
        tid: its id.
        roots: in order of their start: spans without a parent, orphans, and one of each cycle.
        nodes: every span by its id, parents before their children.
        loose_messages: messages of the trace that belong to no known span.
        loose: some of them, in order of time.
        error_events: events of level error or fatal, of any span or none.
        left_out: spans and messages for which there was no room.
        complete: its root is closed, and nothing has come for a while.
    """

    tid: str
    roots: list[Node]
    nodes: Mapping[str, Node]
    loose_messages: int = 0
    left_out: int = 0
    complete: bool = False
    loose: tuple[Note, ...] = ()
    error_events: int = 0

    def walk(self) -> Iterator[tuple[int, Node]]:
        """All spans, parents before children, each with its depth."""
        return ((node.depth, node) for node in self.nodes.values())

    def parent(self, node: Node) -> Optional[Node]:
        """The node above; None for a root."""
        return self.nodes[node.span.parent or ""] if node.depth else None

    @property
    def start_ms(self) -> int:
        """When its first span began; without any, when its first message was; else 0."""
        first = min((note.ts for note in self.loose), default=0)
        return min((node.span.start_ms for node in self.nodes.values()), default=first)

    @property
    def end_ms(self) -> float:
        """When the last of its closed spans ended, as far as is known."""
        return max((node.span.end_ms for node in self.nodes.values()), default=0.0)


def assemble(
    tid: str,
    spans: Iterable[Span],
    notes: Optional[Mapping[Optional[str], Notes]] = None,
    left_out: int = 0,
    complete: bool = False,
    error_events: int = 0,
) -> Trace:
    """Build the tree of a trace. The order of the spans does not matter.

    Args:
        tid: the trace's id.
        spans: those that are known; two with one id become one, see `merged`.
        notes: the messages of each span; None for those that name no span.
        left_out: what there was no room for.
        complete: whether nothing more is awaited.
        error_events: how many events told of an error.

    >>> lost = Span("c", "gone", "loader", "insert", 7, 2.0)
    >>> trace = assemble("t", [lost, Span("b", "a", "loader", "parse", 4, 2.0),
    ...                        Span("a", None, "loader", "load", 3, 9.0)])
    >>> [(depth, node.span.name, node.orphan) for depth, node in trace.walk()]
    [(0, 'load', False), (1, 'parse', False), (0, 'insert', True)]
    """
    notes = notes or {}
    known: dict[str, Span] = {}
    for span in spans:
        other = known.get(span.sid)
        known[span.sid] = span if other is None else merged(span, other)
    nodes = {
        span.sid: Node(span, notes=notes.get(span.sid, _NO_NOTES))
        for span in sorted(known.values(), key=_order)
    }
    _cut_cycles(nodes)
    roots: list[Node] = []
    for node in nodes.values():
        parent = None if node.cycle else nodes.get(node.span.parent or "")
        if parent is None:
            node.orphan = node.span.parent is not None and not node.cycle
            roots.append(node)
        else:
            parent.children.append(node)
    loose = [found for sid, found in notes.items() if sid not in nodes]
    return Trace(
        tid,
        roots,
        _preorder(roots),
        sum(found.total for found in loose),
        left_out,
        complete,
        _some_of([note for found in loose for note in found.events]),
        error_events,
    )


def merged(one: Span, other: Span) -> Span:
    """A span that was told twice, whichever came first: the finished one counts, then the one with
    an error, then the longer. What it does not say of `pid`, `kind` and `ctx` comes from the other;
    it began when the earlier of the two says, as the last frame of some is stamped at the end.

    >>> begun = Span("a", "p", "x", "load", 3, None, "open", None, {"lot": 7})
    >>> merged(Span("a", None, "x", "load", 3, 9.0), begun)[1:]
    ('p', 'x', 'load', 3, 9.0, 'ok', None, {'lot': 7})
    """
    # What is taken over is not part of the rank: a span that is told again must not change it.
    first, second = (one, other) if _rank(one) > _rank(other) else (other, one)
    is_tie = _rank(one) == _rank(other)
    return first._replace(
        parent=_either(first.parent, second.parent, is_tie),
        start_ms=min(one.start_ms, other.start_ms),
        kind=_either(first.kind, second.kind, is_tie),
        ctx=_either(first.ctx, second.ctx, is_tie),
    )


def _either(first: _T, second: _T, is_tie: bool) -> _T:
    """The first unless it is None; in a tie the same one, whichever came first."""
    if first is None or (is_tie and second is not None and repr(second) > repr(first)):
        return second
    return first


def _rank(span: Span) -> tuple[bool, bool, float, str, str]:
    finished = span.duration_ms is not None
    return finished, span.status == "error", span.duration_ms or 0.0, span.src, span.name


def _some_of(notes: list[Note]) -> tuple[Note, ...]:
    """The first errors, and the first of the others as far as there is room."""
    notes = sorted(notes, key=lambda note: (note.level not in ERROR_LEVELS, note.ts))[:MAX_LOOSE]
    return tuple(sorted(notes, key=lambda note: note.ts))


def _order(span: Span) -> tuple[int, str]:
    return span.start_ms, span.sid


def _cut_cycles(nodes: Mapping[str, Node]) -> None:
    """Mark one span of each circle: the first by time."""
    seen: dict[str, int] = {}
    for number, first in enumerate(nodes.values()):
        node: Optional[Node] = first
        while node is not None and node.span.sid not in seen:
            seen[node.span.sid] = number
            node = nodes.get(node.span.parent or "")
        if node is None or seen[node.span.sid] != number:
            continue  # it ends at a root, or where an earlier walk has been
        circle = [node]
        while (step := nodes[circle[-1].span.parent or ""]) is not node:
            circle.append(step)
        min(circle, key=lambda member: _order(member.span)).cycle = True


def _preorder(roots: list[Node]) -> dict[str, Node]:
    found: dict[str, Node] = {}
    stack = [(0, root) for root in reversed(roots)]
    while stack:
        depth, node = stack.pop()
        node.depth = depth
        found[node.span.sid] = node
        stack += [(depth + 1, child) for child in reversed(node.children)]
    return found
