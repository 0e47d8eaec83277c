"""The earlier runs of jobs in a file, so that "usually takes 12 min" outlives a restart."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Optional

from wafermon.flow.job_run import DONE, FAILED, MAX_JOB_ID_CHARS, Run
from wafermon.flow.job_state import DIED, Earlier
from wafermon.flow.jobs import JobTracker
from wafermon.message import is_integer, is_name

#: How often what is new is written. A crash costs the runs that ended since then.
WRITE_SECONDS = 60.0

log = logging.getLogger("wafermon.sidecar")


class JobHistory:
    """Write the runs that have ended to a file every now and then, and at the end.

    A line a job. The file is replaced in one step; what in it cannot be read is passed over, so is
    a disk that fails: this is a convenience, and stops nobody.

    Args:
        path: of the file.
        jobs: whose runs these are.

    Thread: `start` and `stop` the owner's; it writes on one of its own, which may hang for as long
    as the disk does.
    """

    def __init__(self, path: str, jobs: JobTracker) -> None:
        self._path = path
        self._jobs = jobs
        self._written = 0
        self._failed = False
        self._ending = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        """Recall what is in the file, then keep it up to date."""
        try:
            with open(self._path, encoding="utf-8") as file:
                self._jobs.recall(_read(file, time.time() - time.monotonic()))
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError) as error:
            log.warning("the history of jobs begins anew: %s", error)
        self._thread = threading.Thread(target=self._run, name="job-history", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """Write what is new, and end. Safe without `start` and twice."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._ending.wait(WRITE_SECONDS):
            self._write()
        self._write()

    def _write(self) -> None:
        ended = self._jobs.ended_runs
        if ended == self._written:
            return
        at_zero = time.time() - time.monotonic()
        try:
            with open(f"{self._path}.new", "w", encoding="ascii") as file:
                for one in self._jobs.earlier():
                    file.write(json.dumps(_row(one, at_zero)) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(f"{self._path}.new", self._path)
        except OSError as error:
            if not self._failed:
                log.warning("the history of jobs cannot be written: %s", error)
            self._failed = True
        else:
            self._written, self._failed = ended, False


def _row(one: Earlier, at_zero: float) -> list[object]:
    runs = [[round(run.started + at_zero, 3), round(run.duration_s, 3), run.state]
            for run in one.history]  # fmt: skip
    return [one.src, one.job_id, one.runs, runs]


def _read(lines: Iterator[str], at_zero: float) -> Iterator[Earlier]:
    """What in a file is as it was written; nobody vouches for the rest."""
    for line in lines:
        try:
            src, job_id, runs, history = json.loads(line)
            found = tuple([Run(float(at) - at_zero, float(took), state)
                           for at, took, state in history])  # fmt: skip
        except (ValueError, TypeError, OverflowError, RecursionError):
            continue
        named = is_name(src) and type(job_id) is str and 0 < len(job_id) <= MAX_JOB_ID_CHARS
        if named and is_integer(runs, 0) and all(map(_is_sound, found)):
            yield Earlier(src, job_id, runs, found)


def _is_sound(run: Run) -> bool:
    return abs(run.started) < 1e11 and 0 <= run.duration_s < 1e11 and run.state in (
        DONE, FAILED, DIED,
    )  # fmt: skip
