"""Which messages a person wants to see: the filters of `query` and `tail`, and people's times.

One definition serves the live stream and the store: the store narrows down with its index and
leaves the last word to `Selection.matches`.
"""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass
from functools import cached_property
from re import Pattern
from typing import Optional

from wafermon.flow.pattern import any_of
from wafermon.message import LEVELS, ROUTED_TYPES, Batch, Message, level_rank


@dataclass(frozen=True)
class Selection:
    """What passes every filter that is set; without any, all messages do.

    Args:
        src: names of sources, or patterns with `*` and `?`; any of them may match.
        types: message types; any of them may match.
        level: only events, and of these only the ones of this level and above. (A route's
            `level` lets other types pass; who asks for warnings wants to read warnings.)
        tid: trace id, exactly.
        since_ms: earliest event time (`ts`), Unix milliseconds, inclusive.
        until_ms: latest event time, Unix milliseconds, exclusive: two days that adjoin share
            no message.
        text: stands somewhere in the line, whatever its case. JSON's escapes do not hide it:
            `é` finds `\\u00e9`, and `C:\\tmp` is found though the line doubles the backslash.
        limit: at most so many, the newest; 0 for all. A matter of who selects: `matches` and
            `select` know nothing of it.

    Raises:
        ValueError: a type or level that does not exist, or a limit below 0.
        TypeError: one text where a tuple of texts is expected.

    Thread: any; immutable.

    >>> wanted = Selection(src=("db-*",), level="warn")
    >>> line = b'{"v":1,"src":"db-1","ts":1,"type":"event","data":{"level":"error","msg":"x"}}'
    >>> wanted.matches(json.loads(line), line)
    True
    """

    src: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    level: Optional[str] = None
    tid: Optional[str] = None
    since_ms: Optional[int] = None
    until_ms: Optional[int] = None
    text: Optional[str] = None
    limit: int = 0

    def __post_init__(self) -> None:
        for name in ("src", "types"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name}: expected a tuple of texts, not one text")
        for kind in self.types:
            if kind not in ROUTED_TYPES:
                raise ValueError(
                    f"type {kind!r}: expected one of {', '.join(sorted(ROUTED_TYPES))}"
                )
        if self.level is not None and self.level not in LEVELS:
            raise ValueError(f"level {self.level!r}: expected one of {', '.join(LEVELS)}")
        if self.limit < 0:
            raise ValueError(f"limit {self.limit}: expected 0 (all) or more")

    @cached_property
    def _sources(self) -> Pattern[str]:
        return any_of(self.src)

    @cached_property
    def _needles(self) -> tuple[str, ...]:
        """The text as typed and as JSON writes it."""
        text = self.text or ""
        return tuple({_fold(text), _fold(_dumps(text)[1:-1])})

    @cached_property
    def _byte_needles(self) -> Optional[tuple[bytes, ...]]:
        """The same for ASCII, which is found in bytes: no decoding, ten times as fast."""
        if (self.text or "").isascii():
            return tuple(needle.encode("ascii") for needle in self._needles)
        return None  # not where only the needle is ASCII: a small `ß` is `ss`

    @property
    def min_rank(self) -> Optional[int]:
        """Rank of the lowest level that passes; None where no level is asked for."""
        return None if self.level is None else level_rank(self.level)

    def matches(self, message: Message, line: bytes) -> bool:
        """Tell whether a message passes.

        Args:
            message: an accepted frame, decoded.
            line: the same as it came, without its line end.
        """
        kind, ts = message["type"], message["ts"]
        if self.types and kind not in self.types:
            return False
        if self.level is not None and not (
            kind == "event" and event_rank(message) >= level_rank(self.level)
        ):
            return False
        if self.tid is not None and message.get("tid") != self.tid:
            return False
        if self.since_ms is not None and ts < self.since_ms:
            return False
        if self.until_ms is not None and ts >= self.until_ms:
            return False
        if self.src and self._sources.fullmatch(message["src"]) is None:
            return False
        return not self.text or self._has_text(line) or (b"\\" in line and self._says(message))

    def may_match(self, raw: bytes) -> bool:
        """Tell whether one of many lines may pass, by the text alone and without decoding.

        Never wrong with False; True means: look at each.
        """
        return not self.text or b"\\" in raw or self._has_text(raw)

    def select(self, batch: Batch) -> Batch:
        """The batch of just the messages that pass."""
        pairs = zip(batch.messages, batch.lines)
        return batch.select([i for i, (m, line) in enumerate(pairs) if self.matches(m, line)])

    def _says(self, message: Message) -> bool:
        """Whether the text is there once JSON's escapes are gone."""
        try:
            text = _fold(_dumps(message))
        except RecursionError:  # what one call stack could parse, a deeper one cannot write
            return False
        return any(needle in text for needle in self._needles)

    def _has_text(self, raw: bytes) -> bool:
        if self._byte_needles is not None:
            small = raw.lower()
            return any(needle in small for needle in self._byte_needles)
        text = _fold(raw.decode("utf-8", "replace"))
        return any(needle in text for needle in self._needles)


