"""The pages of the admin server: health, metrics, and the live stream behind `wafermon tail`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Callable, Optional

from wafermon import __version__
from wafermon.delivery import Journal, Pipeline, Route, Tail, View
from wafermon.delivery.account import JOURNAL_DAMAGED
from wafermon.delivery.journal import MEMORY
from wafermon.flow import Selection
from wafermon.net import Page, Query, Response
from wafermon.observe import CONTENT_TYPE, Registry, render

#: How often a silent stream sends an empty line, so that a viewer who left is noticed.
BEAT_SECONDS = 1.0


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

    def page(query: Query) -> Response:
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


def metrics(registry: Registry) -> Page:
    """`/metrics`: the text format of Prometheus."""
    return lambda query: Response(render(registry), CONTENT_TYPE)


class _Stream:
    """Lines as they pass, until the viewer leaves or the sidecar stops."""

    def __init__(self, tail: Tail, view: View, selection: Selection) -> None:
        self._tail = tail
        self._view = view
        self._selection = selection

    def __iter__(self) -> Iterator[bytes]:
        while not self._tail.closed:
            batch = self._view.next(BEAT_SECONDS)
            if self._view.missed:
                missed, self._view.missed = self._view.missed, 0
                yield json.dumps({"missed": missed}).encode("ascii") + b"\n"
            yield self._selection.select(batch).raw if batch else b"\n"

    def close(self) -> None:
        """The viewer has left."""
        self._view.close()


def stream(tail: Tail) -> Page:
    """`/tail`: JSON lines as they pass, by `?src=&type=&level=&tid=&text=&since_ms=&until_ms=`;
    `src` and `type` may stand several times."""

    def page(query: Query) -> Response:
        try:
            selection = _selection(query)
        except ValueError as error:
            return Response(f"{error}\n".encode(), status=400)
        view = tail.view()
        if view is None:
            return Response(b"too many look already, try again later\n", status=503)
        return Response(_Stream(tail, view, selection), "application/x-ndjson")

    return page


def _selection(query: Query) -> Selection:
    last = {name: values[-1] for name, values in query.items()}
    return Selection(
        src=tuple(query.get("src", ())),
        types=tuple(query.get("type", ())),
        level=last.get("level"),
        tid=last.get("tid"),
        text=last.get("text"),
        since_ms=_milliseconds("since_ms", last),
        until_ms=_milliseconds("until_ms", last),
    )


def _milliseconds(name: str, query: Mapping[str, str]) -> Optional[int]:
    text = query.get(name)
    if text is None or (text.isascii() and text.isdigit()):
        return None if text is None else int(text)
    raise ValueError(f"{name}: expected Unix milliseconds, got {text[:60]!r}")
