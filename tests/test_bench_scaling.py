"""The model of more processes: it holds where the answer is known, and the measure runs."""

import os
import pathlib
import shutil
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import scaling
from bench.scaling import Costs, on_paper, simulated

COSTS = Costs(rest=1.0, decode=2.0, hand_over=0.2, worker=2.5)


def test_alone_it_is_the_sum_of_all_steps():
    assert on_paper(COSTS, 0) == pytest.approx(1e6 / 3)
    assert simulated(COSTS, 0) == pytest.approx(1e6 / 3, rel=0.02)


def test_the_owner_is_the_bound_where_there_are_many():
    assert on_paper(COSTS, 15) == pytest.approx(1e6 / 1.2)
    assert simulated(COSTS, 15) == pytest.approx(1e6 / 1.2, rel=0.02)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_reality_is_a_little_less_than_paper_and_more_never_hurt(workers):
    assert 0.8 * on_paper(COSTS, workers) < simulated(COSTS, workers)
    assert simulated(COSTS, workers) < 1.02 * on_paper(COSTS, workers)
    assert simulated(COSTS, workers) > 0.99 * simulated(COSTS, workers - 1)


def test_with_one_worker_both_are_busy_all_the_time():
    """A share f at the worker: 2.5 f = 1 + 0.2 f + 2 (1 - f), so f = 3 / 4.3."""
    assert on_paper(COSTS, 1) == pytest.approx(1e6 / (2.5 * 3 / 4.3))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs Linux")
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_measure_runs():
    measured, costs, model = scaling.measure(1, 20_000)
    assert "| 3 |" in measured and "a worker" in costs and "| 16 |" in model
