"""Redaction: values of named fields are replaced, in the message and in its raw line."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, Optional

from wafermon.message import Batch, Message

REDACTED = "[redacted]"
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Redactor:
    """Replace the values at dotted paths by `[redacted]`.

    Lines without such a field stay byte for byte as they came; one with it is encoded anew. A
    frame that was rejected cannot be looked into, so its dead letter is as it came.

    Args:
        paths: such as `data.ctx.password`; a whole object may be named.

    Thread: any.

    >>> line = b'{"v":1,"src":"a","ts":1,"type":"event","data":{"ctx":{"pin":42,"lot":"L1"}}}\\n'
    >>> Redactor(["data.ctx.pin"]).apply(Batch(line)).messages[0]["data"]
    {'ctx': {'pin': '[redacted]', 'lot': 'L1'}}
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = [path.split(".") for path in paths]

    def apply(self, batch: Batch, only: Optional[Collection[int]] = None) -> Batch:
        """The batch without what is to be hidden; the batch itself where there is nothing.

        Args:
            only: indexes of the messages to look at; all by default.
        """
        hidden: dict[int, Message] = {}
        for index, message in enumerate(batch.messages):
            if only is None or index in only:
                clean = message
                for path in self._paths:
                    clean = _hide(clean, path)
                if clean is not message:
                    hidden[index] = clean
        return _replaced(batch, hidden) if hidden else batch


def _hide(message: Message, path: Sequence[str]) -> Message:
    """The message, or a copy in which the value at the path is replaced."""
    key = path[0]
    if key not in message:
        return message
    if len(path) == 1:
        return {**message, key: REDACTED}
    inner: Any = message[key]
    if type(inner) is not dict:
        return message
    clean = _hide(inner, path[1:])
    return message if clean is inner else {**message, key: clean}


def _replaced(batch: Batch, hidden: dict[int, Message]) -> Batch:
    lines = list(batch.lines)
    messages = list(batch.messages)
    for index, message in hidden.items():
        messages[index] = message
        lines[index] = _encode(message).encode("utf-8")
    return batch.with_lines(lines, messages)
