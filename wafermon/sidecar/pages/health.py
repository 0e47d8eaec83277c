"""`/health`, `/livez`, `/readyz`: the whole and each part, with what is wrong in words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Callable, Optional

from wafermon import __version__
from wafermon.delivery import Journal, Pipeline, Route
from wafermon.delivery.account import JOURNAL_DAMAGED
from wafermon.delivery.journal import MEMORY
from wafermon.net import Page, Request, Response
from wafermon.observe.condition import Condition
from wafermon.sidecar.health import Health


def health(
    pipeline: Pipeline,
    state: Health,
    config: Callable[[], Mapping[str, object]],
    clock: Callable[[], float] = time.monotonic,
) -> Page:
    """`/health`: everything; 503 where the whole is down, with `?strict=1` also where it is not
    `ok`."""

    def page(request: Request) -> Response:
        now, verdict = clock(), state.verdict()
        parts = verdict.parts
        answer: dict[str, object] = {
            "status": verdict.status,
            "reasons": list(verdict.reasons),
            "version": __version__,
            "uptime_s": round(state.uptime_seconds, 1),
            **config(),
            "backends": {
                name: {**_told(parts.get(f"backend {name}")), **_route(route, now)}
                for name, route in dict(pipeline.routes).items()
            },
            "loop": _told(parts["loop"]),
            "listeners": _told(parts["listeners"]),
            "journal": {
                **_told(parts.get("journal")),
                **journal_state(pipeline.journal, pipeline.receipts, now),
            },
        }  # fmt: skip
        if pipeline.dead_letters is not None:
            letters = _route(pipeline.dead_letters.route, now)
            answer["dead_letters"] = {**_told(parts.get("dead_letters")), **letters}
        word = request.last("strict")
        if word not in (None, "", "0", "1", "false", "true"):
            return Response(b"strict: expected 0 or 1\n", status=400)
        strict = word in ("", "1", "true")
        bad = verdict.status == "down" or (strict and verdict.status != "ok")
        return Response.json(answer, 503 if bad else 200)

    return page


def livez(state: Health) -> Page:
    """`/livez`: whether a restart would help. It never hangs on a backend."""

    def page(request: Request) -> Response:
        if state.status() == "down":
            return Response(b"down: the loop is stuck\n", status=503)
        return Response(b"ok\n")

    return page


def readyz(state: Health) -> Page:
    """`/readyz`: whether senders may come: it listens, and is not stopping."""

    def page(request: Request) -> Response:
        status, listeners = state.status(), state.verdict().parts["listeners"]
        if status != "ok":
            return Response(f"{status}\n".encode(), status=503)
        if listeners.reason:
            return Response(f"{listeners.reason}\n".encode("utf-8", "replace"), status=503)
        return Response(b"ok\n")

    return page


def _told(condition: Optional[Condition]) -> dict[str, object]:
    if condition is None:  # it is off, or came this moment
        return {}
    return {
        "status": condition.state, "reason": condition.reason, "since_ms": condition.since_ms
    }  # fmt: skip


def _route(route: Route, now: float) -> dict[str, object]:
    since, hanging = route.failing_since, route.hanging_seconds
    state: dict[str, object] = {}
    if since is not None:
        state.update(error=route.error, failing_for_s=round(now - since, 1))
    if hanging:
        state["hanging_for_s"] = round(hanging, 1)
    account = route.queue.account()
    if account.dropped[JOURNAL_DAMAGED]:
        state["journal_damaged"] = account.dropped[JOURNAL_DAMAGED]
    return {**state, "circuit": route.breaker.state.value, "queued": account.queued}


def journal_state(journal: Optional[Journal], receipts: str, now: float) -> dict[str, object]:
    """How the journal does, but for its condition. `now` is monotonic seconds."""
    if journal is None:
        return {"status": "off", "receipts": MEMORY}
    error, since = journal.error or journal.read_error, journal.failing_since
    state: dict[str, object] = {"receipts": receipts}
    if journal.hanging_seconds:
        error = error or "a commit hangs"
        state["hanging_for_s"] = round(journal.hanging_seconds, 1)
    if error:
        state["error"] = error
    if since is not None:
        state["failing_for_s"] = round(now - since, 1)
    if journal.quarantined is not None:
        state["quarantined"] = journal.quarantined
        state["lost_messages"] = journal.lost_messages
    return {**state, "bytes": journal.bytes, "capacity_bytes": journal.max_bytes}
