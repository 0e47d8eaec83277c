"""Measure the sidecar and its SDKs: `python3 -m bench --help`.

Every figure comes with a check that the work was done: each line is accounted for by connection
and number, so a fast wrong run fails instead of looking good.
"""


class BenchError(Exception):
    """Something cannot be measured here, or a check failed; the text says what."""
