"""The counters of a route as metric families."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wafermon.observe import Family, Sample, family

if TYPE_CHECKING:
    from wafermon.delivery.route import Route


def families(route: Route) -> list[Family]:
    """Everything that a route counts; its account is of one moment."""
    label = (("backend", route.name),)
    account = route.queue.account()
    return [
        family(
            "sidecar_messages_routed_total",
            "counter",
            "Messages handed to a backend's queue.",
            {route.name: account.offered},
            "backend",
        ),
        Family(
            "sidecar_backend_latency_seconds",
            "histogram",
            "Time a backend took for a batch.",
            route.latency.samples(label),
        ),
        Family(
            "sidecar_backend_messages_total",
            "counter",
            "What became of the messages of a backend.",
            [
                Sample("", (*label, ("outcome", outcome)), count)
                for outcome, count in (
                    ("delivered", account.delivered),
                    ("dead_lettered", account.dead_lettered),
                    *((f"dropped_{reason}", n) for reason, n in account.dropped.items()),
                )
            ],
        ),
        family(
            "sidecar_backend_queued_messages",
            "gauge",
            "Messages in a backend's queue.",
            {route.name: account.queued},
            "backend",
        ),
        family(
            "sidecar_backend_up",
            "gauge",
            "Whether a backend's last call was answered (1), or failed or hangs (0).",
            {route.name: int(route.is_up)},
            "backend",
        ),
        family(
            "sidecar_backend_circuit_opened_total",
            "counter",
            "How often a backend failed so often that it was left in peace.",
            {route.name: route.breaker.opened},
            "backend",
        ),
        family(
            "sidecar_backend_retries_total",
            "counter",
            "Writes that a backend could not take at first.",
            {route.name: route.retries},
            "backend",
        ),
        family(
            "sidecar_messages_dropped_total",
            "counter",
            "Accepted messages that were not delivered, by reason.",
            account.dropped,
            "reason",
        ),
    ]
