"""Messages, batches and rejects: the only module that knows the fields of protocol section 2.

A message is the plain dict that the parser made (a dict costs nothing more per message, a frozen
dataclass 0.8 to 1.8 us). What crosses rooms is a `Batch`: the raw lines of one read and, beside
them, the decoded messages.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Optional

Message = dict[str, Any]

VERSION = 1
MAX_FRAME_BYTES = 65_536
MAX_INTEGER = 2**53 - 1
MAX_NAME_CHARS = 128

LEVELS = ("debug", "info", "warn", "error", "fatal")
HELLO = "hello"
#: The types that are routed; `hello` opens a session and never is.
ROUTED_TYPES = frozenset(
    ("event", "metric", "progress", "resource", "span", "heartbeat", "goodbye")
)
#: The types whose `data` may be left out.
BARE_TYPES = frozenset(("heartbeat", "goodbye"))

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class Reason(str, enum.Enum):
    """Why a frame was rejected; the first that applies, in this order (protocol section 2)."""

    OVERSIZE = "oversize"
    INVALID_JSON = "invalid_json"
    NOT_OBJECT = "not_object"
    BAD_VERSION = "bad_version"
    BAD_FIELD = "bad_field"
    UNKNOWN_TYPE = "unknown_type"
    TRUNCATED = "truncated"


class Reject(NamedTuple):
    """A frame that was not accepted.

    Attributes:
        reason: the first reason that applies.
        line: its bytes without the line end; of an oversize frame the first 1,024.
        q: the receipt that it asked for, where that could be read; 0 for none.
    """

    reason: Reason
    line: bytes
    q: int = 0


def is_name(value: object) -> bool:
    """Tell whether a value may stand in `src`, `tid`, `sid` or `pid`.

    >>> is_name("db-loader"), is_name(""), is_name("two\\nlines"), is_name(7)
    (True, False, False, False)
    """
    return (
        type(value) is str
        and 0 < len(value) <= MAX_NAME_CHARS
        and _CONTROL.search(value) is None
    )


def is_integer(value: object, low: int, high: int = MAX_INTEGER) -> bool:
    """Tell whether a value is a JSON integer in a range; a boolean never is."""
    return type(value) is int and low <= value <= high


def check(message: object) -> Optional[Reason]:
    """Check the envelope of one decoded frame: the exact rules of protocol section 2.

    Args:
        message: what the JSON parser made of the frame.

    Returns:
        None where the frame is accepted, else the reason of its rejection.

    >>> check({"v": 1, "src": "a", "ts": 0, "type": "heartbeat"}) is None
    True
    >>> check({"v": 1, "src": "a", "ts": True, "type": "heartbeat"}).value
    'bad_field'
    """
    if type(message) is not dict:
        return Reason.NOT_OBJECT
    get = message.get
    if type(get("v")) is not int or get("v") != VERSION:
        return Reason.BAD_VERSION
    kind = get("type")
    if not (is_name(get("src")) and is_integer(get("ts"), 0) and type(kind) is str):
        return Reason.BAD_FIELD
    for field in ("tid", "sid", "pid"):
        if field in message and not is_name(message[field]):
            return Reason.BAD_FIELD
    if kind == "span" and not ("tid" in message and "sid" in message):
        return Reason.BAD_FIELD
    if "q" in message and not is_integer(message["q"], 1):
        return Reason.BAD_FIELD
    known = kind in ROUTED_TYPES or kind == HELLO
    if type(get("data")) is not dict and ("data" in message or (known and kind not in BARE_TYPES)):
        return Reason.BAD_FIELD
    return None if known else Reason.UNKNOWN_TYPE


def level_rank(level: object) -> int:
    """Rank of an event's level, 0 (debug) to 4 (fatal); -1 for what is no level."""
    return LEVELS.index(level) if isinstance(level, str) and level in LEVELS else -1


def is_telling(message: Message) -> bool:
    """Whether observers look into a message; not into an event that belongs to no trace."""
    return message["type"] != "event" or "tid" in message


