"""How long one message takes from `send` until it can be read from the file."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator

from bench import BenchError, process
from bench.addresses import dial
from bench.loadgen import FRAME_BYTES
from bench.receiver import Receiver, receiver
from bench.report import Table, percentile

_COLUMNS = {
    **dict.fromkeys(("p50 us", "p90 us", "p99 us", "max us"), "{:,.0f}"),
    "Cores taken by others": "{:.2f}",
}


def frame(number: int, sent_ns: int) -> bytes:
    """A frame of always the same size, so that the size of the file tells how many are in it."""
    context = {"n": number, "sent_ns": sent_ns, "p": ""}
    message = {
        "v": 1,
        "src": "bench",
        "ts": int(time.time() * 1000),
        "type": "event",
        "data": {"level": "info", "msg": "", "ctx": context},
    }
    text = json.dumps(message, separators=(",", ":")).encode()
    return text[:-4] + b"x" * (FRAME_BYTES - 1 - len(text)) + text[-4:] + b"\n"


def send_and_watch(sock: socket.socket, output: str, count: int, rate: int) -> list[int]:
    """Send frames at even distances, whatever the receiver does, and watch the file meanwhile.

    One tight loop does both: a second process would take the core from the first.

    Returns:
        For each frame, when it was seen in the file, in monotonic nanoseconds.
    """
    seen: list[int] = []
    sent, began, step = 0, time.monotonic_ns(), 1_000_000_000 // rate
    until = began + count * step + 10_000_000_000
    file = os.open(output, os.O_RDONLY | os.O_CREAT, 0o600)
    try:
        while len(seen) < count:
            now = time.monotonic_ns()
            if sent < count and now >= began + sent * step:
                sock.sendall(frame(sent, time.monotonic_ns()))
                sent += 1
            visible = os.fstat(file).st_size // FRAME_BYTES
            if visible > len(seen):
                seen += [time.monotonic_ns()] * (visible - len(seen))
            elif now > until:
                raise BenchError(f"{visible} of {count} messages arrived")
    finally:
        os.close(file)
    return seen


def latencies(output: str, seen: list[int]) -> list[float]:
    """Sorted microseconds from send to sight; the file itself says when a frame was sent."""
    passed = []
    with open(output, encoding="utf-8") as file:
        for number, line in enumerate(file):
            context = json.loads(line)["data"]["ctx"]
            if context["n"] != number:
                raise BenchError(f"frame {context['n']} stands where {number} should")
            passed.append((seen[number] - context["sent_ns"]) / 1000)
    if len(passed) != len(seen):
        raise BenchError(f"{len(passed)} lines, {len(seen)} were sent")
    return sorted(passed)


def run_case(transport: str, pinned: bool, count: int, rate: int) -> tuple[list[float], float]:
    """The sorted latencies of one run.

    Returns:
        Them, and how many cores others took meanwhile.
    """
    core, own = process.cores() if pinned else (None, None)
    with receiver(core=core) as target, process.on_core(own):
        return run_on(target, transport, count, rate)


def run_on(
    target: Receiver, transport: str, count: int, rate: int
) -> tuple[list[float], float]:
    """As `run_case`, of a receiver that is there."""
    with dial(target.address(transport)) as sock:
        bystanders = process.Bystanders(target.pid)
        seen = send_and_watch(sock, target.output, count, rate)
        others = bystanders.cores()
    target.end()
    return latencies(target.output, seen), others


def measure(rounds: int, rate: int, seconds: float) -> Iterator[str]:
    """One message at a time, at a steady rate, by both transports.

    Args:
        rounds: how often.
        rate: messages a second.
        seconds: how long a run lasts.
    """
    table = Table("Sender", _COLUMNS)
    places = (True, False) if None not in process.cores() else (False,)
    for _ in range(rounds):
        for transport in ("tcp", "unix"):
            for pinned in places:
                passed, others = run_case(transport, pinned, int(rate * seconds), rate)
                figures = [percentile(passed, share) for share in (0.5, 0.9, 0.99, 1)]
                row = f"{transport}, {'pinned' if pinned else 'unpinned'}"
                table.add(row, dict(zip(_COLUMNS, [*figures, others])))
    yield (
        f"{rate:,} messages/s for {seconds:g} s, a write each, evenly spaced; `flush_interval` is "
        f"5 s. From `send` until the file shows the line.\n\n{table.text()}"
    )
