"""What the rules of alerts are made of: moments, findings, names and windows."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Optional, Protocol

from wafermon.flow.pattern import any_of, is_pattern
from wafermon.message import Batch

#: A window slides in so many steps.
STEPS = 60
#: So much of a foreign text is told.
MAX_WORDS = 200
#: How the sidecar's own sources begin.
_OWN = "wafermon."


class Moment(NamedTuple):
    """One moment by two clocks: `mono` counts seconds and never leaps, `unix` is the wall's."""

    mono: float
    unix: float


class Finding(NamedTuple):
    """Something that is wrong now.

    Attributes:
        subject: with what; empty where the rule is about one thing only.
        message: in words, printable.
        value: the number behind it, where there is one.
        since: monotonic seconds; None for as long as it was found without a break.
    """

    subject: str
    message: str
    value: Optional[float] = None
    since: Optional[float] = None


class Rule(Protocol):
    """One thing that should not be.

    Attributes:
        kind: a word for it.
        lasting: seconds that a finding has to last.
        evicted: what was forgotten because of a bound.
        bad_payload: messages that the rule is about but cannot be read.
    """

    kind: str
    lasting: float
    evicted: int
    bad_payload: int

    def observe(self, batch: Batch, moment: Moment) -> None:
        """See a batch. Loop thread, and most batches are none of its business: quick."""

    def check(self, moment: Moment) -> Iterable[Finding]:
        """What is wrong now; those that have been found longest come first. Loop thread."""

    def value(self, subject: str, moment: Moment) -> Optional[float]:
        """The number behind a subject that is well again; None where there is none."""

    def inherit(self, other: Any, moment: Moment) -> None:
        """Take over what another rule of the same class knows, as far as it means the same here.
        Before anything else is asked of this one. Loop thread."""


class Names:
    """Names that one name or pattern takes.

    >>> Names("db-*").among({"db-1": 7, "etl": 1})
    ['db-1']
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.several = is_pattern(text)
        fullmatch = any_of([text]).fullmatch
        # Bounded, and several times as fast: the same few names come over and over.
        self.has = functools.lru_cache(4096)(lambda name: fullmatch(name) is not None)

    def among(self, names: Mapping[str, object]) -> list[str]:
        """Those that are taken."""
        if self.several:
            return [name for name in names if self.has(name)]
        return [self.text] if self.text in names else []


class Sources(Names):
    """The same for names of sources; a pattern takes the sidecar's own, `wafermon.*`, only where it
    begins like them: they speak when there is something to tell.

    >>> Sources("*").among({"wafermon.alerts": 1, "etl": 1})
    ['etl']
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        if self.several and not text.startswith(_OWN):
            takes = self.has
            self.has = functools.lru_cache(4096)(
                lambda name: not name.startswith(_OWN) and takes(name)
            )


class Others(Names):
    """The same without the sidecar's own, whatever it begins like.

    A dead man's switch cannot wait for them: it would hear the very event by which it fires.

    >>> Others("*").among({"wafermon.alerts": 1, "etl": 1})
    ['etl']
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        takes = self.has
        self.has = functools.lru_cache(4096)(lambda name: not is_own(name) and takes(name))

    def among(self, names: Mapping[str, object]) -> list[str]:
        """Those that are taken."""
        return [] if is_own(self.text) else super().among(names)


def is_own(source: str) -> bool:
    """Whether a source, or all that a pattern takes, is of the sidecar itself."""
    return source.startswith(_OWN)


class Window:
    """How many within the last so many seconds; what came stays up to a 60th longer.

    >>> window = Window(60.0)
    >>> window.add(0.0, 3); window.add(30.0, 1)
    >>> window.total(60.0), window.total(62.0), window.total(99.0)
    (4, 1, 0)
    """

    def __init__(self, seconds: float) -> None:
        self._step = seconds / STEPS
        self._counts: deque[tuple[int, int]] = deque()
        self._total = 0

    def add(self, now: float, count: int) -> None:
        """Count so many now."""
        step = int(now // self._step)
        if self._counts and self._counts[-1][0] == step:
            count += self._counts.pop()[1]
        self._total = self.total(now) + count
        self._counts.append((step, count))

    def total(self, now: float) -> int:
        """How many there were."""
        oldest = int(now // self._step) - STEPS
        while self._counts and self._counts[0][0] < oldest:
            self._counts.popleft()
        self._total = sum([count for _, count in self._counts])
        return self._total

    def resized(self, seconds: float, now: float) -> Window:
        """One of another length, with what is known. It may stay by a step of this one longer."""
        other = Window(seconds)
        for step, count in self._counts:
            other.add(min(now, (step + 1) * self._step), count)
        return other


def printable(text: str) -> str:
    """A foreign text: bounded, and nothing in it that is not printable."""
    text = text if len(text) <= MAX_WORDS else text[: MAX_WORDS - 3] + "..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
