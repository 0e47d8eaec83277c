"""`/api/series` and `/api/resources`: what sources measured in the last minutes."""

from __future__ import annotations

import time
from typing import Any, Callable

from wafermon.flow.series import Series
from wafermon.flow.user_metrics import CPU, DISK, MEMORY, NET, RESOURCE, UserMetrics
from wafermon.net import Page, Request, Response
from wafermon.sidecar.pages.listing import listing


def series(metrics: UserMetrics, clock: Callable[[], float] = time.monotonic) -> Page:
    """`/api/series?q=&limit=`: the series of `metric` messages whose name, source or tags hold the
    text."""

    def page(request: Request) -> Response:
        wanted = (request.last("q") or "").lower()
        found = [
            one for one in metrics.series(clock())
            if one.owner.kind != RESOURCE and wanted in _text(one)
        ]  # fmt: skip
        found.sort(key=lambda one: one.owner)
        evicted = sum(metrics.evicted.values())
        return listing(request, "series", found, _series, evicted=evicted)

    return page


def resources(metrics: UserMetrics, clock: Callable[[], float] = time.monotonic) -> Page:
    """`/api/resources?src=&limit=`: what `resource` messages tell, by source."""

    def page(request: Request) -> Response:
        src = request.last("src")
        by_source: dict[str, list[Series]] = {}
        for one in metrics.series(clock()):
            if one.owner.kind == RESOURCE and src in (None, one.owner.src):
                by_source.setdefault(one.owner.src, []).append(one)
        return listing(request, "sources", sorted(by_source.items()), _source)

    return page


def _text(one: Series) -> str:
    owner = one.owner
    return "\n".join([owner.name, owner.src, *[value for _, value in owner.tags]]).lower()


def _series(one: Series) -> dict[str, Any]:
    owner = one.owner
    return {
        "name": owner.name,
        "src": owner.src,
        "kind": owner.kind,
        "unit": one.unit or None,
        "tags": dict(owner.tags),
        "value": one.value,
        "points": one.tail.points(),
    }


def _source(found: tuple[str, list[Series]]) -> dict[str, Any]:
    src, all_series = found
    told: dict[str, Any] = {"src": src, "cpu": [], "mem": [], "disk": {}, "net": {}}
    for one in all_series:
        points, name = one.tail.points(), one.owner.name
        if name in (CPU, MEMORY):
            told["cpu" if name == CPU else "mem"] = points
        elif name in (DISK, NET):
            told["disk" if name == DISK else "net"][one.owner.tags[0][1]] = points
    return told
