"""Curves of a whole sidecar: sources, backends, connections."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from bench import process
from bench.addresses import dial
from bench.growth.curve import COST, MEMORY, SHARE, Curve
from bench.loadgen import CONNECTIONS, FRAME_BYTES, LoadGenerator, check
from bench.receiver import Receiver, running, sidecar
from bench.throughput import GATHERED_BYTES

#: Descriptors that a sidecar needs besides those of its connections.
SPARE_DESCRIPTORS = 200
IDLE_SECONDS = 5.0
_RATE = 50_000


class Whole:
    """Measures at one size each.

    Args:
        loadgen: the sender.
        frames: of a run flat out.
        seconds: how long a paced one lasts, and a pause without any.
    """

    def __init__(self, loadgen: LoadGenerator, frames: int, seconds: float = IDLE_SECONDS) -> None:
        self._loadgen = loadgen
        self._frames = frames // CONNECTIONS * CONNECTIONS
        self._seconds = seconds

    def curves(self) -> list[Curve]:
        """All of them; fewer idle connections where the system allows fewer open files."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if most == resource.RLIM_INFINITY:
            most = sys.maxsize
        idle = [n for n in (0, 100, 1000, 10_000) if n + SPARE_DESCRIPTORS <= most]
        return [
            Curve("sidecar", "sources", [1, 10, 100, 500, 2000], self.sources),
            Curve("sidecar, each gets all", "backends", [1, 2, 4, 8], self.backends, bound=1),
            Curve("sidecar, 4 more send", "idle connections", idle, self.idle),
            Curve(
                f"sidecar, {_RATE:,} messages/s in all, a frame a write",
                "connections",
                [CONNECTIONS, 1000],
                self.connections,
            ),
        ]

    def sources(self, count: int) -> dict[str, float]:
        """One connection, whose frames are of all sources in turn."""
        with self._running(1) as target:
            return self._send(target, connections=1, sources=count)

    def backends(self, count: int) -> dict[str, float]:
        """Files, each of which gets everything."""
        with self._running(CONNECTIONS, backends=count) as target:
            return self._send(target, backends=count)

    def idle(self, count: int) -> dict[str, float]:
        """Connections that are silent, first all alone, then beside some that send."""
        with self._running(count + CONNECTIONS) as target, contextlib.ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(dial(target.address("tcp")))
            time.sleep(1)  # until all are accepted, and nothing is left to do
            before, began = process.cpu_seconds(target.pid), time.monotonic()
            time.sleep(self._seconds)
            cpu = process.cpu_seconds(target.pid) - before
            figures = {
                SHARE: 100 * cpu / (time.monotonic() - began),
                MEMORY: process.memory_mb(target.pid, "VmRSS"),
            }
            return {**figures, **self._send(target)}

    def connections(self, count: int) -> dict[str, float]:
        """As many that send, with the same load in all."""
        frames = int(_RATE * self._seconds) // count * count
        with self._running(count) as target:
            return self._send(target, frames, rate=_RATE, connections=count, write_bytes=0)

    @contextlib.contextmanager
    def _running(self, connections: int, backends: int = 1) -> Iterator[Receiver]:
        allow_open_files(connections + SPARE_DESCRIPTORS)
        with tempfile.TemporaryDirectory(prefix="wafermon-bench-") as folder:
            program = sidecar(
                folder,
                tcp={"port": 0, "max_connections": connections},
                backends={
                    f"file-{n}": _file(path) for n, path in enumerate(_outputs(folder, backends))
                },
            )
            with running(program, folder, process.cores()[0]) as target:
                yield target

    def _send(
        self, target: Receiver, frames: int = 0, backends: int = 1, **load: int
    ) -> dict[str, float]:
        frames = frames or self._frames
        load = {"write_bytes": GATHERED_BYTES, **load}
        before = process.cpu_seconds(target.pid)
        self._loadgen.run(target.address("tcp"), frames, core=process.cores()[1], **load)
        outputs = _outputs(os.path.dirname(target.output), backends)
        for path in outputs:
            target.wait_for_size(frames * FRAME_BYTES, path)
        cpu = process.cpu_seconds(target.pid) - before
        target.end()
        for path in outputs:
            check(path, frames, load.get("connections", CONNECTIONS))
        return {COST: cpu / frames * 1e6}


def _outputs(folder: str, count: int) -> list[str]:
    """The files of so many backends; a receiver's own is the first."""
    names = ["out", *(f"out-{n}" for n in range(1, count))]
    return [os.path.join(folder, f"{name}.jsonl") for name in names]


def _file(path: str) -> dict[str, Any]:
    return {"type": "file", "path": path, "rotate": {"max_bytes": 0}}


def allow_open_files(count: int) -> None:
    """Raise the limit for this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
