"""What there is to know of a job, for those who look."""

from __future__ import annotations

from typing import NamedTuple, Optional

from wafermon.flow.job_run import DONE, FAILED, RUNNING, Run

STALLED, DIED = "stalled", "died"
#: The states, the one first that somebody should look at first.
STATES = (DIED, FAILED, STALLED, RUNNING, DONE)


class JobState(NamedTuple):
    """What is known of a job. Times are monotonic seconds, None for unknown.

    Attributes:
        src: whose it is,
        job_id: and which.
        state: `running`, `stalled`, `died`, `done` or `failed`.
        reason: why it is stalled, died or failed, in words.
        percent: as told last,
        msg: with these words,
        tid: in this trace.
        started: the first update of this run,
        updated: the last one.
        ended: when it was done, failed or died.
        percent_per_s: how fast it goes; None until that is known, and where it has ended.
        eta_s: seconds until it is done; None while that would mean nothing,
        eta_method: and how that is known.
        stalled_for_s: how long its percentage has not changed, where it is stalled.
        gap_s: seconds that its percentage usually stays the same.
        has_told: whether it said itself how it ended.
        runs: how many there have been, this one included.
        usual_s: how long it usually takes.
        history: the last runs that ended, this one included, the oldest first.
    """

    src: str
    job_id: str
    state: str
    reason: Optional[str]
    percent: float
    msg: Optional[str]
    tid: Optional[str]
    started: float
    updated: float
    ended: Optional[float]
    percent_per_s: Optional[float]
    eta_s: Optional[float]
    eta_method: Optional[str]
    stalled_for_s: Optional[float]
    gap_s: Optional[float]
    has_told: bool
    runs: int
    usual_s: Optional[float]
    history: tuple[Run, ...]
