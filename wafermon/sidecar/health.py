"""How the sidecar does, part by part: what /health, /readyz and the dashboard tell."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Callable, NamedTuple, Optional

from wafermon.delivery import Journal, Pipeline, Route
from wafermon.delivery.account import DELIVERED
from wafermon.observe.condition import DEGRADED, DOWN, OK, Condition, Conditions, Rate

#: A queue that is this full will soon make somebody wait, or drop.
NEARLY_FULL = 0.8


class Verdict(NamedTuple):
    """The whole.

    Attributes:
        status: `ok`, `degraded`, `down` or `draining`. A part that is down makes the whole
            degraded, not down: a restart would not mend it.
        reasons: what is wrong, a sentence a part.
        parts: each with its condition; a backend as `backend NAME`.
    """

    status: str
    reasons: Sequence[str]
    parts: Mapping[str, Condition]


class Health:
    """Look at every part, and remember since when it does as it does.

    Args:
        pipeline: what is looked at, with its journal and its dead letters.
        status: tells how the loop does: `ok`, `draining` or `down`.
        deaf: gives the listeners that could not be bound.
        clock: monotonic seconds, as routes have them.

    Thread: `look` loop only, the rest any. It waits for nobody: of locks it takes that of the dead
    letters, for an instant.

    >>> from wafermon.flow import Router
    >>> Health(Pipeline(Router({}), {}), lambda: "ok").verdict().status
    'ok'
    """

    def __init__(
        self,
        pipeline: Pipeline,
        status: Callable[[], str],
        deaf: Callable[[], Sequence[str]] = list,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline = pipeline
        self.status = status
        self._deaf = deaf
        self._clock = clock
        self._began = clock()
        self._conditions = Conditions()
        self._rates: dict[str, Rate] = {}

    @property
    def uptime_seconds(self) -> float:
        """Since the start."""
        return self._clock() - self._began

    def look(self) -> None:
        """See how all do, so that it is known since when; every few seconds, whoever asks."""
        now, routes = self._clock(), dict(self._pipeline.routes)
        self._conditions.keep(self.verdict().parts)
        self._rates = {name: self._rates.get(name) or Rate() for name in routes}
        for name, route in routes.items():
            self._rates[name].note(route.queue.outcomes[DELIVERED], now)

    def per_second(self, backend: str) -> Optional[float]:
        """How many messages a backend took a second lately; None while that is not known."""
        rate = self._rates.get(backend)
        return None if rate is None else rate.per_second

    def verdict(self) -> Verdict:
        """How the whole does, and each part."""
        whole = self.status()
        parts = dict(self._parts(whole))
        reasons = [
            f"{name}: {part.reason or part.state}" for name, part in parts.items()
            if part.state != OK
        ]  # fmt: skip
        return Verdict("degraded" if whole == OK and reasons else whole, reasons, parts)

    def backend(self, route: Route) -> Condition:
        """How a backend does."""
        state, reason, ago = _route(route, self._clock())
        return self._conditions.note(f"backend {route.name}", state, reason, ago)

    def _parts(self, whole: str) -> Iterator[tuple[str, Condition]]:
        note, now = self._conditions.note, self._clock()
        if whole == DOWN:
            yield "loop", note("loop", DOWN, "it is stuck: nothing is read or routed")
        else:
            yield "loop", note("loop")
        deaf = ", ".join(self._deaf())
        if deaf:
            yield "listeners", note("listeners", DOWN, f"cannot listen on {deaf}, trying again")
        else:
            yield "listeners", note("listeners")
        journal, letters = self._pipeline.journal, self._pipeline.dead_letters
        if journal is not None:
            yield "journal", note("journal", *_journal(journal, now))
        if letters is not None:
            yield "dead_letters", note("dead_letters", *_route(letters.route, now))
        for route in list(self._pipeline.routes.values()):
            yield f"backend {route.name}", self.backend(route)


def _route(route: Route, now: float) -> tuple[str, Optional[str], float]:
    """State, reason, and for how many seconds already."""
    since, hanging, queue = route.failing_since, route.hanging_seconds, route.queue
    if since is not None:
        return DOWN, route.error, now - since
    if hanging:
        return DOWN, "a call to it hangs", hanging
    if queue.behind:
        return DEGRADED, f"it lags: {queue.behind} messages wait in the journal", 0.0
    share = max(queue.messages / queue.max_messages, queue.bytes / queue.max_bytes)
    if share >= NEARLY_FULL:
        return DEGRADED, f"its queue is {share:.0%} full", 0.0
    return OK, None, 0.0


def _journal(journal: Journal, now: float) -> tuple[str, Optional[str], float]:
    error, since, hanging = journal.error, journal.failing_since, journal.hanging_seconds
    if error or hanging:
        ago = hanging if since is None else now - since
        return DOWN, error or "a commit hangs", ago
    if journal.read_error:
        return DOWN, journal.read_error, 0.0
    if journal.is_full:
        return DEGRADED, "it is full: nothing is read until a backend has caught up", 0.0
    return OK, None, 0.0
