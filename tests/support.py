"""A real sidecar process, and a way to wait that is bounded."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from wafermon.testing import unaccounted

ROOT = pathlib.Path(__file__).parents[1]
DEADLINE_SECONDS = 30
#: A single file that the processes run, in place of the package.
PYZ = os.environ.get("WAFERMON_PYZ")
MODULE = [sys.executable, "-m", "wafermon"]
#: The command line, for processes in ROOT.
COMMAND = [sys.executable, PYZ] if PYZ else MODULE


def eventually(condition, what="the condition"):
    """Wait for a condition, bounded; give what it gave."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.002)
    raise AssertionError(f"{what} did not come true in {DEADLINE_SECONDS} s")


class SidecarProcess:
    """`wafermon run` in a process of its own, on ports of the system's choice."""

    def __init__(self, folder, *arguments, config=None, env=None, stdout=None, root=ROOT,
                 program=None):
        self.folder = folder
        self.data = folder / "data"
        self.ready_file = folder / "ready.json"
        program = program or (COMMAND if root == ROOT else MODULE)
        command = [*program, "run", "--ready-file", str(self.ready_file)]
        if config is None:
            command += ["--data", str(self.data), "--tcp", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        else:
            path = folder / "config.json"
            path.write_text(json.dumps(config))
            command += ["--config", str(path)]
        self.process = subprocess.Popen(
            [*command, *arguments], cwd=root, env={**os.environ, **(env or {})},
            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, stdout=stdout,
        )
        eventually(lambda: self.ready_file.exists() or self.process.poll() is not None, "readiness")
        if self.process.poll() is not None:
            raise AssertionError(self.process.communicate()[1].decode())
        self.ready = json.loads(self.ready_file.read_text())
        host, _, port = self.ready["tcp"].rpartition(":")
        self.tcp = (host, int(port))

    def connect(self, unix=False):
        sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        sock.settimeout(DEADLINE_SECONDS)
        sock.connect(self.ready["unix"] if unix else self.tcp)
        return sock

    def send(self, data, unix=False):
        """A whole client: connect, write, close."""
        with self.connect(unix) as sock:
            sock.sendall(data)

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.ready['admin']}{path}", timeout=10) as answer:
            return answer.read()

    def metrics(self):
        """Every sample by its name and labels, as one text."""
        lines = self.get("/metrics").decode().split("\n")[:-1]
        return {k: float(v) for k, _, v in (ln.rpartition(" ") for ln in lines if ln[0] != "#")}

    def total(self, name, **labels):
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            value for key, value in self.metrics().items()
            if key.partition("{")[0] == name and all(text in key for text in wanted)
        )

    def stop(self, number=signal.SIGTERM):
        """Ask it to stop; its exit status and what it said."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, err = self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode, err.decode()

    def check_conservation(self):
        """Nothing vanished: every message is delivered, queued, dead-lettered or counted."""
        eventually(lambda: not unaccounted(self.get("/metrics").decode()), "conservation")
