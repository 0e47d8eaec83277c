"""A trace as it comes in: packed, so that a million spans cost little memory, and the garbage
collector, which walks over every tuple and dict that lives long, nothing at all."""

from __future__ import annotations

import marshal
import zlib
from collections.abc import Sequence
from typing import NamedTuple, Optional

from wafermon.flow.trace import ERROR_LEVELS, Note, Notes, Span, Trace, assemble
from wafermon.message import Message

#: What a trace, a span and a message of one take in memory beside their packed bytes and ids.
TRACE_BYTES, SPAN_BYTES, NOTE_BYTES = 700, 160, 110
#: Of a span's messages the first few are kept, and the last few; of each so much text.
FIRST_NOTES, LAST_NOTES, NOTE_CHARS = 4, 4, 200
_TEXT, _OBJECT = (str, type(None)), (dict, type(None))


class Record:
    """What is known of one trace. Spans and messages are packed.

    Thread: written by the loop's only; `trace` and `summary` any.
    """

    __slots__ = (
        "bytes",
        "closed_roots",
        "error_events",
        "is_quiet",
        "is_sent",
        "is_settled",
        "is_weighed",
        "left_out",
        "notes",
        "only_src",
        "open_roots",
        "settled_version",
        "spans",
        "summed",
        "tid",
        "touched",
        "version",
    )

    def __init__(self, tid: str, src: str, now: float) -> None:
        self.tid = tid
        self.spans: dict[str, bytes] = {}
        #: Span id, or None for what names no span -> a count, and packed messages.
        self.notes: dict[Optional[str], tuple[int, tuple[bytes, ...]]] = {}
        self.touched = now
        self.bytes = TRACE_BYTES + len(tid)
        self.open_roots = self.closed_roots = self.left_out = self.error_events = 0
        self.is_quiet = self.is_settled = False
        #: Whoever is given settled traces sets these: it has been passed on whole, and looked at.
        self.is_sent = self.is_weighed = False
        self.settled_version = -1
        #: The source that it began with; None once there are several.
        self.only_src: Optional[str] = src
        self.version = 0
        self.summed: Optional[tuple[int, Summary]] = None

    @property
    def is_empty(self) -> bool:
        """Its first span is about to be put in, on another thread."""
        return not (self.spans or self.notes or self.left_out)

    @property
    def complete(self) -> bool:
        """Its root is closed, and nothing has come for a while."""
        return self.is_quiet and self.closed_roots > 0 and not self.open_roots

    def count_root(self, duration_ms: Optional[float], step: int) -> None:
        """There is one root more, or less."""
        if duration_ms is None:
            self.open_roots += step
        else:
            self.closed_roots += step

    @property
    def weight(self) -> int:
        """How much work it is to give its memory back, in traces of a few spans."""
        return 1 + (len(self.spans) + len(self.notes)) // 32

    def unpacked(self) -> list[Span]:
        """Its spans."""
        return [unpack_span(sid, packed) for sid, packed in dict(self.spans).items()]

    def trace(self) -> Trace:
        """Its tree."""
        notes = {sid: _unpack_notes(*found) for sid, found in dict(self.notes).items()}
        return assemble(
            self.tid, self.unpacked(), notes, self.left_out, self.complete, self.error_events
        )

    def summary(self) -> Summary:
        """It in a few words; worked out once for each change."""
        version, summed = self.version, self.summed
        if summed is None or summed[0] != version:
            found = summarize(self.tid, self.unpacked(), self._loose())
            found = found._replace(error_events=self.error_events)
            self.summed = summed = (version, found)
        return summed[1]._replace(complete=self.complete)

    def _loose(self) -> list[Note]:
        """Those of its kept messages that belong to no known span."""
        found = [kept for sid, kept in dict(self.notes).items() if sid not in self.spans]
        return [note for kept in found for note in _unpack_notes(*kept).events]


