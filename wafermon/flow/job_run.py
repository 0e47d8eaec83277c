"""One job: its run that is under way, how fast that goes, and how earlier ones ended."""

from __future__ import annotations

import math
from typing import NamedTuple, Optional

from wafermon.message import Message

RUNNING, DONE, FAILED = "running", "done", "failed"
STATUSES = (RUNNING, DONE, FAILED)
#: Longer names are no job's; so much of what it says is kept.
MAX_JOB_ID_CHARS, MAX_MSG_CHARS = 256, 500

#: The rate is taken where the percentage changes, and at least so long after the time before:
#: updates that come faster tell more of the clock than of the job.
RATE_SECONDS = 1.0
#: The rate is that of about the last third of the run, and of this long at least.
RATE_SHARE, RATE_LEAST_SECONDS = 1 / 3, 10.0
#: What a new gap between two updates weighs.
GAP_WEIGHT = 0.3
#: An ETA by the rate means something once that was taken so often, over this long, and while it
#: differs by no more than this share of it from what it usually is; and while the next change is
#: not later than so many usual gaps, and this long.
ETA_RATES, ETA_SECONDS, ETA_SPREAD = 3, 5.0, 0.75
ETA_GAPS, ETA_GAP_SECONDS = 2, 2.0
#: What would take longer is none, however steadily it goes.
ETA_MOST_SECONDS = 365 * 86_400.0
BY_RATE = "what remains / moving average of the rate"
BY_HISTORY = "usual duration (median of the last {} done) - time elapsed"
#: A percentage that falls this far, and to half, is that of a new run.
FALL, FALL_SHARE = 10.0, 0.5


class Progress(NamedTuple):
    """What a `progress` message says, checked; `is_whole` unless its words are no text."""

    job_id: str
    percent: float
    status: str
    msg: Optional[str]
    is_whole: bool = True


class Verdict(NamedTuple):
    """What has become of a job: its state, since when it has ended in monotonic seconds, and why
    it is in it."""

    state: str
    ended: Optional[float] = None
    reason: Optional[str] = None


class Run(NamedTuple):
    """A run that has ended: when it began in monotonic seconds, how long it took, and as what."""

    started: float
    duration_s: float
    state: str


def progress_of(message: Message) -> Optional[Progress]:
    """Read the payload of a `progress`; None where it is none of protocol section 3.

    >>> progress_of({"data": {"job_id": "load", "percent": 40}})
    Progress(job_id='load', percent=40.0, status='running', msg=None, is_whole=True)
    >>> progress_of({"data": {"job_id": "load", "percent": True}}) is None
    True
    """
    data = message["data"]
    job_id, percent, status = data.get("job_id"), data.get("percent"), data.get("status", RUNNING)
    if type(job_id) is not str or not 0 < len(job_id) <= MAX_JOB_ID_CHARS:
        return None
    # A boolean is no number, and no comparison takes NaN.
    if type(percent) not in (int, float) or not 0 <= percent <= 100:
        return None
    if type(status) is not str or status not in STATUSES:
        return None
    msg, percent = data.get("msg"), float(percent) + 0.0  # -0.0 is 0.0
    is_text = type(msg) is str
    words = msg[:MAX_MSG_CHARS] if is_text else None
    return Progress(job_id, percent, status, words, is_text or msg is None)


