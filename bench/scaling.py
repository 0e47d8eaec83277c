"""What more processes bring: on paper, by simulation, and measured where there are cores for it.

Paper and simulation rest on four costs of one message, measured here: what the owner does with
every message, decoding, what a message costs the owner that a worker decodes, and what it costs
that worker.
"""

from __future__ import annotations

import contextlib
import heapq
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple, Optional

from bench import process
from bench.loadgen import CONNECTIONS, FRAME_BYTES, LoadGenerator
from bench.micro import BLOCK_FRAMES, Function, block, cpu_us
from bench.receiver import Receiver, running, sidecar
from bench.report import Table
from wafermon.message import Batch
from wafermon.net import EventLoop, Workers
from wafermon.net.workers import MAX_WAITING
from wafermon.wire import Decoder

CORES = (1, 2, 4, 8, 16)
_BLOCKS = 2_000  # of one simulation
_JITTER = 0.3  # how far a cost of a block may be off its mean, evenly spread


class Costs(NamedTuple):
    """CPU us of one message.

    Attributes:
        rest: what the owner does with it besides decoding.
        decode: decoding it, in the owner.
        hand_over: what it costs the owner to have a worker decode it.
        worker: what it costs that worker.
    """

    rest: float
    decode: float
    hand_over: float
    worker: float


def on_paper(costs: Costs, workers: int) -> float:
    """Messages a second that so many cores could do, the owner's among them, if none ever waited.

    The owner decodes a share itself: as much as leaves it and the workers busy alike.

    >>> round(on_paper(Costs(1.0, 2.0, 0.2, 2.5), 0))
    333333
    >>> round(on_paper(Costs(1.0, 2.0, 0.2, 2.5), 100))  # the owner alone is the bound
    833333
    """
    if not workers:
        return 1e6 / (costs.rest + costs.decode)
    # Owner: rest + hand_over * f + decode * (1 - f); workers: worker * f / workers; equal.
    gain = costs.decode - costs.hand_over
    share = min(1.0, (costs.rest + costs.decode) / (costs.worker / workers + gain))
    return 1e6 / (costs.rest + costs.decode - gain * share)


def simulated(costs: Costs, workers: int, seed: int = 7) -> float:
    """The same with blocks of uneven cost, bounded queues, and verdicts taken in order.

    The owner hands a block to the worker that has least to do, decodes it itself where all have
    enough, and deals with what is decoded as soon as it is the oldest.
    """
    rng = random.Random(seed)

    def cost(us: float) -> float:
        return us * BLOCK_FRAMES * rng.uniform(1 - _JITTER, 1 + _JITTER)

    now = 0.0
    free_at = [0.0] * workers
    answers: list[list[float]] = [[] for _ in range(workers)]  # when each block will be answered
    oldest: list[tuple[int, float]] = []  # (number, decoded at)
    next_out = 0
    for number in range(_BLOCKS):
        for pending in answers:
            pending[:] = [at for at in pending if at > now]
        idle = min(range(workers), key=lambda i: len(answers[i]), default=None)
        if idle is not None and len(answers[idle]) < MAX_WAITING:
            now += cost(costs.hand_over)
            free_at[idle] = max(now, free_at[idle]) + cost(costs.worker)
            answers[idle].append(free_at[idle])
            heapq.heappush(oldest, (number, free_at[idle]))
        else:
            now += cost(costs.decode)
            heapq.heappush(oldest, (number, now))
        while oldest and oldest[0][0] == next_out and oldest[0][1] <= now:
            heapq.heappop(oldest)
            next_out += 1
            now += cost(costs.rest)
    for _, decoded_at in sorted(oldest):
        now = max(now, decoded_at) + cost(costs.rest)
    return _BLOCKS * BLOCK_FRAMES / now * 1e6


def measured_costs(whole_us: float) -> Costs:
    """The costs on this machine.

    Args:
        whole_us: CPU us of a message in a sidecar of one process.
    """
    data = block()
    decoder = Decoder()
    decode = cpu_us(Function(lambda _: decoder.feed(data), BLOCK_FRAMES), 0.2) / BLOCK_FRAMES
    hand_over, worker = _round_trips(data, 2_000)
    return Costs(max(0.0, whole_us - decode), decode, hand_over, worker)


