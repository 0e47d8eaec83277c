"""What `wafermon top` shows: from what a sidecar said to lines, without a terminal."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

from wafermon.cli.lines import Style, clipped, visible
from wafermon.cli.table import table
from wafermon.cli.top_rows import HEADS, ROWS, at, counts, load, number, took, word
from wafermon.flow.duration import duration

#: All parts on one screen, then each by itself.
VIEWS = ("all", "sources", "jobs", "backends", "alerts", "drops")
#: The pages that each view needs; the summary always.
PARTS = {
    "all": ("sources", "jobs", "backends", "alerts"),
    "sources": ("sources",),
    "jobs": ("jobs",),
    "backends": ("backends",),
    "alerts": ("alerts",),
    "drops": (),
}
#: How a line looks; its words say the same.
PLAIN, TITLE, DIM, GOOD, WARN, BAD = "plain", "title", "dim", "good", "warn", "bad"

_TONES = {
    "ok": GOOD, "running": PLAIN, "live": PLAIN, "up": PLAIN, "done": GOOD, "finished": DIM,
    "degraded": WARN, "late": WARN, "stalled": WARN, "pending": WARN, "draining": WARN,
    "down": BAD, "missing": BAD, "died": BAD, "failed": BAD, "firing": BAD,
}  # fmt: skip
#: Lines around the rows of the three long parts of the view of all.
_FIXED_LINES = 17
_KEYS = "q quit  ? keys  tab view  / filter  p pause  arrows scroll"
_HELP = (
    "q            quit",
    "tab, right   next view",
    "left         view before it",
    "up, down     a line (also k, j)",
    "PgUp, PgDn   a screen (also space)",
    "Home, End    first line, last line",
    "/            only what has this in it",
    "Enter, Esc   take the filter, leave it",
    "p            pause, and go on",
)
#: Lines for why nothing is known; the rest of the screen is for what was.
_FAULT_LINES = 3
_EMPTY = {
    "sources": "no sources yet: wafermon send heartbeat --src etl interval_s=30",
    "jobs": "no jobs yet: wafermon send progress --src etl job_id=load percent=40",
    "backends": "no backends",
    "alerts": "no alerts: rules stand in the section alerts: of the config",
    "drops": "nothing was dropped",
}


class Line(NamedTuple):
    """A line of the screen and how it looks."""

    text: str
    tone: str = PLAIN


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What a sidecar said.

    Attributes:
        parts: `summary`, `sources`, ... as the pages say it; None for a page that is not there,
            and what was not asked for is missing.
        fault: why there is no newer one; "" where this is the newest.
        silent_s: for how long there has been none.
    """

    parts: dict[str, Any] = dataclasses.field(default_factory=dict)
    fault: str = ""
    silent_s: float = 0.0


@dataclasses.dataclass
class Look:
    """What somebody wants to see.

    Attributes:
        view: one of `VIEWS`.
        text: only what holds this.
        typing: whether keys go into `text`.
        paused: whether the screen stands still.
        helping: whether the keys are shown in place of the view.
        top: the first line of the body that is shown.
    """

    view: str = "all"
    text: str = ""
    typing: bool = False
    paused: bool = False
    helping: bool = False
    top: int = 0


