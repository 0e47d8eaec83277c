"""Durations on the command line."""

from __future__ import annotations

import argparse
from typing import Callable


def seconds(low: float, high: float) -> Callable[[str], float]:
    """An argparse type: a number of seconds within bounds.

    >>> seconds(0.5, 60)("2.5")
    2.5
    >>> seconds(0.5, 60)("soon")
    Traceback (most recent call last):
        ...
    argparse.ArgumentTypeError: expected seconds from 0.5 to 60, got 'soon'
    """

    def typed(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"expected seconds from {low:g} to {high:g}, got {text!r}"
            )
        return value

    return typed
