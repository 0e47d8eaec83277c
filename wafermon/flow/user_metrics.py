"""The `metric` and `resource` messages as series: a page that Prometheus scrapes, and charts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Optional

from wafermon.flow.metric_names import family_names, is_renamed, label_names
from wafermon.flow.series import Owner, Pairs, Series, number, pairs
from wafermon.message import Batch, Message, is_name
from wafermon.observe import Family, Sample, family

#: The `kind` of what comes by `resource` messages; a gauge of the sidecar's own naming.
RESOURCE = "resource"
CPU, MEMORY, DISK, NET = (
    "resource_cpu_percent", "resource_memory_bytes", "resource_disk", "resource_net"
)  # fmt: skip
_ABOUT = {
    CPU: "Processor use that a source told, in percent of one core.",
    MEMORY: "Memory that a source told, in bytes.",
    DISK: "What a source told of disks, by name.",
    NET: "What a source told of networks, by name.",
}
#: Tags of one series, names in one `disk` or `net`, names of tags in one family.
MAX_TAGS, MAX_PARTS, MAX_LABELS = 16, 64, 64
#: Bound of the memory, by series; one without tags takes 2,500 bytes, 1,920 of these its points.
BYTES_A_SERIES = 4_096
_BASE_BYTES, _CHAR_BYTES = 2_500, 4
#: Series that are looked at in one batch, whether they are stale.
_EXPIRE_AT_A_TIME = 20


class _Family:
    """What stands under one name on the page: `labels` are by the tags that its series have."""

    __slots__ = ("about", "kind", "labels", "size")

    def __init__(self, name: str, kind: str, unit: str) -> None:
        self.kind = "gauge" if kind == RESOURCE else kind
        measured = f" in {unit}" if unit else ""
        about = f"The {kind} {name}{measured} of the sources."
        self.about = _ABOUT[name] if kind == RESOURCE else about
        self.labels: Mapping[str, str] = {}
        self.size = 0

    def name_tags(self, tags: Pairs) -> None:
        """Have labels for these tags, too. Replaced whole, as somebody may read meanwhile."""
        if any(tag not in self.labels for tag, _ in tags):
            self.labels = label_names({*self.labels, *[tag for tag, _ in tags]})


class _Seen(NamedTuple):
    """A series with what it stands under."""

    series: Series
    family: _Family

    def shown_labels(self) -> Pairs:
        """What stands beside its values on the page."""
        owner, labels = self.series.owner, self.family.labels
        return (("src", owner.src), *[(labels[tag], value) for tag, value in owner.tags])


class UserMetrics:
    """Keep the last values of what sources measure, bounded in every way.

    A series is what one source tells under one name, of one kind, with one set of tags. Names and
    tags become valid, each its own, as `metric_names` has it. One source gets half of the series at
    most, so that a script that puts a lot's number in a tag leaves room for others.

    Args:
        max_series: series that are kept; past it, or past 4 KiB a series, the one that was silent
            longest goes.
        stale_seconds: a series that is silent for so long is dropped.

    Thread: loop only; `expose`, `series` and `collect` any.

    >>> metrics = UserMetrics()
    >>> metrics.observe(Batch(
    ...     b'{"v":1,"src":"etl","ts":1,"type":"metric","data":{"name":"rows","value":3,'
    ...     b'"kind":"counter","tags":{"tool":"EQP07"}}}\\n', received_ms=1), now=0.0)
    >>> metrics.expose(now=1.0)[0].samples
    [Sample(suffix='', labels=(('src', 'etl'), ('tool', 'EQP07')), value=3.0)]
    """

    def __init__(self, *, max_series: int = 1_000, stale_seconds: float = 300.0) -> None:
        self._max_series = max_series
        self._stale_seconds = stale_seconds
        self._known: OrderedDict[Owner, _Seen] = OrderedDict()
        self._by_source: dict[str, int] = {}
        self._families: dict[tuple[str, str], _Family] = {}
        self._bytes = 0
        #: Values that were not taken up, by reason.
        self.left_out = {"bad_payload": 0, "too_many": 0}
        #: Series that were dropped, by reason.
        self.evicted = {"full": 0, "stale": 0}

    def follow(self, max_series: int, stale_seconds: float) -> None:
        """Have other bounds; what is known stays as far as they let it."""
        self._max_series, self._stale_seconds = max_series, stale_seconds
        self._shrink()

    # -- the way in ----------------------------------------------------------------------------

    def observe(self, batch: Batch, now: float) -> None:
        """Take up what was measured; `now` is monotonic seconds."""
        self._expire(now)
        told = batch.told
        for message in told.get("metric", ()):
            if not self._metric(message, batch.received_ms, now):
                self.left_out["bad_payload"] += 1
        for message in told.get("resource", ()):
            if not self._resource(message, batch.received_ms, now):
                self.left_out["bad_payload"] += 1

    def _metric(self, message: Message, ms: int, now: float) -> bool:
        data = message["data"]
        value, tags = number(data.get("value")), data.get("tags", {})
        kind = data.get("kind", "gauge")
        if value != value or type(tags) is not dict or kind == RESOURCE:
            return False
        owner = Owner(message["src"], data.get("name"), kind, pairs(tags))
        try:
            seen = self._known.get(owner)
        except TypeError:  # a list where a text belongs
            return False
        if seen is None:
            if not _fits(owner, data.get("unit", "")):
                return False
            seen = self._begin(owner, data.get("unit", ""))
        return seen is None or self._add(owner, seen, value, ms, now)

    def _resource(self, message: Message, ms: int, now: float) -> bool:
        good, src = True, message["src"]
        for name, tags, told in _parts(message["data"]):
            value, owner = number(told), Owner(src, name, RESOURCE, tags)
            seen = self._known.get(owner)
            if value != value or not all(is_name(told) for _, told in tags):
                good = False
                continue
            seen = seen or self._begin(owner, "")
            good &= seen is None or self._add(owner, seen, value, ms, now)
        return good

    def _add(self, owner: Owner, seen: _Seen, value: float, ms: int, now: float) -> bool:
        self._known.move_to_end(owner)
        return seen.series.add(value, ms, now)

    def _begin(self, owner: Owner, unit: str) -> Optional[_Seen]:
        """A series for an owner that has none; None where its source has too many."""
        held = self._by_source.get(owner.src, 0)
        under = self._families.get((owner.name, owner.kind))
        full = under is not None and len(under.labels) >= MAX_LABELS
        if full or held >= max(1, self._max_series // 2):
            self.left_out["too_many"] += 1
            return None
        if under is None:
            under = _Family(owner.name, owner.kind, unit)
            self._families[owner.name, owner.kind] = under
        under.name_tags(owner.tags)
        seen = _Seen(Series(owner, unit), under)
        self._known[owner] = seen
        self._by_source[owner.src] = held + 1
        under.size += 1
        self._bytes += _BASE_BYTES + _CHAR_BYTES * seen.series.chars
        self._shrink()
        return seen

    # -- the way out ---------------------------------------------------------------------------

    def _expire(self, now: float) -> None:
        for _ in range(_EXPIRE_AT_A_TIME):
            seen = next(iter(self._known.values()), None)
            if seen is None or seen.series.touched > now - self._stale_seconds:
                return
            self._drop("stale")

    def _shrink(self) -> None:
        while len(self._known) > self._max_series or (
            self._bytes > self._max_series * BYTES_A_SERIES and len(self._known) > 1
        ):
            self._drop("full")

    def _drop(self, reason: str) -> None:
        """Drop the series that was silent longest."""
        owner, (series, under) = self._known.popitem(last=False)
        self.evicted[reason] += 1
        self._bytes -= _BASE_BYTES + _CHAR_BYTES * series.chars
        left = self._by_source.pop(owner.src) - 1
        if left:
            self._by_source[owner.src] = left
        under.size -= 1
        if not under.size:
            del self._families[owner.name, owner.kind]

    # -- what others see -----------------------------------------------------------------------

    def series(self, now: float) -> list[Series]:
        """All series that are not stale, the one that was silent longest first."""
        return [seen.series for seen in self._fresh(now)]

    def expose(self, now: float) -> list[Family]:
        """The families of the page that a Prometheus scrapes."""
        found: dict[tuple[str, str], list[_Seen]] = {}
        for seen in self._fresh(now):
            owner = seen.series.owner
            found.setdefault((owner.name, owner.kind), []).append(seen)
        names = _names(found)
        return [_shown(names[key], found[key]) for key in sorted(found, key=lambda key: names[key])]

    def _fresh(self, now: float) -> list[_Seen]:
        since = now - self._stale_seconds
        return [seen for seen in list(self._known.values()) if seen.series.touched > since]

    def collect(self) -> list[Family]:
        """Yield how many there are, and the bounds that were hit."""
        names = _names(list(self._families))  # a copy in one step
        return [
            family(
                "sidecar_user_series",
                "gauge",
                "Series of metric and resource messages that are kept.",
                {"": len(self._known)},
            ),
            family(
                "sidecar_user_series_evicted_total",
                "counter",
                "Series of metric and resource messages that were dropped, by reason.",
                self.evicted,
                "reason",
            ),
            family(
                "sidecar_user_metrics_left_out_total",
                "counter",
                "Metric and resource messages that are no series, by reason.",
                self.left_out,
                "reason",
            ),
            family(
                "sidecar_user_metric_name_clashes",
                "gauge",
                "Metrics that have another name than alone, as theirs is that of another one.",
                {"": sum(is_renamed(key, name) for key, name in names.items())},
            ),
        ]


def _names(metrics: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The names of families by names and kinds of metrics: nobody else gets those of resources."""
    names = family_names([metric for metric in metrics if metric[1] != RESOURCE], _ABOUT)
    return {**names, **{(name, RESOURCE): name for name in _ABOUT}}


