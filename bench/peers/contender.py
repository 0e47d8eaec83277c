"""What the comparison needs to know of a program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection
from typing import Optional

from bench.addresses import answers, free_port
from bench.receiver import Program

FLAT, CORES, PACED, LATENCY, WAYS, LOSS = "flat", "cores", "paced", "latency", "ways", "loss"
ALL = frozenset((FLAT, CORES, PACED, LATENCY, WAYS, LOSS))

_VERSION = re.compile(r"\d+\.\d+[\w.]*")


class Contender:
    """A row of the comparison: a program, configured in one way.

    Attributes:
        name: of the row.
        cases: what it is measured in.
        ours: whether others are compared with it.
        receipts: whether it is sent to by sessions, and asked for receipts.
        in_order: whether the lines of a connection are in order.
    """

    name: str
    cases: Collection[str] = ALL
    ours = False
    receipts = False
    in_order = True

    def absent(self) -> Optional[str]:
        """What is missing here, in a word; None where it can run."""
        return None

    def version(self) -> str:
        """The program and its version."""
        raise NotImplementedError

    def program(self, folder: str, transport: str) -> Program:
        """How to start it; it writes to `out.jsonl`.

        Args:
            folder: for all its files; started there again, it goes on.
            transport: "tcp" or "unix"; some know "tls".
        """
        raise NotImplementedError


class Peer(Contender):
    """A program that somebody else wrote: found on PATH, or by a variable of the environment.

    Attributes:
        title: its name in words.
        executable: its name on PATH.
        variable: of the environment, which may name another.
    """

    title: str
    executable: str
    variable: str

    def __init__(self, how: str, cases: Collection[str] = ALL) -> None:
        self.name = f"{self.title}, {how}"
        self.cases = cases

    def absent(self) -> Optional[str]:
        return None if self._found() else f"no {self.executable} on PATH, nor in {self.variable}"

    def _found(self) -> Optional[str]:
        return shutil.which(os.environ.get(self.variable, self.executable))

    def version(self) -> str:
        done = subprocess.run(
            [self._found() or self.executable, *self.version_arguments],
            capture_output=True,
            check=False,
        )
        found = _VERSION.search(done.stdout.decode(errors="replace"))
        return f"{self.title} {found.group() if found else '(unknown version)'}"

    version_arguments = ("--version",)

    def program(self, folder: str, transport: str) -> Program:
        address = os.path.join(folder, "in.sock")
        if transport == "tcp":
            address = f"127.0.0.1:{free_port()}"
        path = os.path.join(folder, "config")
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.config(folder, address))
        command = [self._found() or self.executable, *self.arguments(folder, path)]
        return Program(command, lambda: {transport: address} if answers(address) else None)

    def config(self, folder: str, address: str) -> str:
        """The text of its configuration.

        Args:
            folder: where `out.jsonl` is.
            address: `127.0.0.1:PORT`, or the path of a Unix socket.
        """
        raise NotImplementedError

    def arguments(self, folder: str, path: str) -> list[str]:
        """To run in the foreground, with the configuration at `path` and all state in `folder`."""
        raise NotImplementedError
