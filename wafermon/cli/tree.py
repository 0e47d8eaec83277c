"""How a trace is drawn as text: a tree of its spans, beside each when it was and how long."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import IO, NamedTuple

from wafermon.cli.lines import clipped, visible
from wafermon.flow.correlator import Node, Span, Trace

#: Columns where nothing limits them, as in a file.
DEFAULT_WIDTH = 100
_DURATION = 9
_BAR = (10, 40)


class Pen(NamedTuple):
    """The characters that a tree is drawn with."""

    fork: str
    last: str
    line: str
    bar: str


FINE = Pen("├ ", "└ ", "│ ", "█")
PLAIN = Pen("+ ", "` ", "| ", "#")


def pen_for(stream: IO[str]) -> Pen:
    """The finest characters that the encoding of a stream has."""
    try:
        "".join(FINE).encode(getattr(stream, "encoding", None) or "ascii")
    except (LookupError, UnicodeEncodeError):
        return PLAIN
    return FINE


def draw(trace: Trace, width: int = 0, pen: Pen = FINE) -> list[str]:
    """Draw a trace.

    Marked are spans that ended in an error, that are open, and whose parent is missing.

    Args:
        trace: from a `Correlator`.
        width: columns of a line; 0 for as many as look well.
        pen: what to draw with.

    Returns:
        A line with the sum of it, then one a span; nothing in them is a control character.

    >>> from wafermon.flow.correlator import Node, Span, Trace
    >>> leaf = Node(Span("b", "a", "loader", "parse", 500, 500.0, "error"), [])
    >>> root = Node(Span("a", None, "receiver", "lot", 0, 1000.0, "ok"), [leaf])
    >>> print(*draw(Trace("4bf9", [root], 0), 60), sep="\\n")
    trace 4bf9  1.00 s, 2 services, 2 spans
    └ receiver  lot               1.00 s  ██████████████████████
      └ loader  parse (error)     500 ms             ███████████
    """
    width = width or DEFAULT_WIDTH
    spans = [node.span for _, node in trace.walk()]
    begin = min((span.start_ms for span in spans), default=0)
    whole = max((_end(span) for span in spans), default=0.0) - begin
    rows = list(_rows(trace.roots, pen))
    room = max(_BAR[0], min(_BAR[1], width // 3))
    widest = max((_columns(label) for label, _ in rows), default=0)
    label_width = max(1, min(widest, width - room - _DURATION - 4))
    room = min(_BAR[1], max(room, width - label_width - _DURATION - 4))
    sources = {span.src for span in spans}
    lines = [
        f"trace {visible(trace.tid)}  {duration(whole)}, {counted(len(sources), 'service')},"
        f" {counted(len(spans), 'span')}"
    ]
    for label, span in rows:
        took = "" if span.duration_ms is None else duration(span.duration_ms)
        bar = _bar(span, begin, whole, room, pen)
        label = _padded(clipped(label, label_width), label_width)
        lines.append(clipped(f"{label}  {took:>{_DURATION}}  {bar}".rstrip(), width))
    return lines


def duration(ms: float) -> str:
    """A duration in three digits or so.

    >>> [duration(ms) for ms in (0.2, 9.96, 45, 999.7, 1934, 125_000, 7_300_000)]
    ['0.2 ms', '10 ms', '45 ms', '1.00 s', '1.93 s', '2 min 05 s', '2 h 01 min']
    """
    if ms < 9.95:
        return f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    if ms < 59_995:
        return f"{ms / 1000:.2f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _rows(roots: list[Node], pen: Pen) -> Iterator[tuple[str, Span]]:
    """Label and span, top down. With a stack: a trace may be deeper than Python's own."""
    stack = _children(roots, "")
    while stack:
        indent, is_last, node = stack.pop()
        yield f"{indent}{pen.last if is_last else pen.fork}{_label(node)}", node.span
        stack += _children(node.children, indent + ("  " if is_last else pen.line))


def _children(nodes: list[Node], indent: str) -> list[tuple[str, bool, Node]]:
    """Ready to be popped one by one."""
    return [(indent, at == 0, node) for at, node in enumerate(reversed(nodes))]


def _label(node: Node) -> str:
    span = node.span
    marks = [span.status] if span.status != "ok" else []
    if node.orphan:
        marks.append("parent missing")
    mark = f" ({', '.join(marks)})" if marks else ""
    return f"{visible(span.src)}  {visible(span.name)}{mark}"


def _end(span: Span) -> float:
    return span.start_ms + (span.duration_ms or 0.0)


def _bar(span: Span, begin: int, whole: float, room: int, pen: Pen) -> str:
    """Where on the time of the whole trace the span lies; an open one reaches to its end."""
    if whole <= 0:
        return pen.bar
    until = begin + whole if span.duration_ms is None else _end(span)
    first = min(room - 1, int((span.start_ms - begin) / whole * room))
    last = max(first + 1, round((until - begin) / whole * room))
    return " " * first + pen.bar * (last - first)


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "span"), counted(2, "span")
    ('1 span', '2 spans')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _columns(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _columns(text))
