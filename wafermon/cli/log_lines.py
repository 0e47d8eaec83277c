"""The log of `wafermon run`: one line an event on stderr, and no flood of one of them."""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping
from typing import IO, Callable, Optional

from wafermon.cli.lines import visible

#: So many lines of one message in so long; then they are counted.
BURST, WINDOW_SECONDS = 20, 60.0
#: Messages whose lines are counted at a time.
MAX_MESSAGES = 200
MAX_TEXT_CHARS, MAX_TRACE_CHARS = 4_000, 16_000
#: Level in words, and as sd-daemon(3) has it.
_LEVELS = (
    (logging.CRITICAL, "critical", 2),
    (logging.ERROR, "error", 3),
    (logging.WARNING, "warning", 4),
    (logging.INFO, "info", 6),
    (logging.NOTSET, "debug", 7),
)
_TRACES = logging.Formatter()


def is_journal(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Whether a descriptor leads to the journal of systemd, as systemd.exec(5) tells to find out.

    >>> is_journal(2, {})
    False
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Flood:
    """What is counted of one message."""

    __slots__ = ("began", "held", "last", "shown")

    def __init__(self, began: float) -> None:
        self.began = began
        self.shown = self.held = 0
        self.last: Optional[logging.LogRecord] = None


class LogLines(logging.Handler):
    """Write each record as one line: `key=value` pairs or JSON, with nothing in it that a terminal
    or a reader of lines could take for anything else.

    Of one message - the text as it stands in the code, whatever is filled in - 20 lines a minute
    are written; the rest is one line more, which tells how many there were.

    Args:
        stream: where to; one that fails is passed over, and so is None.
        journal: whether that is the journal of systemd: it gets the level before each line, and
            has times of its own.
        clock: monotonic seconds.

    Thread: any.

    >>> import sys
    >>> lines = LogLines(sys.stdout, journal=True)
    >>> _ = lines.handle(logging.makeLogRecord({
    ...     "name": "wafermon.net", "levelno": 40, "msg": "from %s", "args": ("\\n\\x1b[2J",)}))
    <3>level=error part=net msg="from \\n\\u001b[2J"
    """

    def __init__(
        self,
        stream: Optional[IO[str]],
        *,
        journal: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._stream = stream
        self._journal = journal
        self._clock = clock
        self._as_json = False
        self._floods: collections.OrderedDict[str, _Flood] = collections.OrderedDict()

    def follow(self, format: str, level: str) -> None:
        """Write the loggers of wafermon like this from now on.

        Args:
            format: `text` or `json`.
            level: `debug`, `info`, `warning` or `error`.
        """
        self._as_json = format == "json"
        logging.getLogger("wafermon").setLevel(level.upper())

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it; called with the lock of the handler."""
        try:
            self._emit(record, self._clock())
        except Exception:
            self.handleError(record)

    def _emit(self, record: logging.LogRecord, now: float) -> None:
        self._end_floods(now - WINDOW_SECONDS)
        key = f"{record.name} {record.msg}"[:MAX_TEXT_CHARS]
        flood = self._floods.get(key)
        if flood is None:
            flood = self._floods[key] = _Flood(now)
            if len(self._floods) > MAX_MESSAGES:
                self._tell(self._floods.popitem(last=False)[1])
        if flood.shown < BURST:
            flood.shown += 1
            self._write(record, _text(record))
        else:
            flood.held += 1
            flood.last = record

    def flush(self) -> None:
        """Write what was counted and whose time is over; called every now and then, too."""
        self.acquire()
        try:
            self._end_floods(self._clock() - WINDOW_SECONDS)
        finally:
            self.release()

    def close(self) -> None:
        """Write all that was counted."""
        self._end_floods(float("inf"))
        super().close()

    def _end_floods(self, began_before: float) -> None:
        while self._floods:
            key, flood = next(iter(self._floods.items()))
            if flood.began > began_before:
                return
            del self._floods[key]
            self._tell(flood)

    def _tell(self, flood: _Flood) -> None:
        """How many there were that nobody saw, and the last of them."""
        if flood.last is not None:
            seconds = self._clock() - flood.began
            words = f"{_text(flood.last)} ({flood.held} like this were left out in {seconds:.0f} s)"
            self._write(flood.last, words)

    def _write(self, record: logging.LogRecord, text: str) -> None:
        word, number = next((w, n) for level, w, n in _LEVELS if record.levelno >= level)
        fields = {"level": word, "part": record.name.replace("wafermon.", "", 1), "msg": text}
        if not self._journal:
            moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            fields = {"time": f"{moment}.{int(record.msecs):03d}Z", **fields}
        if record.exc_info and record.exc_info[0] is not None:
            fields["trace"] = _TRACES.formatException(record.exc_info)[-MAX_TRACE_CHARS:]
        line = json.dumps(fields) if self._as_json else " ".join(map(_pair, fields.items()))
        if self._stream is None:
            return
        # A closed pipe or a full disk must stop nothing.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(f"<{number}>{line}\n" if self._journal else f"{line}\n")
            self._stream.flush()


def _text(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:  # what is to be filled in does not fit
        text = f"{record.msg} {record.args!r}"
    return text if len(text) <= MAX_TEXT_CHARS else f"{text[:MAX_TEXT_CHARS]}..."


def _pair(field: tuple[str, str]) -> str:
    key, value = field
    if key in ("msg", "trace") or not value.isprintable() or set(value) & set(' "=\\'):
        value = visible(json.dumps(value, ensure_ascii=False))
    return f"{key}={value}"
