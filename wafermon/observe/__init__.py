"""Metrics that components are asked for, and how a scrape sees them."""

from wafermon.observe.exposition import CONTENT_TYPE, render
from wafermon.observe.metrics import (
    OTHER,
    CappedCounts,
    Family,
    Histogram,
    Registry,
    Sample,
    family,
)

__all__ = [
    "CONTENT_TYPE",
    "OTHER",
    "CappedCounts",
    "Family",
    "Histogram",
    "Registry",
    "Sample",
    "family",
    "render",
]
