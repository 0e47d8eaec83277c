"""Metrics: families of samples, the kinds that need a class of their own, and the registry.

Components keep plain ints and yield families from a `collect()`; the registry pulls when it is
scraped and knows nothing of its own. There is no default registry.
"""

from __future__ import annotations

import bisect
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


class Family(NamedTuple):
    """All samples of one name. `kind` is `counter`, `gauge` or `histogram`."""

    name: str
    kind: str
    about: str
    samples: Sequence[Sample]


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
    >>> [(dict(s.labels).get("le"), s.value) for s in histogram.samples()]
    [('0.1', 1.0), ('1.0', 1.0), ('+Inf', 2.0), (None, 7.05), (None, 2.0)]
    """

    #: Seconds, from a local file to a server that is nearly gone.
    LATENCY = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

    def __init__(self, bounds: Sequence[float] = LATENCY) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self, labels: Labels = ()) -> list[Sample]:
        """The cumulative buckets, the sum and the count."""
        samples, total = [], 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), list(self._counts)):
            total += count
            samples.append(Sample("_bucket", (*labels, ("le", bound)), float(total)))
        samples.append(Sample("_sum", labels, self._sum))
        samples.append(Sample("_count", labels, float(total)))
        return samples


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
        merged: dict[str, Family] = {}
        for collect in list(self._collects):
            for found in collect():
                _check_names(found)
                known = merged.get(found.name)
                if known is None:
                    merged[found.name] = found
                elif known.kind != found.kind:
                    raise ValueError(f"{found.name} is a {known.kind} and a {found.kind}")
                else:
                    merged[found.name] = known._replace(
                        samples=_added([*known.samples, *found.samples])
                    )
        return iter(merged.values())


def _added(samples: Sequence[Sample]) -> list[Sample]:
    values: dict[tuple[str, Labels], float] = {}
    for suffix, labels, value in samples:
        values[suffix, labels] = values.get((suffix, labels), 0) + value
    return [Sample(suffix, labels, value) for (suffix, labels), value in values.items()]


def _check_names(found: Family) -> None:
    if _NAME.match(found.name) is None:
        raise ValueError(f"{found.name!r} is not a valid metric name")
    for sample in found.samples:
        for label, _ in sample.labels:
            if _LABEL.match(label) is None:
                raise ValueError(f"{label!r} is not a valid label name")
