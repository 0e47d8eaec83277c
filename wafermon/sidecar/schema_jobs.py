"""Jobs: when one stands still, and when one has died."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from wafermon.sidecar.fields import setting
from wafermon.sidecar.kinds import Integer, Seconds

_DAY = 86_400


@dataclass(frozen=True)
class Jobs:
    """What is made of `progress` messages."""

    stall_after: Optional[float] = setting(
        Seconds(0.1, 31 * _DAY),
        None,
        "A job whose percentage has not changed for this long is stalled; null = by its own pace:"
        " after 3 x its usual gap, and a minute at least.",
    )
    died_after: float = setting(
        Seconds(0, _DAY),
        "15s",
        "A job whose source lost its connection without a goodbye, and has not come back by then,"
        " has died.",
    )
    max_jobs: int = setting(
        Integer(1, 1_000_000),
        10_000,
        "How many are remembered; those that have ended go first, then the one unheard of longest.",
        "jobs",
    )
    max_runs: int = setting(
        Integer(1, 1_000), 10, "How many earlier runs are remembered of each.", "runs"
    )
