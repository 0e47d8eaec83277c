"""File names made from messages: templates such as `logs/{date}/{src}.jsonl`."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from typing import NamedTuple, Optional, Union

from wafermon.message import ROUTED_TYPES, Batch

#: The fields that a path may name.
FIELDS = ("src", "type", "date", "hour", "host", "pid")

_FIELD = re.compile(r"\{([^{}]*)\}")
_SAFE = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}", re.ASCII)
_UNSAFE = re.compile(rb"[^A-Za-z0-9._-]|\A\.")
_MAX_COMPONENT = 128
_DIGEST_BYTES = 16
# File systems take 255 bytes a name; a rotated file adds up to 35 to it (`@...`, `.gz.tmp`).
_MAX_NAME = 255 - 35


def safe_component(text: str) -> str:
    """Make any text one path component that cannot leave its folder.

    All but `A-Z a-z 0-9 . _ -` and a leading dot are percent-encoded, as UTF-8. What grows past
    128 bytes is cut and ends with `~` and a hash, so that two texts never share a name (a `~` of
    the text itself is encoded, so no short name looks like a cut one).

    Args:
        text: anything, such as the `src` of a message.

    >>> safe_component("db-loader"), safe_component("../etc"), safe_component(".."), len(
    ...     safe_component("x" * 500))
    ('db-loader', '%2E.%2Fetc', '%2E.', 128)
    """
    if _SAFE.fullmatch(text):
        return text
    data = text.encode("utf-8", "surrogatepass")
    name = _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], data).decode("ascii") or "%"
    if len(name) <= _MAX_COMPONENT:
        return name
    end = "~" + hashlib.sha256(data).hexdigest()[: 2 * _DIGEST_BYTES]
    return name[: _MAX_COMPONENT - len(end)] + end


class Part(NamedTuple):
    """The lines of a batch that go to one file.

    Attributes:
        source: their `src`, or "" where the path does not ask for it.
        kind: their `type`, or "" where the path does not ask for it.
        raw: the lines, byte for byte as they came.
    """

    source: str
    kind: str
    raw: bytes


class PathTemplate:
    """A path with fields in braces, and how a batch is divided by it.

    `{date}` (2026-11-23) and `{hour}` (00 to 23) are local time at the moment of the write. Not
    the `ts` of a message: a client with a wrong clock could open any number of files. Not UTC:
    who looks for a file looks at the clock on the wall, and cron and logrotate do the same.

    Args:
        text: the path; its fields are those of `FIELDS`.
        host: what `{host}` stands for; the host's own name when not given.

    Raises:
        ValueError: an unknown field, a stray brace, no file name, or a name that may get too long.

    Thread: one at a time.

    >>> template = PathTemplate("logs/{src}.jsonl")
    >>> template.render("a/b", "event", time.localtime(0))
    'logs/a%2Fb.jsonl'
    >>> PathTemplate("logs/{source}.jsonl")
    Traceback (most recent call last):
    ValueError: unknown field {source}: expected one of {src} {type} {date} {hour} {host} {pid}
    """

    def __init__(self, text: Union[str, os.PathLike[str]], host: Optional[str] = None) -> None:
        self.text = os.fspath(text)
        self._host = safe_component(socket.gethostname() if host is None else host)
        self._check()
        fields = set(_FIELD.findall(self.text))
        self.by_source = "src" in fields
        self.by_type = "type" in fields
        self._timed = fields & {"date", "hour"}
        #: Whether one file is written at a time, so that it can be opened before the first write.
        self.single = not (self.by_source or self.by_type)
        self._constant = not fields

    def _check(self) -> None:
        if "\0" in self.text or os.path.basename(self.text) in ("", ".", ".."):
            raise ValueError(f"expected the path of a file, got {self.text!r}")
        allowed = " ".join(f"{{{name}}}" for name in FIELDS)
        for name in _FIELD.findall(self.text):
            if name not in FIELDS:
                raise ValueError(f"unknown field {{{name}}}: expected one of {allowed}")
        if set("{}") & set(_FIELD.sub("", self.text)):
            raise ValueError(f"stray brace in {self.text!r}: expected fields such as {allowed}")
        widest = {"src": _MAX_COMPONENT, "type": max(map(len, ROUTED_TYPES)), "date": 10,
                  "hour": 2, "host": len(self._host), "pid": 10}  # fmt: skip
        # Found here, because the first long `src` would otherwise stop the whole route.
        for name in _FIELD.sub(lambda match: "x" * widest[match[1]], self.text).split("/"):
            if len(os.fsencode(name)) > _MAX_NAME:
                raise ValueError(f"a name in {self.text!r} may pass {_MAX_NAME} bytes")

    def stamp(self, moment: time.struct_time) -> str:
        """The part of the path that changes with time; "" where nothing does."""
        date = time.strftime("%Y-%m-%d", moment) if "date" in self._timed else ""
        return f"{date} {moment.tm_hour}" if "hour" in self._timed else date

    def render(self, source: str, kind: str, moment: time.struct_time) -> str:
        """The path for a source and a type at a local time."""
        if self._constant:
            return self.text
        return self.text.format(
            src=safe_component(source),
            type=safe_component(kind),
            date=time.strftime("%Y-%m-%d", moment) if self._timed else "",
            hour=f"{moment.tm_hour:02}",
            host=self._host,
            pid=os.getpid(),
        )

    def split(self, batch: Batch) -> list[Part]:
        """Divide a batch by file, in order within each.

        Cost: nothing for a path that names neither `{src}` nor `{type}`, or a batch that has one
        of each; `{type}` decodes the messages where nobody has yet.
        """
        if self.single:
            return [Part("", "", batch.raw)]
        sources = batch.by_source() if self.by_source else {"": batch}
        if not self.by_type:
            return [Part(source, "", part.raw) for source, part in sources.items()]
        return [
            Part(source, kind, chosen.raw)
            for source, part in sources.items()
            for kind, chosen in _by_type(part).items()
        ]


def _by_type(batch: Batch) -> dict[str, Batch]:
    indexes: dict[str, list[int]] = {}
    for index, message in enumerate(batch.messages):
        indexes.setdefault(message["type"], []).append(index)
    return {kind: batch.select(chosen) for kind, chosen in indexes.items()}
