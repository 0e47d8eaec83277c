"""One source: what it sends, how often, and whether it is there.

| a source | is |
|---|---|
| that said goodbye, and whose other connections have ended too | `finished` |
| with an interval, silent for up to 2 x that + slack | `live` |
| with an interval, silent for up to 4 x that + slack | `late` |
| with an interval, silent for longer | `missing` |
| without, while one of its connections is open | `live` |
| without, until `missing_after` has passed since it was last connected and spoke | `live` |
| without, later, where it had promised nothing and left in order | `finished` |
| without, later else | `missing` |

An interval is the one that is expected by configuration, else the one that its heartbeats tell,
else the rhythm of its heartbeats, else that of all its messages. The last one is a guess, as
scripts change their pace: while a connection is open it makes a source `late`, never `missing`.
Who left in order, is not expected and has never sent a heartbeat has no interval: a script that
logs once and ends is no alarm. In order is an end of the connection that is no reset, and not that
of a session which owed a goodbye.
The slack is 2 s, and 10 s where the interval is learned. An expected source that has never come is
`late`, then `missing`.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple, Optional

from wafermon.flow.rhythm import Rhythm

MISSING, LATE, LIVE, FINISHED = "missing", "late", "live", "finished"
#: The states, the one first that somebody should look at first.
STATES = (MISSING, LATE, LIVE, FINISHED)

CONFIGURED, TOLD, LEARNED = "configured", "told", "learned"
LATE_INTERVALS, MISSING_INTERVALS = 2, 4
SLACK_SECONDS, LEARNED_SLACK_SECONDS = 2.0, 10.0
#: How many messages came in each of the last slots.
SLOTS, SLOT_SECONDS = 60, 5


class SourceState(NamedTuple):
    """What is known of a source. Times are monotonic seconds, None for never.

    Attributes:
        src: its name.
        state: `live`, `late`, `missing` or `finished`,
        since: since when.
        first_seen: its first message,
        last_seen: and its last one.
        connections: those that are open.
        interval_s: how often it should be heard of; None where that is not known.
        interval_from: `configured`, `told` or `learned`.
        messages: how many came,
        by_type: and how many of each type.
        per_s: messages per second lately: over 5 to 10 seconds.
    """

    src: str
    state: str
    since: float
    first_seen: Optional[float]
    last_seen: Optional[float]
    connections: int
    interval_s: Optional[float]
    interval_from: Optional[str]
    messages: int
    by_type: dict[str, int]
    per_s: float


class Link(NamedTuple):
    """How a source is and was connected to this sidecar itself.

    Attributes:
        connections: those that are open,
        joins: those that there ever were.
        left_at: when one ended last, in monotonic seconds; None for never.
        lived: how long that one lived, in seconds,
        abrupt: and whether it was cut off, or a session that owed a goodbye.
        seen: whether it was heard of at all.
        parted: whether its last word was a goodbye,
        parted_at: and when the last one came.
        finished_at: when the last one came after which it was `finished`, before it spoke again.
    """

    connections: int
    joins: int
    left_at: Optional[float]
    lived: float
    abrupt: bool
    seen: bool
    parted: bool
    parted_at: Optional[float]
    finished_at: Optional[float]


class Source:
    """What is remembered of one source.

    Args:
        src: its name.
        now: monotonic seconds.

    Thread: written on the loop, read on any.
    """

    __slots__ = (
        "abrupt",
        "all_beats",
        "by_type",
        "counts",
        "expected",
        "finished_at",
        "first",
        "generation",
        "heartbeats",
        "joins",
        "last",
        "leaving",
        "left_at",
        "live_since",
        "lived",
        "messages",
        "parted",
        "parted_at",
        "slot",
        "src",
        "told",
    )  # fmt: skip

    def __init__(self, src: str, now: float) -> None:
        self.src = src
        #: The last sign of life; before the first one, since when one is waited for.
        self.last = self.live_since = now
        self.first: Optional[float] = None
        self.messages = 0
        self.by_type: dict[str, int] = {}
        self.slot = 0
        self.counts = array("Q", bytes(8 * SLOTS))
        self.all_beats = Rhythm()
        self.heartbeats: Optional[Rhythm] = None
        self.told: Optional[float] = None
        self.expected: Optional[float] = None
        self.generation = -1
        self.joins = 0
        self.left_at: Optional[float] = None
        self.lived = 0.0
        self.abrupt = False
        self.finished_at: Optional[float] = None
        #: When it said goodbye, and whether it has said nothing since.
        self.parted_at: Optional[float] = None
        self.parted = False
        #: Connections that are open still, but have said goodbye.
        self.leaving = 0

    def roll(self, slot: int) -> None:
        """Another slot has begun; those in between were silent."""
        for gone in range(max(self.slot + 1, slot - SLOTS + 1), slot + 1):
            self.counts[gone % SLOTS] = 0
        self.slot = slot

    def rates(self, now: float) -> list[float]:
        """Messages per second in each slot, the oldest first; the last one has only begun."""
        slot, last, counts = int(now // SLOT_SECONDS), self.slot, self.counts[:]
        oldest = last - SLOTS + 1
        rates = [
            counts[at % SLOTS] / SLOT_SECONDS if oldest <= at <= last else 0.0
            for at in range(slot - SLOTS + 1, slot)
        ]
        begun = counts[slot % SLOTS] if last == slot else 0
        return [*rates, begun / max(1.0, now - slot * SLOT_SECONDS)]

    def per_s(self, now: float) -> float:
        """Messages per second in this slot and the one before."""
        slot = int(now // SLOT_SECONDS)
        wanted = [at for at in (slot - 1, slot) if self.slot - SLOTS < at <= self.slot]
        seconds = now - slot * SLOT_SECONDS + SLOT_SECONDS
        if self.first is not None:  # one that has just come is not measured by the time before
            seconds = max(1.0, min(seconds, now - self.first))
        return sum(self.counts[at % SLOTS] for at in wanted) / seconds

    def interval(self) -> tuple[Optional[float], Optional[str]]:
        """How often it should be heard of, in seconds, and how that is known."""
        if self.expected is not None:
            return self.expected, CONFIGURED
        if self.told is not None:
            return self.told, TOLD
        learned = self.heartbeats and self.heartbeats.interval
        learned = learned or self.all_beats.interval
        return learned, None if learned is None else LEARNED

    def state(self, connections: int, missing_after: float, now: float) -> tuple[str, float]:
        """Its state, and since when; the table on top.

        Args:
            connections: those that are open.
            missing_after: seconds after which it is missing where no interval is known.
            now: monotonic seconds.
        """
        left_at = self.left_at or 0.0
        if self.parted and connections <= self.leaving:
            return FINISHED, self.parted_at or self.last
        interval, origin = self.interval()
        left = not connections and self.left_at is not None
        promised = self.expected is not None or self.heartbeats is not None or self.abrupt
        if interval is None or (left and not promised):
            gone_at = max(self.last, left_at) + missing_after
            if connections or now <= gone_at:
                return LIVE, self.live_since
            return MISSING if promised or not left else FINISHED, gone_at
        slack = LEARNED_SLACK_SECONDS if origin == LEARNED else SLACK_SECONDS
        late_at = self.last + LATE_INTERVALS * interval + slack
        missing_at = self.last + MISSING_INTERVALS * interval + slack
        if origin == LEARNED and (self.heartbeats is None or self.heartbeats.interval is None):
            missing_at = max(missing_at, now if connections else left_at)
        if now > missing_at:
            return MISSING, missing_at
        if self.first is None:
            return LATE, self.last
        return (LATE, late_at) if now > late_at else (LIVE, self.live_since)
