"""Jobs: how far each is, when it will be done, and whether it stands still or has died.

A job is

* `done` or `failed` where it said so. Where its source said goodbye instead, it is done at 100 %,
  and has failed below that.
* `died` where the last connection ended without a goodbye, no other one of its source is open and
  none has come back within `died_after`; also where its source is missing (see `source.py`).
* `stalled` where its percentage has not changed for `stall_after`, or else for 3 x its usual gap
  and 60 s at least, and for 5 minutes where no gap is known.
* `running` else.

The end of a connection counts at once where it was a session that owed a goodbye, or was cut off.
It says nothing of a script that connects for each message (`wafermon send`, `nc`): else it counts
only where the connection lived for over 5 s or brought more than one update of the job. Where the
updates of a run come over several connections, a silence of 3 x the usual one is waited for, too.

A run begins with the first update, with one that says `running` after the end of the run before,
where the percentage falls by 10 or more, to half or less, and where it falls at all when the job
comes back over another connection. Smaller steps back are shown as they are. A job that has died
and reports again goes on, unless its percentage fell.

A job that was recalled from before a restart of the sidecar is as it was. Where it was under way,
its source is given 4 x `died_after` to come back: clients that found nobody for long try again
each 30 s. Then it has died, too.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from typing import Optional

from wafermon.flow.capped import Capped
from wafermon.flow.duration import duration
from wafermon.flow.job_run import (
    DONE,
    FAILED,
    RUNNING,
    Job,
    Progress,
    Verdict,
    progress_of,
)
from wafermon.flow.job_state import DIED, STALLED, STATES, JobState
from wafermon.flow.presence import Presence
from wafermon.flow.source import FINISHED, MISSING, Link
from wafermon.message import Batch, Message
from wafermon.observe import Family, Sample, family

#: A connection that lived this long is not that of a single message.
LONG_SECONDS = 5.0
#: So many times `died_after` a source has to come back after a restart.
RETURN_TIMES = 4
STALL_GAPS, STALL_LEAST_SECONDS, STALL_UNKNOWN_SECONDS = 3, 60.0, 300.0
#: For so long after its end a job passes over updates that were sent before it.
OVERTAKEN_SECONDS = 60
#: So much later the same word on the same run is a run of its own: some say `done` and no more.
AGAIN_SECONDS = 10.0
#: Jobs with a series of their own on /metrics.
MAX_SERIES = 200


class JobTracker:
    """Follow the jobs that `progress` messages tell of.

    States are worked out when somebody asks, so a job that is silent costs nothing.

    Args:
        presence: knows the sources; it observes each batch before this does.
        stall_after: seconds without a change after which a job is stalled; None: by its own pace.
        died_after: seconds that a source without a connection is given to come back. A client that
            lost its connection tries again at once, then in growing steps: 15 s are its first six
            or seven tries. It waits for up to 30 s only where nobody has answered for long.
        max_jobs: jobs remembered; past it those go first that have ended, then the one unheard of
            longest.
        max_runs: earlier runs remembered of each.

    Thread: `observe` and `configure` loop only; all else any.

    >>> jobs = JobTracker(Presence())
    >>> for second in range(10):
    ...     line = '{"v":1,"src":"etl","ts":5,"type":"progress","data":{"job_id":"load",' \\
    ...            '"percent":%d}}\\n' % second
    ...     jobs.observe(Batch(line.encode()), now=float(second))
    >>> [job] = jobs.view(now=9.0)
    >>> job.state, job.percent, job.eta_s, job.eta_method
    ('running', 9.0, 91.0, 'what remains / moving average of the rate')
    """

    def __init__(
        self,
        presence: Presence,
        *,
        stall_after: Optional[float] = None,
        died_after: float = 15.0,
        max_jobs: int = 10_000,
        max_runs: int = 10,
    ) -> None:
        self._presence = presence
        self._jobs: Capped[tuple[str, str], Job] = Capped(max_jobs)
        self._stall_after = stall_after
        self._died_after = died_after
        self._max_runs = max_runs
        self._max_jobs = max_jobs
        #: Updates that were not taken up, or not wholly.
        self.bad_payload = 0
        #: Updates that were.
        self.updates = 0

    def recall(self, before: Iterable[JobState], now: float) -> None:
        """Know jobs of a time before, those first that were heard of last; `max_jobs` and
        `max_runs` hold for them, too. Before the first batch."""
        for one in reversed(list(itertools.islice(before, self._max_jobs))):
            job = Job(one.src, one.job_id, now)
            job.runs, job.history = one.runs, one.history[-self._max_runs :]
            job.percent = job.best = one.percent
            job.msg, job.tid = one.msg, one.tid
            job.started, job.updated, job.updates = one.started, one.updated, 1
            job.recalled_at, job.gap_s = now, one.gap_s
            key = one.src, one.job_id
            self._jobs.add(key, job)
            if one.ended is not None and one.has_told:
                job.status, job.ended = one.state, one.ended
                self._jobs.end(key)
            elif one.ended is not None:
                job.lost = Verdict(one.state, one.ended, one.reason)

    # -- the loop thread -----------------------------------------------------------------------

    def configure(
        self,
        *,
        stall_after: Optional[float],
        died_after: float,
        max_jobs: int,
        max_runs: int,
    ) -> None:
        """Go on by other settings; what is known stays known. Arguments as above."""
        self._stall_after = stall_after
        self._died_after = died_after
        self._max_runs = max_runs
        self._jobs.resize(max_jobs)

    def observe(self, batch: Batch, now: float) -> None:
        """Take up the progress in a batch. `now` is monotonic seconds."""
        for message in batch.told.get("progress", ()):
            self._take(message, now)

    def _take(self, message: Message, now: float) -> None:
        told = progress_of(message)
        if told is None:
            self.bad_payload += 1
            return
        self.bad_payload += not told.is_whole
        self.updates += 1
        key = message["src"], told.job_id
        link = self._presence.link(key[0])
        job = self._jobs.get(key)
        if job is None:
            job = Job(*key, now)
            self._jobs.add(key, job)
        else:
            if told.status == RUNNING and _was_before(message["ts"], job, now):
                return  # the end overtook it, over another connection
            if self._is_new_run(job, told, link, now):
                self._close(job, link)
                job.begin(now)
                self._jobs.go_on(key)
            self._jobs.touch(key)
        job.update(told, 0 if link is None else link.joins, now)
        job.finished_at = None if link is None else link.finished_at
        job.tid = message.get("tid", job.tid)
        if told.status != RUNNING:
            self._end(job, told.status, message["ts"], now)

    def _is_new_run(self, job: Job, told: Progress, link: Optional[Link], now: float) -> bool:
        if job.ended is not None:
            return told.status == RUNNING or now - job.ended > AGAIN_SECONDS
        if job.recalled_at is not None:
            return told.percent < job.percent
        if link is not None and link.joins != job.joins and not _is_single(job, link):
            return told.percent < job.percent
        return job.is_fall(told.percent)

    def _close(self, job: Job, link: Optional[Link]) -> None:
        """A run is followed by another without a word on its end."""
        if job.ended is not None:
            return
        parted_at = None if link is None else link.parted_at
        state = FAILED if parted_at is not None and parted_at >= job.updated else DIED
        state = state if job.lost is None else job.lost.state
        job.end(DONE if job.best >= 100 else state, job.updated, self._max_runs)

    def _end(self, job: Job, status: str, ts: int, now: float) -> None:
        if job.ended is not None:  # said twice, or put right
            job.history = job.history[:-1]
        else:
            job.ended = now
        job.status, job.ended_ts = status, ts
        job.end(status, job.ended, self._max_runs)
        self._jobs.end((job.src, job.job_id))

    # -- any thread ----------------------------------------------------------------------------

    @property
    def evicted(self) -> int:
        """Jobs that were forgotten, as there were too many."""
        return self._jobs.evicted

    def __len__(self) -> int:
        return len(self._jobs)

    def state(self, src: str, job_id: str, now: float) -> Optional[str]:
        """The state of one job; None where it is not known. `now` is monotonic seconds."""
        job = self._jobs.get((src, job_id))
        return None if job is None else self._verdict(job, now).state

    def verdict(self, src: str, job_id: str, now: float) -> Optional[tuple[str, Optional[str]]]:
        """As `state`, with the reason for it in words, where there is one."""
        job = self._jobs.get((src, job_id))
        if job is None:
            return None
        found = self._verdict(job, now)
        return found.state, found.reason

    def names(self, since: float) -> list[tuple[str, str]]:
        """The jobs that are under way, or have ended after a time in monotonic seconds; each with
        its source first."""
        return [
            (job.src, job.job_id)
            for job in self._jobs.values()
            if (job.ended is None and job.lost is None) or job.updated >= since
        ]

    def done(self) -> list[tuple[str, float]]:
        """The runs that are remembered and were done: of which job, and when in monotonic
        seconds."""
        return [
            (job.job_id, run.started + run.duration_s)
            for job in self._jobs.values()
            for run in job.history
            if run.state == DONE
        ]

    def counts(self, now: float) -> dict[str, int]:
        """How many jobs are in each state. With 10,000 of them it takes some 60 ms."""
        found = dict.fromkeys(STATES, 0)
        for job in self._jobs.values():
            found[self._verdict(job, now).state] += 1
        return found

    def view(self, now: float) -> list[JobState]:
        """All jobs as they are, the one heard of last at the end. With 10,000 of them it takes some
        110 ms, so ask on a thread that has them, or for the `state` of one.

        Args:
            now: monotonic seconds.
        """
        return [self._view(job, now) for job in self._jobs.values()]

    def _view(self, job: Job, now: float) -> JobState:
        state, ended, reason = self._verdict(job, now)
        runs = state in (RUNNING, STALLED)
        eta_s, method = job.eta(now) if state == RUNNING else (None, None)
        return JobState(
            job.src,
            job.job_id,
            state,
            reason,
            job.percent,
            job.msg,
            job.tid,
            job.started,
            job.updated,
            ended,
            job.rate if runs else None,
            eta_s,
            method,
            now - job.changed if state == STALLED else None,
            job.gap_s,
            job.ended is not None,
            job.runs,
            job.usual_s(),
            job.history,
        )

    def _verdict(self, job: Job, now: float) -> Verdict:
        """The state of a job, by the rules on top."""
        if job.ended is not None:
            said = (job.msg or "it said so") if job.status == FAILED else None
            return Verdict(job.status, job.ended, said)
        if job.lost is not None:
            return job.lost
        gap, still = job.gap_s, now - job.changed
        limit = self._stall_after
        if limit is None:
            limit = STALL_UNKNOWN_SECONDS
            if gap is not None:
                limit = max(STALL_GAPS * gap, STALL_LEAST_SECONDS)
        link = self._presence.link(job.src)
        lost = self._never_returned(job, now) if link is None else self._lost(job, link, now)
        if lost is not None or still <= limit:
            return lost or Verdict(RUNNING)
        usual = "" if gap is None else f", its usual gap is {duration(gap)}"
        return Verdict(STALLED, None, f"no change of percent for {duration(still)}{usual}")

    def _lost(self, job: Job, link: Link, now: float) -> Optional[Verdict]:
        """What it means for a job that its source is gone; None where that is not so."""
        if not link.seen:
            return self._never_returned(job, now)
        since = self._presence.since(job.src, now) or job.updated
        state = self._presence.state(job.src, now)
        spoke = link.finished_at is not None and link.finished_at != job.finished_at
        parted = state == FINISHED and link.parted
        if parted or spoke:  # again by now, but of other things
            since = since if parted else link.finished_at or since
            said = f"its source said goodbye at {job.percent:g} %"
            return Verdict(DONE, since) if job.percent >= 100 else Verdict(FAILED, since, said)
        patience = self._died_after
        if job.reconnected:
            patience = max(patience, STALL_GAPS * job.quiet_s)
        if state in (MISSING, FINISHED) and now > job.updated + patience:
            how, ago = "is missing" if state == MISSING else "has left", duration(now - job.updated)
            return Verdict(DIED, since, f"its source {how}; no update for {ago}")
        left_at = link.left_at
        if link.connections or left_at is None or left_at < job.updated or _is_single(job, link):
            return None
        if now <= left_at + patience:
            return None
        said = f"its connection ended at {job.percent:g} %, without a goodbye"
        return Verdict(DIED, left_at, said)

    def _never_returned(self, job: Job, now: float) -> Optional[Verdict]:
        """What it means for a job that its source has not been heard of since the start."""
        if job.recalled_at is None:
            return None
        gaps = STALL_GAPS * (job.gap_s or 0.0)
        if now <= job.recalled_at + max(RETURN_TIMES * self._died_after, gaps):
            return None
        said = f"its source has not come back since the sidecar began anew, at {job.percent:g} %"
        return Verdict(DIED, job.updated, said)

    def collect(self, now: float, unix: float) -> list[Family]:
        """Yield the jobs by state, and when each succeeded last.

        Args:
            now: monotonic seconds.
            unix: the same moment in Unix seconds.
        """
        succeeded = [
            (at, job.src, job.job_id)
            for job in self._jobs.values()
            if (at := _succeeded(job)) is not None
        ]
        return [
            family("sidecar_jobs", "gauge", "Jobs by state.", self.counts(now), "state"),
            Family(
                "sidecar_job_last_success_timestamp_seconds",
                "gauge",
                "When a job was last done, in Unix seconds; the 200 that were so last.",
                [
                    Sample("", (("source", src), ("job_id", job_id)), round(unix - now + at, 3))
                    for at, src, job_id in heapq.nlargest(MAX_SERIES, succeeded)
                ],
            ),
            family(
                "sidecar_jobs_evicted_total",
                "counter",
                "Jobs that were forgotten, as there were too many.",
                {"": self.evicted},
            ),
            family(
                "sidecar_jobs_bad_payload_total",
                "counter",
                "Progress messages that could not be read, or not wholly.",
                {"": self.bad_payload},
            ),
        ]


def _is_single(job: Job, link: Link) -> bool:
    """Whether the connection that ended last was there for a single message."""
    return not link.abrupt and link.lived <= LONG_SECONDS and job.connection_updates <= 1


def _succeeded(job: Job) -> Optional[float]:
    ends = [run.started + run.duration_s for run in job.history if run.state == DONE]
    return ends[-1] if ends else None


def _was_before(ts: int, job: Job, now: float) -> bool:
    """Whether an update was sent before the end of its job and comes after it. Not by much, as
    clocks are set, and one that ran ahead must not hide all later runs."""
    if job.ended is None or now - job.ended > OVERTAKEN_SECONDS:
        return False
    return ts < job.ended_ts <= ts + 1_000 * OVERTAKEN_SECONDS
