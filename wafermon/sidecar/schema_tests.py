"""Tests that a configuration brings along: messages, and who has to get them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from wafermon.sidecar.fields import setting, table
from wafermon.sidecar.formats import Document, Trap
from wafermon.sidecar.interpolate import MASK
from wafermon.sidecar.kinds import Kind, Several, Text
from wafermon.sidecar.words import quoted


class Payload(Kind):
    """A message as it would be sent: a mapping of whatever JSON can say. Variables in it stay.

    >>> Payload().read({"src": "etl", "type": "heartbeat"})
    {'src': 'etl', 'type': 'heartbeat'}
    """

    expected = "a message: a mapping such as {src: etl, type: heartbeat}"
    explains = True

    def read(self, raw: object) -> dict[str, Any]:
        """The message; what only YAML or TOML can say is none of it."""
        if not isinstance(raw, Mapping):
            raise ValueError
        ahead: list[Any] = [raw]  # no recursion: it nests as it likes
        while ahead:
            value = ahead.pop()
            if isinstance(value, Mapping):
                if isinstance(value, Document) and value.repeated:
                    raise ValueError(f"the key {quoted(str(value.repeated[0]))} stands twice")
                ahead += [*value.values(), *(_Key(key) for key in value)]
            elif isinstance(value, (list, tuple)):
                ahead += value
            else:
                _check(value)
        return dict(raw)


class _Key:
    """A key of a mapping, among values."""

    def __init__(self, key: object) -> None:
        self.key = key


def _check(value: object) -> None:
    """ValueError where JSON has no such value or key."""
    key = value.key if isinstance(value, _Key) else value
    if isinstance(key, Trap):
        raise ValueError(f"YAML reads {key.shown} as {key.why}: quote it")
    if isinstance(value, _Key) and not isinstance(key, str):
        raise ValueError(f"expected keys of text, got {quoted(str(key))}: quote it")
    if key == MASK:
        raise ValueError("a value is masked: put the real one there")
    if not (key is None or isinstance(key, (str, bool, int, float))):
        raise ValueError(f"JSON has no {type(key).__name__}: quote it")


@dataclass(frozen=True)
class Case:
    """One test of the routing."""

    messages: tuple[Mapping[str, Any], ...] = setting(
        Several(Payload()),
        ...,
        "Messages; `v: 1` and `ts: 0` are filled in where they are missing.",
    )
    backends: tuple[str, ...] = setting(
        Several(Text("a backend's name"), empty=True),
        ...,
        "Who has to get each of them, and nobody else; an empty list = nobody.",
    )
    redacted: Mapping[str, tuple[str, ...]] = table(
        Text("a backend's name"),
        Several(Text("a dotted path below data"), empty=True),
        "Backend -> what has to be hidden from it, and nothing else; one that is not named here is"
        " not looked at.",
    )
    name: Optional[str] = setting(Text(), None, "What it shows.")
