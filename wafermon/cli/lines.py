"""How a message is shown to people; `query` and `tail` share it.

Nothing from the wire reaches a terminal as it is: a log line could carry escape sequences that
retitle the window, move the cursor over other lines, or worse.
"""

from __future__ import annotations

import datetime
import json
import os
import unicodedata
from collections.abc import Mapping
from typing import IO, Any, Callable, NamedTuple, Optional

from wafermon.message import Message, level_rank

RESET, DIM = "\x1b[0m", "\x1b[2m"
#: debug, info, warn, error, fatal
COLOURS = (DIM, "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[1;31m")
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")


class Style(NamedTuple):
    """How lines are drawn.

    Attributes:
        width: columns that a line may take; 0 for all it needs.
        colour: whether levels are coloured.
        terminal: whether somebody looks at it directly.
    """

    width: int = 0
    colour: bool = False
    terminal: bool = False


#: For files and pipes.
PLAIN = Style()


def style_of(stream: IO[str], environ: Optional[Mapping[str, str]] = None) -> Style:
    """The style for a stream: all columns and plain unless it is a terminal.

    Args:
        stream: where the lines go.
        environ: the environment; `NO_COLOR` and `TERM=dumb` turn colour off.

    >>> import io
    >>> style_of(io.StringIO())
    Style(width=0, colour=False, terminal=False)
    """
    environ = os.environ if environ is None else environ
    if not stream.isatty():
        return PLAIN
    try:
        width = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        width = 0
    colour = not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return Style(width, colour, True)


def line_of(message: Message, style: Style = PLAIN) -> str:
    """A message as one line for people: local time, source, type, and what it says.

    Args:
        message: an accepted frame, decoded; its `data` may be anything.
        style: from `style_of`.

    >>> event = {"v": 1, "src": "db", "ts": 0, "type": "event",
    ...          "data": {"level": "warn", "msg": "disk\\x1b[2J", "ctx": {"free": 3}}}
    >>> line_of(event).split("  ", 1)[1]
    'db            event      warn   disk\\\\x1b[2J  free=3'
    """
    kind = message["type"]
    data = message.get("data") or {}
    head = f"{time_of(message['ts'])}  {visible(message['src']):<12}  {kind:<9}"
    words = [_essence(kind, data)]
    if "tid" in message:
        words.append(f"tid={message['tid']}")
    tail = visible("  ".join(word for word in words if word))
    line = f"{head}  {tail}".rstrip()
    if style.width:
        line = clipped(line, style.width)
    rank = level_rank(data.get("level")) if kind == "event" else -1
    if style.colour and rank >= 0:
        return f"{COLOURS[rank]}{line}{RESET}"
    return line


def json_of(line: bytes) -> str:
    """A raw line for a terminal: still the same JSON, but nothing in it is a control character.

    >>> json_of('{"msg": "\\x9b2J"}'.encode())
    '{"msg": "\\\\u009b2J"}'
    """
    # Control characters below 32 stand outside of strings only, where JSON takes a blank.
    text = line.decode("utf-8", "replace").translate({9: " ", 13: " "})
    return _replaced(text, lambda char: json.dumps(char)[1:-1])


def time_of(ts: int) -> str:
    """Local time with milliseconds; the bare number where no calendar reaches."""
    try:
        moment = datetime.datetime.fromtimestamp(ts / 1000)
    except (ValueError, OverflowError, OSError):
        return f"{ts:<23}"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{ts % 1000:03d}"


def visible(text: str) -> str:
    """The text with all that is not printable (controls, bidi overrides, ...) escaped.

    >>> visible("one\\ntwo \\u202e é")
    'one\\\\ntwo \\\\u202e é'
    """
    return _replaced(text, lambda char: char.encode("unicode_escape").decode("ascii"))


def clipped(text: str, width: int) -> str:
    """The text cut to so many columns, an ellipsis where something is missing.

    >>> clipped("abcdef", 4), clipped("工程", 3)
    ('abc…', '工…')
    """
    if len(text) * 2 <= width or (len(text) <= width and text.isascii()):
        return text
    room, used, cut = width, 0, 0
    for index, char in enumerate(text):
        used += _columns(char)
        if used > room:
            return text[:cut] + "…"
        if used < room:
            cut = index + 1
    return text


def columns(text: str) -> int:
    """How many columns of a terminal a text takes.

    >>> columns("abc"), columns("工程")
    (3, 4)
    """
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _replaced(text: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else escape(char) for char in text)


# -- what a message says, by type. Payloads are open: what does not fit is shown as JSON. ------


def _essence(kind: str, data: dict[str, Any]) -> str:
    try:
        return _ESSENCES[kind](data)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return _text(data)


def _event(data: dict[str, Any]) -> str:
    return f"{_text(data['level']):<5}  {_text(data['msg'])}{_pairs(data.get('ctx'))}"


def _metric(data: dict[str, Any]) -> str:
    unit = data.get("unit", "")
    shown = f"{_text(data['name'])}={_text(data['value'])}{f' {_text(unit)}' if unit else ''}"
    return shown + _pairs(data.get("tags"))


def _progress(data: dict[str, Any]) -> str:
    status, note = data.get("status", "running"), data.get("msg", "")
    shown = f"{_text(data['job_id'])}  {float(data['percent']):.1f} %  {_text(status)}"
    return f"{shown}  {_text(note)}" if note else shown


def _resource(data: dict[str, Any]) -> str:
    rest = dict(data)
    words = []
    if "cpu" in data:
        words.append(f"cpu={float(rest.pop('cpu')):.1f}%")
    if "mem" in data:
        words.append(f"mem={_bytes(float(rest.pop('mem')))}")
    return "  ".join(words) + _pairs(rest)


def _span(data: dict[str, Any]) -> str:
    status = data.get("status", "ok")
    took = "" if status == "open" else f"  {float(data['duration_ms']):.1f} ms"
    return f"{_text(data['name'])}{took}  {_text(status)}{_pairs(data.get('ctx'))}"


def _heartbeat(data: dict[str, Any]) -> str:
    return f"next in {float(data['interval_s']):g} s" if "interval_s" in data else _pairs(data)


def _goodbye(data: dict[str, Any]) -> str:
    return _text(data.get("reason", ""))


_ESSENCES: dict[str, Callable[[dict[str, Any]], str]] = {
    "event": _event,
    "metric": _metric,
    "progress": _progress,
    "resource": _resource,
    "span": _span,
    "heartbeat": _heartbeat,
    "goodbye": _goodbye,
}


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:  # what one call stack could parse, a deeper one cannot write
        return "..."


def _pairs(values: Any) -> str:
    """`  key=value` of each, nothing for nothing."""
    if not values:
        return ""
    return "".join(f"  {key}={_text(value)}" for key, value in values.items())


def _bytes(size: float) -> str:
    unit = 0
    while abs(size) >= 1024 and unit < len(_BYTES) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} B" if unit == 0 else f"{size:.1f} {_BYTES[unit]}"
