"""Test kit: frames and batches, a clock to set by hand, and the contract of every backend.

It needs no test framework. `BackendContract` is written for pytest, which gives its methods a
`tmp_path`; any other runner may call them with a fresh `pathlib.Path`.
"""

from __future__ import annotations

import json
import pathlib
import re
import unittest
from collections.abc import Sequence
from typing import Any, Optional

from wafermon.delivery.backend import Backend
from wafermon.errors import BackendError
from wafermon.message import Batch
from wafermon.observe import process

_FIRST_MS = 1_700_000_000_000


def frame(number: int = 1, src: str = "test", type: str = "event", **fields: Any) -> bytes:
    """Make one frame, its line end included.

    Args:
        number: tells frames apart: it is in `ts` and, unless `data` is given, in the data.
        src: the source.
        type: the type; the data that is made up suits "event" and does no harm in the others.
        fields: more fields of the envelope, or other values for these.

    >>> frame(7, src="loader", tid="t1")
    b'{"v":1,"src":"loader","ts":1700000000007,"type":"event","data":{"level":"info","msg":"7"},"tid":"t1"}\\n'
    """
    data = {"level": "info", "msg": str(number)}
    message = {"v": 1, "src": src, "ts": _FIRST_MS + number, "type": type, "data": data, **fields}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def frames(count: int, src: str = "test", first: int = 1, **fields: Any) -> list[bytes]:
    """Make frames numbered from `first`; the other arguments are those of `frame`.

    >>> [json.loads(line)["ts"] % 10 for line in frames(3)]
    [1, 2, 3]
    """
    return [frame(number, src, **fields) for number in range(first, first + count)]


def batch(lines: Sequence[bytes]) -> Batch:
    """Make a batch of frames, as it comes out of a queue: not decoded yet.

    >>> len(batch(frames(3)))
    3
    """
    return Batch(b"".join(lines))


def open_descriptors() -> int:
    """How many file descriptors this process has open; to find what was not closed."""
    count = process.open_descriptors()
    if count is None:
        raise unittest.SkipTest("this system does not list its file descriptors")
    return count


def unaccounted(metrics: str) -> list[str]:
    """Find messages that have vanished: what came to a route is what became of it, and what waits.

    Counters are read one after the other, so ask while nothing passes, or ask again.

    Args:
        metrics: the text of `/metrics`.

    Returns:
        A line for each backend where the sums differ.

    >>> unaccounted('''
    ... sidecar_messages_routed_total{backend="file"} 5
    ... sidecar_backend_messages_total{backend="file",outcome="delivered"} 3
    ... sidecar_backend_queued_messages{backend="file"} 1
    ... ''')
    ['file: 5 messages came, 3 are dealt with and 1 wait']
    """
    sums: dict[tuple[str, str], float] = {}
    for name, label, value in _SAMPLE.findall(metrics):
        sums[name, label] = sums.get((name, label), 0) + float(value)
    found = []
    for (name, backend), came in sums.items():
        if name == "messages_routed_total":
            done = sums.get(("backend_messages_total", backend), 0)
            waiting = sums.get(("backend_queued_messages", backend), 0)
            if came != done + waiting:
                found.append(
                    f"{backend}: {came:.0f} messages came, {done:.0f} are dealt with and"
                    f" {waiting:.0f} wait"
                )
    return found


_SAMPLE = re.compile(
    r'^sidecar_(messages_routed_total|backend_messages_total|backend_queued_messages)'
    r'\{backend="((?:[^"\\]|\\.)*)"[^}]*\} (\S+)$',
    re.MULTILINE,
)


class FakeClock:
    """A clock that stands still until it is told to go on; give it for any `clock` argument.

    Args:
        now: seconds it begins with.

    >>> clock = FakeClock(100.0)
    >>> clock.advance(2.5)
    >>> clock()
    102.5
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Go on; below 0 the clock is set back."""
        self.now += seconds


