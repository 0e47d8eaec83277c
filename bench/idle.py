"""What a sidecar costs that has nothing to do."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench import process
from bench.receiver import receiver
from bench.report import Table

_COLUMNS = {
    "Share of a core, %": "{:.4f}",
    "Memory MB": "{:.1f}",
    "Threads": "{:.0f}",
    "Start-up ms": "{:.0f}",
}


def measure(rounds: int, seconds: float) -> Iterator[str]:
    """Leave a sidecar alone.

    Args:
        rounds: how often.
        seconds: for how long, after a second in which it may settle.
    """
    table = Table("Sidecar", _COLUMNS)
    for _ in range(rounds):
        with receiver() as target:
            time.sleep(1)
            before, began = process.cpu_seconds(target.pid), time.monotonic()
            time.sleep(seconds)
            cpu = process.cpu_seconds(target.pid) - before
            figures = (
                100 * cpu / (time.monotonic() - began),
                process.memory_mb(target.pid, "VmRSS"),
                process.threads(target.pid),
                1000 * target.start_seconds,
            )
            table.add("no connection", dict(zip(_COLUMNS, figures)))
    yield f"Alone for {seconds:g} s; start-up is from exec to the ready file.\n\n{table.text()}"
