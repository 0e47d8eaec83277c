"""`/api/backends`: what became of the messages of each backend, how full its queue is, and how it
does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from wafermon.delivery import Route
from wafermon.delivery.route_families import oldest_seconds
from wafermon.net import Page, Request, Response
from wafermon.observe.condition import OK
from wafermon.sidecar.health import Health

if TYPE_CHECKING:
    from wafermon.sidecar.sidecar import Sidecar

#: What conditions are called here.
_STATES = {OK: "up"}


def listed(sidecar: Sidecar) -> Page:
    """`/api/backends`: all of them."""

    def page(request: Request) -> Response:
        now_ms = int(time.time() * 1000)
        return Response.json({"now_ms": now_ms, "backends": backends(sidecar)})

    return page


def backends(sidecar: Sidecar) -> list[dict[str, object]]:
    """All backends as `/api/backends` has them. Any thread."""
    types = sidecar.config.backends
    return [
        _backend(route, sidecar.health, getattr(types.get(name), "type", None))
        for name, route in dict(sidecar.pipeline.routes).items()
    ]


def _backend(route: Route, health: Health, kind: object) -> dict[str, object]:
    condition, queue = health.backend(route), route.queue
    account, rate = queue.account(), health.per_second(route.name)
    return {
        "name": route.name,
        "type": kind,
        "state": _STATES.get(condition.state, condition.state),
        "reason": condition.reason,
        "since_ms": condition.since_ms,
        "circuit": route.breaker.state.value,
        "queued_messages": account.queued,
        "queued_bytes": queue.bytes,
        "behind_messages": queue.behind,
        "capacity_messages": queue.max_messages,
        "capacity_bytes": queue.max_bytes,
        "oldest_s": round(oldest_seconds(route), 1) if account.queued else None,
        "offered": account.offered,
        "delivered": account.delivered,
        "failed": route.failures,
        "retries": route.retries,
        "dead_lettered": account.dead_lettered,
        "dropped": {reason: count for reason, count in account.dropped.items() if count},
        "per_s": None if rate is None else round(rate, 1),
    }
