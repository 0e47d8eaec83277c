"""What each function on a message's way costs by itself, so that a slow-down is found there."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

from bench.report import Table
from wafermon.backends import FileBackend, NullBackend
from wafermon.delivery import BatchQueue, Journal, Pipeline, Route
from wafermon.delivery.pipeline import Observer
from wafermon.flow import Correlator, JobTracker, Presence, Router, Rule, UserMetrics
from wafermon.message import Batch
from wafermon.observe import Registry, render
from wafermon.testing import frame
from wafermon.wire import Decoder, Session
from wafermon.wire.blocks import BlockDecoder

#: Frames of one read: about 64 KiB.
BLOCK_FRAMES = 300
SOURCES = 4
#: A batch of the queue is one read; so many are taken at once.
JOINED = 16
_COLUMNS = {"us a call": "{:,.2f}", "us a message": "{:.3f}"}
#: As `loadgen` fills its frames, to the same size.
_CTX = {"n": 1, "lot": "L1234567", "tool": "EQP07", "yield": 0.9731, "rows": 1200, "p": "x" * 30}
_DATA = {"level": "info", "msg": "wafer loaded", "ctx": _CTX}


class Function(NamedTuple):
    """Something to time.

    Attributes:
        call: is timed.
        messages: that a call handles; 0 where it handles none.
        prepare: makes the argument of a call, not timed.
    """

    call: Callable[[Any], object]
    messages: int
    prepare: Callable[[], Any] = lambda: None


def cpu_us(function: Function, seconds: float) -> float:
    """CPU time of a call on this thread, the fastest of three runs; garbage is not collected
    meanwhile, as in the sidecar."""
    gc.disable()
    try:
        calls = 1
        while (us := _time(function, calls)) * calls < seconds * 1e6:
            calls *= 2
        return min(us, _time(function, calls), _time(function, calls))
    finally:
        gc.enable()


def _time(function: Function, calls: int) -> float:
    arguments = [function.prepare() for _ in range(calls)]
    call, began = function.call, time.thread_time()
    for argument in arguments:
        call(argument)
    return (time.thread_time() - began) / calls * 1e6


def functions(folder: str) -> Iterator[tuple[str, Function]]:
    """Row of the table -> what is timed."""
    yield from _wire()
    yield from _flow()
    yield from _observers()
    yield from _delivery(folder)
    yield from _whole()


def block(sources: int = 1, **fields: Any) -> bytes:
    """The frames of one read, from so many sources in turn."""
    turn = itertools.cycle(f"loader-{n}" for n in range(sources))
    more: dict[str, Any] = {"data": _DATA, **fields}
    return b"".join(frame(n, next(turn), **more) for n in range(BLOCK_FRAMES))


def spans() -> bytes:
    """The spans of three traces."""
    ids = ({"tid": f"t{n // 100}", "sid": f"s{n}"} for n in range(BLOCK_FRAMES))
    data = {"name": "load wafer", "duration_ms": 12.5, "status": "ok", "ctx": _CTX}
    return b"".join(frame(n, type="span", data=data, **more) for n, more in enumerate(ids))


def decoded(data: bytes) -> Callable[[], Batch]:
    """Makes a batch as it comes from the decoder, which nobody has looked at."""
    read = Decoder().feed(data)
    return lambda: Batch(read.raw, read.messages)


def _wire() -> Iterator[tuple[str, Function]]:
    decoder, plain = Decoder(), block()
    for name, data in (
        ("a block", plain),
        ("a block of spans", spans()),
        ("line by line", plain + b"rubbish\n"),
    ):
        read = functools.partial(bytes, data)
        yield f"Decoder.feed, {name}", Function(decoder.feed, BLOCK_FRAMES, read)
    blocks, parsed = BlockDecoder(), functools.partial(bytes, plain)
    yield "BlockDecoder.parse, a block", Function(blocks.parse, BLOCK_FRAMES, parsed)
    session = Session()
    session.receive(plain)
    yield "Session.receive", Function(session.receive, BLOCK_FRAMES, lambda: plain)
    asking, numbers = Session(), itertools.count(1)
    asking.receive(frame(type="hello", data={"session": "s"}))
    form = block(q=1).replace(b'"q":1', b'"q":%d')
    numbered = lambda: form % tuple(itertools.islice(numbers, BLOCK_FRAMES))  # noqa: E731
    yield "Session.receive, receipts", Function(asking.receive, BLOCK_FRAMES, numbered)


def _flow() -> Iterator[tuple[str, Function]]:
    one, several = decoded(block()), decoded(block(SOURCES))
    router = Router({"*": [Rule("file")]})
    yield "Router.route, all to one", Function(router.route, BLOCK_FRAMES, one)
    name = f"Router.route, all to one, {SOURCES} sources"
    yield name, Function(router.route, BLOCK_FRAMES, several)
    router = Router({"*": [Rule("file", types=["event"], level="info"), Rule("nas")]})
    yield "Router.route, two backends, filters", Function(router.route, BLOCK_FRAMES, one)
    correlator = Correlator()
    for name, batches in (("events", one), ("spans", decoded(spans()))):
        call = Function(lambda batch: correlator.observe(batch, 0.0), BLOCK_FRAMES, batches)
        yield f"Correlator.observe, {name}", call
    yield f"Batch.by_source, {SOURCES} sources", Function(Batch.by_source, BLOCK_FRAMES, several)
    packed = [one().packed() for _ in range(JOINED)]
    joined = Function(Batch.join, JOINED * BLOCK_FRAMES, lambda: packed)
    yield f"Batch.join, {JOINED} batches", joined


def mixed() -> Callable[[], Batch]:
    """Makes batches of which each tenth message is a span, ten of a trace, and none comes twice."""
    decoder, numbers = Decoder(), itertools.count()

    def batch() -> Batch:
        first = next(numbers) * BLOCK_FRAMES
        lines = [
            frame(n, type="span", data={"name": "load", "duration_ms": 12},
                  tid=f"{n // 100:032x}", sid=f"{n:016x}")
            if n % 10 == 0 else frame(n, data=_DATA)
            for n in range(first, first + BLOCK_FRAMES)
        ]  # fmt: skip
        return decoder.feed(b"".join(lines))

    return batch


def _observers() -> Iterator[tuple[str, Function]]:
    presence, make = Presence(now=0.0), mixed()
    correlator = Correlator()
    seen: list[Observer] = [presence, JobTracker(presence), correlator, UserMetrics()]

    def observe(batch: Batch) -> None:
        for observer in seen:
            observer.observe(batch, 0.0)

    feed = Function(Decoder().feed, BLOCK_FRAMES, lambda: make().raw)
    yield "Decoder.feed, 1/10 spans", feed
    look = functools.partial(correlator.observe, now=0.0)
    yield "Correlator.observe, 1/10 spans", Function(look, BLOCK_FRAMES, make)
    yield "all observers, 1/10 spans", Function(observe, BLOCK_FRAMES, make)


def _delivery(folder: str) -> Iterator[tuple[str, Function]]:
    packed = decoded(block())().packed()
    queue = BatchQueue()

    def through(_: object) -> None:
        for _ in range(JOINED):
            queue.put(packed)
        queue.done(queue.take() or Batch())

    yield f"BatchQueue, {JOINED} put, one take", Function(through, JOINED * BLOCK_FRAMES)
    for sync in ("normal", "full"):
        journal = Journal(os.path.join(folder, f"{sync}.db"), sync=sync)
        journal.open()

        def commit(_: object, journal: Journal = journal) -> None:
            for _ in range(JOINED):
                journal.append(packed)
            journal.commit()

        name = f"Journal, {JOINED} append, one commit, {sync}"
        yield name, Function(commit, JOINED * BLOCK_FRAMES)
        journal.close()
    sink = FileBackend(os.path.join(folder, "out.jsonl"))
    large = Batch.join([packed] * JOINED)
    yield f"FileBackend.write, {JOINED} batches", Function(sink.write, len(large), lambda: large)
    sink.close()


def _whole() -> Iterator[tuple[str, Function]]:
    pipeline = Pipeline(Router({"*": [Rule("null")]}), {"null": Route("null", NullBackend())})
    with pipeline:
        yield "Pipeline.submit", Function(pipeline.submit, BLOCK_FRAMES, decoded(block()))
        pipeline.submit(decoded(block(200))())
        registry = Registry()
        registry.register(pipeline.collect)
        yield "/metrics, 200 sources", Function(render, 0, lambda: registry)


def measure(rounds: int, seconds: float) -> Iterator[str]:
    """CPU time of each function.

    Args:
        rounds: how often.
        seconds: how long one figure is measured at the least.
    """
    table = Table("Function", _COLUMNS)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="wafermon-bench-") as folder:
            for row, function in functions(folder):
                us = cpu_us(function, seconds)
                figures = {"us a call": us}
                if function.messages:
                    figures["us a message"] = us / function.messages
                table.add(row, figures)
    yield (
        f"CPU time of the calling thread, the fastest of three runs; a block and a batch are "
        f"{BLOCK_FRAMES} frames of {len(block()) // BLOCK_FRAMES} bytes.\n\n{table.text()}"
    )
