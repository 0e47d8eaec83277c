"""Patterns with `*` and `?`, as routes and filters use them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from re import Pattern


def is_pattern(text: str) -> bool:
    """Tell whether a name is a pattern. `[` makes none: names such as `job[3]` exist.

    >>> is_pattern("db-*"), is_pattern("job[3]")
    (True, False)
    """
    return "*" in text or "?" in text


def any_of(texts: Iterable[str]) -> Pattern[str]:
    """A regular expression whose `fullmatch` takes what one of these patterns or names takes.

    >>> bool(any_of(["db-*", "etl"]).fullmatch("db-loader"))
    True
    """
    return re.compile("|".join(map(_expression, texts)), re.DOTALL)


def _expression(text: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(char) or re.escape(char) for char in text)
