"""Every program in every case, in turn: figures, and ours over theirs."""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Callable

from bench import BenchError, process, tls
from bench.latency import run_on as run_latency
from bench.loadgen import CONNECTIONS, FRAME_BYTES, LoadGenerator, Tally
from bench.peers import loss
from bench.peers.contender import CORES, FLAT, LATENCY, LOSS, PACED, WAYS, Contender
from bench.peers.fluent_bit import WAYS as FLUENT_BIT_WAYS
from bench.peers.fluent_bit import FluentBit
from bench.peers.rsyslog import Rsyslog
from bench.peers.sidecar import ours
from bench.peers.syslog_ng import SyslogNg
from bench.receiver import running
from bench.report import Table, percentile
from bench.throughput import GATHERED_BYTES
from bench.throughput import run_on as run_throughput

COLUMNS = {
    "Flat out, one core, messages/s": "{:,.0f}",
    "CPU us/message": "{:.2f}",
    "Peak MB": "{:.1f}",
    "Flat out, all cores, messages/s": "{:,.0f}",
    "Paced, share of a core, %": "{:.1f}",
    "p50 ms": "{:.2f}",
    "p99 ms": "{:.2f}",
}
_RATIOS = dict.fromkeys(COLUMNS, "{:.2f}")
#: A way to send flat out -> its transport, and arguments of the sender. The first is FLAT.
_WAYS: dict[str, tuple[str, dict[str, int]]] = {
    "TCP, 4 connections": ("tcp", {}),
    "TCP, 1/10 spans": ("tcp", {"span_share": 10}),
    "TCP, 1 connection": ("tcp", {"connections": 1}),
    "Unix, 4 connections": ("unix", {}),
    "TLS, 4 connections": ("tls", {}),
}


def contenders() -> list[Contender]:
    """All of them, whether they are here or not."""
    return [
        *ours(),
        *map(FluentBit, FLUENT_BIT_WAYS),
        Rsyslog(parsed=True),
        Rsyslog(parsed=False),
        SyslogNg(parsed=True),
        SyslogNg(parsed=False),
    ]


def throughput(
    contender: Contender,
    loadgen: LoadGenerator,
    frames: int,
    *,
    pinned: bool = True,
    transport: str = "tcp",
    **load: int,
) -> dict[str, float]:
    """Send, and check that each line is there; the figures of `bench.throughput`."""
    receiving, sending = process.cores() if pinned else (None, None)
    with tempfile.TemporaryDirectory(prefix="wafermon-bench-") as folder:
        program = contender.program(folder, transport)
        with running(program, folder, receiving) as target, process.on_core(sending):
            address = target.address(transport)
            way: AbstractContextManager[str] = contextlib.nullcontext(address)
            if transport == "tls":
                way = tls.relay(folder, address)
            with way as to:
                return run_throughput(
                    target, loadgen, to, frames, in_order=contender.in_order, **load
                )


def latency(contender: Contender, count: int, rate: int) -> dict[str, float]:
    """Send single frames over TCP, and see when the file shows each."""
    receiving, sending = process.cores()
    with tempfile.TemporaryDirectory(prefix="wafermon-bench-") as folder:
        program = contender.program(folder, "tcp")
        with running(program, folder, receiving) as target, process.on_core(sending):
            passed, _ = run_latency(target, "tcp", count, rate)
    return {f"p{p} ms": percentile(passed, p / 100) / 1000 for p in (50, 99)}