class BackendContract:
    """What every backend must do. Subclass it, give it `make` and `read`, and run it by pytest.

    Attributes:
        exact: whether lines come back byte for byte; else they are compared as JSON.
        in_order: whether all lines come back in order; else those of each source are compared,
            as of a backend that keeps sources apart.

    >>> from wafermon.backends.memory import MemoryBackend
    >>> class TestMemory(BackendContract):
    ...     def make(self, tmp_path):
    ...         self.sink = MemoryBackend()
    ...         return self.sink
    ...     def read(self, tmp_path):
    ...         return self.sink.lines
    >>> TestMemory().test_a_batch_of_one(pathlib.Path("unused"))
    """

    exact = True
    in_order = True

    def make(self, tmp_path: pathlib.Path) -> Backend:
        """Make a backend that is not open yet; called again, one with the same sink."""
        raise NotImplementedError

    def read(self, tmp_path: pathlib.Path) -> Optional[list[bytes]]:
        """Read the lines that have arrived, oldest first, without their `\\n`; None: unreadable."""
        raise NotImplementedError

    def break_it(self, tmp_path: pathlib.Path) -> None:
        """Make the next writes fail, best half-way, by a cause of real life."""
        raise unittest.SkipTest("no real cause of a failed write is given")

    def mend_it(self, tmp_path: pathlib.Path) -> None:
        """Remove the cause."""

    # -- what goes in comes out ----------------------------------------------------------------

    def test_a_batch_of_one(self, tmp_path: pathlib.Path) -> None:
        self._round_trip(tmp_path, [frames(1)])

    def test_a_batch_of_thousands(self, tmp_path: pathlib.Path) -> None:
        self._round_trip(tmp_path, [frames(5000)])

    def test_order_across_batches(self, tmp_path: pathlib.Path) -> None:
        self._round_trip(tmp_path, [frames(7, first=7 * n) for n in range(50)])

    def test_several_sources_in_a_batch(self, tmp_path: pathlib.Path) -> None:
        mixed = [frame(n, src=f"source-{n % 5}") for n in range(100)]
        self._round_trip(tmp_path, [mixed, mixed[::-1]])

    def test_all_types(self, tmp_path: pathlib.Path) -> None:
        kinds = ["event", "metric", "progress", "resource", "span", "heartbeat", "goodbye"]
        spans = {"tid": "t", "sid": "s"}
        self._round_trip(tmp_path, [[frame(n, type=k, **spans) for n, k in enumerate(kinds)]])

    def test_unicode(self, tmp_path: pathlib.Path) -> None:
        odd = ["工程", "Übergang", "😀", "\u2028", "a/../b", "..", "~", " ", "%2F", "'\"\\"]
        lines = [frame(n, src=text, tid=text) for n, text in enumerate(odd)]
        self._round_trip(tmp_path, [lines, lines])

    def test_line_ends_with_a_carriage_return(self, tmp_path: pathlib.Path) -> None:
        self._round_trip(tmp_path, [[line[:-1] + b"\r\n" for line in frames(3)]])

    def test_fields_that_nobody_knows(self, tmp_path: pathlib.Path) -> None:
        line = b'{ "type":"event", "x":[1.50,1e3,{"y":null}],"data":{},"ts":1,"src":"a","v":1 }\n'
        self._round_trip(tmp_path, [[line]])

    def test_the_longest_lines(self, tmp_path: pathlib.Path) -> None:
        """A frame may have 65,536 bytes."""
        pad = 65_536 - len(frame(data={"msg": ""}))
        lines = [frame(n, data={"msg": "x" * pad}) for n in range(1, 6)]
        self._check(len(lines[0]) == 65_536, "the longest frame has 65,536 bytes")
        self._round_trip(tmp_path, [lines])

    def test_an_empty_batch_is_nothing(self, tmp_path: pathlib.Path) -> None:
        self._round_trip(tmp_path, [[], frames(1), []])

    # -- life cycle ----------------------------------------------------------------------------

    def test_close_without_open(self, tmp_path: pathlib.Path) -> None:
        self.make(tmp_path).close()

    def test_open_and_close_twice(self, tmp_path: pathlib.Path) -> None:
        backend = self.make(tmp_path)
        for call in (backend.open, backend.open, backend.close, backend.close):
            call()

    def test_open_between_writes_changes_nothing(self, tmp_path: pathlib.Path) -> None:
        """`open` is safe when already open."""
        backend = self._opened(tmp_path)
        backend.write(batch(frames(2)))
        backend.open()
        backend.write(batch(frames(2, first=3)))
        backend.close()
        self._same(self.read(tmp_path), frames(4))

    def test_write_after_close_and_open(self, tmp_path: pathlib.Path) -> None:
        """A new life goes on where the last one ended."""
        backend = self._opened(tmp_path)
        backend.write(batch(frames(2)))
        backend.close()
        backend.open()
        backend.write(batch(frames(2, first=3)))
        backend.close()
        self._same(self.read(tmp_path), frames(4))

    def test_equal_batches_are_two_batches(self, tmp_path: pathlib.Path) -> None:
        self._round_trip(tmp_path, [frames(3), frames(3)])

    def test_idle_says_when_it_is_due(self, tmp_path: pathlib.Path) -> None:
        """`idle` returns None or seconds above 0: a worker would spin on 0."""
        backend = self._opened(tmp_path)
        for lines in ([], frames(3)):
            backend.write(batch(lines))
            for _ in range(3):
                due = backend.idle()
                self._check(due is None or due > 0, f"idle returned {due!r}")
        backend.close()
        self._same(self.read(tmp_path), frames(3))

    def test_close_lets_go_of_all_descriptors(self, tmp_path: pathlib.Path) -> None:
        """`close` leaves no file or socket open."""
        # Once before counting: libraries open what they keep for ever at the first use.
        self._round_trip(tmp_path, [frames(3)])
        before = open_descriptors()
        backend = self._opened(tmp_path)
        backend.write(batch([frame(n, src=f"source-{n}") for n in range(100)]))
        backend.idle()
        backend.close()
        self._check(open_descriptors() == before, "file descriptors are still open")

    # -- failures ------------------------------------------------------------------------------

    def test_a_retry_leaves_no_torn_and_no_double_line(self, tmp_path: pathlib.Path) -> None:
        """The same batch, refused and written again, is there once. Needs `break_it`."""
        backend = self._opened(tmp_path)
        backend.write(batch(frames(10)))
        second = batch(frames(200, first=11))
        self.break_it(tmp_path)
        try:
            for _ in range(2):
                self._fails(backend, second)
        finally:
            self.mend_it(tmp_path)
        self._same(self.read(tmp_path), frames(10))
        backend.open()
        backend.write(second)
        backend.write(batch(frames(10, first=211)))
        backend.close()
        self._same(self.read(tmp_path), frames(220))

    # -- helpers -------------------------------------------------------------------------------

    def _opened(self, tmp_path: pathlib.Path) -> Backend:
        backend = self.make(tmp_path)
        backend.open()
        return backend

    def _round_trip(self, tmp_path: pathlib.Path, batches: Sequence[Sequence[bytes]]) -> None:
        backend = self._opened(tmp_path)
        for lines in batches:
            backend.write(batch(lines))
        backend.close()
        self._same(self.read(tmp_path), [line for lines in batches for line in lines])

    def _fails(self, backend: Backend, refused: Batch) -> None:
        try:
            backend.open()
            backend.write(refused)
        except BackendError as error:
            self._check(0 < len(str(error)) < 1000, "the error says what happened, and no more")
        else:
            raise AssertionError("a write that cannot succeed raised nothing")

    def _same(self, got: Optional[list[bytes]], sent: Sequence[bytes]) -> None:
        if got is None:
            return
        want = [line[:-1] for line in sent]
        if self.in_order:
            self._equal(got, want)
        else:
            left, right = _by_source(got), _by_source(want)
            self._check(set(left) == set(right), f"sources: {sorted(left)} != {sorted(right)}")
            for source in left:
                self._equal(left[source], right[source])

    def _equal(self, got: list[bytes], want: list[bytes]) -> None:
        self._check(len(got) == len(want), f"{len(got)} lines arrived, {len(want)} were written")
        for number, (one, other) in enumerate(zip(got, want)):
            same = one == other if self.exact else json.loads(one) == json.loads(other)
            self._check(same, f"line {number}: {one[:200]!r} arrived for {other[:200]!r}")

    def _check(self, true: bool, otherwise: str) -> None:
        # Not `assert`: it is not rewritten by pytest here, and gone under -O.
        if not true:
            raise AssertionError(otherwise)


def _by_source(lines: Sequence[bytes]) -> dict[str, list[bytes]]:
    sources: dict[str, list[bytes]] = {}
    for line in lines:
        sources.setdefault(json.loads(line)["src"], []).append(line)
    return sources
