"""`/api/sources`: who is there, who is late, who is missing, and how much each sends."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Callable, Optional

from wafermon.delivery import Pipeline
from wafermon.flow import Presence, SourceState
from wafermon.flow.source import STATES
from wafermon.net import Page, Request, Response
from wafermon.sidecar.pages.listing import listing, refusal, wanted_state


def sources(
    presence: Presence, pipeline: Pipeline, clock: Callable[[], float] = time.monotonic
) -> Page:
    """`/api/sources?state=&q=&sort=&limit=`: sources whose name holds the text, missing ones
    first."""

    def page(request: Request) -> Response:
        now = clock()
        at_zero = time.time() - now  # Unix seconds when `clock` stood at 0
        try:
            state = wanted_state(request, STATES)
        except ValueError as error:
            return refusal(str(error))
        text = (request.last("q") or "").casefold()
        found = [
            one
            for one in presence.view(now)
            if state in (None, one.state) and text in one.src.casefold()
        ]
        found.sort(key=lambda one: (STATES.index(one.state), one.src))
        dropped = pipeline.dropped()

        def shown(one: SourceState) -> dict[str, Any]:
            rates = [round(rate, 2) for rate in presence.rates(one.src, now)]
            told = source_object(one, at_zero)
            return {**told, "rates": rates, "dropped": dropped.get(one.src, 0)}

        sorts = {**_SORTS, "dropped": lambda one: dropped.get(one.src, 0)}
        return listing(request, "sources", found, shown, sorts, evicted=presence.evicted)

    return page


#: What sources may be sorted by, by its name in the answer.
_SORTS: Mapping[str, Callable[[SourceState], Any]] = {
    "src": lambda one: one.src,
    "per_s": lambda one: one.per_s,
    "messages": lambda one: one.messages,
    "interval_s": lambda one: one.interval_s,
    "last_seen_ms": lambda one: one.last_seen,
}


def source_object(one: SourceState, at_zero: float) -> dict[str, Any]:
    """A source as the pages have it; `at_zero` is Unix seconds when its clock stood at 0."""
    return {
        "src": one.src,
        "state": one.state,
        "since_ms": unix_ms(one.since, at_zero),
        "first_seen_ms": unix_ms(one.first_seen, at_zero),
        "last_seen_ms": unix_ms(one.last_seen, at_zero),
        "connections": one.connections,
        "interval_s": None if one.interval_s is None else round(one.interval_s, 3),
        "interval_from": one.interval_from,
        "messages": one.messages,
        "by_type": one.by_type,
        "per_s": round(one.per_s, 2),
    }


def unix_ms(moment: Optional[float], at_zero: float) -> Optional[int]:
    """A monotonic moment in Unix milliseconds.

    >>> unix_ms(2.5, at_zero=1000.0), unix_ms(None, at_zero=1000.0)
    (1002500, None)
    """
    return None if moment is None else int((at_zero + moment) * 1000)
