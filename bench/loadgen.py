"""The C sender: build it, run it, and check line by line what arrived of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Optional

from bench import BenchError, process

CONNECTIONS = 4
FRAME_BYTES = 214
_SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "loadgen.c")
# Every byte of a frame, so that nothing torn, glued or changed passes.
_FRAME = re.compile(
    rb'\{"v":1,"src":"bench-(\d+)","ts":\d{13},"type":"(?:'
    rb'event","data":\{"level":"info","msg":"wafer loaded","ctx":\{"n":(\d+),'
    rb'"lot":"L1234567","tool":"EQP07","yield":0\.9731,"rows":1200,|'
    rb'span","tid":"[0-9a-f]{32}","sid":"[0-9a-f]{16}",'
    rb'"data":\{"name":"load","duration_ms":12,"ctx":\{"n":(\d+),)"p":"x*"\}\}\}\n'
)
_CHECK_BYTES = FRAME_BYTES * 10_000


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
        core: Optional[int] = None,
    ) -> tuple[float, float]:
        """Send frames, an equal share on each connection.

        Args:
            address: `HOST:PORT`, or the path of a Unix socket.
            frames: in all, a multiple of `CONNECTIONS`.
            write_bytes: gather frames to this size; 0 writes them one by one.
            rate: frames a second; 0 is flat out.
            span_share: every n-th frame is a span; 0 is none.
            core: where it runs; None lets it roam.

        Returns:
            The monotonic times of its begin and its end.
        """
        numbers = (CONNECTIONS, frames, write_bytes, rate, span_share)
        with process.on_core(core):
            done = subprocess.run(
                [self._program, address, *map(str, numbers)], capture_output=True, check=False
            )
        if done.returncode:
            raise BenchError(f"the sender failed: {done.stderr.decode(errors='replace')}")
        began, ended = map(float, done.stdout.split())
        return began, ended


def check(path: str, frames: int) -> None:
    """Check that every frame stands in the file: once, whole, in the order of its connection.

    Raises:
        BenchError: it does not; the text names the first place.
    """
    expected: dict[bytes, int] = {}
    offset = 0
    with open(path, "rb") as file:
        while True:
            block = file.read(_CHECK_BYTES)
            if not block:
                break
            found = _FRAME.findall(block)
            if len(found) * FRAME_BYTES != len(block):
                raise BenchError(f"a line that was never sent, {offset} bytes into the file or on")
            for connection, event, span in found:
                number = int(event or span)
                if number != expected.get(connection, 0):
                    raise BenchError(
                        f"connection {connection.decode()}: frame {number} stands where "
                        f"{expected.get(connection, 0)} should"
                    )
                expected[connection] = number + 1
            offset += len(block)
    share = frames // CONNECTIONS
    if sorted(expected.values()) != [share] * CONNECTIONS:
        raise BenchError(f"{sorted(expected.values())} frames arrived, {share} a connection left")
