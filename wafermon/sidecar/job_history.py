"""The jobs in a file, so that what runs and how long it usually takes outlives a restart."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import IO, Any, Callable, Optional

from wafermon.flow.job_run import MAX_JOB_ID_CHARS, MAX_MSG_CHARS, RUNNING, Run
from wafermon.flow.job_state import STALLED, STATES, JobState
from wafermon.flow.jobs import JobTracker
from wafermon.message import is_integer, is_name
from wafermon.observe import Family, family

#: How often what is new is written: what a crash costs. To write 10,000 jobs takes 0.1 s of CPU,
#: more with their earlier runs, so it is done less often the longer it takes.
WRITE_SECONDS, PAUSES = 10.0, 100
#: No line of ours is longer.
MAX_LINE_BYTES = 1_000_000
#: Runs of a line that is believed; no configuration asks for more.
_MAX_RUNS = 1_000
_LATEST = 1e11

log = logging.getLogger("wafermon.sidecar")


class JobHistory:
    """Write the jobs to a file every now and then, and at the end.

    A line a job, the one heard of last first. The file is replaced in one step, and synced before
    that, so that it is whole whatever is killed. A line that cannot be read costs that job; a disk
    that fails costs what is new. Both are counted and logged, and stop nobody.

    Args:
        path: of the file.
        jobs: these.
        clock: monotonic seconds.
        wall: Unix seconds.

    Thread: `start` and `stop` the owner's; it writes on one of its own, which may hang for as long
    as the disk does; `collect` any.
    """

    def __init__(
        self,
        path: str,
        jobs: JobTracker,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._jobs = jobs
        self._clock, self._wall = clock, wall
        self._written = 0
        self._failed = False
        self._ending = threading.Event()
        self._thread: Optional[threading.Thread] = None
        #: Jobs that were not read, and times that none could be read or written, by why.
        self.faults = {"bad_line": 0, "not_read": 0, "not_written": 0}

    def start(self) -> None:
        """Recall what is in the file, then keep it up to date."""
        try:
            with open(self._path, "rb") as file:
                self._jobs.recall(self._read(file), self._clock())
        except FileNotFoundError:
            pass
        except OSError as error:
            self.faults["not_read"] += 1
            log.warning("the history of jobs begins anew: %s", error)
        if self.faults["bad_line"]:
            count, name = self.faults["bad_line"], os.path.basename(self._path)
            log.warning("%d lines of %s cannot be read; these jobs begin anew", count, name)
        self._thread = threading.Thread(target=self._run, name="job-history", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """Write what there is, and end. Safe without `start` and twice."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        took = 0.0
        while not self._ending.wait(max(WRITE_SECONDS, PAUSES * took)):
            began = self._clock()
            if self._jobs.updates != self._written:
                self._write()
            took = self._clock() - began
        if self._jobs.updates or len(self._jobs):  # jobs die without an update
            self._write()

    def _write(self) -> None:
        updates, now = self._jobs.updates, self._clock()
        at_zero = self._wall() - now
        try:
            with open(f"{self._path}.new", "w", encoding="ascii") as file:
                for job in reversed(self._jobs.view(now)):
                    file.write(json.dumps(_row(job, at_zero), separators=(",", ":")) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(f"{self._path}.new", self._path)
        except Exception as error:  # a fault of our own, too, may pass: the thread tries again
            self.faults["not_written"] += 1
            if not self._failed:
                ours = not isinstance(error, OSError)
                log.warning("the history of jobs cannot be written: %s", error, exc_info=ours)
            self._failed = True
        else:
            self._written, self._failed = updates, False

    def _read(self, file: IO[bytes]) -> Iterator[JobState]:
        """What in a file is as it was written; nobody vouches for the rest."""
        now = self._clock()
        at_zero = self._wall() - now
        for line in iter(lambda: file.readline(MAX_LINE_BYTES), b""):
            try:
                yield _job(json.loads(line), at_zero, now)
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                self.faults["bad_line"] += 1

    def collect(self) -> list[Family]:
        """Yield what was wrong with the file."""
        return [
            family(
                "sidecar_job_history_faults_total",
                "counter",
                "Lines of jobs.jsonl that could not be read, and times that it could not be read"
                " or written.",
                self.faults,
                "reason",
            )
        ]


def _row(job: JobState, at_zero: float) -> dict[str, object]:
    """A job as JSON; times are Unix seconds."""
    return {
        "src": job.src,
        "job_id": job.job_id,
        "state": job.state,
        "reason": job.reason,
        "percent": job.percent,
        "msg": job.msg,
        "tid": job.tid,
        "started": round(job.started + at_zero, 3),
        "updated": round(job.updated + at_zero, 3),
        "ended": None if job.ended is None else round(job.ended + at_zero, 3),
        "gap_s": job.gap_s,
        "has_told": job.has_told,
        "runs": job.runs,
        "history": [
            [round(run.started + at_zero, 3), round(run.duration_s, 3), run.state]
            for run in job.history
        ],
    }


def _job(row: dict[str, Any], at_zero: float, now: float) -> JobState:
    """The job of a row.

    Raises:
        ValueError, TypeError, KeyError, OverflowError: it is none of ours.
    """

    def moment(key: str) -> float:
        return min(now, _number(row[key]) - at_zero)

    ended = None if row["ended"] is None else moment("ended")
    state, has_told = row["state"], row["has_told"] is True
    job_id, runs = row["job_id"], row["runs"]
    _check(is_name(row["src"]) and type(job_id) is str and 0 < len(job_id) <= MAX_JOB_ID_CHARS)
    _check(state in STATES and (ended is None) == (state in (RUNNING, STALLED)))
    _check(is_integer(runs, 0) and 0 <= _number(row["percent"]) <= 100)
    _check(row["tid"] is None or is_name(row["tid"]))
    history = tuple(
        Run(_number(at) - at_zero, abs(_number(took)), _one_of(STATES, state))
        for at, took, state in row["history"][-_MAX_RUNS:]
    )
    return JobState(
        row["src"],
        job_id,
        state,
        _text(row["reason"]),
        float(row["percent"]),
        _text(row["msg"]),
        row["tid"],
        moment("started"),
        moment("updated"),
        ended,
        None,
        None,
        None,
        None,
        None if row["gap_s"] is None else abs(_number(row["gap_s"])),
        has_told,
        runs,
        None,
        history,
    )


def _check(is_sound: bool) -> None:
    if not is_sound:
        raise ValueError


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _LATEST:
        raise ValueError
    return float(value)


def _text(value: object) -> Optional[str]:
    _check(value is None or type(value) is str)
    return None if value is None else str(value)[:MAX_MSG_CHARS]


def _one_of(states: tuple[str, ...], state: object) -> str:
    _check(state in states)
    return str(state)