class Comparison:
    """The tables, and what one round adds to them.

    Args:
        rows: those that are here.
        loadgen: the sender.
        frames: of a case flat out.
        rate: messages a second where the load is paced.
        seconds: how long a paced case lasts, and one of latency.
        loss_frames: sent at 20,000 a second where the receiver is ended amid it.
    """

    LATENCY_RATE, LOSS_RATE = 1000, 20_000

    def __init__(
        self,
        rows: Iterable[Contender],
        loadgen: LoadGenerator,
        *,
        frames: int,
        rate: int,
        seconds: float,
        loss_frames: int,
    ) -> None:
        self._rows = list(rows)
        self._loadgen = loadgen
        self._frames = frames // CONNECTIONS * CONNECTIONS
        self._rate = rate
        self._seconds = seconds
        self._loss_frames = loss_frames
        self.figures = Table("Receiver", COLUMNS)
        self.ratios = Table("Ours over theirs", _RATIOS)
        names = [row.name for row in self._rows if WAYS in row.cases]
        self.ways = Table("Way to send, messages/s", dict.fromkeys(names, "{:,.0f}"))
        outcomes = [f"{end}: {what}" for end in loss.ENDS for what in Tally._fields]
        self.losses = Table("Receiver", dict.fromkeys(outcomes, "{:,.0f}"))
        #: What did not work, each once.
        self.failures: dict[str, None] = {}

    def round(self) -> None:
        """All cases; in each all rows follow one another, so that noise hits them alike."""
        seen: dict[str, dict[str, float]] = {row.name: {} for row in self._rows}
        for case, measure in (
            (FLAT, self._flat),
            (CORES, self._cores),
            (PACED, self._paced),
            (LATENCY, self._latency),
        ):
            for row in self._in(case):
                seen[row.name].update(self._try(row, measure))
        for row in self._in(FLAT):
            self.figures.add(row.name, seen[row.name])
            self._add_ratios(row, seen)
        self._compare_ways(seen)
        for row in self._in(LOSS):
            self.losses.add(row.name, self._try(row, self._lose))

    def text(self) -> Iterator[str]:
        """All tables."""
        yield self.figures.text()
        yield "The same as ratios, each within one round:"
        yield self.ratios.text()
        yield "Flat out on one core by other ways:"
        yield self.ways.text()
        yield (
            f"Of {self._loss_frames:,} frames at {self.LOSS_RATE:,}/s, with the receiver ended "
            f"after half of them and started again:"
        )
        yield self.losses.text()
        if self.failures:
            yield "Failed: " + "; ".join(self.failures) + "."

    def _in(self, case: str) -> Iterator[Contender]:
        return (row for row in self._rows if case in row.cases)

    def _try(
        self, row: Contender, measure: Callable[[Contender], dict[str, float]]
    ) -> dict[str, float]:
        """Measure; where a peer fails its cell stays empty and is told, where we do it is over."""
        try:
            return measure(row)
        except BenchError as error:
            if row.ours:
                raise BenchError(f"{row.name}: {error}") from error
            print(f"{row.name}: {error}", file=sys.stderr)
            self.failures[f"{row.name}: {str(error).splitlines()[0]}"] = None
            return {}

    def _add_ratios(self, row: Contender, seen: dict[str, dict[str, float]]) -> None:
        for other in self._in(PACED):
            if row.ours and not other.ours:
                mine, theirs = seen[row.name], seen[other.name]
                figures = {name: mine[name] / theirs[name] for name in theirs if name in mine}
                self.ratios.add(f"{row.name} / {other.name}", figures)

    def _flat(self, row: Contender) -> dict[str, float]:
        found = throughput(row, self._loadgen, self._frames, write_bytes=GATHERED_BYTES)
        return {
            "Flat out, one core, messages/s": found["Messages/s"],
            "CPU us/message": found["CPU us/message"],
            "Peak MB": found["Peak MB"],
        }

    def _cores(self, row: Contender) -> dict[str, float]:
        found = throughput(
            row, self._loadgen, self._frames, pinned=False, write_bytes=GATHERED_BYTES
        )
        return {"Flat out, all cores, messages/s": found["Messages/s"]}

    def _paced(self, row: Contender) -> dict[str, float]:
        frames = int(self._rate * self._seconds) // CONNECTIONS * CONNECTIONS
        found = throughput(row, self._loadgen, frames, rate=self._rate)
        # Not of the time until the last byte stands in the file: that may include a pause.
        return {"Paced, share of a core, %": 100 * found["CPU s"] * self._rate / frames}

    def _latency(self, row: Contender) -> dict[str, float]:
        return latency(row, int(self.LATENCY_RATE * self._seconds), self.LATENCY_RATE)

    def _lose(self, row: Contender) -> dict[str, float]:
        figures: dict[str, float] = {}
        for end, number in loss.ENDS.items():
            with tempfile.TemporaryDirectory(prefix="wafermon-bench-") as folder:
                found = loss.run(row, folder, number, self._loss_frames, self.LOSS_RATE)
            figures.update({f"{end}: {what}": n for what, n in found._asdict().items()})
        return figures

    def _compare_ways(self, seen: dict[str, dict[str, float]]) -> None:
        for way, (transport, load) in _WAYS.items():
            for row in self._in(WAYS):
                if transport == "tls" and not row.ours:
                    continue
                found = seen[row.name].get("Flat out, one core, messages/s")
                if transport != "tcp" or load:
                    send = functools.partial(self._way, transport=transport, load=load)
                    found = self._try(row, send).get("Messages/s")
                if found is not None:
                    self.ways.add(way, {row.name: found})

    def _way(self, row: Contender, transport: str, load: dict[str, int]) -> dict[str, float]:
        more: dict[str, Any] = {"write_bytes": GATHERED_BYTES, **load}
        return throughput(row, self._loadgen, self._frames, transport=transport, **more)


def measure(
    rounds: int, frames: int, rate: int, seconds: float, loss_frames: int
) -> Iterator[str]:
    """The sidecar and what there is of the others.

    Args:
        rounds: how often each is measured.
        frames: of a case flat out.
        rate: messages a second where the load is paced.
        seconds: how long a paced case lasts, and one of latency.
        loss_frames: sent where the receiver is ended amid it.
    """
    rows: list[Contender] = []
    absent: dict[str, None] = {}
    for row in contenders():
        missing = row.absent()
        if missing is None:
            rows.append(row)
        else:
            absent[missing] = None  # once a program
    with tempfile.TemporaryDirectory(prefix="wafermon-bench-") as folder:
        comparison = Comparison(
            rows,
            LoadGenerator(folder),
            frames=frames,
            rate=rate,
            seconds=seconds,
            loss_frames=loss_frames,
        )
        for _ in range(rounds):
            comparison.round()
    here = ", ".join(dict.fromkeys(row.version() for row in rows))
    yield f"{here}.{''.join(f' Left out: {why}.' for why in absent)}"
    yield (
        f"{frames:,} frames of {FRAME_BYTES} bytes; paced: {rate:,} messages/s, a frame a write; "
        f"p50 and p99: from `send` until the file shows the line, at 1,000 messages/s."
    )
    yield from comparison.text()
