"""`/api/sources/NAME`: all about one source."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

from wafermon.flow.job_state import STATES
from wafermon.flow.trace_view import summary_object
from wafermon.flow.user_metrics import RESOURCE
from wafermon.net import Page, Request, Response
from wafermon.sidecar.pages.jobs import job_object
from wafermon.sidecar.pages.listing import compact
from wafermon.sidecar.pages.reasons import MEANINGS
from wafermon.sidecar.pages.series import resource_object
from wafermon.sidecar.pages.sources import source_object

if TYPE_CHECKING:
    from wafermon.sidecar.sidecar import Sidecar

#: Jobs and traces that come with it; `/api/jobs` and `/api/traces` have the rest.
_LISTED = 10


def source(sidecar: Sidecar) -> Page:
    """The page: its state and rates, what was dropped of it and why, its last errors, its most
    urgent jobs, its newest traces, and what it uses."""

    def page(request: Request) -> Response:
        now, src = sidecar.loop.clock(), request.rest
        at_zero = time.time() - now  # Unix seconds when the clock stood at 0
        state = sidecar.presence.one(src, now)
        if state is None:
            words = f"no source {src[:128]} is known: it has sent nothing, or it was forgotten"
            return Response.json({"error": words}, 404)
        drops = sidecar.pipeline.dropped_of(src)
        jobs = [one for one in sidecar.jobs.view(now) if one.src == src]
        jobs.sort(key=lambda one: (STATES.index(one.state), -one.updated))
        told: dict[str, Any] = {
            "now_ms": int(time.time() * 1000),
            "source": {
                **source_object(state, at_zero),
                "rates": [round(rate, 2) for rate in sidecar.presence.rates(src, now)],
                "dropped": sum(count for _, _, count in drops),
            },
            "drops": [
                {"where": where, "reason": why, "about": MEANINGS.get(why), "count": count}
                for where, why, count in drops
            ],
            "errors": [error._asdict() for error in sidecar.recent_errors.of(src)],
            "errors_sampled": sidecar.recent_errors.passed_over > 0,
            "jobs_total": len(jobs),
            "jobs": [job_object(one, at_zero, now) for one in jobs[:_LISTED]],
            "traces": _traces(sidecar, src),
            "resources": _resources(sidecar, src, now),
        }
        return Response(f"{compact(told)}\n".encode("ascii"), "application/json")

    return page


def _traces(sidecar: Sidecar, src: str) -> list[dict[str, Any]]:
    summaries = (record.summary() for record in sidecar.correlator.records()[::-1])
    its_own = (summary for summary in summaries if src in summary.services)
    return [summary_object(summary) for summary in itertools.islice(its_own, _LISTED)]


def _resources(sidecar: Sidecar, src: str, now: float) -> dict[str, Any]:
    every = sidecar.user_metrics.series(now)
    own = [one for one in every if one.owner.src == src and one.owner.kind == RESOURCE]
    return resource_object((src, own))