def event_rank(message: Message) -> int:
    """Rank of the level of an event, 0 (debug) to 4 (fatal); -1 for all else.

    >>> event_rank({"type": "event", "data": {"level": "warn"}})
    2
    """
    return level_rank(message["data"].get("level")) if message["type"] == "event" else -1


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _fold(text: str) -> str:
    """Caseless; of ASCII text the same that `bytes.lower` makes."""
    return text.casefold()


_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_AGE = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_CLOCK = re.compile(r"\d\d?:\d\d(:\d\d(\.\d{3})?)?", re.ASCII)
_EXPECTED = (
    "expected an age (90s, 10m, 2h, 7d, 1h30m), a local date or time (2026-01-31, "
    "2026-01-31T14:05, 14:05), one with an offset (2026-01-31T14:05:00Z), now, "
    "or Unix seconds or milliseconds"
)


def parse_time(text: str, now: float) -> int:
    """Read a time as people write it.

    Args:
        text: an age counted back from now (`10m`, `1h30m`, `7d`), an ISO date or time (local
            unless it carries an offset), a time of today, `now`, or Unix seconds or milliseconds.
        now: Unix seconds, as `time.time()` gives them.

    Returns:
        Unix milliseconds.

    Raises:
        ValueError: with what was expected.

    >>> parse_time("10m", 1_700_000_000), parse_time("1700000000", 0)
    (1699999400000, 1700000000000)
    >>> parse_time("2026-01-31T14:05:03.250Z", 0)
    1769868303250
    """
    word = text.strip()
    if re.fullmatch(f"({_AGE.pattern})+", word, re.ASCII):
        age = sum(float(n) * _UNITS[unit] for n, unit in _AGE.findall(word))
        return max(0, round(now * 1000 - age)) if age < 1e15 else 0
    if re.fullmatch(r"\d{9,13}(\.\d+)?", word, re.ASCII):
        # 11 digits of seconds are the year 5138, of milliseconds 1973. Fewer than 9 are rather
        # an age whose unit was forgotten.
        return round(float(word) * (1000 if len(word.split(".")[0]) <= 11 else 1))
    if word == "now":
        return round(now * 1000)
    try:
        return _iso(word, now)
    except (ValueError, OverflowError, OSError):
        hint = f" (did you mean {word}m?)" if word.isascii() and word.isdigit() else ""
        raise ValueError(f"{text!r} is no time{hint}: {_EXPECTED}") from None


def _iso(word: str, now: float) -> int:
    if _CLOCK.fullmatch(word):
        today = datetime.datetime.fromtimestamp(now).date().isoformat()
        word = f"{today}T0{word}" if word[1] == ":" else f"{today}T{word}"
    if word[-1:] in ("Z", "z"):  # fromisoformat knows it from Python 3.11 on
        word = word[:-1] + "+00:00"
    return round(datetime.datetime.fromisoformat(word).timestamp() * 1000)
