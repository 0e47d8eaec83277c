"""The counters of a route as metric families."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from wafermon.observe import Family, Sample, family

if TYPE_CHECKING:
    from wafermon.delivery.route import Route


def families(route: Route) -> list[Family]:
    """Everything that a route counts; its account is of one moment."""
    label = (("backend", route.name),)
    account = route.queue.account()
    return [
        *_queue(route),
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
            (),
            [route.latency.buckets(label)],
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
            "sidecar_backend_failures_total",
            "counter",
            "Writes that failed, or were refused for good.",
            {route.name: route.failures},
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


def oldest_seconds(route: Route) -> float:
    """How long ago the first of what a backend has still to take was received; 0 where nothing is
    known to wait."""
    oldest = route.queue.oldest_ms
    return max(0.0, time.time() - oldest / 1000) if oldest else 0.0


def _queue(route: Route) -> list[Family]:
    """How full a queue is: plain numbers, read without its lock."""
    queue = route.queue
    return [
        family(name, "gauge", about, {route.name: value}, "backend")
        for name, about, value in (
            (
                "sidecar_backend_queued_bytes",
                "Raw bytes in the memory of a backend's queue.",
                queue.bytes,
            ),
            (
                "sidecar_backend_queue_capacity_messages",
                "Messages at which a backend's queue is full.",
                queue.max_messages,
            ),
            (
                "sidecar_backend_queue_capacity_bytes",
                "Raw bytes at which a backend's queue is full.",
                queue.max_bytes,
            ),
            (
                "sidecar_backend_behind_messages",
                "Messages that wait for a backend in the journal, as its queue was full.",
                queue.behind,
            ),
            (
                "sidecar_backend_oldest_message_seconds",
                "Age of the first message that a backend has still to take.",
                oldest_seconds(route),
            ),
        )
    ]
