"""Curves of parts of the sidecar, in this process: queue, journal, router."""

from __future__ import annotations

import os
import tempfile
import time
import tracemalloc
from typing import Any, Callable

from bench.growth.curve import COST, MEMORY, Curve
from bench.micro import BLOCK_FRAMES, Function, block, cpu_us, decoded
from wafermon.delivery import BatchQueue, Journal
from wafermon.flow import Router, Rule
from wafermon.message import Batch
from wafermon.testing import frame

MEGABYTE = 1_000_000
_SECONDS = 0.05
_LINE = frame(1, data={"msg": "x" * 145})
#: Memory is traced up to here, as that takes long.
_TRACED_MESSAGES = 100_000
_HUGE = {"max_messages": 10**9, "max_bytes": 10**12}


def curves(full: bool) -> list[Curve]:
    """All of them; `full` adds what takes minutes."""
    megabytes = [1, 10, 100, 1000, *([10_000] if full else [])]
    messages = [10_000, 100_000, 1_000_000]
    rules = [1, 10, 100, 500]
    return [
        Curve("queue, batches of 1: fill and drain", "messages", messages, lambda n: queue(n, 1)),
        Curve("queue, batches of 100: fill and drain", "messages", messages, queue),
        Curve("queue, full: drop the oldest", "messages", messages, full_queue),
        Curve("journal: append, commit, delete", "MB", megabytes, journal_write),
        Curve("journal: read back", "MB", megabytes, journal_read),
        Curve("routing of a known source", "rules", rules, known_source),
        Curve("routing of a new source", "rules", rules, new_source, bound=1),
        Curve("filters of one source", "rules", rules, filters, bound=1),
    ]


def queue(messages: int, size: int = 100) -> dict[str, float]:
    """Put all, take all."""
    waiting, cpu = _filled(messages, size, **_HUGE)
    began = time.thread_time()
    while waiting.messages:
        waiting.done(waiting.take() or Batch())
    cpu += time.thread_time() - began
    figures = {COST: cpu / messages * 1e6}
    if messages <= _TRACED_MESSAGES:
        figures[MEMORY] = _memory_mb(messages, size)
    return figures


def _memory_mb(messages: int, size: int) -> float:
    """What they take while they wait."""
    tracemalloc.start()
    try:
        waiting, _ = _filled(messages, size, **_HUGE)
        memory = tracemalloc.get_traced_memory()[0]
        waiting.close()
        return memory / 1e6
    finally:
        tracemalloc.stop()


def full_queue(messages: int) -> dict[str, float]:
    """Put more into a queue that is full."""
    bounds = {"max_messages": messages, "max_bytes": 10**12, "per_source": messages}
    full, _ = _filled(messages, 100, **bounds, when_full="drop_oldest")
    more = [_batch(100) for _ in range(max(1, messages // 1000))]
    began = time.thread_time()
    for batch in more:
        full.put(batch)
    return {COST: (time.thread_time() - began) / (100 * len(more)) * 1e6}


def _filled(messages: int, size: int, **bounds: Any) -> tuple[BatchQueue, float]:
    """A queue, and the CPU seconds that it took to put all into it."""
    filled, cpu = BatchQueue(flush_messages=1, **bounds), 0.0
    for _ in range(messages // size):
        batch, began = _batch(size), time.thread_time()
        filled.put(batch)
        cpu += time.thread_time() - began
    return filled, cpu


def _batch(size: int) -> Batch:
    return Batch(bytes(bytearray(_LINE * size)), sources={"test": size})  # bytes of its own


def _on_journal(
    megabytes: int, measure: Callable[[Journal, Batch, int], float]
) -> dict[str, float]:
    """Fill a journal of which a route has got nothing, and measure at its end."""
    packed = decoded(block())().packed()
    with tempfile.TemporaryDirectory(prefix="wafermon-bench-") as folder:
        journal = Journal(os.path.join(folder, "journal.db"), max_bytes=10**12)
        journal.open()
        journal.positions = lambda: {"route": 0}
        while journal.bytes < megabytes * MEGABYTE:
            for _ in range(min(100, megabytes)):
                journal.append(packed)
            journal.commit()
        try:
            return {COST: measure(journal, packed, journal.assigned)}
        finally:
            journal.close()


def journal_write(megabytes: int) -> dict[str, float]:
    """The route goes on as far as new messages come, so that what waits stays as much."""

    def write(journal: Journal, packed: Batch, waiting: int) -> float:
        journal.positions = lambda: {"route": journal.assigned - waiting}

        def commit(_: object) -> None:
            for _ in range(16):
                journal.append(packed)
            journal.commit()

        return cpu_us(Function(commit, 0), _SECONDS) / (16 * BLOCK_FRAMES)

    return _on_journal(megabytes, write)


def journal_read(megabytes: int) -> dict[str, float]:
    """A route reads on from its cursor, in the middle."""

    def read(journal: Journal, packed: Batch, waiting: int) -> float:
        found = sum(len(entry.batch) for entry in journal.read(waiting // 2))
        return cpu_us(Function(journal.read, 0, lambda: waiting // 2), _SECONDS) / found

    return _on_journal(megabytes, read)


def _rules(count: int) -> dict[str, list[Rule]]:
    """Half of them exact names, half patterns; the last pattern takes everything."""
    names = {f"job-{n}": [Rule("file")] for n in range(count // 2)}
    patterns = {f"line-{n}-*": [Rule("file")] for n in range((count - 1) // 2)}
    return {**names, **patterns, "*": [Rule("file")]}


def known_source(rules: int) -> dict[str, float]:
    """One source, many rules of others."""
    router = Router(_rules(rules))
    us = cpu_us(Function(router.route, 0, decoded(block())), _SECONDS)
    return {COST: us / BLOCK_FRAMES}


def new_source(rules: int) -> dict[str, float]:
    """A batch of one message whose source has not been seen."""
    router = Router(_rules(rules), max_sources=1)
    turn = [decoded(frame(1, src=f"loader-{n}")) for n in range(2)]

    def prepare() -> Batch:
        turn.reverse()
        return turn[0]()

    return {COST: cpu_us(Function(router.route, 0, prepare), _SECONDS)}


def filters(rules: int) -> dict[str, float]:
    """All rules are of this source, and look into the message."""
    looks = [Rule("file", where={"data.ctx.rows": n}) for n in range(rules)]
    router = Router({"*": looks})
    us = cpu_us(Function(router.route, 0, decoded(block())), _SECONDS)
    return {COST: us / BLOCK_FRAMES}
