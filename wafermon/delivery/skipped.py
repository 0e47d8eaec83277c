"""How many messages a route has left in the journal, by their numbers there."""

from __future__ import annotations

import collections
from collections.abc import Iterable

#: So many numbers and messages at the most are counted together: a lag of a million batches of one
#: message costs 10 MB.
SPAN_NUMBERS, SPAN_MESSAGES = 16, 100


class Skipped:
    """Count what is left behind, and tell what is missing where it was to be read again.

    Thread: any, one at a time.

    >>> skipped = Skipped()
    >>> for seq in (1, 2, 30):
    ...     skipped.add(seq, 10)
    >>> skipped.pass_to(1, found=10), skipped.total  # 10 are read back
    ((0, []), 20)
    >>> skipped.pass_to(29)  # 10 are not there any more
    (0, [(1, 10)])
    >>> skipped.pass_to(30, found=12), skipped.total  # 10, and 2 that nobody knew of
    ((2, []), 0)
    """

    def __init__(self) -> None:
        self.total = 0
        #: First and last number, and how many messages.
        self._spans: collections.deque[tuple[int, int, int]] = collections.deque()

    def add(self, seq: int, count: int) -> None:
        """Leave behind so many messages of a number, which is not lower than those before."""
        self.total += count
        first, last, before = self._spans[-1] if self._spans else (0, -1, 0)
        is_near = seq < first + SPAN_NUMBERS and before + count <= SPAN_MESSAGES
        if seq == last or (self._spans and is_near):  # parts of a batch stay together
            self._spans[-1] = (first, seq, before + count)
        else:
            self._spans.append((seq, seq, count))

    def add_before(self, found: Iterable[tuple[int, int]]) -> int:
        """Have messages of lower numbers, too; how many."""
        older = Skipped()
        for seq, count in found:
            older.add(seq, count)
        self._spans.extendleft(reversed(older._spans))
        self.total += older.total
        return older.total

    def pass_to(self, seq: int, found: int = 0) -> tuple[int, list[tuple[int, int]]]:
        """Go on to a number, with so many messages that were found on the way.

        Returns:
            How many of these had not been left behind; and first numbers, each with how many
            messages are missing from there on.
        """
        missing = []
        while self._spans and self._spans[0][0] <= seq:
            first, last, count = self._spans.popleft()
            here = min(found, count)
            self.total -= here
            found -= here
            if last > seq:
                self._spans.appendleft((first, last, count - here))
                break
            self.total -= count - here
            if count > here:
                missing.append((first, count - here))
        return found, missing
