"""The soak test in its short form; `make soak` runs the long one."""

import random

import pytest
from soak import soak

pytestmark = pytest.mark.slow


def test_mixed_load_under_random_faults(tmp_path):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # pytest shows it where the test fails
    print(soak(tmp_path, seconds=15, seed=seed))
