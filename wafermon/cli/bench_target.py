"""The sidecar that `wafermon bench` loads: a throw-away one, or one that runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple, Optional

import wafermon
from wafermon.cli.ask import read
from wafermon.cli.bench_load import SOURCE, Way

START_SECONDS = 30.0
ASK_SECONDS = 10.0
#: What a configuration drops on purpose is not lost.
_WANTED = ("filtered", "no_route", "sampled", "rerouted")
_SAMPLE = re.compile(r"^(\w+)(\{.*\})? (\S+)$", re.MULTILINE)


class TargetError(Exception):
    """There is no sidecar to load; the text says what to do."""


class Counters(NamedTuple):
    """What a sidecar says of itself at one moment."""

    #: Of `bench`.
    received: int
    #: Of all sources: not accepted, or accepted and lost.
    rejected: int
    dropped: int
    #: In the queues of its backends.
    queued: int
    cpu_seconds: Optional[float]
    memory_bytes: Optional[float]


class Target:
    """Where to send, and where to ask what became of it.

    Args:
        way: to the sidecar.
        admin: host and port of its admin server, with the token that it asks for, if any.
        pid: its process, where it is known: what the kernel tells of it is finer.
    """

    def __init__(self, way: Way, admin: tuple[str, int], pid: Optional[int] = None) -> None:
        self.way = way
        self.admin = admin
        self.pid = pid

    def counters(self) -> Counters:
        """Ask for them.

        Raises:
            NoAnswer: it does not answer.
            TargetError: it is no sidecar.
        """
        samples = [
            (name, labels, float(value)) for name, labels, value in _SAMPLE.findall(self._metrics())
        ]

        def total(name: str, but: tuple[str, ...] = (), only: str = "") -> int:
            return int(sum(
                value for known, labels, value in samples
                if known == name and only in labels
                and not any(f'reason="{reason}"' in labels for reason in but)
            ))

        told = {name: value for name, _, value in samples}
        cpu, memory = self._usage()
        return Counters(
            total("sidecar_messages_received_total", only=f'source="{SOURCE}"'),
            total("sidecar_messages_rejected_total"),
            total("sidecar_messages_dropped_total", but=_WANTED),
            total("sidecar_backend_queued_messages"),
            told.get("process_cpu_seconds_total") if cpu is None else cpu,
            told.get("process_resident_memory_bytes") if memory is None else memory,
        )

    def _metrics(self) -> str:
        body = read(self.admin, "/metrics", timeout=ASK_SECONDS)
        if b"sidecar_messages_received_total" not in body:
            raise TargetError("http://{}:{}/metrics is not that of a sidecar".format(*self.admin))
        return body.decode("utf-8", "replace")

    def _usage(self) -> tuple[Optional[float], Optional[float]]:
        """CPU seconds and bytes of memory at the most, as Linux knows them of the process."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as file:
                ticks = file.read().rpartition(")")[2].split()[11:13]
            with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as file:
                peak = next(line.split()[1] for line in file if line.startswith("VmHWM:"))
        except (OSError, StopIteration):
            return None, None
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), int(peak) * 1024


class ThrowAway(contextlib.AbstractContextManager[Target]):
    """A sidecar of its own, in a temporary folder: it writes to a file, else it is as it comes.

    A context: it gives the target, and leaves nothing behind.

    Raises:
        TargetError: it does not start.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="wafermon-bench-")
        self._process: Optional[subprocess.Popen[bytes]] = None

    def __enter__(self) -> Target:
        try:
            ready = self._start()
        except BaseException:
            self.__exit__()
            raise
        host, _, port = ready["admin"].rpartition(":")
        return Target(Way(ready["unix"]), (host.strip("[]"), int(port)), ready["pid"])

    def _start(self) -> Any:
        config, ready = (os.path.join(self._folder, name) for name in ("config.json", "ready"))
        with open(config, "w", encoding="utf-8") as file:
            json.dump(_config(self._folder), file)
        root = os.path.dirname(os.path.dirname(os.path.abspath(wafermon.__file__)))
        said = os.path.join(self._folder, "stderr")
        command = [sys.executable, "-m", "wafermon", "run", "--config", config]
        with open(said, "wb") as stderr:
            process = self._process = subprocess.Popen(  # noqa: S603 - it is this program
                [*command, "--ready-file", ready],
                env={**os.environ, "PYTHONPATH": root},  # the folder, or file, that this came from
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for the bench, which then ends it
            )
        until = time.monotonic() + START_SECONDS
        while not os.path.exists(ready):
            if process.poll() is not None:
                with open(said, encoding="utf-8", errors="replace") as file:
                    raise TargetError(f"the throw-away sidecar did not start: {file.read()}")
            if time.monotonic() > until:
                raise TargetError(f"no throw-away sidecar after {START_SECONDS:.0f} s")
            time.sleep(0.01)
        with open(ready, encoding="utf-8") as file:
            return json.load(file)

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _config(folder: str) -> dict[str, Any]:
    return {
        "sidecar": {
            "data_dir": folder,
            "tcp": {"port": 0},
            "health": {"metrics_port": 0},
            "reload": {"poll": 0},
        },
        "routing": {"*": [{"backend": "file"}]},
        "backends": {"file": {"type": "file", "path": os.path.join(folder, "out.jsonl")}},
    }
