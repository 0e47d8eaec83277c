"""How a trace is drawn as text: a tree of its spans, beside each when it was and how long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple

from wafermon.cli.lines import PLAIN as PLAIN_STYLE
from wafermon.cli.lines import Style, clipped, columns, visible
from wafermon.cli.table import coloured

#: Columns where nothing limits them, as in a file.
DEFAULT_WIDTH = 100
_DURATION = 9
_BAR = (10, 40)
#: Deeper spans are indented no further; a number tells their depth.
_DEEPEST = 10
_NOTED = 3
_WARN, _ERROR = 2, 3


class Pen(NamedTuple):
    """The characters that a tree is drawn with."""

    fork: str
    last: str
    line: str
    critical: str
    bar: str
    gap: str
    note: str


FINE = Pen("├ ", "└ ", "│ ", "█", "▒", "·", "·")
PLAIN = Pen("+ ", "` ", "| ", "#", "=", ".", "-")


class _Row(NamedTuple):
    """A line of the waterfall: what stands left of the bar, and the bar's time."""

    indent: str
    text: str
    marks: str
    start_ms: float
    duration_ms: Any
    char: str
    rank: Any = None


def pen_for(stream: IO[str]) -> Pen:
    """The finest characters that the encoding of a stream has."""
    try:
        "".join(FINE).encode(getattr(stream, "encoding", None) or "ascii")
    except (LookupError, UnicodeEncodeError):
        return PLAIN
    return FINE