def _round_trips(data: bytes, count: int) -> tuple[float, float]:
    """CPU us a message of the owner and of a worker, for blocks that a worker decodes."""
    loop = EventLoop()
    workers = Workers(1, loop)
    workers.start()
    left = [count]

    def submit() -> None:
        workers.submit(data, done)

    def done(_: Optional[Batch]) -> None:
        left[0] -= 1
        if left[0]:
            submit()
        else:
            figures.append(time.thread_time())
            figures.append(process.cpu_seconds(workers.pids[0]))
            loop.stop()

    figures: list[float] = [time.thread_time()]
    workers.serve()
    submit()
    try:
        loop.run()
    finally:
        workers.stop()
        loop.close()
    messages = count * BLOCK_FRAMES
    return (figures[1] - figures[0]) / messages * 1e6, figures[2] / messages * 1e6


def _run(loadgen: LoadGenerator, processes: int, frames: int) -> dict[str, float]:
    """Flat out, all free to run on any core."""
    changes = {"journal": {"enabled": False}, "performance": {"processes": processes}}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="wafermon-bench-"))
        target = stack.enter_context(running(sidecar(folder, **changes), folder))
        return _flat_out(loadgen, target, frames)


def _flat_out(loadgen: LoadGenerator, target: Receiver, frames: int) -> dict[str, float]:
    before, bystanders = process.cpu_seconds(target.pid), process.Bystanders(target.pid)
    sent_before = _ended_children_cpu_seconds()
    began, _ = loadgen.run(target.address("tcp"), frames, write_bytes=65_536)
    sending = _ended_children_cpu_seconds() - sent_before
    seconds = target.wait_for_size(frames * FRAME_BYTES) - began
    cpu = process.cpu_seconds(target.pid) - before
    return {
        "Messages/s": frames / seconds,
        "CPU us/message": cpu / frames * 1e6,
        "Cores used": cpu / seconds,
        "Senders, CPU us/message": sending / frames * 1e6,
        "Senders, cores": sending / seconds,
        "Cores taken by others": bystanders.cores(),
    }


def _ended_children_cpu_seconds() -> float:
    """Of the sender, once it has ended: the receiver is still running."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


_COLUMNS = {
    "Messages/s": "{:,.0f}",
    "CPU us/message": "{:.2f}",
    "Cores used": "{:.2f}",
    "Senders, CPU us/message": "{:.2f}",
    "Senders, cores": "{:.2f}",
    "Cores taken by others": "{:.2f}",
}


def measure(rounds: int, frames: int) -> Iterator[str]:
    """Measured with 1, 2 and 3 processes; on paper and simulated for more cores than there are."""
    frames -= frames % CONNECTIONS
    table = Table("Processes", _COLUMNS)
    with tempfile.TemporaryDirectory(prefix="wafermon-bench-") as folder:
        loadgen = LoadGenerator(folder)
        for _ in range(rounds):
            for processes in (1, 2, 3):
                table.add(str(processes), _run(loadgen, processes, frames))
    yield f"{frames:,} frames flat out, nothing pinned, journal off.\n\n{table.text()}"
    costs = measured_costs(table.median("1", "CPU us/message"))
    yield (
        f"Of one message the owner does {costs.rest:.2f} us besides decoding, which takes "
        f"{costs.decode:.2f} us; handing it over instead costs the owner {costs.hand_over:.2f} us "
        f"and a worker {costs.worker:.2f} us. With so many cores, none of them for the senders:"
    )
    model = Table("Processes", {"On paper": "{:,.0f}", "Simulated": "{:,.0f}", "Gain": "{:.2f}"})
    for cores in CORES:
        best = simulated(costs, cores - 1)
        figures = {"On paper": on_paper(costs, cores - 1), "Simulated": best}
        model.add(str(cores), {**figures, "Gain": best / simulated(costs, 0)})
    yield model.text()
