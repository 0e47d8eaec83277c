"""What the kernel knows of a process (Linux), and which core it runs on."""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import time
from collections.abc import Iterator
from typing import Optional

from bench import BenchError


def cores() -> tuple[Optional[int], Optional[int]]:
    """A core for the receiver and one for whoever sends; (None, None) where there are no two."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[-1]) if len(usable) > 1 else (None, None)


@contextlib.contextmanager
def on_core(core: Optional[int]) -> Iterator[None]:
    """Run the calling thread, and what it starts meanwhile, on one core; None changes nothing."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        for path in glob.glob(f"/proc/{parent}/task/*/children"):
            with contextlib.suppress(BenchError):  # the thread has just ended
                found += map(int, _read(path).split())
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its children that live."""
    return sum(map(_cpu_seconds, family(pid)))


def _cpu_seconds(pid: int) -> float:
    """To the nanosecond of the threads that live, where the kernel keeps that; in ticks of all."""
    nanoseconds = 0
    for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
        with contextlib.suppress(BenchError):
            nanoseconds += int(_read(path).split()[0])
    user, system = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[11:13]
    return max(nanoseconds / 1e9, (int(user) + int(system)) / os.sysconf("SC_CLK_TCK"))


class Bystanders:
    """How much CPU the rest of the machine takes, from now on: what makes a round noisy.

    Not counted are a receiver, and this process with those of its children that have ended.
    """

    def __init__(self, receiver: int) -> None:
        self._receiver = receiver
        self._began, self._before = time.monotonic(), self._foreign_seconds()

    def cores(self) -> float:
        """Cores taken, on average."""
        taken = self._foreign_seconds() - self._before
        return max(0.0, taken / (time.monotonic() - self._began))

    def _foreign_seconds(self) -> float:
        user, nice, system, _, _, irq, softirq, steal = map(int, _read("/proc/stat").split()[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return busy - cpu_seconds(self._receiver) - sum(os.times()[:4])


def memory_mb(pid: int, field: str) -> float:
    """`VmRSS` (memory now) or `VmHWM` (its peak) of a process and its children, in MB; pages that
    they share count for each."""
    return sum(_status(member, field) for member in family(pid)) * 1024 / 1e6


def threads(pid: int) -> int:
    """How many threads a process has."""
    return _status(pid, "Threads")


def _status(pid: int, field: str) -> int:
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise BenchError(f"/proc/{pid}/status has no {field}")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except FileNotFoundError as error:
        raise BenchError(
            f"{path} is missing: this needs Linux, and a process that lives"
        ) from error


def machine() -> str:
    """One line about the machine."""
    model = "an unknown CPU"
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        model = names[0] if names else model
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}"
    )
