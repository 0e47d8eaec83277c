"""Durations in words."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A duration in words, two units at most.

    >>> duration(0.3), duration(59.6), duration(3700), duration(200_000)
    ('0 s', '1 min', '1 h 1 min', '2 d 7 h')
    """
    left = round(seconds)
    words = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            words.append(f"{count} {unit}")
        elif words:
            break
    return " ".join(words[:2]) or "0 s"
