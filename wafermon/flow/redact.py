"""Redaction: values of named fields are replaced in the raw line, and nothing else of it is."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Optional

from wafermon.message import Batch, Reject

REDACTED = "[redacted]"

_QUOTED = REDACTED.encode().join((b'"', b'"'))
_TEXT = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
#: Of valid JSON: a key with its value where that is no container, a string, a bracket.
_TOKEN = re.compile(rb"(%s)(?:\s*(:)\s*(%s|[^][{}\",\s]+)?)?|([{[])|([]}])" % (_TEXT, _TEXT))
#: The groups of it; the last one that matched tells what it is.
_STRING, _KEY, _VALUE, _OPENING, _CLOSING = 1, 2, 3, 4, 5
_MEMBER = (_KEY, _VALUE)


class Redactor:
    """Replace the values at dotted paths by `[redacted]`.

    A path goes through lists: it is looked for in each element. Where a key stands twice, both
    values go. All other bytes stay as they came, so numbers that no parser can hold stay, too.

    Lines are looked through in one pass over their tokens, without recursion: a message that is
    nested deeply costs no stack. One that has neither the key nor an escape by which it could be
    spelled otherwise is not looked through at all.

    Args:
        paths: such as `data.ctx.password`; a whole object or list may be named.

    Raises:
        ValueError: a path does not lead below `data`, without which a frame is no message.

    Thread: any.

    >>> line = b'{"v":1,"src":"a","ts":1,"type":"event","data":{"ctx":[{"pin":42,"lot":1e400}]}}\\n'
    >>> print(Redactor(["data.ctx.pin"]).apply(Batch(line)).raw.decode(), end="")
    {"v":1,"src":"a","ts":1,"type":"event","data":{"ctx":[{"pin":"[redacted]","lot":1e400}]}}
    """

    def __init__(self, paths: Sequence[str]) -> None:
        #: Key in quotes -> what is named below it; True where its value is to be hidden.
        self._named: dict[bytes, Any] = {}
        self._last_keys = [_quoted(path.split(".")[-1]) for path in paths]
        #: What each spelling of a key holds that is not the plain one.
        plain = all(json.dumps(p, ensure_ascii=False) == f'"{p}"' and "/" not in p for p in paths)
        self._escape = b"\\u" if plain else b"\\"
        for path in paths:
            first, *keys = path.split(".")
            if first != "data" or not all(keys) or not keys:
                raise ValueError(f"expected a dotted path below data, got {path!r}")
            _name(self._named, [_quoted(key) for key in (first, *keys)])

    def apply(self, batch: Batch, only: Optional[Collection[int]] = None) -> Batch:
        """The batch without what is to be hidden; the batch itself where there is nothing.

        Args:
            only: indexes of the messages to look at; all by default.
        """
        if not self._may_hide(batch.raw):
            return batch
        lines = [
            self._clean(line) if only is None or index in only else line
            for index, line in enumerate(batch.lines)
        ]
        return batch if lines == batch.lines else batch.with_lines(lines)

    def apply_to_rejects(self, rejects: Iterable[Reject]) -> list[Reject]:
        """Rejected frames as they may be kept.

        Of one that is no JSON, or whose `data` is not the object into which the paths lead, just
        the size is left: where in it the values stand nobody can tell.
        """
        return [reject._replace(line=self._clean_reject(reject.line)) for reject in rejects]

    def _clean_reject(self, line: bytes) -> bytes:
        try:
            found = json.loads(line.decode("utf-8"), object_pairs_hook=_every_data)
        except (ValueError, RecursionError):
            found = None
        if type(found) is tuple and found and all(type(data) is tuple for data in found):
            return self._clean(line)
        return b"[redacted: %d bytes]" % len(line)

    def _may_hide(self, raw: bytes) -> bool:
        return self._escape in raw or any(key in raw for key in self._last_keys)

    def _clean(self, line: bytes) -> bytes:
        if not self._may_hide(line):
            return line
        pieces: list[bytes] = []
        end = 0
        for start, stop in self._spans(line):
            pieces += (line[end:start], _QUOTED)
            end = stop
        return b"".join((*pieces, line[end:]))

    def _spans(self, line: bytes) -> list[tuple[int, int]]:
        """From where to where the values stand that are to be hidden, in order."""
        spans: list[tuple[int, int]] = []
        named: Any = self._named  # in the value that comes next; an element has that of its list
        inside: Any = None  # what is named in the innermost container
        around: list[tuple[Any, Any, int]] = []  # for each open one: both as before it, its start
        for token in _TOKEN.finditer(line):
            kind = token.lastindex
            if kind in _MEMBER:
                named = None if inside is None else _below(inside, token[_STRING])
                if named is True and kind == _VALUE:
                    spans.append(token.span(_VALUE))
            elif kind == _OPENING:
                around.append((named, inside, token.start()))
                inside = named = None if named is True else named
            elif kind == _CLOSING:
                named, inside, start = around.pop()
                if named is True:
                    spans.append((start, token.end()))
        return spans


def _quoted(key: str) -> bytes:
    return f'"{key}"'.encode("utf-8", "surrogatepass")


def _name(named: dict[bytes, Any], keys: Sequence[bytes]) -> None:
    """Add a path to a tree; what contains another one's value hides that with its own."""
    for key in keys[:-1]:
        named = named.setdefault(key, {})
        if type(named) is not dict:
            return
    named[keys[-1]] = True


def _every_data(pairs: Iterable[tuple[str, Any]]) -> tuple[Any, ...]:
    """Of an object all values under `data`, however many: a tuple, which nothing else becomes."""
    return tuple(value for key, value in pairs if key == "data")


def _below(named: dict[bytes, Any], key: bytes) -> Any:
    """What is named below a key, as it is spelled in JSON; None for nothing."""
    return named.get(_quoted(json.loads(key)) if b"\\" in key else key)
