"""`/api/jobs`: how far each job is, when it will be done, and what is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Callable, Optional

from wafermon.flow import JobState, JobTracker
from wafermon.flow.job_state import STATES
from wafermon.net import Page, Request, Response
from wafermon.sidecar.pages.listing import listing, refusal, wanted_state
from wafermon.sidecar.pages.sources import unix_ms


def jobs(tracker: JobTracker, clock: Callable[[], float] = time.monotonic) -> Page:
    """`/api/jobs?state=&q=&sort=&limit=`: jobs whose name or source holds the text, the most urgent
    first and of these the newest."""

    def page(request: Request) -> Response:
        now = clock()
        at_zero = time.time() - now  # Unix seconds when `clock` stood at 0
        try:
            state = wanted_state(request, STATES)
        except ValueError as error:
            return refusal(str(error))
        text = (request.last("q") or "").casefold()
        found = [
            one
            for one in tracker.view(now)
            if state in (None, one.state) and text in f"{one.job_id}\n{one.src}".casefold()
        ]
        found.sort(key=lambda one: (STATES.index(one.state), -one.updated))
        return listing(
            request,
            "jobs",
            found,
            lambda one: job_object(one, at_zero, now),
            _SORTS,
            evicted=tracker.evicted,
        )

    return page


#: What jobs may be sorted by, by its name in the answer.
_SORTS: Mapping[str, Callable[[JobState], Any]] = {
    "job_id": lambda one: one.job_id,
    "src": lambda one: one.src,
    "percent": lambda one: one.percent,
    "eta_s": lambda one: one.eta_s,
    "usual_s": lambda one: one.usual_s,
    "updated_ms": lambda one: one.updated,
}


def job_object(one: JobState, at_zero: float, now: float) -> dict[str, Any]:
    """A job as the pages have it.

    Args:
        one: the job.
        at_zero: Unix seconds when its clock stood at 0.
        now: what that clock says, in seconds.
    """
    eta = None if one.eta_s is None else now + one.eta_s
    return {
        "job_id": one.job_id,
        "src": one.src,
        "state": one.state,
        "percent": one.percent,
        "msg": one.msg,
        "started_ms": unix_ms(one.started, at_zero),
        "updated_ms": unix_ms(one.updated, at_zero),
        "ended_ms": unix_ms(one.ended, at_zero),
        "percent_per_s": _rounded(one.percent_per_s, 6),
        "eta_s": _rounded(one.eta_s, 1),
        "eta_ms": unix_ms(eta, at_zero),
        "eta_method": one.eta_method,
        "stalled_for_s": _rounded(one.stalled_for_s, 1),
        "reason": one.reason,
        "tid": one.tid,
        "runs": one.runs,
        "usual_s": _rounded(one.usual_s, 1),
        "history": [
            {
                "started_ms": unix_ms(run.started, at_zero),
                "duration_s": round(run.duration_s, 3),
                "state": run.state,
            }
            for run in one.history
        ],
    }


def _rounded(value: Optional[float], digits: int) -> Optional[float]:
    return None if value is None else round(value, digits)