class Summary(NamedTuple):
    """A trace in a few words.

    Attributes:
        tid: its id.
        name: of its root, or where that is missing, of the span that began first,
        src: and its source.
        start_ms: when the first span began; without any, when the first message was.
        duration_ms: from there to the end of the last closed one; None without such.
        spans: how many; likewise the others.
        errors: spans that ended in one.
        orphans: spans whose parent is missing.
        open: spans that have not ended.
        services: the sources of its spans, and of messages that belong to none of them, sorted.
        error_events: events of level error or fatal.
        complete: its root is closed, and nothing has come for a while.
    """

    tid: str
    name: Optional[str]
    src: Optional[str]
    start_ms: Optional[int]
    duration_ms: Optional[float]
    spans: int = 0
    errors: int = 0
    orphans: int = 0
    open: int = 0
    services: tuple[str, ...] = ()
    error_events: int = 0
    complete: bool = False


def summarize(tid: str, spans: list[Span], loose: Sequence[Note] = ()) -> Summary:
    """Sum up a trace without building its tree; each span stands once in the list, and `loose` are
    the messages that belong to none of them.

    >>> spans = [Span("b", "a", "x", "part", 5, 1.0), Span("a", None, "x", "all", 3, 9.0)]
    >>> summarize("t", spans)[:6]
    ('t', 'all', 'x', 3, 9.0, 2)
    """
    told = {note.src for note in loose}
    if not spans:
        began = min((note.ts for note in loose), default=None)
        only = next(iter(told)) if len(told) == 1 else None
        return Summary(tid, None, only, began, None, services=tuple(sorted(told)))
    known = {span.sid for span in spans}
    first = min(spans, key=lambda span: (span.parent is not None, span.start_ms, span.sid))
    start = min([span.start_ms for span in spans])
    ends = [span.start_ms + span.duration_ms for span in spans if span.duration_ms is not None]
    return Summary(
        tid,
        first.name,
        first.src,
        start,
        max(ends) - start if ends else None,
        len(spans),
        sum([span.status == "error" for span in spans]),
        sum([span.parent is not None and span.parent not in known for span in spans]),
        len(spans) - len(ends),
        tuple(sorted({span.src for span in spans} | told)),
    )


def unpack_span(sid: str, packed: bytes) -> Span:
    """A span that the correlator packed; `kind` and `ctx` are as they came, so looked at here."""
    span = Span(sid, *marshal.loads(packed))  # noqa: S302 - bytes of our own making
    if type(span.kind) not in _TEXT or type(span.ctx) not in _OBJECT:
        kind, ctx = span.kind, span.ctx
        span = span._replace(
            kind=kind if type(kind) is str else None, ctx=ctx if type(ctx) is dict else None
        )
    return span


def pack_span(span: Span) -> bytes:
    """The reverse of `unpack_span`."""
    return marshal.dumps(tuple(span)[1:])


def pack_note(message: Message) -> bytes:
    """Pack a message that belongs to a span, in short. The same message gives the same bytes; of
    an error the sum of all its data tells it from others with the same words."""
    data = message.get("data") or {}
    level, text = data.get("level"), data.get("msg", data.get("name", data.get("reason")))
    return marshal.dumps(
        (
            message["ts"],
            message["src"],
            message["type"],
            level[:NOTE_CHARS] if type(level) is str else None,
            text[:NOTE_CHARS] if type(text) is str else None,
            zlib.crc32(repr(data).encode("utf-8", "replace")) if tells_error(message) else None,
        ),
        2,  # later versions of the format depend on who else holds a text
    )


def tells_error(message: Message) -> bool:
    """Whether a message is an event that tells of an error."""
    return message["type"] == "event" and (message.get("data") or {}).get("level") in ERROR_LEVELS


def _unpack_notes(count: int, packed: tuple[bytes, ...]) -> Notes:
    return Notes(count, tuple([Note(*marshal.loads(one)[:5]) for one in packed]))  # noqa: S302 - as above
