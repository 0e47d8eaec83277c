"""The process under measurement: the sidecar with one JSONL file, or another in its place."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, Optional

from bench import BenchError, process
from bench.addresses import split

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SIDECAR = "sidecar"
START_SECONDS = 15.0
#: A file that has not grown for this long will not grow any more.
STALL_SECONDS = 15.0
_COUNTER = re.compile(r'^(\w+)\{(?:[^}]*,)?reason="(\w+)"[^}]*\} (\d+)', re.MULTILINE)


class Program(NamedTuple):
    """How to start a receiver.

    Attributes:
        command: the program and its arguments.
        ready: gives its addresses by transport once it listens, None before.
    """

    command: list[str]
    ready: Callable[[], Optional[dict[str, str]]]


def python(module: str, *arguments: str, ready_file: str) -> Program:
    """A program of ours, which gets the ready file as its last argument."""

    def ready() -> Optional[dict[str, str]]:
        try:
            with open(ready_file, encoding="utf-8") as file:
                addresses: dict[str, str] = json.load(file)
        except FileNotFoundError:
            return None
        os.unlink(ready_file)  # it may be started again
        return addresses

    return Program([sys.executable, "-m", module, *arguments, ready_file], ready)


class Receiver:
    """A running receiver; `receiver()` makes it and ends it.

    Attributes:
        pid: its process.
        output: the file that it writes lines to.
        start_seconds: from exec until it was ready.
    """

    def __init__(self, folder: str, program: Program, core: Optional[int] = None) -> None:
        self.output = os.path.join(folder, "out.jsonl")
        self._log = os.path.join(folder, "log")
        environment = {**os.environ, "PYTHONPATH": ROOT}
        with open(self._log, "ab") as log, process.on_core(core):
            began = time.monotonic()
            self._process = subprocess.Popen(
                program.command, stdout=log, stderr=log, cwd=ROOT, env=environment
            )
        self.pid = self._process.pid
        try:
            self._addresses = self._wait(program.ready, began + START_SECONDS)
        except BaseException:
            self.end()
            raise
        self.start_seconds = time.monotonic() - began

    def _wait(
        self, ready: Callable[[], Optional[dict[str, str]]], until: float
    ) -> dict[str, str]:
        while True:
            addresses = ready()
            if addresses is not None:
                return addresses
            if self._process.poll() is not None or time.monotonic() > until:
                raise BenchError(f"the receiver did not start:\n{self.log()}")
            time.sleep(0.0005)

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
        return split(self.address("tcp"))

    def reasons(self, counter: str) -> dict[str, int]:
        """A counter of /metrics by its label `reason`."""
        with urllib.request.urlopen(f"http://{self.address('admin')}/metrics", timeout=10) as page:
            text = page.read().decode()
        return {why: int(n) for name, why, n in _COUNTER.findall(text) if name == counter}

    def wait_for_size(self, size: int, path: Optional[str] = None) -> float:
        """Wait until so many bytes stand in the file, or in another one that it writes; the
        monotonic time when they did.

        Raises:
            BenchError: the file stopped growing before.
        """
        path = path or self.output
        seen, grew = -1, time.monotonic()
        while True:
            now = time.monotonic()
            current = os.path.getsize(path) if os.path.exists(path) else 0
            if current >= size:
                return now
            if current != seen:
                seen, grew = current, now
            elif now - grew > STALL_SECONDS:
                raise BenchError(f"{current} of {size} bytes arrived:\n{self.log()}")
            time.sleep(0.002)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None

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
        make = sidecar if kind == SIDECAR else functools.partial(reference, kind)
        with running(make(folder), folder, core) as target:
            yield target
            if target.end() and kind == SIDECAR:
                raise BenchError(f"the sidecar did not end well:\n{target.log()}")


@contextlib.contextmanager
def running(program: Program, folder: str, core: Optional[int] = None) -> Iterator[Receiver]:
    """Start a receiver and end it in any case."""
    target = Receiver(folder, program, core)
    try:
        yield target
    finally:
        target.end()


def reference(kind: str, folder: str) -> Program:
    """One of `bench.reference`."""
    output, ready = (os.path.join(folder, name) for name in ("out.jsonl", "ready"))
    return python("bench.reference", kind, output, ready_file=ready)


def sidecar(
    folder: str, *, backends: Optional[dict[str, Any]] = None, **sections: Any
) -> Program:
    """The sidecar by defaults, but for free ports and one file that does not rotate.

    Args:
        folder: for all its files.
        backends: others than this file.
        sections: of the configuration's `sidecar`, more or in place of those by default.
    """
    path = os.path.join(folder, "config.json")
    output = {"type": "file", "path": os.path.join(folder, "out.jsonl")}
    document = {
        "sidecar": {
            "data_dir": os.path.join(folder, "data"),
            "tcp": {"port": 0},
            "health": {"metrics_port": 0},
            **sections,
        },
        "backends": backends or {"file": {**output, "rotate": {"max_bytes": 0}}},
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file)
    ready = os.path.join(folder, "ready")
    return python("wafermon", "run", "--config", path, "--ready-file", ready_file=ready)
