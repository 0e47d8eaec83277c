"""Metrics: families of samples, the kinds that need a class of their own, and the registry.

Components keep plain ints and yield families from a `collect()`; the registry pulls when it is
scraped and knows nothing of its own. There is no default registry.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Callable, NamedTuple

Labels = tuple[tuple[str, str], ...]

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")

#: The label value under which everything past a cap is counted.
OTHER = "_other"


class Sample(NamedTuple):
    """One line of an exposition: `suffix` is `_bucket`, `_sum`, `_count` or nothing."""

    suffix: str
    labels: Labels
    value: float


class Buckets(NamedTuple):
    """One histogram of a family: all its lines in one piece, as a page may hold hundreds of them.

    Attributes:
        labels: those that all its lines have.
        edges: upper bounds of the buckets as they are written, the last is `+Inf`.
        counts: of each bucket, what is in there alone.
        total: the sum of what was observed.
    """

    labels: Labels
    edges: Sequence[str]
    counts: Sequence[int]
    total: float

    def samples(self) -> list[Sample]:
        """The cumulative buckets, the sum and the count."""
        totals = list(itertools.accumulate(self.counts))
        return [
            *[
                Sample("_bucket", (*self.labels, ("le", edge)), count)
                for edge, count in zip(self.edges, totals)
            ],
            Sample("_sum", self.labels, self.total),
            Sample("_count", self.labels, totals[-1]),
        ]


class Family(NamedTuple):
    """All samples of one name. `kind` is `counter`, `gauge` or `histogram`; the samples of a
    histogram may stand as `buckets`."""

    name: str
    kind: str
    about: str
    samples: Sequence[Sample]
    buckets: Sequence[Buckets] = ()

    def all_samples(self) -> list[Sample]:
        """Those of the buckets, too."""
        return [*self.samples, *[s for buckets in self.buckets for s in buckets.samples()]]


def family(
    name: str, kind: str, about: str, values: Mapping[str, float], label: str = ""
) -> Family:
    """Make a family from plain values, keyed by the value of one label.

    >>> family("hits_total", "counter", "Hits.", {"a": 2}, "source").samples[0].labels
    (('source', 'a'),)
    """
    # dict() of a dict is one step of the interpreter: its owner may go on adding to it.
    return Family(
        name,
        kind,
        about,
        [
            Sample("", ((label, key),) if label else (), value)
            for key, value in sorted(dict(values).items())
        ],
    )


class CappedCounts(dict[str, int]):
    """Counts by a name that comes from the wire: past the cap all new names are `_other`.

    Args:
        cap: how many names get a count of their own.

    Thread: one writer; readers take a copy.

    >>> counts = CappedCounts(1)
    >>> counts.add("a", 1); counts.add("b", 2); counts.add("c", 3)
    >>> dict(counts), counts.overflowed
    ({'a': 1, '_other': 5}, 2)
    """

    def __init__(self, cap: int = 200) -> None:
        super().__init__()
        self._cap = cap
        #: Additions that went to `_other`.
        self.overflowed = 0

    def add(self, name: str, count: int) -> None:
        """Count, under the name while there is room."""
        if name in self:
            self[name] += count
        elif len(self) < self._cap:
            self[name] = count
        else:
            self.overflowed += 1
            self[OTHER] = self.get(OTHER, 0) + count


class Histogram:
    """Observations in buckets.

    Args:
        bounds: upper bounds of the buckets, rising; the last one, +Inf, is added.

    Thread: one writer; a reader may see an observation half counted until its next scrape.

    >>> histogram = Histogram((0.1, 1.0))
    >>> histogram.observe(0.05); histogram.observe(7)
    >>> [(dict(s.labels).get("le"), s.value) for s in histogram.buckets().samples()]
    [('0.1', 1), ('1.0', 1), ('+Inf', 2), (None, 7.05), (None, 2)]
    """

    #: Seconds, from a local file to a server that is nearly gone.
    LATENCY = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

    def __init__(self, bounds: Sequence[float] = LATENCY) -> None:
        self._bounds = tuple(bounds)
        self._edges = (*map(str, self._bounds), "+Inf")
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self, labels: Labels = ()) -> Buckets:
        """What was observed so far."""
        return Buckets(labels, self._edges, list(self._counts), self._sum)


Collect = Callable[[], Iterable[Family]]


class Registry:
    """Everything that has a `collect()`, under one roof.

    Thread: any.

    >>> registry = Registry()
    >>> registry.register(lambda: [family("hits_total", "counter", "Hits.", {"": 3})])
    >>> [(f.name, f.samples[0].value) for f in registry.collect()]
    [('hits_total', 3)]
    """

    def __init__(self) -> None:
        self._collects: list[Collect] = []

    def register(self, collect: Collect) -> None:
        """Add a function that yields families; it is called at each scrape."""
        self._collects.append(collect)

    def collect(self) -> Iterator[Family]:
        """All families; those of one name from several components are one, and what has equal
        labels is added up.

        Raises:
            ValueError: a name or label is not valid, or two components disagree on a kind.
        """
        named: dict[str, list[Family]] = {}
        for collect in list(self._collects):
            for found in collect():
                _check_names(found)
                known = named.setdefault(found.name, [])
                known.append(found)
                if known[0].kind != found.kind:
                    raise ValueError(f"{found.name} is a {known[0].kind} and a {found.kind}")
        return iter([_merged(families) for families in named.values()])


def _merged(families: Sequence[Family]) -> Family:
    if len(families) == 1:
        return families[0]
    values: dict[tuple[str, Labels], float] = {}
    for found in families:
        for suffix, labels, value in found.all_samples():
            values[suffix, labels] = values.get((suffix, labels), 0) + value
    samples = [Sample(suffix, labels, value) for (suffix, labels), value in values.items()]
    return families[0]._replace(samples=samples, buckets=())


def _check_names(found: Family) -> None:
    if _NAME.match(found.name) is None:
        raise ValueError(f"{found.name!r} is not a valid metric name")
    if found.kind == "counter" and not found.name.endswith("_total"):
        raise ValueError(f"{found.name} is a counter and must end in _total")  # OpenMetrics
    labels = [*[one.labels for one in found.samples], *[one.labels for one in found.buckets]]
    for label in {label for pairs in labels for label, _ in pairs}:
        if _LABEL.match(label) is None:
            raise ValueError(f"{label!r} is not a valid label name")
