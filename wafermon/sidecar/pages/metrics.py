"""`/metrics`: what the sidecar counts; `/metrics/messages`: what its sources measure."""

from __future__ import annotations

from wafermon.net import Page, Request, Response
from wafermon.observe import Registry, exposition


def metrics(registry: Registry) -> Page:
    """The families of a registry, as the `Accept` of a scrape asks: the text format of Prometheus,
    or OpenMetrics."""

    def page(request: Request) -> Response:
        body, content_type = exposition(registry, request.headers.get("accept", ""))
        return Response(body, content_type)

    return page
