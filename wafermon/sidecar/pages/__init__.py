"""The pages of the admin server, each a function of a request; none takes a pipeline's lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wafermon.net import Page
from wafermon.sidecar.pages.health import health
from wafermon.sidecar.pages.metrics import metrics
from wafermon.sidecar.pages.tail import stream

if TYPE_CHECKING:
    from wafermon.sidecar.sidecar import Sidecar


def pages(sidecar: Sidecar) -> dict[str, Page]:
    """All pages of a sidecar by their paths."""
    return {
        "/health": health(sidecar.pipeline, sidecar.status, sidecar.loaded.shown),
        "/metrics": metrics(sidecar.registry),
        "/tail": stream(sidecar.tail),
    }
