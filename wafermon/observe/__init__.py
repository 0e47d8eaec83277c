"""Metrics that components are asked for, and how a scrape sees them."""

from wafermon.observe import process
from wafermon.observe.exposition import (
    CONTENT_TYPE,
    OPENMETRICS_TYPE,
    exposition,
    render,
    render_openmetrics,
)
from wafermon.observe.metrics import (
    OTHER,
    Buckets,
    CappedCounts,
    Family,
    Histogram,
    Registry,
    Sample,
    family,
)

__all__ = [
    "CONTENT_TYPE",
    "OPENMETRICS_TYPE",
    "OTHER",
    "Buckets",
    "CappedCounts",
    "Family",
    "Histogram",
    "Registry",
    "Sample",
    "exposition",
    "family",
    "process",
    "render",
    "render_openmetrics",
]
