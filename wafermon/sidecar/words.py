"""How faults and the reference put values into words: bounded, on one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: So much of a foreign text is echoed in a fault.
MAX_ECHO = 60

#: The units of durations.
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}

_TYPES = {
    "dict": "a mapping",
    "list": "a list",
    "tuple": "a list",
    "date": "a date",
    "time": "a time",
}


def seconds(value: float) -> str:
    """A duration as a person writes it.

    >>> seconds(0), seconds(0.1), seconds(90), seconds(86_400)
    ('0', '100ms', '90s', '1d')
    """
    if 0 < value < 1:
        return f"{value * 1000:g}ms"
    for unit in ("d", "h", "m", "s"):
        if value and value % SECONDS[unit] == 0:
            return f"{value / SECONDS[unit]:g}{unit}"
    return f"{value:g}"


def size(value: int) -> str:
    """A size as a person writes it.

    >>> size(0), size(100_000_000), size(1 << 30)
    ('0', '100MB', '1073741824')
    """
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB")):
        if value and value % 1000**power == 0:
            return f"{value // 1000**power}{unit}"
    return str(value)


def quoted(text: str, limit: int = MAX_ECHO) -> str:
    """Foreign text for a fault: bounded, on one line, in double quotes.

    >>> quoted('17"k\\n')
    '"17\\\\"k\\\\n"'
    """
    cut = text if len(text) <= limit else text[: limit - 3] + "..."
    return '"' + repr(cut)[1:-1].replace('"', '\\"') + '"'


def shown(raw: object) -> str:
    """What a document holds, for a fault: bounded, and never the inside of a mapping or list.

    >>> [shown(raw) for raw in (None, True, 17, "17k", [1], {})]
    ['null', 'the boolean true', 'the integer 17', 'the string "17k"', 'a list', 'a mapping']
    """
    if raw is None:
        return "null"
    if isinstance(raw, bool):
        return f"the boolean {str(raw).lower()}"
    if isinstance(raw, int):
        # Python refuses to print integers of thousands of digits.
        return f"the integer {raw}" if raw.bit_length() < 199 else "a huge integer"
    if isinstance(raw, float):
        return f"the number {raw}"
    if isinstance(raw, str):
        return f"the string {quoted(raw)}"
    names = [cls.__name__ for cls in type(raw).__mro__]  # a datetime is a date too
    known = (_TYPES[name] for name in names if name in _TYPES)
    return next(known, f"a value of type {names[0][:MAX_ECHO]}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a fault about a word that is not known.

    >>> did_you_mean("prot", ["host", "port"]), did_you_mean("zzz", ["host", "port"])
    (", did you mean 'port'?", '')
    """
    near = difflib.get_close_matches(word[:MAX_ECHO].lower(), list(known), 1)
    return f", did you mean '{near[0]}'?" if near else ""
