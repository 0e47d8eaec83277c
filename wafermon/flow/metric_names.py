"""Names that Prometheus takes, one of its own for each name that a user gave."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Collection, Hashable, Iterable, Iterator
from typing import NamedTuple, TypeVar

Owner = TypeVar("Owner", bound=Hashable)


class _Kind(NamedTuple):
    """How a kind of metrics is named."""

    #: What stands first where a name is that of several kinds.
    rank: int
    #: What a family puts behind its name, by the rules of OpenMetrics.
    suffixes: tuple[str, ...]
    #: What is put behind a name that another one has. No name of a kind: `promtool check metrics`
    #: does not like these in a name.
    second: str


_KINDS = {
    "gauge": _Kind(0, ("",), "value"),
    "counter": _Kind(1, ("", "_total", "_created"), "added"),
    "histogram": _Kind(2, ("", "_bucket", "_sum", "_count", "_created"), "observed"),
}
#: What only the sidecar says of itself, to which alert rules listen, and what Prometheus adds to
#: each scrape and to the rules.
_OF_OTHERS = ("sidecar_", "process_", "scrape_")
_OF_PROMETHEUS = ("up", "ALERTS", "ALERTS_FOR_STATE")
#: Endings by which a reader takes a family for one of another kind.
_ENDINGS = ("_total", "_bucket", "_sum", "_count")
#: Labels with a meaning of their own.
_RESERVED_LABELS = ("src", "le", "quantile")
_INVALID = re.compile(r"[^a-zA-Z0-9_]+")
_HUMP = re.compile(r"(?<=[a-z])[A-Z]")


def valid(name: str, prefix: str) -> str:
    """A name out of ASCII letters, digits and `_` only, in the case that Prometheus uses.

    Args:
        name: anything.
        prefix: what stands before a name that would begin with a digit, or be empty.

    >>> valid("queue.depth/max", "metric"), valid("2nd", "metric"), valid("温度", "metric")
    ('queue_depth_max', 'metric_2nd', 'metric')
    >>> valid("lotId", "tag")
    'lot_id'
    """
    snake = _HUMP.sub(lambda hump: f"_{hump[0].lower()}", name)
    words = _INVALID.sub("_", snake).strip("_")
    return words if words and not words[0].isdigit() else f"{prefix}_{words}".rstrip("_")


def family_names(
    metrics: Iterable[tuple[str, str]], taken: Iterable[str] = ()
) -> dict[tuple[str, str], str]:
    """A name for the family of each metric, the same in whichever order they were told.

    Where two would be one, who is called so already comes first, then gauges, counters and
    histograms; a word for the kind is put behind the later one, or else a checksum.

    Args:
        metrics: name and kind (gauge, counter, histogram) of each.
        taken: names that none of them gets.

    >>> family_names([("rows", "counter"), ("rows", "gauge"), ("queue.depth", "gauge")])
    {('rows', 'gauge'): 'rows', ('rows', 'counter'): 'rows_added_total', \
('queue.depth', 'gauge'): 'queue_depth'}
    """
    wanted = {metric: _family_name(*metric) for metric in metrics}
    in_order = sorted(
        wanted, key=lambda one: (not _is_same(one[0], wanted[one]), _KINDS[one[1]].rank, one[0])
    )
    names = _distinct(
        [(one, wanted[one], _KINDS[one[1]].suffixes, _KINDS[one[1]].second) for one in in_order],
        taken,
    )
    return {one: f"{name}_total" if one[1] == "counter" else name for one, name in names.items()}


def label_names(tags: Collection[str]) -> dict[str, str]:
    """A name for the label of each tag of a family, the same in whichever order they were told.

    >>> label_names(["le", "a.b", "a_b"])
    {'a_b': 'a_b', 'a.b': 'a_b_f64b43cb', 'le': 'tag_le'}
    """
    wanted = {tag: _label_name(tag) for tag in tags}
    in_order = sorted(wanted, key=lambda tag: (wanted[tag] != tag, tag))
    return _distinct([(tag, wanted[tag], ("",), "") for tag in in_order], _RESERVED_LABELS)


def is_renamed(metric: tuple[str, str], name: str) -> bool:
    """Whether the family of a metric could not have the name that it would have alone."""
    alone = _family_name(*metric)
    return name != (f"{alone}_total" if metric[1] == "counter" else alone)


def _family_name(name: str, kind: str) -> str:
    wanted = valid(name, "metric")
    if kind == "counter" and wanted.endswith("_total"):
        wanted = wanted[: -len("_total")]
    elif kind != "counter" and wanted.endswith(_ENDINGS):
        wanted = f"{wanted}_value"
    if wanted.startswith(_OF_OTHERS) or wanted in _OF_PROMETHEUS:
        return f"user_{wanted}"
    return wanted


def _label_name(tag: str) -> str:
    wanted = valid(tag, "tag")
    return f"tag_{wanted}" if wanted in _RESERVED_LABELS else wanted


def _is_same(name: str, wanted: str) -> bool:
    return name in (wanted, f"{wanted}_total")


def _distinct(
    wishes: Iterable[tuple[Owner, str, tuple[str, ...], str]], taken: Iterable[str]
) -> dict[Owner, str]:
    """Give each owner a name that no other has.

    Args:
        wishes: the owner, the name that it wants, what that is taken with behind it, and what is
            put behind the name where somebody has it; a checksum of the owner after that.
        taken: names that nobody gets.
    """
    gone, given = set(taken), {}
    for owner, wanted, suffixes, second in wishes:
        for name in _candidates(owner, wanted, second):
            forms = [name + suffix for suffix in suffixes]
            if gone.isdisjoint(forms):
                break
        gone.update(forms)
        given[owner] = name
    return given


def _candidates(owner: Hashable, wanted: str, second: str) -> Iterator[str]:
    yield wanted
    if second:
        yield f"{wanted}_{second}"
    checksum = f"{wanted}_{zlib.crc32(repr(owner).encode('utf-8')):08x}"
    yield checksum
    for number in itertools.count(2):
        yield f"{checksum}_{number}"
