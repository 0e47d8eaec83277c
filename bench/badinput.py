"""Rubbish between good frames: nothing good is lost, nothing bad is missed, memory stays flat."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Callable, NamedTuple

from bench import BenchError, process
from bench.receiver import Receiver, receiver
from bench.report import Table

GOOD_FRAMES = 1000  # before, between and after
BAD_FRAMES = 200  # of a kind that comes in frames
RANDOM_BYTES = 16 << 20
NESTED_LEVELS = 1000
DIGITS = 4301
_BLOCK = 1 << 20
_REJECTED = "sidecar_messages_rejected_total"
_COLUMNS = {
    "Bad frames": "{:,.0f}",
    "Rejected": "{:,.0f}",
    "Accepted": "{:,.0f}",
    "Peak MB before": "{:.1f}",
    "Peak MB after": "{:.1f}",
}


class Rubbish(NamedTuple):
    """One kind of bad input.

    Attributes:
        blocks: its bytes; the last block ends a line.
        frames: how many frames it is.
        reasons: those that may be given for them.
        may_pass: whether a parser may take it; Pythons differ in what is too deep or too long.
    """

    blocks: Iterable[bytes]
    frames: int
    reasons: list[str]
    may_pass: bool = False


def frame(data: str) -> bytes:
    """A frame around some `data`."""
    text = f'{{"v":1,"src":"bench","ts":{int(time.time() * 1000)},"type":"event","data":{data}}}\n'
    return text.encode()


def noise() -> Rubbish:
    """Random bytes."""
    data = os.urandom(RANDOM_BYTES) + b"\n"
    frames = sum(line not in (b"", b"\r") for line in data.split(b"\n"))
    return Rubbish([data], frames, ["invalid_json", "not_object"])


def endless(megabytes: int) -> Rubbish:
    """One line that does not end for very long."""

    def blocks() -> Iterator[bytes]:
        for _ in range(megabytes):
            yield b"x" * _BLOCK
        yield b"\n"

    return Rubbish(blocks(), 1, ["oversize"])


def nested() -> Rubbish:
    """Frames of many levels."""
    value = '{"deep":' + "[" * NESTED_LEVELS + "]" * NESTED_LEVELS + "}"
    return Rubbish([frame(value) * BAD_FRAMES], BAD_FRAMES, ["invalid_json"], may_pass=True)


def long_numbers() -> Rubbish:
    """Frames with a number of more digits than Python converts."""
    value = '{"long":' + "9" * DIGITS + "}"
    return Rubbish([frame(value) * BAD_FRAMES], BAD_FRAMES, ["invalid_json"], may_pass=True)


class Feed:
    """One connection to a sidecar, and the account of what went through it."""

    def __init__(self, target: Receiver) -> None:
        self._target = target
        self._sock = socket.create_connection(target.tcp)
        self._lines = self._good = 0

    def send_good(self) -> None:
        """Send good frames, and wait until they stand in the file: all before them is dealt with.

        Raises:
            BenchError: one was lost or is out of its order.
        """
        first, self._good = self._good, self._good + GOOD_FRAMES
        self._sock.sendall(b"".join(frame(f'{{"n":{n}}}') for n in range(first, self._good)))
        last = f'"data":{{"n":{self._good - 1}}}'.encode()
        until = time.monotonic() + 60
        while not _ends_with(self._target.output, last):
            if time.monotonic() > until:
                raise BenchError(f"good frames were lost:\n{self._target.log()}")
            time.sleep(0.01)
        with open(self._target.output, "rb") as file:
            data = [json.loads(line)["data"] for line in file]
        if [d["n"] for d in data if "n" in d] != list(range(self._good)):
            raise BenchError("good frames are lost, double or out of order")
        self._lines = len(data)

    def send_bad(self, rubbish: Rubbish) -> dict[str, float]:
        """Send rubbish and good frames behind it, and settle the account.

        Raises:
            BenchError: it does not add up.
        """
        before = process.memory_mb(self._target.pid, "VmHWM")
        rejected, lines = self._target.reasons(_REJECTED), self._lines
        for block in rubbish.blocks:
            self._sock.sendall(block)
        self.send_good()
        counts = self._target.reasons(_REJECTED)
        new = {why: n - rejected[why] for why, n in counts.items() if n != rejected[why]}
        accepted = self._lines - lines - GOOD_FRAMES
        if (
            sum(new.values()) + accepted != rubbish.frames
            or set(new) - set(rubbish.reasons)
            or (accepted and not rubbish.may_pass)
        ):
            raise BenchError(f"of {rubbish.frames} bad frames {accepted} passed, rejected: {new}")
        after = process.memory_mb(self._target.pid, "VmHWM")
        return dict(zip(_COLUMNS, (rubbish.frames, sum(new.values()), accepted, before, after)))

    def close(self) -> None:
        """End the connection."""
        self._sock.close()


def _ends_with(path: str, text: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            file.seek(-min(200, os.path.getsize(path)), os.SEEK_END)
            return text in file.read() and os.path.getsize(path) == file.tell()
    except FileNotFoundError:
        return False


def measure(rounds: int, megabytes: int) -> Iterator[str]:
    """Each kind of rubbish on one connection, between good frames.

    Args:
        rounds: how often.
        megabytes: of the line that does not end.
    """
    table = Table("Bad input", _COLUMNS)
    kinds: dict[str, Callable[[], Rubbish]] = {
        f"{RANDOM_BYTES >> 20} MB of random bytes": noise,
        f"a line of {megabytes:,} MB": lambda: endless(megabytes),
        f"{NESTED_LEVELS:,} nested levels": nested,
        f"numbers of {DIGITS:,} digits": long_numbers,
    }
    for _ in range(rounds):
        with receiver() as target:
            feed = Feed(target)
            feed.send_good()
            for row, make in kinds.items():
                table.add(row, feed.send_bad(make()))
            feed.close()
    yield (
        f"On one connection, {GOOD_FRAMES:,} good frames before and after each; all of those "
        f"arrived, and every bad frame is counted.\n\n{table.text()}"
    )
