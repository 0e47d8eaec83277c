"""`/api/traces`, `/api/traces/TID`, `/api/services`: what spans tell."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Callable, Optional

from wafermon.flow import Correlator
from wafermon.flow.service_graph import ServiceStats
from wafermon.flow.trace_record import Record, Summary
from wafermon.flow.trace_view import chosen, summary_object, trace_object
from wafermon.net import Page, Request, Response
from wafermon.sidecar.pages.listing import compact, listing, refusal

#: The beginning of an id is enough where just one trace has it; so many are named where not.
_NAMED = 5


def traces(correlator: Correlator) -> Page:
    """`/api/traces?src=&min_ms=&errors=1&q=&sort=&limit=`: those that are remembered, the newest
    first; `q` is looked for in the id, the name of the root and the sources."""

    def page(request: Request) -> Response:
        try:
            least = _milliseconds(request.last("min_ms"))
            errors = _flag("errors", request.last("errors"))
        except ValueError as error:
            return refusal(str(error))
        records = correlator.records()[::-1]
        wanted = (request.last("src"), least, errors, request.last("q"))
        head = {"remembered": len(records), "evicted": dict(correlator.evicted)}
        if not (any(wanted) or request.last("sort")):  # none is summed up that is not shown
            return listing(request, "traces", records, _shown, None, **head)
        found = chosen([record.summary() for record in records], *wanted)
        return listing(request, "traces", found, summary_object, _SORTS, **head)

    return page


def trace(correlator: Correlator) -> Page:
    """`/api/traces/TID`: one trace with all its spans, parents first. The beginning of an id will
    do where it is of one trace only."""

    def page(request: Request) -> Response:
        record = correlator.record(request.rest)
        if record is None:
            tids = [tid for tid in correlator.tids() if tid.startswith(request.rest)]
            record = correlator.record(tids[0]) if len(tids) == 1 else None
            if record is None:
                return Response.json({"error": _unknown(request.rest, tids)}, 404)
        found = trace_object(record.trace())
        spans = ",".join([compact(span) for span in found.pop("spans")])
        body = f'{compact(found)[:-1]},"spans":[{spans}]}}\n'
        return Response(body.encode("ascii"), "application/json")

    return page


def services(correlator: Correlator, clock: Callable[[], float] = time.monotonic) -> Page:
    """`/api/services?sort=&limit=`: rate, errors and durations of spans by source and name, and
    who calls whom."""

    def page(request: Request) -> Response:
        graph = correlator.services
        edges = [
            {"from": edge.caller, "to": edge.called, "calls": edge.calls, "errors": edge.errors}
            for edge in graph.edges()
        ]
        found = graph.stats(clock())
        return listing(
            request, "services", found, _stats, _STATS_SORTS, edges=edges, evicted=graph.evicted
        )

    return page


#: What traces and services may be sorted by, by its name in the answer.
_SORTS: Mapping[str, Callable[[Summary], Any]] = {
    "start_ms": lambda one: one.start_ms,
    "duration_ms": lambda one: one.duration_ms,
    "src": lambda one: one.src,
    "spans": lambda one: one.spans,
    "errors": lambda one: one.errors,
}
_STATS_SORTS: Mapping[str, Callable[[ServiceStats], Any]] = {
    "src": lambda one: one.src,
    "name": lambda one: one.name,
    "calls": lambda one: one.calls,
    "rate_per_s": lambda one: one.rate_per_s,
    "errors": lambda one: one.errors,
    "p50": lambda one: one.p50,
    "p95": lambda one: one.p95,
    "p99": lambda one: one.p99,
}


def _shown(record: Record) -> dict[str, Any]:
    return summary_object(record.summary())


def _stats(stats: ServiceStats) -> dict[str, Any]:
    known = stats.p50 is not None
    return {
        "src": stats.src,
        "name": stats.name,
        "calls": stats.calls,
        "errors": stats.errors,
        "rate_per_s": round(stats.rate_per_s, 3),
        "duration_ms": {"p50": stats.p50, "p95": stats.p95, "p99": stats.p99} if known else None,
    }


def _milliseconds(text: Optional[str]) -> Optional[float]:
    try:
        value = None if text is None else float(text)
    except ValueError:
        value = math.nan
    if value is None or 0 <= value < math.inf:
        return value
    raise ValueError(f"min_ms: expected milliseconds, got {(text or '')[:60]!r}")


def _flag(name: str, text: Optional[str]) -> bool:
    if text in ("1", "true", "yes"):
        return True
    if text in (None, "", "0", "false", "no"):
        return False
    raise ValueError(f"{name}: expected 1 or 0, got {(text or '')[:60]!r}")


def _unknown(text: str, tids: list[str]) -> str:
    if len(tids) > 1:
        more = ", ..." if len(tids) > _NAMED else ""
        return f"{len(tids)} traces begin with {text[:128]}: {', '.join(tids[:_NAMED])}{more}"
    return (
        f"no trace {text[:128]} is remembered: none of its spans has come, or it was forgotten "
        "since; `wafermon trace` also looks in the store"
    )
