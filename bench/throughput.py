"""How many messages a second end up in a file, and what one costs."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from bench import process
from bench.loadgen import CONNECTIONS, FRAME_BYTES, LoadGenerator, check
from bench.receiver import SIDECAR, Receiver, receiver
from bench.reference import BLOCKS, LOADS, SIEVE
from bench.report import Table

GATHERED_BYTES = 65_536
_COLUMNS = {
    "Messages/s": "{:,.0f}",
    "CPU us/message": "{:.2f}",
    "CPU s": "{:.2f}",
    "Peak MB": "{:.1f}",
    "Cores taken by others": "{:.2f}",
}
_PACED_COLUMNS = {
    "Messages/s": "{:,.0f}",
    "Share of a core, %": "{:.1f}",
    "Peak MB": "{:.1f}",
    "Cores taken by others": "{:.2f}",
}
_RECEIVERS = {
    SIDECAR: "sidecar",
    LOADS: "reference: recv, json.loads a line, write",
    BLOCKS: "reference: recv, decode in blocks, write",
    SIEVE: "reference: recv, recognise blocks, write",
}

_RATIOS = {
    "CPU, of json.loads": (LOADS, "CPU us/message"),
    "CPU, of blocks": (BLOCKS, "CPU us/message"),
    "CPU, of recognising": (SIEVE, "CPU us/message"),
    "Messages/s, of json.loads": (LOADS, "Messages/s"),
    "Messages/s, of blocks": (BLOCKS, "Messages/s"),
    "Messages/s, of recognising": (SIEVE, "Messages/s"),
}


class Case(NamedTuple):
    """One way to send."""

    kind: str
    write_bytes: int
    transport: str
    pinned: bool
    span_share: int = 0
    rate: int = 0

    def __str__(self) -> str:
        writes = "64 KiB writes" if self.write_bytes else "a frame a write"
        place = "pinned" if self.pinned else "unpinned"
        words = [_RECEIVERS[self.kind], writes, self.transport, place]
        if self.span_share:
            words.append(f"1/{self.span_share} spans")
        return ", ".join(words)


def cases() -> list[Case]:
    """All cases; the references where they can be compared with a case of the sidecar."""
    places = (True, False) if None not in process.cores() else (False,)
    made = []
    for write_bytes, transport in itertools.product((GATHERED_BYTES, 0), ("tcp", "unix")):
        for kind in (LOADS, BLOCKS, SIEVE):
            made.append(Case(kind, write_bytes, transport, places[0]))
        for pinned, span_share in itertools.product(places, (0, 10)):
            made.append(Case(SIDECAR, write_bytes, transport, pinned, span_share))
    return made


def run_case(loadgen: LoadGenerator, case: Case, frames: int) -> dict[str, float]:
    """Send, wait until the last byte stands in the file, check each line."""
    receiving, sending = process.cores() if case.pinned else (None, None)
    with receiver(case.kind, receiving) as target, process.on_core(sending):
        return run_on(
            target,
            loadgen,
            target.address(case.transport),
            frames,
            write_bytes=case.write_bytes,
            rate=case.rate,
            span_share=case.span_share,
        )


def run_on(
    target: Receiver,
    loadgen: LoadGenerator,
    address: str,
    frames: int,
    *,
    in_order: bool = True,
    **load: int,
) -> dict[str, float]:
    """As `run_case`, of a receiver that is there.

    Args:
        target: is ended.
        loadgen: sends.
        address: where to, the receiver's own or one before it.
        frames: in all.
        in_order: whether the lines of a connection have to be.
        load: more arguments of `LoadGenerator.run`.
    """
    before, bystanders = process.cpu_seconds(target.pid), process.Bystanders(target.pid)
    began, _ = loadgen.run(address, frames, **load)
    seconds = target.wait_for_size(frames * FRAME_BYTES) - began
    figures = _figures(target, frames, seconds, before)
    figures["Cores taken by others"] = bystanders.cores()
    target.end()  # first: what is written twice may come late
    check(target.output, frames, load.get("connections", CONNECTIONS), in_order=in_order)
    return figures


def _figures(target: Receiver, frames: int, seconds: float, before: float) -> dict[str, float]:
    cpu = process.cpu_seconds(target.pid) - before
    return {
        "Messages/s": frames / seconds,
        "CPU us/message": cpu / frames * 1e6,
        "CPU s": cpu,
        "Share of a core, %": 100 * cpu / seconds,
        "Peak MB": process.memory_mb(target.pid, "VmHWM"),
    }


def measure(rounds: int, frames: int, rate: int, paced_seconds: float) -> Iterator[str]:
    """Flat out and paced; each round goes through all cases, so that noise hits them alike.

    Args:
        rounds: how often.
        frames: of one case flat out.
        rate: messages a second of the paced case.
        paced_seconds: how long that lasts.
    """
    frames -= frames % CONNECTIONS
    paced_frames = int(rate * paced_seconds) // CONNECTIONS * CONNECTIONS
    flat, paced = (Table("Receiver and sender", columns) for columns in (_COLUMNS, _PACED_COLUMNS))
    pinned = None not in process.cores()
    with tempfile.TemporaryDirectory(prefix="wafermon-bench-") as folder:
        loadgen = LoadGenerator(folder)
        for _ in range(rounds):
            for case in cases():
                flat.add(str(case), run_case(loadgen, case, frames))
            for transport in ("tcp", "unix"):
                case = Case(SIDECAR, 0, transport, pinned, rate=rate)
                paced.add(str(case), run_case(loadgen, case, paced_frames))
    yield (
        f"{frames:,} frames of {FRAME_BYTES} bytes over {CONNECTIONS} connections, one file on "
        f"{_file_system()}.\n\n{flat.text()}"
    )
    yield _ratios(flat)
    yield f"At a steady {rate:,} messages/s for {paced_seconds:g} s:\n\n{paced.text()}"


def _ratios(flat: Table) -> str:
    """The sidecar against each reference, by medians.

    CPU is what to compare: where others want the core too, the references wait for it longer than
    the sidecar does, and its messages/s look better beside theirs than they are.
    """
    table = Table("Sidecar over reference", dict.fromkeys(_RATIOS, "{:.2f}"))
    pinned = cases()[0].pinned
    for case in cases():
        if case.kind == SIDECAR and not case.span_share and case.pinned == pinned:
            figures = {}
            for heading, (kind, column) in _RATIOS.items():
                reference = flat.median(str(case._replace(kind=kind)), column)
                figures[heading] = flat.median(str(case), column) / reference
            table.add(str(case), figures)
    return table.text()


def _file_system() -> str:
    """The type of the file system that the files are on."""
    folder = os.path.realpath(tempfile.gettempdir())
    best, kind = "", "an unknown file system"
    with open("/proc/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            _, where, name = line.split()[:3]
            if os.path.commonpath([folder, where]) == where and len(where) >= len(best):
                best, kind = where, name
    return kind