class Batch:
    """Accepted frames, each peer's in order: raw lines and the decoded messages beside them.

    `raw` holds just the accepted lines, each with its line end, byte for byte as they came; a
    backend that writes JSON lines writes it as it is. `messages` and `lines` are made when first
    asked for, so that a queue holds raw bytes only (264 bytes a message against 1,407 decoded).

    Args:
        raw: whole lines, each ended by `\\n`, each known to be an accepted frame.
        messages: their decoded form, where it is at hand.
        rejects: frames of the same read that were not accepted.
        hellos: how many of the messages are a `hello`; the session takes these out.
        goodbyes: how many are a `goodbye`.
        numbered: whether a message asks for a receipt.
        sources: how many messages each source has in here, where that is known.
        count: how many messages these are, where that is known.
        received_ms: wall time of the read in Unix milliseconds; the server stamps it.

    Thread: built and read by one thread at a time; read-only once it is in a queue.

    >>> batch = Batch(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n')
    >>> len(batch), batch.sources, batch.messages[0]["type"]
    (1, {'a': 1}, 'heartbeat')
    """

    __slots__ = (
        "_count",
        "_lines",
        "_messages",
        "_numbers",
        "_parts",
        "_sources",
        "_telling",
        "_telling_at",
        "_told",
        "duplicates",
        "goodbyes",
        "hellos",
        "marks",
        "numbered",
        "on_decode",
        "raw",
        "receipt",
        "received_ms",
        "rejected_first",
        "rejects",
        "seq",
    )

    def __init__(
        self,
        raw: bytes = b"",
        messages: Optional[list[Message]] = None,
        rejects: Sequence[Reject] = (),
        received_ms: int = 0,
        hellos: int = 0,
        goodbyes: int = 0,
        numbered: bool = False,
        sources: Optional[dict[str, int]] = None,
        count: Optional[int] = None,
    ) -> None:
        self.raw = raw
        self.rejects = rejects
        self.received_ms = received_ms
        self.hellos = hellos
        self.goodbyes = goodbyes
        self.numbered = numbered
        #: Whether one of `rejects` came before all of the messages.
        self.rejected_first = False
        #: The receipt that is due once this batch is safe; 0 for none. The session sets it.
        self.receipt = 0
        #: Sessions, each with the highest q that it holds with this batch; to be committed along
        #: with it.
        self.marks: Sequence[tuple[str, int]] = ()
        #: Frames that the session discarded, as it holds them already.
        self.duplicates = 0
        #: Its number in the journal; 0 where there is none.
        self.seq = 0
        #: Called when somebody asks for the messages and they are not there.
        self.on_decode: Optional[Callable[[], None]] = None
        self._messages = messages
        self._lines: Optional[list[bytes]] = None
        self._parts: Sequence[Batch] = ()
        self._sources = sources
        self._numbers: Optional[list[int]] = None
        self._telling: Optional[list[Message]] = None
        self._telling_at: Optional[Sequence[int]] = None
        self._told: Optional[dict[str, list[Message]]] = None
        if count is None:
            count = raw.count(b"\n") if messages is None else len(messages)
        self._count = count

    @classmethod
    def described(
        cls,
        raw: bytes,
        count: int,
        sources: dict[str, int],
        numbers: Optional[list[int]],
        telling: Sequence[int],
        told: Optional[Sequence[Message]] = None,
    ) -> Batch:
        """A batch whose messages are not decoded here, or not all; this is known of them.

        Args:
            raw: as above; so are `sources`.
            count: how many messages it holds.
            numbers: the receipt that each asks for; None where none does.
            telling: the indexes of the `telling` ones.
            told: these, where they are at hand.
        """
        batch = cls(raw, sources=sources, count=count, numbered=numbers is not None)
        batch._numbers, batch._telling_at = numbers, telling
        batch._telling = None if told is None else list(told)
        return batch

    @property
    def telling_at(self) -> Sequence[int]:
        """The indexes of the telling messages."""
        if self._telling_at is None:
            self._telling_at = [i for i, m in enumerate(self.messages) if is_telling(m)]
        return self._telling_at

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<Batch of {self._count} messages, {len(self.raw)} bytes>"

    @property
    def messages(self) -> list[Message]:
        """The decoded messages, in order."""
        if self._messages is None:
            if self.on_decode is not None:
                self.on_decode()
            # Each line is known to be one object, so commas between them are exact here.
            text = self.raw[:-1].decode("utf-8").replace("\n", ",")
            self._messages = json.loads(f"[{text}]")
        return self._messages

    @property
    def lines(self) -> list[bytes]:
        """The raw lines without their `\\n`, in order."""
        if self._lines is None:
            self._lines = self.raw.split(b"\n")[:-1]
        return self._lines

    @property
    def sources(self) -> dict[str, int]:
        """How many messages each source has in here."""
        if self._sources is None:
            sources = [message["src"] for message in self.messages]
            counts: dict[str, int] = {}
            if sources and sources.count(sources[0]) == len(sources):
                counts[sources[0]] = len(sources)  # the usual case: one script, one connection
            else:
                for source in sources:
                    counts[source] = counts.get(source, 0) + 1
            self._sources = counts
        return self._sources

    @property
    def numbers(self) -> list[int]:
        """The receipt that each message asks for; 0 for none."""
        if self._numbers is None and not self.numbered and self._telling_at is not None:
            self._numbers = [0] * self._count
        elif self._numbers is None:
            self._numbers = [message.get("q", 0) for message in self.messages]
        return self._numbers

    @property
    def telling(self) -> list[Message]:
        """The messages that observers look into, as `is_telling` has it."""
        if self._telling is None and self._messages is not None:
            self._telling = [m for m in self._messages if is_telling(m)]
        elif self._telling is None:
            at, lines = self.telling_at, self.lines if self.telling_at else []
            text = b",".join([lines[i] for i in at])
            self._telling = json.loads(b"[%b]" % text)
        return self._telling

    @property
    def told(self) -> dict[str, list[Message]]:
        """The `telling` messages by their type: who looks for one type passes over no other."""
        if self._told is None:
            self._told = {}
            for message in self.telling:
                self._told.setdefault(message["type"], []).append(message)
        return self._told

    def select(self, indexes: Sequence[int]) -> Batch:
        """The batch of just these messages, in the order of the indexes."""
        if len(indexes) == self._count:
            return self
        lines, messages = self.lines, self.messages
        raw = b"\n".join([lines[i] for i in indexes]) + b"\n" if indexes else b""
        return Batch(raw, [messages[i] for i in indexes], received_ms=self.received_ms)

    def lives(self) -> list[Batch]:
        """The batch cut behind each goodbye whose source goes on, as one of a forwarded backlog
        may, with several runs of a script; else the batch itself.

        >>> a, b, end = {"src": "a"}, {"src": "b"}, {"src": "a", "type": "goodbye"}
        >>> messages = [{"type": "event", **m} for m in (a, end, b, a, end, b)]
        >>> [len(life) for life in Batch(b"{}\\n" * 6, messages).lives()]
        [2, 4]
        """
        if "goodbye" not in self.told:
            return [self]
        later: set[str] = set()
        ends, end = [], self._count
        for index in range(self._count - 1, -1, -1):
            message = self.messages[index]
            if message["type"] == "goodbye" and message["src"] in later:
                ends.append((index + 1, end))
                end = index + 1
                later.clear()
            later.add(message["src"])
        ends.append((0, end))
        return [self.select(range(first, last)) for first, last in reversed(ends)]

    def with_lines(self, lines: list[bytes]) -> Batch:
        """The same batch, with rejects and receipts, but for what its messages say in `data`."""
        raw = b"\n".join(lines) + b"\n" if lines else b""
        batch = Batch(raw, None, self.rejects, self.received_ms, sources=self._sources)
        batch.receipt, batch.marks, batch.duplicates = self.receipt, self.marks, self.duplicates
        batch.seq = self.seq
        return batch

    def by_source(self) -> dict[str, Batch]:
        """One batch a source; a batch of a single source is itself, at no cost."""
        if len(self.sources) == 1:
            return dict.fromkeys(self.sources, self)
        if self._parts:  # each mostly of one source, so that nothing need be decoded
            found: dict[str, list[Batch]] = {source: [] for source in self.sources}
            for joined in self._parts:
                for source, part in joined.by_source().items():
                    found[source].append(part)
            return {source: Batch.join(batches) for source, batches in found.items()}
        indexes: dict[str, list[int]] = {source: [] for source in self.sources}
        for index, message in enumerate(self.messages):
            indexes[message["src"]].append(index)
        parts = {}
        for source, chosen in indexes.items():
            parts[source] = part = self.select(chosen)
            part._sources = {source: len(chosen)}
        return parts

    def packed(self) -> Batch:
        """The same batch without its decoded messages: what waits in a queue."""
        batch = Batch(
            self.raw, received_ms=self.received_ms, sources=self.sources, count=self._count
        )
        batch.seq = self.seq
        return batch

    @staticmethod
    def join(batches: Sequence[Batch], keep_parts: bool = True) -> Batch:
        """Several packed batches as one, in order; it has the time of the first, the number of
        the last.

        Args:
            batches: one at least.
            keep_parts: so that `by_source` need not decode; else their memory is given back.
        """
        if len(batches) == 1:
            return batches[0]
        sources: dict[str, int] = {}
        for batch in batches:
            for source, count in batch.sources.items():
                sources[source] = sources.get(source, 0) + count
        raw = b"".join([batch.raw for batch in batches])
        count = sum([batch._count for batch in batches])
        whole = Batch(raw, received_ms=batches[0].received_ms, sources=sources, count=count)
        whole._parts = batches if keep_parts else ()
        whole.seq = batches[-1].seq
        return whole

    def split(self, at: int) -> tuple[Batch, Batch]:
        """The batch as two: its first messages, and the rest."""
        first, rest = (
            Batch(b"\n".join(part) + b"\n" if part else b"", received_ms=self.received_ms)
            for part in (self.lines[:at], self.lines[at:])
        )
        return first, rest
