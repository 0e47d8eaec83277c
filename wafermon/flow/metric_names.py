"""Names that Prometheus takes, one of its own for each name that a user gave."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Hashable, Iterable, Iterator

#: What a family of each kind puts behind its name, by the rules of OpenMetrics.
SUFFIXES = {
    "gauge": ("",),
    "counter": ("", "_total", "_created"),
    "histogram": ("", "_bucket", "_sum", "_count", "_created"),
}
_INVALID = re.compile(r"[^a-zA-Z0-9_]+")


def valid(name: str, prefix: str) -> str:
    """A name out of ASCII letters, digits and `_` only.

    Args:
        name: anything.
        prefix: what stands before a name that would begin with a digit, or be empty.

    >>> valid("queue.depth/max", "metric"), valid("2nd", "metric"), valid("温度", "metric")
    ('queue_depth_max', 'metric_2nd', 'metric')
    """
    words = _INVALID.sub("_", name).strip("_")
    return words if words and not words[0].isdigit() else f"{prefix}_{words}".rstrip("_")


class Names:
    """Give each owner a name that no other has.

    Args:
        reserved: names that nobody gets.

    Thread: one.

    >>> names = Names()
    >>> names.give("queue.depth", "queue_depth"), names.give("queue-depth", "queue_depth")
    ('queue_depth', 'queue_depth_b826068d')
    >>> names.give("queue.depth", "queue_depth")
    'queue_depth'
    """

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._given: dict[Hashable, tuple[str, tuple[str, ...]]] = {}
        self._taken = set(reserved)
        #: Owners that did not get the name they wanted.
        self.clashes = 0

    def __len__(self) -> int:
        return len(self._given)

    def give(
        self, owner: Hashable, wanted: str, suffixes: tuple[str, ...] = ("",), second: str = ""
    ) -> str:
        """The name of an owner, the one that it has already or a new one.

        Args:
            owner: whose name it is.
            wanted: the name, where nobody has it.
            suffixes: the name is taken with each of these behind it.
            second: what is put behind the name where it is taken; a checksum of the owner after
                that, so that the name is the same another time.
        """
        known = self._given.get(owner)
        if known is not None:
            return known[0]
        for name in _candidates(owner, wanted, second):
            forms = tuple([name + suffix for suffix in suffixes])
            if self._taken.isdisjoint(forms):
                break
        self.clashes += name != wanted
        self._taken.update(forms)
        self._given[owner] = name, forms
        return name

    def take_back(self, owner: Hashable) -> None:
        """An owner needs its name no more."""
        self._taken.difference_update(self._given.pop(owner)[1])


def _candidates(owner: Hashable, wanted: str, second: str) -> Iterator[str]:
    yield wanted
    if second:
        yield f"{wanted}_{second}"
    checksum = f"{wanted}_{zlib.crc32(repr(owner).encode('utf-8')):08x}"
    yield checksum
    for number in itertools.count(2):
        yield f"{checksum}_{number}"
