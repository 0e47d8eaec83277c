"""A tester at work: wafer-test datalogs as it leaves them, STDF-like records in CSV."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Iterator
from typing import NamedTuple

#: Dies along the diameter of a wafer.
DIAMETER = 20
WAFERS = 5
#: What is wrong with the lot, so that there is something to see: one file is cut off, and one
#: wafer has a bad edge.
CUT_OFF, BAD_EDGE = 3, 4

Row = tuple[object, ...]


class Parameter(NamedTuple):
    """One parameter that is tested: the distribution of its values, and the limits."""

    name: str
    unit: str
    mean: float
    sigma: float
    low: float
    high: float


#: A die that fails the first of them goes to bin 2, the second to bin 3, ...; good ones to bin 1.
PROGRAM = (
    Parameter("vth", "V", 0.450, 0.012, 0.400, 0.500),
    Parameter("idd", "mA", 18.0, 0.80, 14.0, 21.0),
    Parameter("fmax", "MHz", 1250.0, 25.0, 1150.0, 1400.0),
    Parameter("leak", "nA", 40.0, 9.0, 0.0, 80.0),
)


class Lot(NamedTuple):
    """What was generated. `dies` and `measurements` count the files that are whole."""

    name: str
    files: int
    cut_off: int
    dies: int
    measurements: int


def lot_name(number: int) -> str:
    """A name for a lot; of two Unix times the later has the greater name.

    >>> lot_name(1_784_000_000)
    'LTI5B7K'
    """
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[digit] + digits
    return f"L{digits}"


def write_lot(inbox: str, name: str) -> Lot:
    """Test a lot, and put the folder with its datalogs into the inbox by one rename.

    The name seeds the chance: the same lot comes out the same.
    """
    chance = random.Random(name)
    folder = os.path.join(inbox, f".{name}")
    os.makedirs(folder)
    dies = 0
    for number in range(1, WAFERS + 1):
        lines = [",".join(map(str, row)) for row in _records(chance, name, number)]
        if number == CUT_OFF:
            del lines[len(lines) * 2 // 3 :]  # as a full disk or a broken transfer leaves it
        else:
            dies += sum(line.startswith("PRR") for line in lines)
        with open(os.path.join(folder, f"{name}_W{number:02d}.csv"), "w", encoding="ascii") as file:
            file.write("\n".join(lines) + "\n")
    os.rename(folder, os.path.join(inbox, name))
    return Lot(name, WAFERS, 1, dies, dies * len(PROGRAM))


def _records(chance: random.Random, lot: str, number: int) -> Iterator[Row]:
    """The records of one wafer: file, lot, wafer, its parts and their tests, and the ends."""
    parts = good = 0
    yield "FAR", "CSV", 1
    yield "MIR", lot, "DEMO-65", "TESTER-07", _now()
    yield "WIR", f"W{number:02d}", _now()
    for x, y, edge in _sites():
        yield "PIR", x, y
        results = _measure(chance, edge if number == BAD_EDGE else 0.2 * edge)
        for test, value in zip(PROGRAM, results):
            yield "PTR", test.name, f"{value:.5g}", test.unit
        hard_bin = _bin(results)
        yield "PRR", x, y, hard_bin
        parts += 1
        good += hard_bin == 1
    yield "WRR", f"W{number:02d}", parts, good, _now()
    yield "MRR", _now()


def _sites() -> Iterator[tuple[int, int, float]]:
    """Column and row of each die that lies on the wafer, and how near the edge it is, 0 to 1."""
    middle = (DIAMETER - 1) / 2
    for y in range(DIAMETER):
        for x in range(DIAMETER):
            radius = math.hypot(x - middle, y - middle) / (DIAMETER / 2)
            if radius <= 1:
                yield x, y, radius**4


def _measure(chance: random.Random, edge: float) -> list[float]:
    """Near a bad edge every value drifts to its upper limit and beyond."""
    return [
        max(0.0, chance.gauss(test.mean + edge * (test.high - test.mean) * 1.2, test.sigma))
        for test in PROGRAM
    ]


def _bin(results: list[float]) -> int:
    for number, (test, value) in enumerate(zip(PROGRAM, results), start=2):
        if not test.low <= value <= test.high:
            return number
    return 1


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
