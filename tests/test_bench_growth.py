"""The measures of single functions and of costs that grow: each runs, at sizes that take no time."""

import os
import pathlib
import shutil
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import micro
from bench.growth import measure, parts
from bench.growth.curve import COST, MEMORY, SHARE, Curve, exponent
from bench.growth.whole import Whole
from bench.loadgen import LoadGenerator

needs_a_sender = [
    pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs Linux"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]


class TestMicro:
    def test_every_function_has_a_row(self, tmp_path):
        rows = [row for row, _ in micro.functions(str(tmp_path))]
        assert len(rows) == len(set(rows))
        (text,) = micro.measure(1, 0.0001)
        assert [line.split(" | ")[0][2:] for line in text.splitlines()[4:]] == rows

    def test_cost_is_that_of_the_call(self):
        def busy(milliseconds):
            until = time.thread_time() + milliseconds / 1000
            while time.thread_time() < until:
                pass

        def prepare():
            busy(20)
            return 2

        us = micro.cpu_us(micro.Function(busy, 1, prepare), 0.0001)
        assert 2000 <= us < 20_000

    def test_line_by_line_is_what_it_says(self, tmp_path):
        functions = dict(micro.functions(str(tmp_path)))
        function = functions["Decoder.feed, line by line"]
        batch = function.call(function.prepare())
        assert (len(batch), len(batch.rejects)) == (micro.BLOCK_FRAMES, 1)

    def test_receipts_are_asked_for_anew(self, tmp_path):
        functions = dict(micro.functions(str(tmp_path)))
        function = functions["Session.receive, receipts"]
        batches = [function.call(function.prepare()) for _ in range(2)]
        assert [batch.receipt for batch in batches] == [micro.BLOCK_FRAMES, 2 * micro.BLOCK_FRAMES]


@pytest.mark.parametrize("curve", parts.curves(full=False), ids=lambda curve: curve.name)
def test_each_part(curve):
    assert curve.run(curve.sizes[0])[COST] > 0


def test_a_journal_of_10_gb_only_where_it_is_asked_for():
    for full, most in ((False, 1000), (True, 10_000)):
        journals = [curve for curve in parts.curves(full) if curve.unit == "MB"]
        assert {curve.sizes[-1] for curve in journals} == {most}


class TestWhole:
    pytestmark = needs_a_sender

    @pytest.fixture
    def whole(self, tmp_path):
        return Whole(LoadGenerator(str(tmp_path)), 800, 0.2)

    def test_sources(self, whole):
        assert whole.sources(20)[COST] > 0

    def test_backends(self, whole):
        assert whole.backends(3)[COST] > 0

    def test_idle_connections(self, whole):
        figures = whole.idle(10)
        assert set(figures) == {COST, MEMORY, SHARE}

    def test_connections(self, whole):
        assert whole.connections(10)[COST] > 0


def test_exponent():
    assert exponent({1: 2.0, 10: 2.0, 100: 2.0}) == 0
    assert exponent({1: 2.0, 100: 200.0}) == pytest.approx(1)
    assert exponent({0: 2.0, 10: 3.0, 1000: 30_000.0}) == pytest.approx(2)


def test_tables(monkeypatch):
    curve = Curve("work", "things", [0, 1, 10], lambda n: {COST: 1.0 + n, MEMORY: 5.0})
    monkeypatch.setattr(parts, "curves", lambda full: [curve])
    monkeypatch.setattr(Whole, "curves", lambda self: [])
    monkeypatch.setattr(measure, "LoadGenerator", lambda folder: None)
    _, summary, table = measure.measure(2, 400, False)
    assert summary.splitlines()[-1] == "| work, things | 11.00 | 0.74 | 0 |"
    assert table.splitlines()[-1] == "| work, 10 things | 11.000 | 5.0 |  |"