class Job:
    """What is remembered of a job. Written on the loop thread, read on any.

    Args:
        src: whose job it is.
        job_id: which.
        now: monotonic seconds.
    """

    __slots__ = (
        "_quiet",
        "_rate_at",
        "_rate_percent",
        "_rated_seconds",
        "_rates",
        "_spread",
        "best",
        "changed",
        "connection_updates",
        "ended",
        "ended_ts",
        "finished_at",
        "gap_s",
        "history",
        "job_id",
        "joins",
        "lost",
        "msg",
        "percent",
        "rate",
        "recalled_at",
        "reconnected",
        "runs",
        "src",
        "started",
        "status",
        "tid",
        "updated",
        "updates",
    )

    def __init__(self, src: str, job_id: str, now: float) -> None:
        self.src, self.job_id = src, job_id
        self.runs = 0
        #: Runs that have ended, the last one at the end.
        self.history: tuple[Run, ...] = ()
        self.begin(now)

    def begin(self, now: float) -> None:
        """A new run begins."""
        self.runs += 1
        self.started = self.updated = self.changed = self._rate_at = now
        #: As told last, the highest so far, and what it was when the rate was taken.
        self.percent = self.best = self._rate_percent = 0.0
        #: Percent per second.
        self.rate: Optional[float] = None
        #: Seconds between two changes, and between two updates: moving averages.
        self.gap_s: Optional[float] = None
        self._quiet: Optional[float] = None
        #: How often the rate was taken and over how many seconds, and how much it differs.
        self._rates, self._rated_seconds, self._spread = 0, 0.0, 0.0
        self.updates = 0
        self.status = RUNNING
        self.msg: Optional[str] = None
        self.tid: Optional[str] = None
        self.ended: Optional[float] = None
        self.ended_ts = 0
        #: Of its source: how many connections there had been when the last update came, how many
        #: updates came since that one, and whether others had brought some before.
        self.joins = self.connection_updates = 0
        self.reconnected = False
        #: When its source had finished last, as the last update came.
        self.finished_at: Optional[float] = None
        #: When it was recalled, and nothing has been heard of it since; and what had become of it
        #: without a word.
        self.recalled_at: Optional[float] = None
        self.lost: Optional[Verdict] = None

    def update(self, told: Progress, joins: int, now: float) -> None:
        """Take up what it says of the run."""
        if joins != self.joins:
            self.reconnected = self.updates > 0
            self.joins, self.connection_updates = joins, 0
        self.connection_updates += 1
        if self.recalled_at is not None or not self.updates:
            # What was between the update before and this one, nobody knows.
            self._rate_at, self._rate_percent = now, told.percent
            self.changed = now if told.percent != self.percent else self.changed
            self.recalled_at = self.lost = None
        else:
            self._quiet = _averaged(self._quiet, now - self.updated)
            if told.percent != self.percent:
                self.gap_s = _averaged(self.gap_s, now - self.changed)
                self.changed = now
                self._take_rate(told.percent, now)
        self.updates += 1
        self.percent, self.updated = told.percent, now
        self.best = max(self.best, told.percent)
        if told.msg is not None:
            self.msg = told.msg

    def _take_rate(self, percent: float, now: float) -> None:
        seconds = now - self._rate_at
        if seconds < RATE_SECONDS:
            return
        rate = (percent - self._rate_percent) / seconds
        self._rates += 1
        self._rated_seconds += seconds
        before = rate if self.rate is None else self.rate
        # At first it is that of all the time; else the first second would count for ten.
        span = max(RATE_LEAST_SECONDS, self._rated_seconds * RATE_SHARE)
        weight = max(seconds / self._rated_seconds, 1 - math.exp(-seconds / span))
        self.rate = before + weight * (rate - before)
        self._spread += weight * (abs(rate - before) - self._spread)
        self._rate_at, self._rate_percent = now, percent

    def is_fall(self, percent: float) -> bool:
        """Whether a percentage is that of a new run."""
        return percent <= self.best * FALL_SHARE and self.best - percent >= FALL

    def end(self, state: str, at: float, keep: int) -> None:
        """Its run has ended; so many are remembered."""
        run = Run(self.started, max(0.0, at - self.started), state)
        self.history = (*self.history, run)[-keep:]

    @property
    def quiet_s(self) -> float:
        """Seconds that usually pass between two updates; 0 where that is not known."""
        return self._quiet or 0.0

    def usual_s(self) -> Optional[float]:
        """How long it usually takes: the median of the runs that were done."""
        # The module `statistics` costs a sidecar 0.6 MB.
        done = sorted(run.duration_s for run in self.history if run.state == DONE if run.duration_s)
        middle = len(done) // 2
        return (done[middle] + done[~middle]) / 2 if done else None

    def eta(self, now: float) -> tuple[Optional[float], Optional[str]]:
        """Seconds that are left, and how that is known; None while it would mean nothing."""
        rate, usual = self.rate, self.usual_s()
        left: Optional[float] = None
        method = BY_RATE
        if rate is not None and rate > 0 and self._has_pace(now):
            left = (100 - self.percent) / rate - (now - self.changed)
        elif usual is not None:
            method = BY_HISTORY.format(sum(run.state == DONE for run in self.history))
            left = usual - (now - self.started)
        return (None, None) if left is None or not 0 < left <= ETA_MOST_SECONDS else (left, method)

    def _has_pace(self, now: float) -> bool:
        """Whether the rate is known well enough to go by it."""
        is_known = self._rates >= ETA_RATES and self._rated_seconds >= ETA_SECONDS
        is_steady = self._spread <= ETA_SPREAD * (self.rate or 0.0)
        late = max(ETA_GAP_SECONDS, ETA_GAPS * (self.gap_s or 0.0))
        return is_known and is_steady and now - self.changed <= late


def _averaged(average: Optional[float], value: float) -> float:
    return value if average is None else average + GAP_WEIGHT * (value - average)
