"""The process under measurement: the sidecar with one JSONL file, or a reference in its place."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from typing import Optional

from bench import BenchError, process

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SIDECAR = "sidecar"
START_SECONDS = 15.0
#: A file that has not grown for this long will not grow any more.
STALL_SECONDS = 15.0
_COUNTER = re.compile(r'^(\w+)\{(?:[^}]*,)?reason="(\w+)"[^}]*\} (\d+)', re.MULTILINE)


class Receiver:
    """A running receiver; `receiver()` makes it and ends it.

    Attributes:
        pid: its process.
        output: the file that it writes lines to.
        start_seconds: from exec to the ready file, for the sidecar.
    """

    def __init__(self, folder: str, command: list[str], core: Optional[int]) -> None:
        self.output = os.path.join(folder, "out.jsonl")
        self._log = os.path.join(folder, "log")
        ready = os.path.join(folder, "ready")
        environment = {**os.environ, "PYTHONPATH": ROOT}
        with open(self._log, "wb") as log, process.on_core(core):
            began = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command], stdout=log, stderr=log, cwd=ROOT, env=environment
            )
        self.pid = self._process.pid
        try:
            self._addresses = self._wait(ready, began + START_SECONDS)
        except BaseException:
            self.end()
            raise
        self.start_seconds = time.monotonic() - began

    def _wait(self, ready: str, until: float) -> dict[str, str]:
        while not os.path.exists(ready):
            if self._process.poll() is not None or time.monotonic() > until:
                raise BenchError(f"the receiver did not start:\n{self.log()}")
            time.sleep(0.0005)
        with open(ready, encoding="utf-8") as file:
            addresses: dict[str, str] = json.load(file)
        return addresses

    def log(self) -> str:
        """The end of what it said."""
        with open(self._log, encoding="utf-8", errors="replace") as file:
            return file.read()[-2000:]

    def address(self, transport: str) -> str:
        """`HOST:PORT` for "tcp", a path for "unix"."""
        return self._addresses[transport]

    @property
    def tcp(self) -> tuple[str, int]:
        """Host and port of the TCP listener."""
        host, _, port = self.address("tcp").rpartition(":")
        return host, int(port)

    def reasons(self, counter: str) -> dict[str, int]:
        """A counter of /metrics by its label `reason`."""
        with urllib.request.urlopen(f"http://{self.address('admin')}/metrics", timeout=10) as page:
            text = page.read().decode()
        return {why: int(n) for name, why, n in _COUNTER.findall(text) if name == counter}

    def wait_for_size(self, size: int) -> float:
        """Wait until so many bytes stand in the file; the monotonic time when they did.

        Raises:
            BenchError: the file stopped growing before.
        """
        seen, grew = -1, time.monotonic()
        while True:
            now = time.monotonic()
            current = os.path.getsize(self.output) if os.path.exists(self.output) else 0
            if current >= size:
                return now
            if current != seen:
                seen, grew = current, now
            elif now - grew > STALL_SECONDS:
                raise BenchError(f"{current} of {size} bytes arrived:\n{self.log()}")
            time.sleep(0.002)

    def end(self) -> int:
        """Ask it to stop, see to it that it does, give its exit status. Twice is harmless."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._process.wait()


@contextlib.contextmanager
def receiver(kind: str = SIDECAR, core: Optional[int] = None) -> Iterator[Receiver]:
    """Start a receiver in a folder of its own and end it in any case.

    Args:
        kind: the sidecar, or one of `bench.reference`.
        core: the one that it runs on; None lets it roam.
    """
    with tempfile.TemporaryDirectory(prefix="wafermon-bench-") as folder:
        if kind == SIDECAR:
            command = ["wafermon", "run", "--config", _config(folder), "--ready-file"]
        else:
            command = ["bench.reference", kind, os.path.join(folder, "out.jsonl")]
        running = Receiver(folder, [*command, os.path.join(folder, "ready")], core)
        try:
            yield running
            if running.end() and kind == SIDECAR:
                raise BenchError(f"the sidecar did not end well:\n{running.log()}")
        finally:
            running.end()


def _config(folder: str) -> str:
    """Defaults, but for free ports and one file that does not rotate."""
    path = os.path.join(folder, "config.json")
    output = {"type": "file", "path": os.path.join(folder, "out.jsonl")}
    document = {
        "sidecar": {
            "data_dir": os.path.join(folder, "data"),
            "tcp": {"port": 0},
            "health": {"metrics_port": 0},
            "buffers": {"flush_interval": 5},
        },
        "backends": {"file": {**output, "rotate": {"max_bytes": 0}}},
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file)
    return path
