"""`/api/metrics`, `/api/series`, `/api/resources`: what sources measured in the last minutes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Callable

from wafermon.flow.series import Series
from wafermon.flow.user_metrics import CPU, DISK, MEMORY, NET, RESOURCE, UserMetrics
from wafermon.net import Page, Request, Response
from wafermon.sidecar.pages.listing import listing

#: Series of a metric that come with their points in a list of metrics.
LINES = 5

#: What series may be sorted by, by its name in the answer.
_SORTS: Mapping[str, Callable[[Series], Any]] = {
    "src": lambda one: one.owner.src,
    "value": lambda one: one.value,
}


def by_name(user: UserMetrics, clock: Callable[[], float] = time.monotonic) -> Page:
    """`/api/metrics?q=&src=&limit=`: series that `/api/series` would tell of, those of one name,
    kind and unit together: how many, from where to where, and of the highest their points."""

    def page(request: Request) -> Response:
        groups: dict[tuple[str, str, str], list[Series]] = {}
        for one in _found(request, user.series(clock())):
            groups.setdefault((one.owner.name, one.owner.kind, one.unit), []).append(one)
        evicted = sum(user.evicted.values())
        return listing(request, "metrics", sorted(groups.items()), _metric, evicted=evicted)

    return page


def series(user: UserMetrics, clock: Callable[[], float] = time.monotonic) -> Page:
    """`/api/series?q=&name=&src=&sort=&limit=`: the series of `metric` messages of a name and a
    source, whose name, source or tags hold the text."""

    def page(request: Request) -> Response:
        found = sorted(_found(request, user.series(clock())), key=lambda one: one.owner)
        evicted = sum(user.evicted.values())
        return listing(request, "series", found, _series, _SORTS, evicted=evicted)

    return page


def resources(user: UserMetrics, clock: Callable[[], float] = time.monotonic) -> Page:
    """`/api/resources?src=&q=&limit=`: what `resource` messages tell, by source; of one, or of
    those whose name holds the text."""

    def page(request: Request) -> Response:
        wanted, text = request.last("src"), (request.last("q") or "").lower()
        by_source: dict[str, list[Series]] = {}
        for one in user.series(clock()):
            src = one.owner.src
            if one.owner.kind == RESOURCE and wanted in (None, src) and text in src.lower():
                by_source.setdefault(src, []).append(one)
        return listing(request, "sources", sorted(by_source.items()), resource_object)

    return page


def _found(request: Request, all_series: list[Series]) -> list[Series]:
    name, src = request.last("name"), request.last("src")
    text = (request.last("q") or "").lower()
    return [
        one
        for one in all_series
        if one.owner.kind != RESOURCE
        and name in (None, one.owner.name)
        and src in (None, one.owner.src)
        and text in _text(one)
    ]


def _metric(group: tuple[tuple[str, str, str], list[Series]]) -> dict[str, Any]:
    (name, kind, unit), all_series = group
    all_series.sort(key=lambda one: (-one.value, one.owner))
    return {
        "name": name,
        "kind": kind,
        "unit": unit or None,
        "series_total": len(all_series),
        "highest": all_series[0].value,
        "lowest": all_series[-1].value,
        "series": [_series(one) for one in all_series[:LINES]],
    }


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


def resource_object(found: tuple[str, list[Series]]) -> dict[str, Any]:
    """What one source uses, as the pages have it: its name with its series."""
    src, all_series = found
    told: dict[str, Any] = {"src": src, "cpu": [], "mem": [], "disk": {}, "net": {}}
    for one in all_series:
        points, name = one.tail.points(), one.owner.name
        if name in (CPU, MEMORY):
            told["cpu" if name == CPU else "mem"] = points
        elif name in (DISK, NET):
            told["disk" if name == DISK else "net"][one.owner.tags[0][1]] = points
    return told
