"""A trace as it comes in: packed, so that a million spans cost little memory, and the garbage
collector, which walks over every tuple and dict that lives long, nothing at all."""

from __future__ import annotations

import marshal
from typing import NamedTuple, Optional

from wafermon.flow.trace import Note, Notes, Span, Trace, assemble
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
        "is_settled",
        "left_out",
        "notes",
        "only_src",
        "open_roots",
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
        return assemble(self.tid, self.unpacked(), notes, self.left_out, self.complete)

    def summary(self) -> Summary:
        """It in a few words; worked out once for each change."""
        version, summed = self.version, self.summed
        if summed is None or summed[0] != version:
            found = summarize(self.tid, self.unpacked())._replace(error_events=self.error_events)
            self.summed = summed = (version, found)
        return summed[1]._replace(complete=self.complete)


class Summary(NamedTuple):
    """A trace in a few words.

    Attributes:
        tid: its id.
        name: of its root, or where that is missing, of the span that began first,
        src: and its source.
        start_ms: when the first span began.
        duration_ms: from there to the end of the last closed one; None without such.
        spans: how many; likewise the others.
        errors: spans that ended in one.
        orphans: spans whose parent is missing.
        open: spans that have not ended.
        services: the sources, sorted.
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


def summarize(tid: str, spans: list[Span]) -> Summary:
    """Sum up a trace without building its tree; each span stands once in the list.

    >>> spans = [Span("b", "a", "x", "part", 5, 1.0), Span("a", None, "x", "all", 3, 9.0)]
    >>> summarize("t", spans)[:6]
    ('t', 'all', 'x', 3, 9.0, 2)
    """
    if not spans:
        return Summary(tid, None, None, None, None)
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
        tuple(sorted({span.src for span in spans})),
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


def pack_note(message: Message) -> bytes:
    """Pack a message that belongs to a span, in short."""
    data = message.get("data") or {}
    level, text = data.get("level"), data.get("msg", data.get("name", data.get("reason")))
    return marshal.dumps(
        (
            message["ts"],
            message["src"],
            message["type"],
            level[:NOTE_CHARS] if type(level) is str else None,
            text[:NOTE_CHARS] if type(text) is str else None,
        )
    )


def _unpack_notes(count: int, packed: tuple[bytes, ...]) -> Notes:
    return Notes(count, tuple([Note(*marshal.loads(one)) for one in packed]))  # noqa: S302 - as above
