"""The last errors that each source told of: what one wants to read first about it."""

from __future__ import annotations

import collections
import json
from typing import NamedTuple, Optional

from wafermon.flow.capped import Capped
from wafermon.message import Batch

#: Levels that are kept, and how they stand in a line.
LEVELS = ("error", "fatal")
_WORDS = tuple(b'"%b"' % level.encode() for level in LEVELS)
#: Errors of one source, and of each so much of the text.
MAX_ERRORS, MAX_TEXT = 5, 300
#: Bytes a second that are looked through: what comes faster is seen in samples.
BYTES_PER_SECOND = 2_000_000
#: Lines of one batch that are decoded, from the newest on.
_LINES = 20


class ToldError(NamedTuple):
    """An event of level `error` or `fatal`.

    Attributes:
        ts: when, by its source, in Unix milliseconds.
        level: one of the two.
        msg: what it says, the first 300 characters; "" for nothing.
        tid: the trace it belongs to.
    """

    ts: int
    level: str
    msg: str
    tid: Optional[str]


class RecentErrors:
    """Keep the last five errors of each source; an observer of the pipeline.

    Nobody decodes events for it: a batch is searched for the two words, and lines that hold one are
    decoded. Past 2 MB a second whole batches are passed over, so it costs less than a hundredth of
    a core, whatever comes.

    Args:
        max_sources: sources with errors that are remembered; past it the one goes whose last error
            is oldest.

    Thread: `observe` loop only; all else any.

    >>> errors = RecentErrors()
    >>> errors.observe(Batch(
    ...     b'{"v":1,"src":"a","ts":1,"type":"event","data":{"level":"fatal","msg":"no disk"}}\\n'),
    ...     now=0.0)
    >>> errors.of("a")
    [ToldError(ts=1, level='fatal', msg='no disk', tid=None)]
    """

    def __init__(self, *, max_sources: int = 1_000) -> None:
        self._told: Capped[str, collections.deque[ToldError]] = Capped(max_sources)
        self._budget, self._at = float(BYTES_PER_SECOND), 0.0
        #: Batches that were not looked through.
        self.passed_over = 0

    def observe(self, batch: Batch, now: float) -> None:
        """Look through a batch; `now` is monotonic seconds."""
        gained = max(0.0, now - self._at) * BYTES_PER_SECOND
        self._budget, self._at = min(BYTES_PER_SECOND, self._budget + gained), now
        if self._budget < 0:
            self.passed_over += 1
            return
        raw = batch.raw
        self._budget -= len(raw)
        found = sorted({start for word in _WORDS for start in _lines_with(raw, word)})
        for start in found[-_LINES:]:
            self._take(raw[start : raw.index(b"\n", start)])

    def of(self, src: str) -> list[ToldError]:
        """Those of a source, the newest first."""
        told = self._told.get(src)
        return [] if told is None else list(told)[::-1]

    def _take(self, line: bytes) -> None:
        message = json.loads(line)
        src, data = message["src"], message.get("data")
        if message["type"] != "event" or data.get("level") not in LEVELS:
            return
        told = self._told.get(src)
        if told is None:
            told = collections.deque(maxlen=MAX_ERRORS)
            self._told.add(src, told)
        else:
            self._told.touch(src)
        msg, tid = data.get("msg"), message.get("tid")
        words = msg[:MAX_TEXT] if type(msg) is str else ""
        told.append(ToldError(message["ts"], data["level"], words, tid))


def _lines_with(raw: bytes, word: bytes) -> list[int]:
    """Where the last lines begin that hold a word."""
    if word not in raw:  # by far the usual case, and quicker than to look from the end
        return []
    starts: list[int] = []
    at = raw.rfind(word)
    while at >= 0 and len(starts) < _LINES:
        starts.append(raw.rfind(b"\n", 0, at) + 1)
        at = raw.rfind(word, 0, starts[-1])
    return starts