def _shown(name: str, under_it: list[_Seen]) -> Family:
    """A family with all its series."""
    kind, about = under_it[0].family.kind, under_it[0].family.about
    if kind == "histogram":
        return Family(name, kind, about, (), [s.series.buckets(s.shown_labels()) for s in under_it])
    samples = [Sample("", seen.shown_labels(), seen.series.value) for seen in under_it]
    return Family(name, kind, about, samples)


def _fits(owner: Owner, unit: object) -> bool:
    """Whether it is a metric by protocol section 3; its texts keep to the rule of `src`."""
    return (
        is_name(owner.name)
        and owner.kind in ("gauge", "counter", "histogram")
        and (unit == "" or is_name(unit))
        and len(owner.tags) <= MAX_TAGS
        and all(is_name(tag) and is_name(value) for tag, value in owner.tags)
    )


def _parts(data: Mapping[str, Any]) -> Iterator[tuple[str, Pairs, object]]:
    """What a `resource` message tells: name, tags and value of each; a value of None, where it is
    nothing that can be read."""
    for key, name in (("cpu", CPU), ("mem", MEMORY)):
        if key in data:
            yield name, (), data[key]
    for key, name in (("disk", DISK), ("net", NET)):
        parts = data.get(key, {})
        if type(parts) is not dict or len(parts) > MAX_PARTS:
            yield name, (), None
            continue
        for part, value in parts.items():
            yield name, (("name", part),), value
