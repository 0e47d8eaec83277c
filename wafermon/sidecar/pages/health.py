"""`/health`: the whole and each part, with what is wrong in words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Callable, Optional

from wafermon import __version__
from wafermon.delivery import Journal, Pipeline, Route
from wafermon.delivery.account import JOURNAL_DAMAGED
from wafermon.delivery.journal import MEMORY
from wafermon.net import Page, Request, Response


def health(
    pipeline: Pipeline,
    status: Callable[[], str],
    config: Callable[[], Mapping[str, object]],
    clock: Callable[[], float] = time.monotonic,
) -> Page:
    """`/health`: the whole and each part, with what is wrong in words; the configuration too.

    A part that is down makes the whole degraded, not down: a restart would not mend it.
    """
    began = clock()

    def page(request: Request) -> Response:
        now = clock()
        backends = {name: _route(route, now) for name, route in pipeline.routes.items()}
        parts = {"journal": _journal(pipeline.journal, now)}
        if pipeline.dead_letters is not None:
            parts["dead_letters"] = _route(pipeline.dead_letters.route, now)
        failing = any(part["status"] == "down" for part in (*backends.values(), *parts.values()))
        whole = status()
        return Response.json(
            {
                "status": "degraded" if whole == "ok" and failing else whole,
                "version": __version__,
                "uptime_s": round(clock() - began, 1),
                **config(),
                "backends": backends,
                **parts,
            },
            503 if whole == "down" else 200,
        )

    return page


def _route(route: Route, now: float) -> dict[str, object]:
    since, hanging = route.failing_since, route.hanging_seconds
    state: dict[str, object] = {"status": "ok" if route.is_up else "down"}
    if since is not None:
        state.update(error=route.error, failing_for_s=round(now - since, 1))
    if hanging:
        state["hanging_for_s"] = round(hanging, 1)
    account = route.queue.account()
    if account.dropped[JOURNAL_DAMAGED]:
        state["journal_damaged"] = account.dropped[JOURNAL_DAMAGED]
    return {**state, "circuit": route.breaker.state.value, "queued": account.queued}


def _journal(journal: Optional[Journal], now: float) -> dict[str, object]:
    if journal is None:
        return {"status": "off", "receipts": MEMORY}
    error, since = journal.error, journal.failing_since
    state: dict[str, object] = {"status": "ok", "receipts": journal.level}
    if error or journal.read_error:
        state.update(status="down", error=error or journal.read_error)
    if since is not None:
        state["failing_for_s"] = round(now - since, 1)
    if journal.hanging_seconds:
        state.update(status="down", error=error or "a commit hangs")
        state["hanging_for_s"] = round(journal.hanging_seconds, 1)
    if journal.quarantined is not None:
        state["quarantined"] = journal.quarantined
        state["lost_messages"] = journal.lost_messages
    return {**state, "bytes": journal.bytes}