def frame(said: Snapshot, look: Look, width: int, height: int, address: str = "") -> list[Line]:
    """The whole screen: at most `height` lines of at most `width` columns.

    Args:
        said: what is known.
        look: what of it is wanted; `top` is put back where it points past the end.
        address: of whom is asked.

    >>> [line.text for line in frame(Snapshot(fault="no sidecar answers"), Look(), 80, 4)][0]
    'NO ANSWER for 0 s, trying again: no sidecar answers'
    """
    head = [*header(said, address, width), Line(_tabs(look, width), TITLE)]
    lines = (
        [Line(text) for text in _HELP] if look.helping
        else body(said, look, width, (height - _FIXED_LINES) // 3)
    )  # fmt: skip
    room = max(0, height - len(head) - 1)
    look.top = max(0, min(look.top, len(lines) - room))
    shown = lines[look.top : look.top + room]
    left = len(lines) - look.top - len(shown)
    more = f"  ({left} more below)" if left > 0 else ""
    foot = f"filter: {visible(look.text)}_" if look.typing else f"{_KEYS}{more}"
    screen = [*head, *shown, *[Line("")] * (room - len(shown)), Line(foot, DIM)]
    return [Line(clipped(text, width), tone) for text, tone in screen[: max(0, height)]]


def header(said: Snapshot, address: str = "", width: int = 0) -> Iterator[Line]:
    """The status of the sidecar, in two lines or three; more, where it takes `width` columns to say
    why there is no answer. 0 is for all that is needed."""
    if said.fault:
        silent = duration(said.silent_s)
        text = f"NO ANSWER for {silent}, trying again: {visible(said.fault)}"
        # What to do about it stands at the end, so it is not cut off.
        for part in textwrap.wrap(text, width)[:_FAULT_LINES] if width > 0 else [text]:
            yield Line(part, BAD)
    summary = said.parts.get("summary")
    if summary is None:
        return
    status = word(summary, "status")
    messages = at(summary, "messages")
    yield Line(
        f"wafermon {word(summary, 'version')}  {status.upper()}  up {took(summary, 'uptime_s')}"
        f"  {number(messages, 'per_s')} msg/s  {number(messages, 'received_total')} received"
        f"  {number(messages, 'rejected_total')} rejected"
        f"  {number(messages, 'dropped_total')} dropped  {address}".rstrip(),
        DIM if said.fault else _TONES.get(status, PLAIN),
    )
    reasons = at(summary, "reasons")
    if isinstance(reasons, list) and reasons:
        yield Line(visible("; ".join(map(str, reasons))), WARN)
    told = (
        f"{part}: {words}" for part in ("sources", "jobs", "alerts")
        if (words := counts(at(summary, part)))
    )  # fmt: skip
    yield Line("   ".join((*told, load(summary))).rstrip(), DIM if said.fault else PLAIN)


def _tabs(look: Look, width: int) -> str:
    """All views, or, where there is no room, that at hand and those after it."""
    has_room = sum(map(len, VIEWS)) + 3 * len(VIEWS) <= width
    shown = VIEWS if has_room else VIEWS[VIEWS.index(look.view) :]
    tabs = " ".join(f"[{name}]" if name == look.view else f" {name} " for name in shown)
    text = f"  filter: {visible(look.text)}" if look.text else ""
    return f"{tabs}{text}{'  PAUSED' if look.paused else ''}"


def body(said: Snapshot, look: Look, width: int, room: int) -> list[Line]:
    """The parts that a view shows.

    Args:
        width: columns; 0 for all that is needed.
        room: rows of each long part in the view of all.
    """
    if look.view != "all":
        return _part(said, look, look.view, width, None)
    lines: list[Line] = []
    for part in VIEWS[1:]:
        rows = _part(said, look, part, width, max(3, room))
        if part in ("alerts", "drops") and not _rows(said, look, part):
            continue  # no news is good news
        lines += [Line(part.upper(), TITLE), *rows, Line("")]
    return lines


def _part(
    said: Snapshot, look: Look, part: str, width: int, room: Optional[int]
) -> list[Line]:
    """One part as a table, or what to do about an empty one."""
    if part != "drops" and not isinstance(said.parts.get(part), dict):
        known = part in said.parts
        return [Line("this sidecar does not tell" if known else "not known yet", DIM)]
    found = _rows(said, look, part)
    if not found:
        return [Line(f"nothing with {visible(look.text)!r}" if look.text else _EMPTY[part], DIM)]
    now_ms = at(said.parts.get(part), "now_ms")
    shown = found if room is None else found[:room]
    made = [ROWS[part](row, now_ms) for row in shown]
    rows = [tuple(map(str, cells)) for cells in (HEADS[part], *made)]
    first, *rest = table(rows, Style(width))
    tones = [_TONES.get(word(row, "state"), PLAIN) for row in shown]
    lines = [Line(first, DIM), *(Line(text, tone) for text, tone in zip(rest, tones))]
    total = at(said.parts.get(part), "total")
    left = max(len(found), total if type(total) is int else 0) - len(shown)
    return [*lines, Line(f"and {left:,} more", DIM)] if left > 0 else lines


def _rows(said: Snapshot, look: Look, part: str) -> list[Any]:
    """The rows of a part that hold the text that is looked for."""
    rows = at(said.parts.get("summary" if part == "drops" else part), part)
    wanted = look.text.casefold()
    names = ("src", "job_id", "name", "subject", "where", "reason")
    return [
        row for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict)
        and (not wanted or any(wanted in str(row.get(name, "")).casefold() for name in names))
    ]  # fmt: skip
