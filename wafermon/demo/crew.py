"""The crew: the services of the demo as processes, what they say, and how they end."""

from __future__ import annotations

import contextlib
import os
import pkgutil
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import IO, NamedTuple, Optional, Union

import wafermon
from wafermon import sdk

_PYTHON = ("config_service.py", "file_receiver.py", "queue_service.py", "load_rows.py")
_PERL = ("db_loader.pl",)
_FOLDERS = ("inbox", "queue", "archive", "bad", "services")
#: Where the sidecar is comes from the demo alone; a trace around it would be a parent that nobody
#: finds.
_NOT_INHERITED = re.compile("MONITORING_.*|TRACEPARENT")
_TALLY = re.compile(r"(\S+): sent (\d+) messages, dropped (\d+), refused (\d+)")

#: What `Crew.next` returns: a line that somebody printed, a signal, or None for the end.
Heard = Union[str, signal.Signals, None]


class Tally(NamedTuple):
    """What an SDK has counted, its goodbye not included."""

    sent: int
    dropped: int
    refused: int


class CrewError(Exception):
    """A service does not do what it should; the text says which and what."""


class Interrupted(Exception):
    """A signal came while something was waited for."""


class Crew:
    """The services, below one folder; all ends with `stop`, or with this process, however it ends.

    The scripts are copied to `services/` in the folder first, so that it makes no difference
    whether wafermon is a clone, installed, or a single file.

    Args:
        folder: made where it is missing. What an earlier run left unfinished in it is removed.
        tcp: address of the sidecar, `host:port`.

    Thread: the owner's; `interrupt` any, also a signal handler.
    """

    def __init__(self, folder: str, tcp: str) -> None:
        self.folder = os.path.abspath(folder)
        self.perl = shutil.which("perl")
        self.tallies: dict[str, Tally] = {}
        host, _, port = tcp.rpartition(":")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not _NOT_INHERITED.match(name)},
            "MONITORING_TCP_HOST": host.strip("[]"),
            "MONITORING_TCP_PORT": port,
            "PYTHONPATH": _with(os.path.dirname(os.path.dirname(wafermon.__file__))),
            "PYTHON": sys.executable,
        }
        self._heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._output: Optional[int] = None

    @property
    def inbox(self) -> str:
        """Where lots are put."""
        return os.path.join(self.folder, "inbox")

    @property
    def database(self) -> str:
        """Where they are loaded."""
        return os.path.join(self.folder, "wafers.db")

    def start(self, timeout: float = 20.0) -> None:
        """Start the services and wait until each is ready.

        Raises:
            CrewError: one is not.
            Interrupted: a signal comes before that.
            OSError: the folder cannot be used.
        """
        self._prepare()
        reading, self._output = os.pipe()
        # All of them, and what they start, hold the other end: its end is the end of them all.
        threading.Thread(target=self._listen, args=(os.fdopen(reading),), daemon=True).start()
        until = time.monotonic() + timeout
        settings = os.path.join("services", "settings.ini")
        self._launch("config-service", "config_service.py", settings)
        config = self.wait_for(r"config-service: ready at (\S+)", until)
        loader = [self.perl, os.path.join("services", "db_loader.pl"), config] if self.perl else []
        self._launch("queue-service", "queue_service.py", "queue", *loader)
        self._launch("file-receiver", "file_receiver.py", "inbox", "queue", config)
        unready = {"queue-service", "file-receiver"}
        while unready:
            unready.discard(self.wait_for(r"(\S+): ready", until))

    def next(self, timeout: float) -> Heard:
        """What is heard next.

        Raises:
            TimeoutError: nothing for so many seconds.
            CrewError: a service has ended though nobody asked it to.
        """
        until = time.monotonic() + timeout
        while True:
            left = until - time.monotonic()
            try:
                return self._heard.get(timeout=max(0.0, min(left, 0.5)))
            except queue.Empty:
                for name, process in self._processes.items():
                    if process.poll() is not None and process.stdin and not process.stdin.closed:
                        raise CrewError(f"{name} ended with status {process.poll()}") from None
                if left <= 0:
                    raise TimeoutError from None

    def wait_for(self, pattern: str, until: float) -> str:
        """Skip lines up to one that matches; returns its first group.

        Raises:
            CrewError: it does not come in time.
            Interrupted: a signal does.
        """
        while True:
            try:
                heard = self.next(until - time.monotonic())
            except TimeoutError:
                raise CrewError(f"waited in vain for {pattern!r}") from None
            if not isinstance(heard, str):
                raise Interrupted
            match = re.match(pattern, heard)
            if match:
                return match.group(1)
            print(heard, file=sys.stderr)

    def interrupt(self, number: int, frame: object) -> None:
        """Be heard by `next`; a signal handler."""
        self._heard.put(signal.Signals(number))

    def stop(self, timeout: float = 10.0) -> list[str]:
        """End all in the order of the data, each with what it has, then by force; twice is fine.

        Returns:
            What they have said meanwhile.
        """
        until = time.monotonic() + timeout
        said: list[str] = []
        for name in ("file-receiver", "queue-service", "config-service"):
            process = self._processes.get(name)
            if process is not None:
                self._end(process, until, said)
        if self._output is not None:
            os.close(self._output)
            self._output = None
            self._hear_the_rest(said)
        return said

    def _end(self, process: subprocess.Popen[bytes], until: float, said: list[str]) -> None:
        """Close its standard input, which is its sign to finish."""
        if process.stdin:
            with contextlib.suppress(OSError):
                process.stdin.close()
        while process.poll() is None and time.monotonic() < until:
            try:
                heard = self._heard.get(timeout=0.02)
            except queue.Empty:
                continue
            if isinstance(heard, str):
                said.append(heard)
            else:
                break  # a second signal
        if process.poll() is None:  # not reaped, so its number is still its own
            os.killpg(process.pid, signal.SIGKILL)  # and what it has started
        process.wait()

    def _hear_the_rest(self, said: list[str]) -> None:
        with contextlib.suppress(queue.Empty):
            while (heard := self._heard.get(timeout=5.0)) is not None:
                if isinstance(heard, str):
                    said.append(heard)

    def _prepare(self) -> None:
        for name in _FOLDERS:
            path = os.path.join(self.folder, name)
            if name in ("inbox", "queue", "services"):
                shutil.rmtree(path, ignore_errors=True)
            os.makedirs(path, exist_ok=True)
        for name in (*_PYTHON, *_PERL, "settings.ini"):
            self._copy(name, _material(f"demo/services/{name}"))
        self._copy("WaferMon.pm", sdk.files("perl")["WaferMon.pm"])

    def _copy(self, name: str, content: bytes) -> None:
        with open(os.path.join(self.folder, "services", name), "wb") as file:
            file.write(content)

    def _launch(self, name: str, script: str, *arguments: str) -> None:
        self._processes[name] = subprocess.Popen(
            [sys.executable, os.path.join("services", script), *arguments],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the demo, which then ends them in order
        )

    def _listen(self, output: IO[str]) -> None:
        """Thread: pass on what they print, until nobody is left who could."""
        with output:
            for line in output:
                match = _TALLY.match(line)
                if match:
                    name, *counts = match.groups()
                    before = self.tallies.get(name, Tally(0, 0, 0))
                    self.tallies[name] = Tally(*(a + int(b) for a, b in zip(before, counts)))
                else:
                    self._heard.put(line.rstrip("\n"))
        self._heard.put(None)


def _with(folder: str) -> str:
    """The PYTHONPATH of the environment with a folder, or a .pyz, in front."""
    return os.pathsep.join(filter(None, (os.path.abspath(folder), os.environ.get("PYTHONPATH"))))


def _material(name: str) -> bytes:
    content = pkgutil.get_data("wafermon", name)
    if content is None:
        raise FileNotFoundError(f"wafermon/{name} was not packaged")
    return content
