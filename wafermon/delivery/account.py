"""What can become of a message that a route was offered, by name."""

from __future__ import annotations

from typing import NamedTuple

DELIVERED, DEAD_LETTERED = "delivered", "dead_lettered"
#: Reasons of a drop.
QUEUE_FULL, SAMPLED_FULL, SHUTDOWN = "queue_full", "sampled_full", "shutdown"
GAVE_UP, REFUSED, JOURNAL_FULL, REROUTED = "gave_up", "refused", "journal_full", "rerouted"
JOURNAL_DAMAGED, INTERNAL_ERROR = "journal_damaged", "internal_error"
#: Why one is dropped on the way in, before any route is offered it.
RATE_LIMITED = "rate_limited"
REASONS = (
    QUEUE_FULL,
    SAMPLED_FULL,
    SHUTDOWN,
    GAVE_UP,
    REFUSED,
    JOURNAL_FULL,
    REROUTED,
    JOURNAL_DAMAGED,
    INTERNAL_ERROR,
)


class Account(NamedTuple):
    """offered = delivered + queued + dead_lettered + the sum of dropped."""

    offered: int
    delivered: int
    queued: int
    dead_lettered: int
    dropped: dict[str, int]
