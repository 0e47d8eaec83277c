"""Services as their spans show them: rate, errors and duration of each, and who calls whom."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, Optional

from wafermon.flow.trace import Span
from wafermon.observe import OTHER, Buckets, Family, Sample, family
from wafermon.observe.metrics import Labels

#: Upper bounds in milliseconds: from a query to a nightly load.
BOUNDS_MS = (
    1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000,
    300_000, 1_800_000,
)  # fmt: skip
#: How often the counts are noted down, and how many of these notes are kept: what is shown is of
#: the last minute (rate) and of the last five (durations).
NOTE_SECONDS, NOTES, RATE_NOTES = 30.0, 10, 2
MAX_LABEL_CHARS = 128
#: Names with series of their own on /metrics; more than that nobody looks at there.
MAX_SERIES = 200
_OTHERS = (OTHER, OTHER)
_EDGES = (*[repr(bound / 1000) for bound in BOUNDS_MS], "+Inf")

_Key = tuple[str, str]
_Totals = dict[_Key, list[float]]
#: Where in the totals of a name what stands; the counts of the buckets follow.
_ERRORS, _SUM, _LEAST, _MOST, _BUCKETS = 0, 1, 2, 3, 4


class ServiceStats(NamedTuple):
    """What is known of the spans of one name. Durations are milliseconds and estimates; None
    without calls."""

    src: str
    name: str
    calls: int
    errors: int
    rate_per_s: float
    p50: Optional[float]
    p95: Optional[float]
    p99: Optional[float]


class Edge(NamedTuple):
    """How often spans of one source had a child in another one."""

    caller: str
    called: str
    calls: int
    errors: int


class ServiceGraph:
    """Count spans by source and name, and calls between sources; what is past a cap is `_other`.

    What has counts keeps them for good, as a counter must not come and go. So that a script that
    puts a lot's number in its names leaves room for others, and is seen to do it, its further ones
    are one: `_other` of that source.

    Args:
        max_names: pairs of source and span name with counts of their own.
        max_names_a_source: how many of these one source gets.
        max_edges: pairs of sources.

    Thread: `count` and `note` loop only; `add_calls` one at a time; the rest any.

    >>> graph = ServiceGraph()
    >>> graph.count("loader", "parse", 12.0, "ok")
    >>> graph.stats(now=0.0)[0][:5]
    ('loader', 'parse', 1, 0, 0.0)
    """

    def __init__(
        self, *, max_names: int = 1_000, max_names_a_source: int = 100, max_edges: int = 1_000
    ) -> None:
        self._max_names, self._max_edges = max_names, max_edges
        self._max_names_a_source = max_names_a_source
        self._totals: _Totals = {}
        self._by_source: dict[str, int] = {}
        self._edges: dict[_Key, tuple[int, int]] = {}
        #: Copies of the totals, the newest at the end, each with its time.
        self._notes: deque[tuple[float, dict[_Key, tuple[float, ...]]]] = deque(maxlen=NOTES)
        #: Spans, and calls between sources, that had no room under their names.
        self.evicted = 0

    def count(self, src: str, name: str, duration_ms: float, status: str) -> None:
        """Count a span that has ended."""
        total = self._totals.get((src, name))
        if total is None:
            total = self._new(src, name)
        total[_BUCKETS + bisect_left(BOUNDS_MS, duration_ms)] += 1
        total[_SUM] += duration_ms
        if not total[_LEAST] <= duration_ms <= total[_MOST]:
            total[_LEAST] = min(total[_LEAST], duration_ms)
            total[_MOST] = max(total[_MOST], duration_ms)
        if status == "error":
            total[_ERRORS] += 1

    def _new(self, src: str, name: str) -> list[float]:
        """Where a name is counted that has no counts, or none under its full length."""
        wanted = key = (src, name[:MAX_LABEL_CHARS])
        if key not in self._totals and self._by_source.get(src, 0) >= self._max_names_a_source:
            key = (src, OTHER)
        if key not in self._totals and len(self._totals) >= self._max_names:
            key = _OTHERS
        self.evicted += key != wanted
        total = self._totals.get(key)
        if total is None:
            total = self._totals[key] = [0, 0, math.inf, -math.inf, *[0] * (len(BOUNDS_MS) + 1)]
            self._by_source[key[0]] = self._by_source.get(key[0], 0) + 1
        return total

    def note(self, now: float) -> None:
        """Note the counts down, every `NOTE_SECONDS`."""
        self._notes.append((now, {key: tuple(total) for key, total in self._totals.items()}))

    def add_calls(self, spans: Iterable[Span]) -> None:
        """Count the calls between sources in the spans of one trace."""
        known = {span.sid: span for span in spans}
        for span in known.values():
            parent = known.get(span.parent or "")
            if parent is None or parent.src == span.src:
                continue
            key = (parent.src, span.src)
            if key not in self._edges and len(self._edges) >= self._max_edges:
                self.evicted += 1
                key = _OTHERS
            calls, errors = self._edges.get(key, (0, 0))
            self._edges[key] = (calls + 1, errors + (span.status == "error"))

    def stats(self, now: float) -> list[ServiceStats]:
        """Each name of spans, the busiest first: rate of the last minute, durations of the last
        five, or of all time where none came in these."""
        notes = list(self._notes)
        since, lately = notes[-RATE_NOTES] if len(notes) >= RATE_NOTES else (None, {})
        oldest = notes[0][1] if notes else {}
        found = []
        for (src, name), total in list(self._totals.items()):
            counts = list(total)
            calls = sum(counts[_BUCKETS:])
            earlier = sum(lately.get((src, name), ())[_BUCKETS:])
            rate = 0.0 if since is None or now <= since else (calls - earlier) / (now - since)
            buckets = _difference(counts, oldest.get((src, name), ()))[_BUCKETS:]
            seen = counts[_LEAST], counts[_MOST]
            quantiles = [quantile(buckets, share, *seen) for share in (0.5, 0.95, 0.99)]
            found.append(
                ServiceStats(src, name, int(calls), int(counts[_ERRORS]), rate, *quantiles)
            )
        return sorted(found, key=lambda stats: (-stats.rate_per_s, -stats.calls, stats[:2]))

    def edges(self) -> list[Edge]:
        """Who calls whom, the busiest first."""
        found = [Edge(*key, *counts) for key, counts in list(self._edges.items())]
        return sorted(found, key=lambda edge: (-edge.calls, edge))

    def collect(self) -> list[Family]:
        """Yield rate, errors and durations by source and span name, and the calls."""
        labels: Labels
        errors: dict[Labels, float] = {}
        histograms: dict[Labels, list[float]] = {}
        for at, ((src, name), total) in enumerate(list(self._totals.items())):
            shown = (src, name) if at < MAX_SERIES else _OTHERS
            labels = (("source", shown[0]), ("name", shown[1]))
            counts = list(total)
            errors[labels] = errors.get(labels, 0) + counts[_ERRORS]
            before = histograms.get(labels)
            histograms[labels] = counts if before is None else _sum(before, counts)
        return [
            Family(
                "sidecar_span_duration_seconds",
                "histogram",
                "Durations of spans that have ended.",
                (),
                [_histogram(labels, counts) for labels, counts in histograms.items()],
            ),
            Family(
                "sidecar_span_errors_total",
                "counter",
                "Spans that ended in an error.",
                [Sample("", labels, value) for labels, value in errors.items()],
            ),
            *self._calls(),
            family(
                "sidecar_services_evicted_total",
                "counter",
                "Spans and calls that were counted as _other, as there were too many names.",
                {"": self.evicted},
            ),
        ]

    def _calls(self) -> list[Family]:
        # The first ones and not the busiest: a counter must not come and go.
        pairs: list[tuple[Labels, tuple[int, int]]] = [
            ((("client", caller), ("server", called)), counts)
            for (caller, called), counts in list(self._edges.items())[:MAX_SERIES]
        ]
        name = "sidecar_service_calls"
        return [
            Family(
                f"{name}_total",
                "counter",
                "Spans of one source below a span of another, in traces that have settled.",
                [Sample("", labels, calls) for labels, (calls, _) in pairs],
            ),
            Family(
                f"{name}_failed_total",
                "counter",
                "Those of them that ended in an error.",
                [Sample("", labels, errors) for labels, (_, errors) in pairs],
            ),
        ]


def quantile(
    counts: list[float], share: float, least: float = 0.0, most: float = math.inf
) -> Optional[float]:
    """Estimate a quantile out of buckets, evenly filled, but never outside of the least and the
    most that was seen; milliseconds, None where all are empty.

    >>> quantile([0, 0, 10] + [0] * 15, 0.5), quantile([0, 0, 10] + [0] * 15, 0.5, most=3.0)
    (3.75, 3.0)
    """
    rank = share * sum(counts)
    if not rank:
        return None
    low, below = 0.0, 0.0
    for high, count in zip(BOUNDS_MS, counts):
        if count and below + count >= rank:
            return min(most, max(least, low + (high - low) * (rank - below) / count))
        low, below = high, below + count
    return min(most, max(least, low))  # in the last bucket, which has no end


def _difference(now: list[float], before: tuple[float, ...]) -> list[float]:
    if sum(now[_BUCKETS:]) == sum(before[_BUCKETS:]):
        return now
    return [a - b for a, b in zip(now, before)] if before else now


def _sum(one: list[float], other: list[float]) -> list[float]:
    return [a + b for a, b in zip(one, other)]


def _histogram(labels: Labels, counts: list[float]) -> Buckets:
    return Buckets(labels, _EDGES, list(map(int, counts[_BUCKETS:])), counts[_SUM] / 1000)