def draw(found: Mapping[str, Any], style: Style = PLAIN_STYLE, pen: Pen = FINE) -> list[str]:
    """Draw a trace.

    Full bars are the critical path: what decides how long the whole takes. Named are errors,
    spans that are open, whose parent is missing or that are their own ancestor, gaps, and times
    that cannot be.

    Args:
        found: a trace as `wafermon.flow.trace_view.trace_object` tells it.
        style: columns and colours.
        pen: what to draw with.

    Returns:
        A line with the sum of it, then one a span; nothing in them is a control character but for
        colours that the style asks for.

    >>> from wafermon.flow.trace import Span, assemble
    >>> from wafermon.flow.trace_view import trace_object
    >>> leaf = Span("b", "a", "loader", "parse", 500, 500.0, "error")
    >>> trace = assemble("4bf9", [leaf, Span("a", None, "receiver", "lot", 0, 1000.0)])
    >>> print(*draw(trace_object(trace), Style(60)), sep="\\n")
    trace 4bf9  1.00 s, 2 services, 2 spans, 1 error
    └ receiver  lot               1.00 s  ██████████████████████
      └ loader  parse (error)     500 ms             ███████████
    """
    width = style.width or DEFAULT_WIDTH
    spans = found["spans"]
    begin = found["start_ms"] or 0
    whole = found["duration_ms"] or 0.0
    rows = list(_rows(found, pen))
    room = max(_BAR[0], min(_BAR[1], width // 3))
    widest = max((columns(f"{row.indent}{row.text}{row.marks}") for row in rows), default=0)
    label_width = max(1, min(widest, width - room - _DURATION - 4))
    room = min(_BAR[1], max(room, width - label_width - _DURATION - 4))
    lines = [f"trace {visible(found['tid'])}  {', '.join(_sums(found, spans))}"]
    for row in rows:
        took = "" if row.duration_ms is None else duration(row.duration_ms)
        bar = _bar(row, begin, whole, room)
        line = f"{_label(row, label_width)}  {took:>{_DURATION}}  {bar}".rstrip()
        lines.append(coloured(clipped(line, width), row.rank, style))
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


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "span"), counted(2, "span")
    ('1 span', '2 spans')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _sums(found: Mapping[str, Any], spans: list[dict[str, Any]]) -> Iterator[str]:
    yield duration(found["duration_ms"]) if found["duration_ms"] is not None else "no end yet"
    yield counted(len(found["services"]), "service")
    yield counted(len(spans), "span")
    errors = sum(span["status"] == "error" for span in spans)
    if errors:
        yield counted(errors, "error")
    if found.get("error_events"):  # an older sidecar does not tell
        yield counted(found["error_events"], "error event")
    orphans = sum(span["orphan"] for span in spans)
    if orphans:
        yield counted(orphans, "orphan")
    cycles = sum(span["cycle"] for span in spans)
    if cycles:
        yield counted(cycles, "cycle")
    still = sum(span["status"] == "open" for span in spans)
    if still:
        yield f"{still} open"
    skewed = sum(span["skew_ms"] is not None for span in spans)
    if skewed:
        yield f"{skewed} with a clock that differs"
    if found["loose_messages"]:
        failed = sum(event["level"] in ("error", "fatal") for event in found.get("loose", ()))
        errors_among = f" ({counted(failed, 'error')})" if failed else ""
        yield f"{counted(found['loose_messages'], 'message')} of no known span{errors_among}"
    if found["left_out"]:
        yield f"{found['left_out']} left out, there was no room"


def _rows(found: Mapping[str, Any], pen: Pen) -> Iterator[_Row]:
    """The spans from the top, before each the gap that it ends, below it what it had to say."""
    spans = found["spans"]
    lasts = _last_ones([span["depth"] for span in spans])
    before = {gap["before"]: gap for gap in found["gaps"]}
    indents = [""]
    for span, is_last in zip(spans, lasts):
        del indents[span["depth"] + 1 :]
        indent = indents[-1]
        below = indent + ("  " if is_last else pen.line)
        indents.append(below if span["depth"] < _DEEPEST else indent)
        gap = before.get(span["sid"])
        if gap is not None:
            yield _gap(gap, indent + pen.line, pen)
        yield _Row(
            indent + (pen.last if is_last else pen.fork),
            f"{_depth(span)}{visible(span['src'])}  {visible(span['name'])}",
            _marks(span, found["left_out"] > 0),
            span["start_ms"],
            span["duration_ms"],
            pen.critical if span["critical"] else pen.bar,
            _ERROR if span["status"] == "error" else None,
        )
        yield from _events(span, indents[-1] + (pen.line if span["children"] else "  "), pen)


def _gap(gap: Mapping[str, Any], indent: str, pen: Pen) -> _Row:
    return _Row(indent, "(gap)", "", gap["start_ms"], gap["duration_ms"], pen.gap)


def _events(span: Mapping[str, Any], indent: str, pen: Pen) -> Iterator[_Row]:
    """The last of its warnings and errors."""
    ranks = {"warn": _WARN, "error": _ERROR, "fatal": _ERROR}
    told = [event for event in span["events"] if event["level"] in ranks]
    for event in told[-_NOTED:]:
        text = f"{pen.note} {event['level']}: {visible(event['msg'] or event['type'])}"
        yield _Row(indent, text, "", event["ts"], None, "", ranks[event["level"]])


def _last_ones(depths: list[int]) -> list[bool]:
    """Of each span in order of the tree whether it is the last child of its parent."""
    lasts: list[bool] = []
    followed: list[bool] = []  # by depth: whether one of this depth comes later
    for depth in reversed(depths):
        followed += [False] * (depth + 1 - len(followed))
        lasts.append(not followed[depth])
        del followed[depth:]
        followed.append(True)
    return lasts[::-1]


def _depth(span: Mapping[str, Any]) -> str:
    return f"[{span['depth']}] " if span["depth"] > _DEEPEST else ""


def _marks(span: Mapping[str, Any], is_cut: bool) -> str:
    marks = [span["status"]] if span["status"] != "ok" else []
    if span["orphan"]:
        marks.append("parent missing or left out" if is_cut else "parent missing")
    if span["cycle"]:
        marks.append("its own ancestor")
    skew = span["skew_ms"]
    if skew is not None:
        where = "begins {} before" if skew < 0 else "ends {} after"
        marks.append(f"{where.format(duration(abs(skew)))} its parent")
    return f" ({', '.join(marks)})" if marks else ""


def _label(row: _Row, width: int) -> str:
    """What stands left of the bar; the marks go last where there is no room for all."""
    room = width - columns(row.indent) - columns(row.marks)
    text = clipped(row.text, room) if room > 0 else ""
    label = clipped(f"{row.indent}{text}{row.marks}", width)
    return label + " " * (width - columns(label))


def _bar(row: _Row, begin: float, whole: float, room: int) -> str:
    """Where on the time of the whole trace a row lies; an open span reaches to its end."""
    if whole <= 0 or not row.char:
        return row.char
    until = begin + whole if row.duration_ms is None else row.start_ms + row.duration_ms
    first = max(0, min(room - 1, int((row.start_ms - begin) / whole * room)))
    last = max(first + 1, min(room, round((until - begin) / whole * room)))
    return " " * first + row.char * (last - first)
