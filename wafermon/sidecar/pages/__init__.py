"""The pages of the admin server, each a function of a request; none takes a pipeline's lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wafermon.net import Page
from wafermon.sidecar.pages.alerts import alerts
from wafermon.sidecar.pages.backends import listed
from wafermon.sidecar.pages.dashboard import dashboard
from wafermon.sidecar.pages.health import health, livez, readyz
from wafermon.sidecar.pages.jobs import jobs
from wafermon.sidecar.pages.metrics import metrics
from wafermon.sidecar.pages.series import by_name, resources, series
from wafermon.sidecar.pages.source import source
from wafermon.sidecar.pages.sources import sources
from wafermon.sidecar.pages.summary import summary
from wafermon.sidecar.pages.tail import stream
from wafermon.sidecar.pages.traces import services, trace, traces

if TYPE_CHECKING:
    from wafermon.sidecar.sidecar import Sidecar


def pages(sidecar: Sidecar) -> dict[str, Page]:
    """All pages of a sidecar by their paths."""
    index, files = dashboard()
    return {
        "/": index,
        "/api/alerts": alerts(sidecar.alerting.alerts),
        "/api/backends": listed(sidecar),
        "/api/jobs": jobs(sidecar.jobs),
        "/api/live": sidecar.live.page,
        "/api/metrics": by_name(sidecar.user_metrics),
        "/api/resources": resources(sidecar.user_metrics),
        "/api/series": series(sidecar.user_metrics),
        "/api/services": services(sidecar.correlator),
        "/api/sources": sources(sidecar.presence, sidecar.pipeline),
        "/api/sources/": source(sidecar),
        "/api/summary": summary(sidecar.summary),
        "/api/traces": traces(sidecar.correlator),
        "/api/traces/": trace(sidecar.correlator),
        "/health": health(sidecar.pipeline, sidecar.health, sidecar.loaded.shown),
        "/livez": livez(sidecar.health),
        "/metrics": metrics(sidecar.registry),
        "/metrics/messages": metrics(sidecar.message_registry),
        "/readyz": readyz(sidecar.health),
        "/tail": stream(sidecar.tail),
        "/web/": files,
    }
