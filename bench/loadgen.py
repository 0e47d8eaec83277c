"""The C sender: build it, run it, and check line by line what arrived of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple, Optional

from bench import BenchError, process

CONNECTIONS = 4
FRAME_BYTES = 214
_SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "loadgen.c")
# Every byte of a frame, so that nothing torn, glued or changed passes.
_FRAME = re.compile(
    rb'^\{"v":1,"src":"bench-(\d+)-\d+","ts":\d{13},"type":"(?:'
    rb'event","data":\{"level":"info","msg":"wafer loaded","ctx":\{"n":(\d+),'
    rb'"lot":"L1234567","tool":"EQP07","yield":0\.9731,"rows":1200,|'
    rb'span","tid":"[0-9a-f]{32}","sid":"[0-9a-f]{16}",'
    rb'"data":\{"name":"load","duration_ms":12,"ctx":\{"n":(\d+),)"p":"x*"\}\}(?:,"q":\d+)?\}\n',
    re.MULTILINE,
)
_READ_BYTES = 2 << 20


class LoadGenerator:
    """The compiled sender.

    Args:
        folder: where the program is put.

    Raises:
        BenchError: there is no C compiler, or it failed.
    """

    def __init__(self, folder: str) -> None:
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            raise BenchError("no C compiler: install cc, or name one in the variable CC")
        self._program = os.path.join(folder, "loadgen")
        made = subprocess.run(
            [compiler, "-O2", "-pthread", "-o", self._program, _SOURCE],
            stderr=subprocess.PIPE,
            check=False,
        )
        if made.returncode:
            raise BenchError(f"{compiler} failed:\n{made.stderr.decode(errors='replace')}")

    def run(
        self,
        address: str,
        frames: int,
        *,
        write_bytes: int = 0,
        rate: int = 0,
        span_share: int = 0,
        connections: int = CONNECTIONS,
        sources: int = 1,
        core: Optional[int] = None,
    ) -> tuple[float, float]:
        """Send frames, an equal share on each connection.

        Args:
            address: `HOST:PORT`, or the path of a Unix socket.
            frames: in all, a multiple of `connections`.
            write_bytes: gather frames to this size; 0 writes them one by one.
            rate: frames a second; 0 is flat out.
            span_share: every n-th frame is a span; 0 is none.
            connections: each has a thread.
            sources: of one connection, in turn.
            core: where it runs; None lets it roam.

        Returns:
            The monotonic times of its begin and its end.
        """
        numbers = (connections, frames, write_bytes, rate, span_share, sources)
        with process.on_core(core):
            done = subprocess.run(
                [self._program, address, *map(str, numbers)], capture_output=True, check=False
            )
        if done.returncode:
            raise BenchError(f"the sender failed: {done.stderr.decode(errors='replace')}")
        began, ended = map(float, done.stdout.split())
        return began, ended


def _blocks(path: str) -> Iterator[tuple[int, list[tuple[bytes, int]]]]:
    """How many lines each block of a file has, and connection and number of those that are whole;
    a line that does not end counts."""
    rest = b""
    with open(path, "rb") as file:
        while data := file.read(_READ_BYTES):
            end = data.rfind(b"\n") + 1
            block, rest = (rest + data[:end], data[end:]) if end else (b"", rest + data)
            found = [(connection, int(a or b)) for connection, a, b in _FRAME.findall(block)]
            yield block.count(b"\n"), found
    if rest:
        yield 1, []


def check(
    path: str, frames: int, connections: int = CONNECTIONS, *, in_order: bool = True
) -> None:
    """Check that every frame stands in the file: once, whole, in the order of its connection.

    Args:
        path: the file.
        frames: as they were sent, an equal share on each connection.
        connections: so many.
        in_order: whether it has to be.

    Raises:
        BenchError: it does not; the text names the first place.
    """
    if not in_order:
        found_all = tally(path, frames, connections)
        if any(found_all):
            raise BenchError(f"not every frame arrived once: {found_all}")
        return
    expected: dict[bytes, int] = {}
    for lines, found in _blocks(path):
        if lines != len(found):
            raise BenchError(f"{lines - len(found)} lines that were never sent, or are torn")
        for connection, number in found:
            if number != expected.get(connection, 0):
                raise BenchError(
                    f"connection {connection.decode()}: frame {number} stands where "
                    f"{expected.get(connection, 0)} should"
                )
            expected[connection] = number + 1
    share = frames // connections
    if sorted(expected.values()) != [share] * connections:
        raise BenchError(f"{sorted(expected.values())} frames arrived, {share} a connection left")


class Tally(NamedTuple):
    """What became of frames on a way that may lose some; `torn` counts lines."""

    lost: int
    twice: int
    torn: int


def tally(path: str, frames: int, connections: int = CONNECTIONS) -> Tally:
    """Count what is lost, twice and torn; the order does not matter."""
    arrived, torn, seen = 0, 0, set()
    share = frames // connections
    for lines, found in _blocks(path):
        sent = [(c, n) for c, n in found if n < share]  # another number is of no frame of ours
        arrived += len(sent)
        torn += lines - len(sent)
        seen.update(sent)
    return Tally(frames - len(seen), arrived - len(seen), torn)
