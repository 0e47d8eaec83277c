"""Presence: which sources are there, which are late, which are missing, and which have finished.

The states are those of `source.py`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from re import Pattern
from typing import NamedTuple, Optional

from wafermon.flow.capped import Capped
from wafermon.flow.pattern import any_of, is_pattern
from wafermon.flow.rhythm import Rhythm
from wafermon.flow.source import (
    FINISHED,
    LIVE,
    SLOT_SECONDS,
    SLOTS,
    STATES,
    Link,
    Source,
    SourceState,
)
from wafermon.message import Batch, Message
from wafermon.observe import Family, Sample, family

#: An interval that is longer tells nothing.
MAX_INTERVAL_SECONDS = 31 * 86_400.0
#: Whoever was silent for less needs no look at what that means.
PAUSE_SECONDS = 2.0
#: Sources with a series of their own on /metrics.
MAX_SERIES = 200
#: The sidecar's own sources have no presence: they speak when there is something to tell.
OWN = "wafermon."


class Expected(NamedTuple):
    """Sources that should be heard of: a name or a pattern, and at least how often, in seconds."""

    src: str
    every: float


class Presence:
    """Follow all sources: who is there, how much they send, how often they should.

    States are worked out when somebody asks, so a source that is silent costs nothing.

    Args:
        expected: sources that should be heard of. One whose name is no pattern is `missing` even
            if it never comes.
        missing_after: seconds after which a source without an interval, gone without a goodbye,
            is missing.
        max_sources: sources remembered; past it those go first that have finished, then the one
            unheard of longest.
        now: monotonic seconds.

    Thread: `observe`, `joined`, `left` and `configure` loop only; all else any.

    >>> presence = Presence(now=0.0)
    >>> presence.observe(Batch(
    ...     b'{"v":1,"src":"a","ts":5,"type":"heartbeat","data":{"interval_s":10}}\\n'), now=0.0)
    >>> [presence.state("a", now) for now in (22.0, 42.0, 43.0)]
    ['live', 'late', 'missing']
    """

    def __init__(
        self,
        expected: Iterable[Expected] = (),
        *,
        missing_after: float = 300.0,
        max_sources: int = 10_000,
        now: float = 0.0,
    ) -> None:
        self._sources: Capped[str, Source] = Capped(max_sources)
        #: Open connections by source.
        self._open: dict[str, int] = {}
        #: Heartbeats whose `interval_s` is none.
        self.bad_payload = 0
        self._generation = 0
        self._expected: list[tuple[Pattern[str], float]] = []
        self._missing_after = missing_after
        self.configure(expected, missing_after=missing_after, max_sources=max_sources, now=now)

    # -- the loop thread -----------------------------------------------------------------------

    def configure(
        self,
        expected: Iterable[Expected],
        *,
        missing_after: float,
        max_sources: int,
        now: float,
    ) -> None:
        """Go on by other settings; what is known stays known. Arguments as above."""
        expected = list(expected)
        self._missing_after = missing_after
        self._sources.resize(max_sources)
        # As in routing: a name beats a pattern, a longer pattern a shorter one.
        ranked = sorted(expected, key=lambda one: (is_pattern(one.src), -len(one.src)))
        self._expected = [(any_of([one.src]), one.every) for one in ranked]
        self._generation += 1
        named = {one.src for one in expected}
        for source in self._sources.values():
            if source.first is None and not source.joins and source.src not in named:
                self._sources.drop(source.src)  # nobody but an earlier configuration knew of it
        for one in expected:
            if not is_pattern(one.src) and self._sources.get(one.src) is None:
                self._sources.add(one.src, Source(one.src, now))

    def observe(self, batch: Batch, now: float) -> None:
        """Count a batch. `now` is monotonic seconds."""
        told, slot = batch.told, int(now // SLOT_SECONDS)
        for src, count in batch.sources.items():
            source = self._sources.get(src)
            if source is None:
                if src.startswith(OWN):
                    continue
                source = self._add(src, now)
            else:
                self._sources.touch(src)
            self._seen(source, count, slot, now)
        if told:
            self._count_types(batch, told)
            for message in told.get("heartbeat", ()):
                self._heard(message, now)
            for message in told.get("goodbye", ()):
                self._parted(message["src"], now)
        else:
            for src, count in batch.sources.items():
                self._count(src, "event", count)

    def joined(self, src: str, now: float) -> None:
        """The first message of this source on a connection has come."""
        if src.startswith(OWN):
            return
        source = self._sources.get(src) or self._add(src, now)
        self._speaks(source, now)
        self._open[src] = self._open.get(src, 0) + 1
        source.joins += 1

    def left(self, src: str, lived: float, now: float, abrupt: bool = False) -> None:
        """A connection of this source has ended, so many seconds after its first message there;
        whether it was cut off, or a session that owed a goodbye."""
        still = self._open.pop(src, 0) - 1
        if still > 0:
            self._open[src] = still
        source = self._sources.get(src)
        if source is not None:
            source.left_at, source.lived, source.abrupt = now, lived, abrupt
            source.leaving = max(0, source.leaving - 1)

    def _add(self, src: str, now: float) -> Source:
        source = Source(src, now)
        source.slot = int(now // SLOT_SECONDS)
        self._sources.add(src, source)
        return source

    def _seen(self, source: Source, count: int, slot: int, now: float) -> None:
        if now - source.last > PAUSE_SECONDS or source.parted:
            self._return(source, now)
        if source.first is None:
            source.first = source.live_since = now
        source.last = now
        source.messages += count
        if slot != source.slot:
            source.roll(slot)
        source.counts[slot % SLOTS] += count
        source.all_beats.beat(now)

    def _return(self, source: Source, now: float) -> None:
        """One speaks again after a pause."""
        self._speaks(source, now)
        if source.parted:
            source.parted = False
            self._sources.go_on(source.src)

    def _speaks(self, source: Source, now: float) -> None:
        """One that may not be live is so from now on."""
        state, since = self._state(source, now)
        if state == FINISHED and source.parted:
            source.finished_at = since
        if state != LIVE:
            source.live_since = now

    def _count_types(self, batch: Batch, told: dict[str, list[Message]]) -> None:
        """Count by type. Nobody looks into events: they are the rest."""
        rest = dict(batch.sources)
        for kind, messages in told.items():
            if len(rest) == 1:
                counts = dict.fromkeys(rest, len(messages))
            else:
                counts = Counter([message["src"] for message in messages])
            for src, count in counts.items():
                rest[src] -= count
                self._count(src, kind, count)
        for src, count in rest.items():
            if count:
                self._count(src, "event", count)

    def _count(self, src: str, kind: str, count: int) -> None:
        source = self._sources.get(src)
        if source is not None:
            source.by_type[kind] = source.by_type.get(kind, 0) + count

    def _heard(self, message: Message, now: float) -> None:
        """A heartbeat: it may tell when the next one is due."""
        source = self._sources.get(message["src"])
        if source is None:
            return
        if source.heartbeats is None:
            source.heartbeats = Rhythm()
        source.heartbeats.beat(now)
        interval = message.get("data", {}).get("interval_s")
        if type(interval) in (int, float) and 0 < interval <= MAX_INTERVAL_SECONDS:
            source.told = float(interval)
        elif interval is not None:
            self.bad_payload += 1

    def _parted(self, src: str, now: float) -> None:
        source = self._sources.get(src)
        if source is not None:
            source.parted, source.parted_at = True, now
            source.leaving = min(source.leaving + 1, self._open.get(src, 0))
            self._sources.end(src)

    # -- any thread ----------------------------------------------------------------------------

    @property
    def evicted(self) -> int:
        """Sources that were forgotten, as there were too many."""
        return self._sources.evicted

    def __len__(self) -> int:
        return len(self._sources)

    def state(self, src: str, now: float) -> Optional[str]:
        """`live`, `late`, `missing` or `finished`; None for a source that is not known.

        Args:
            src: its name.
            now: monotonic seconds.
        """
        source = self._sources.get(src)
        return None if source is None else self._state(source, now)[0]

    def since(self, src: str, now: float) -> Optional[float]:
        """Since when it is in its state, in monotonic seconds; None where it is not known."""
        source = self._sources.get(src)
        return None if source is None else self._state(source, now)[1]

    def link(self, src: str) -> Optional[Link]:
        """How a source is connected; None where it is not known."""
        source = self._sources.get(src)
        if source is None:
            return None
        connections = self._open.get(src, 0)
        return Link(
            connections,
            source.joins,
            source.left_at,
            source.lived,
            source.abrupt,
            source.first is not None,
            source.parted,
            source.parted_at,
            source.finished_at,
        )

    def one(self, src: str, now: float) -> Optional[SourceState]:
        """A source as it is; None where it is not known. `now` is monotonic seconds."""
        source = self._sources.get(src)
        return None if source is None else self._view(source, now)

    def counts(self, now: float) -> dict[str, int]:
        """How many sources are in each state. With 10,000 of them it takes some 30 ms."""
        found = dict.fromkeys(STATES, 0)
        for source in self._sources.values():
            found[self._state(source, now)[0]] += 1
        return found

    def view(self, now: float) -> list[SourceState]:
        """All sources as they are; the order is none. With 10,000 of them it takes some 90 ms, so
        ask on a thread that has them, or for the `state` of one.

        Args:
            now: monotonic seconds.
        """
        return [self._view(source, now) for source in self._sources.values()]

    def rates(self, src: str, now: float) -> list[float]:
        """Messages per second in each of the last 60 slots of 5 s, the oldest first."""
        source = self._sources.get(src)
        return [0.0] * SLOTS if source is None else source.rates(now)

    def _view(self, source: Source, now: float) -> SourceState:
        state, since = self._state(source, now)
        interval, origin = source.interval()
        return SourceState(
            source.src,
            state,
            since,
            source.first,
            None if source.first is None else source.last,
            self._open.get(source.src, 0),
            interval,
            origin,
            source.messages,
            dict(source.by_type),
            source.per_s(now),
        )

    def _state(self, source: Source, now: float) -> tuple[str, float]:
        """The state of a source, and since when."""
        if source.generation != self._generation:
            fitting = [every for names, every in self._expected if names.fullmatch(source.src)]
            source.expected = fitting[0] if fitting else None
            source.generation = self._generation
        return source.state(self._open.get(source.src, 0), self._missing_after, now)

    def collect(self, now: float, unix: float) -> list[Family]:
        """Yield the sources by state, and when each was last seen.

        Args:
            now: monotonic seconds.
            unix: the same moment in Unix seconds.
        """
        oldest = heapq.nsmallest(
            MAX_SERIES,
            [source for source in self._sources.values() if source.first is not None],
            key=_first,
        )
        return [
            family("sidecar_sources", "gauge", "Sources by state.", self.counts(now), "state"),
            Family(
                "sidecar_source_last_seen_timestamp_seconds",
                "gauge",
                "When a source was last heard of, in Unix seconds; the 200 known longest.",
                _stamped(oldest, now, unix),
            ),
            family(
                "sidecar_sources_evicted_total",
                "counter",
                "Sources that were forgotten, as there were too many.",
                {"": self.evicted},
            ),
            family(
                "sidecar_heartbeats_bad_payload_total",
                "counter",
                "Heartbeats whose interval_s is no such thing.",
                {"": self.bad_payload},
            ),
        ]


def _first(source: Source) -> float:
    return source.last if source.first is None else source.first


def _stamped(sources: Sequence[Source], now: float, unix: float) -> list[Sample]:
    return [
        Sample("", (("source", source.src),), round(unix - (now - source.last), 3))
        for source in sorted(sources, key=lambda source: source.src)
    ]
