"""The circuit breaker of a backend: a table of three states."""

from __future__ import annotations

import enum


class Circuit(str, enum.Enum):
    """Whether a backend is tried: at any time, not now, or once."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class _Event(enum.Enum):
    WORKED = 1
    FAILED_AGAIN = 2  # so often in a row that it is more than an accident
    DUE = 3


#: What is not in here changes nothing.
_NEXT = {
    (Circuit.CLOSED, _Event.FAILED_AGAIN): Circuit.OPEN,
    (Circuit.OPEN, _Event.DUE): Circuit.HALF_OPEN,
    (Circuit.HALF_OPEN, _Event.FAILED_AGAIN): Circuit.OPEN,
    (Circuit.HALF_OPEN, _Event.WORKED): Circuit.CLOSED,
}


class Breaker:
    """Keep a backend that is down from being worked on: one batch a probe, and a pause before it.

    It retries nothing and waits for nothing: a route tells it before and after each attempt, and
    lengthens its own back-off to `pause` while the circuit is open. The probe is the batch that
    failed and no part of it: many a backend knows by that what it has sent already.

    Args:
        failures: in a row, after which the circuit opens.
        probe_after: seconds before a probe at the least; the back-off may ask for more.

    Thread: the route's; reading any.

    >>> breaker = Breaker(failures=2)
    >>> breaker.failed(); breaker.failed(); breaker.state.value, breaker.pause
    ('open', 1.0)
    >>> breaker.begin(); breaker.state.value
    'half_open'
    >>> breaker.worked(); breaker.state.value, breaker.opened
    ('closed', 1)
    """

    def __init__(self, *, failures: int = 5, probe_after: float = 1.0) -> None:
        self._limit = failures
        self._probe_after = probe_after
        self.state = Circuit.CLOSED
        #: Failures in a row.
        self.failures = 0
        #: How often the circuit left `closed`.
        self.opened = 0

    def follow(self, other: Breaker) -> None:
        """Go on by the bounds of another one."""
        self._limit, self._probe_after = other._limit, other._probe_after

    @property
    def pause(self) -> float:
        """Seconds without an attempt at the least."""
        return self._probe_after if self.state is Circuit.OPEN else 0.0

    def begin(self) -> None:
        """The next attempt begins."""
        self._happens(_Event.DUE)

    def worked(self) -> None:
        """The backend answered, be it by refusing a message for good."""
        self.failures = 0
        self._happens(_Event.WORKED)

    def failed(self) -> None:
        """The backend could not."""
        self.failures += 1
        if self.failures >= self._limit:
            self._happens(_Event.FAILED_AGAIN)

    def _happens(self, event: _Event) -> None:
        before, self.state = self.state, _NEXT.get((self.state, event), self.state)
        if before is Circuit.CLOSED and self.state is Circuit.OPEN:
            self.opened += 1
