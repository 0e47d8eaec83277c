"""From a file to a plain document of dicts, lists and scalars, in JSON, TOML or YAML.

JSON is always there, TOML from Python 3.11 on, YAML with PyYAML. A document remembers keys that
stand twice (`Document.repeated`), so that the loader can name them by their path.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any, Callable

from wafermon.errors import ConfigError
from wafermon.sidecar.words import quoted

if sys.version_info >= (3, 11):
    import tomllib  # novermin: newer than the oldest Python that this package runs on

_MAX_REASON = 300
#: A configuration bigger than this is a mistake: some other file.
MAX_BYTES = 1 << 20


class Document(dict[Any, Any]):
    """A mapping of a document, which knows the keys that stand in it more than once.

    >>> Document([("a", 1), ("b", 2), ("a", 3)]).repeated
    ['a']
    """

    def __init__(self, pairs: Iterable[tuple[Any, Any]] = ()) -> None:
        super().__init__()
        self.repeated: list[Any] = []
        for key, value in pairs:
            if key in self:
                self.repeated.append(key)
            self[key] = value


class Trap(str):
    """A scalar that YAML reads as something other than what most people see: text, and why.

    >>> Trap("0660", "an octal number").why
    'an octal number'
    """

    why: str

    @property
    def shown(self) -> str:
        """The text for a fault, without the quotes that it lacks."""
        return quoted(self)[1:-1]

    def __new__(cls, text: str, why: str) -> Trap:
        trap = super().__new__(cls, text)
        trap.why = why
        return trap


def read_document(path: str) -> object:
    """Read a file by its ending; an empty one is an empty mapping.

    Raises:
        ConfigError: it cannot be read, is too big, or is not of its format.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in _READERS:
        raise ConfigError([f"{path}: unknown format, expected a name that ends in {_ENDINGS}"])
    try:
        text = _text(path)
        document = _READERS[ending](text) if text.strip() else None
        return {} if document is None else document  # None also where all is commented out
    except RecursionError:
        raise ConfigError([f"{path}: nested too deeply"]) from None
    except (OSError, ValueError) as error:
        # Of a failed system call only the reason: its text would repeat the path.
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError([f"{path}: {' '.join(reason.split())[:_MAX_REASON]}"]) from None


def _text(path: str) -> str:
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB, so hardly a configuration")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8") from None


def _read_json(text: str) -> object:
    def refuse(name: str) -> object:
        raise ValueError(f"not valid JSON: {name} is no number")

    try:
        return json.loads(text, object_pairs_hook=Document, parse_constant=refuse)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"not valid JSON, {where}: {error.msg}") from None


if sys.version_info >= (3, 11):

    def _read_toml(text: str) -> object:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"not valid TOML: {error}") from None

else:

    def _read_toml(text: str) -> object:
        raise ValueError("TOML needs Python 3.11 or later, use JSON or YAML here")


def _read_yaml(text: str) -> object:
    try:
        # Not at the top: PyYAML costs 45 ms, which a user of JSON or TOML need not pay at each
        # start. It happens while the configuration is read, before anything runs.
        from wafermon.sidecar import yaml_format
    except ImportError:
        raise ValueError(
            "YAML needs PyYAML: pip install wafermon[yaml], or use JSON (or TOML from Python 3.11)"
        ) from None
    return yaml_format.read(text)


_READERS: dict[str, Callable[[str], object]] = {
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".toml": _read_toml,
    ".json": _read_json,
}
_ENDINGS = ", ".join(_READERS)
