"""What this process uses of its host, under the names that all clients of Prometheus use."""

from __future__ import annotations

import functools
import os
import resource
import sys
import threading
import time
from typing import Optional

from wafermon.observe.metrics import Family, family


def cpu_seconds() -> float:
    """Processor time of this process, all threads together, its children not included.

    >>> cpu_seconds() > 0
    True
    """
    used = os.times()
    return used.user + used.system


def memory_bytes() -> int:
    """Resident memory; where the system does not tell, the most that it has been.

    >>> memory_bytes() > 1_000_000
    True
    """
    return _pages(1) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def open_descriptors() -> Optional[int]:
    """File descriptors that are open; None where the system does not tell.

    >>> open_descriptors() is None or open_descriptors() >= 3
    True
    """
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder)) - 1  # one is that of the folder
        except OSError:  # no such folder, or no descriptor left to look with
            continue
    return None


def collect() -> list[Family]:
    """Yield the families `process_...`. Any thread.

    >>> "process_cpu_seconds_total" in [found.name for found in collect()]
    True
    """
    gauges = [
        ("process_resident_memory_bytes", "Resident memory.", memory_bytes()),
        ("process_virtual_memory_bytes", "Virtual memory.", _pages(0)),
        ("process_open_fds", "File descriptors that are open.", open_descriptors()),
        ("process_max_fds", "File descriptors that may be open.", _max_descriptors()),
        ("process_threads", "Threads of the interpreter.", threading.active_count()),
        ("process_start_time_seconds", "When the process started, in Unix seconds.", _started()),
    ]  # fmt: skip
    return [
        family("process_cpu_seconds_total", "counter", "Processor time.", {"": cpu_seconds()}),
        *(family(n, "gauge", about, {"": got}) for n, about, got in gauges if got is not None),
    ]


def _pages(field: int) -> Optional[int]:
    """A field of /proc/self/statm in bytes."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[field]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return None


def _max_descriptors() -> Optional[int]:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


@functools.cache  # or it would differ by some ms each time
def _started() -> float:
    """The start of the process; where the system does not tell, the first time that it is asked."""
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        with open("/proc/uptime", "rb") as file:
            up = float(file.read().split()[0])
        return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.time()
