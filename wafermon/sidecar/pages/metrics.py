"""`/metrics`: what the sidecar counts."""

from __future__ import annotations

from wafermon.net import Page, Response
from wafermon.observe import CONTENT_TYPE, Registry, render


def metrics(registry: Registry) -> Page:
    """`/metrics`: the text format of Prometheus."""
    return lambda request: Response(render(registry), CONTENT_TYPE)
