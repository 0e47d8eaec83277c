"""Kinds of values in a configuration: what each accepts, what it becomes, how it names itself.

Plain kinds turn one scalar of a document into the value that the program works with. Composite
kinds (`Section`, `Variant`, `Shape`, `Several`, `Table`) only say what is inside; the loader walks
them.

Thread: kinds are immutable; any thread may use them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wafermon.backends.paths import PathTemplate
from wafermon.sidecar.words import SECONDS, seconds, size

_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(ms|s|m|h|d)?")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?:([kmgt])(i?))?b?", re.IGNORECASE)
_FLAGS = {"true": True, "yes": True, "on": True, "1": True}
_FLAGS.update({"false": False, "no": False, "off": False, "0": False})
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Kind:
    """What a value may be. A subclass names what it expects and reads it.

    Attributes:
        unit: what a bare number counts, where that does not depend on the field.
        textual: text is expected, so a bare number or date in a file may just lack its quotes.
        choices: all that is accepted, where that is a handful of words.
        explains: the text of its ValueError is the fault.
    """

    unit: str = ""
    textual: bool = False
    choices: tuple[str, ...] = ()
    explains: bool = False

    @property
    def expected(self) -> str:
        """A phrase for faults and for the reference: `an integer from 0 to 65535`."""
        return "a mapping"

    def read(self, raw: object) -> Any:
        """Turn a scalar of a document into a value; ValueError where it is none of this kind."""
        raise NotImplementedError

    def parse(self, text: str) -> Any:
        """The same for text out of the environment, where everything is text."""
        return self.read(text)


@dataclass(frozen=True)
class Integer(Kind):
    """A whole number within bounds.

    >>> Integer(0, 65_535).expected, Integer(0, 65_535).parse("17000")
    ('an integer from 0 to 65535', 17000)
    """

    low: int
    high: int

    @property
    def expected(self) -> str:
        return f"an integer from {self.low} to {self.high}"

    def read(self, raw: object) -> int:
        if type(raw) is not int or not self.low <= raw <= self.high:
            raise ValueError
        return raw

    def parse(self, text: str) -> int:
        if not re.fullmatch("[-+]?[0-9]{1,18}", text):
            raise ValueError
        return self.read(int(text))


@dataclass(frozen=True)
class Number(Kind):
    """A number within bounds, which also keeps out NaN and infinity.

    >>> Number(0, 1).read(1), Number(0, 1).parse("0.25")
    (1.0, 0.25)
    """

    low: float
    high: float

    @property
    def expected(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    def read(self, raw: object) -> float:
        """The number as a float."""
        # The type is compared, not tested with isinstance: a boolean is never a number.
        if type(raw) not in (int, float) or not self.low <= raw <= self.high:  # type: ignore[operator]
            raise ValueError
        return float(raw)  # type: ignore[arg-type]

    def parse(self, text: str) -> float:
        return self.read(float(text))


@dataclass(frozen=True)
class Seconds(Number):
    """A duration: seconds as a number, or text such as `500ms`, `30s`, `5m`, `12h`, `7d`.

    >>> [Seconds(0, 1e9).read(raw) for raw in (30, 0.5, "500ms", "1.5h", "7d")]
    [30.0, 0.5, 0.5, 5400.0, 604800.0]
    """

    unit = "s"

    @property
    def expected(self) -> str:
        return f'a duration from {seconds(self.low)} to {seconds(self.high)}, such as 30 or "5m"'

    def read(self, raw: object) -> float:
        return self.parse(raw) if isinstance(raw, str) else super().read(raw)

    def parse(self, text: str) -> float:
        """Seconds out of a number with or without a unit."""
        match = _DURATION.fullmatch(text)
        if match is None:
            raise ValueError
        return super().read(float(match[1]) * SECONDS[match[2] or "s"])


@dataclass(frozen=True)
class Bytes(Integer):
    """A size: bytes as a number, or text in decimal (`100MB`) or binary (`64KiB`) units.

    >>> [Bytes(0, 10**15).read(raw) for raw in (512, "100MB", "64KiB", "1.5 GB")]
    [512, 100000000, 65536, 1500000000]
    """

    unit = "bytes"

    @property
    def expected(self) -> str:
        return f'a size from {size(self.low)} to {size(self.high)}, such as "100MB" or "64KiB"'

    def read(self, raw: object) -> int:
        return self.parse(raw) if isinstance(raw, str) else super().read(raw)

    def parse(self, text: str) -> int:
        """Bytes out of a number with or without a unit."""
        match = _SIZE.fullmatch(text)
        if match is None:
            raise ValueError
        power = " kmgt".index((match[2] or " ").lower())
        return super().read(round(float(match[1]) * (1024 if match[3] else 1000) ** power))


class Flag(Kind):
    """A boolean; from the environment also `yes`, `no`, `on`, `off`, `1` and `0`.

    >>> Flag().read(True), Flag().parse("No")
    (True, False)
    """

    expected = "true or false"

    def read(self, raw: object) -> bool:
        if type(raw) is not bool:
            raise ValueError
        return raw

    def parse(self, text: str) -> bool:
        if text.lower() not in _FLAGS:
            raise ValueError
        return _FLAGS[text.lower()]


@dataclass(frozen=True)
class Text(Kind):
    """Text of at least one character, without control characters, such as a name or a path.

    >>> Text("a path").read("/mnt/nas/{src}.jsonl")
    '/mnt/nas/{src}.jsonl'
    """

    expected: str = "text"
    pattern: str = r".{1,4096}"
    textual = True

    def read(self, raw: object) -> str:
        if not isinstance(raw, str) or _CONTROL.search(raw) or not re.fullmatch(self.pattern, raw):
            raise ValueError
        return str(raw)


@dataclass(frozen=True)
class Template(Text):
    """The path of a file, with fields such as `{src}`.

    >>> Template("a path").read("/mnt/nas/{source}.jsonl")
    Traceback (most recent call last):
    ValueError: unknown field {source}: expected one of {src} {type} {date} {hour} {host} {pid}
    """

    explains = True

    def read(self, raw: object) -> str:
        path = super().read(raw)
        PathTemplate(path)
        return path


@dataclass(frozen=True)
class Secret(Text):
    """Text that is never shown."""


class Word(Text):
    """A word of a command: of one, all but the first may be a secret."""


class Mode(Kind):
    """Permission bits, written as a string of octal digits as for chmod.

    >>> oct(Mode().read("0660"))
    '0o660'
    """

    expected = 'a string of octal digits from "000" to "0777", such as "0660"'
    textual = True

    def read(self, raw: object) -> int:
        if not isinstance(raw, str) or not re.fullmatch("0?[0-7]{3}", raw):
            raise ValueError
        return int(raw, 8)


@dataclass(frozen=True)
class Account(Text):
    """A user or a group by its name, or by its number, with or without quotes.

    >>> Account("a group").read("eda"), Account("a group").read("1000")
    ('eda', 1000)
    """

    pattern: str = "[A-Za-z0-9_][A-Za-z0-9_.$@-]{0,63}"

    def read(self, raw: object) -> Any:
        if type(raw) is int or (isinstance(raw, str) and raw.isdigit()):
            return Integer(0, 2**32 - 2).parse(str(raw))  # the last one means "leave as it is"
        return super().read(raw)


class Choice(Kind):
    """One word of a few.

    >>> Choice("hour", "day").expected
    'one of hour, day'
    """

    textual = True

    def __init__(self, *choices: str) -> None:
        self.choices = choices

    @property
    def expected(self) -> str:
        return "one of " + ", ".join(self.choices)

    def read(self, raw: object) -> str:
        if not isinstance(raw, str) or raw not in self.choices:
            raise ValueError
        return str(raw)


class Scalar(Kind):
    """Text, a finite number or a boolean, as it stands.

    >>> Scalar().read("EQP*"), Scalar().read(False)
    ('EQP*', False)
    """

    expected = "text, a number or a boolean"

    def read(self, raw: object) -> Any:
        """The value itself; whether it can ever match is not asked."""
        if isinstance(raw, str):
            return str(raw)
        if type(raw) is bool or (type(raw) in (int, float) and abs(raw) < 1e300):  # type: ignore[arg-type]
            return raw
        raise ValueError


@dataclass(frozen=True)
class Section(Kind):
    """A mapping whose keys are the fields of a dataclass of the schema."""

    cls: Any


@dataclass(frozen=True)
class Variant(Kind):
    """A mapping whose key `type` names the dataclass for the rest of it."""

    types: Mapping[str, Any]

    @property
    def type(self) -> Kind:
        """The kind of its key `type`."""
        return Choice(*self.types)


@dataclass(frozen=True)
class Shape(Kind):
    """A mapping that has one of a few telling keys, which names the dataclass for all of it."""

    classes: Mapping[str, Any]


@dataclass(frozen=True)
class Several(Kind):
    """A list; becomes a tuple.

    Attributes:
        item: the kind of each.
        alone: a single item may stand without the list around it.
        empty: the list may be empty.
    """

    item: Kind
    alone: bool = False
    empty: bool = False

    @property
    def expected(self) -> str:
        item = self.item.expected
        return f"{item}, or a list of such" if self.alone else f"a list, each {item}"


@dataclass(frozen=True)
class Table(Kind):
    """A mapping whose keys the user chooses; becomes a dict."""

    key: Text
    item: Kind
