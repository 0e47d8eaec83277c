"""A process that is number 1, as the first one in a container is."""

import os
import pathlib
import shutil
import subprocess

import pytest
from support import ROOT, eventually


class Container:
    """A command as number 1 of a process namespace of its own; all in there ends with it.

    Attributes:
        pid: its number outside.
    """

    def __init__(self, *command, **more):
        if os.geteuid() != 0 or shutil.which("unshare") is None:
            assert os.environ.get("CI") != "true", "root and the unshare command are needed here"
            pytest.skip("needs root and the unshare command")
        self.process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *command],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
        )
        (self.pid,) = eventually(lambda: children(self.process.pid), "a process in there")

    def run(self, *command):
        """Run another command in there, to its end."""
        subprocess.run(
            ["nsenter", "--target", str(self.pid), "--pid", *command], check=True, timeout=60
        )

    def end(self, number=None, timeout=30):
        """Its exit status and what it said, once it has ended, or has been told to."""
        if number is not None:
            os.kill(self.pid, number)
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out.decode(), err.decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def children(pid):
    """The children of a process, of all of its threads."""
    found = []
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, path.read_text().split())
    return found


def state(pid):
    """R, S, Z ...; empty where there is no such process."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
