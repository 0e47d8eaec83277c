"""YAML out of a document: no library is needed to write it, and none that reads it is misled."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from wafermon.sidecar.written import Commented

_WIDTH = 98
#: Text that no reader takes for anything else; all other is quoted.
_PLAIN = re.compile("(?!(?:true|false|yes|no|on|off|null|y|n)$)[a-z][a-z_]*(?<!:)")
_ESCAPES = {'"': '\\"', "\\": "\\\\"}


def yaml_of(document: Mapping[str, Any]) -> str:
    """A document as YAML.

    Args:
        document: mappings, lists and scalars; the comments of a `Commented` stand above its keys.

    >>> print(yaml_of({"a": {"b": [1, {"c": "on"}], "d": {}}}), end="")
    a:
      b:
        - 1
        - c: "on"
      d: {}
    """
    return "".join(f"{line}\n" for line in _mapping(document))


def _mapping(value: Mapping[str, Any]) -> Iterator[str]:
    comments = value.comments if isinstance(value, Commented) else {}
    for key, item in value.items():
        yield from textwrap.wrap(
            comments.get(key, ""), _WIDTH, initial_indent="# ", subsequent_indent="# "
        )
        yield from _entry(f"{_text(key)}:", item)


def _entry(start: str, item: Any) -> Iterator[str]:
    """A key with what belongs to it."""
    if isinstance(item, (Mapping, list, tuple)) and item:
        yield start
        inside = _mapping(item) if isinstance(item, Mapping) else _list(item)
        yield from (f"  {line}" for line in inside)
    else:
        yield f"{start} {_scalar(item)}"


def _list(items: Any) -> Iterator[str]:
    for item in items:
        if isinstance(item, (Mapping, list, tuple)) and item:
            inside = _mapping(item) if isinstance(item, Mapping) else _list(item)
            for index, line in enumerate(inside):
                yield f"{'  ' if index else '- '}{line}"
        else:
            yield f"- {_scalar(item)}"


def _scalar(value: Any) -> str:
    if isinstance(value, (Mapping, list, tuple)):
        return "{}" if isinstance(value, Mapping) else "[]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return _float(value)
    return str(value)


def _float(value: float) -> str:
    """With a point: YAML 1.1 takes 1e+22 for text."""
    text = repr(value)
    if "n" in text:  # nan, inf
        return f"{'-' if value < 0 else ''}.{text.lstrip('-')}"
    digits, e, power = text.partition("e")
    return f"{digits if '.' in digits else f'{digits}.0'}{e}{power}"


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    return f'"{"".join(map(_char, text))}"'


def _char(char: str) -> str:
    if char.isprintable():
        return _ESCAPES.get(char, char)
    code = ord(char)
    return f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"
