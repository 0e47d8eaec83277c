"""Durations in words."""

from __future__ import annotations

import functools


def duration(seconds: float) -> str:
    """A duration in words, two units at most.

    >>> duration(0.3), duration(59.6), duration(3700), duration(200_000)
    ('0 s', '1 min', '1 h 1 min', '2 d 7 h')
    """
    return _words(round(seconds))


@functools.lru_cache(1_024)  # alerts of hundreds of sources tell the same few each second
def _words(left: int) -> str:
    words = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            words.append(f"{count} {unit}")
        elif words:
            break
    return " ".join(words[:2]) or "0 s"
