"""What an alert may be about: rules that watch messages go by, and say what is wrong.

A rule holds no clock and knows no state of an alert: asked with a `Moment` it names its findings,
one for each subject (a source, a job, a backend) that something is wrong with. What may grow with
what comes over the wire has a bound.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Optional

from wafermon.flow.alert_parts import MAX_WORDS, Finding, Moment, Others, Sources, Window, printable
from wafermon.flow.duration import duration
from wafermon.flow.selection import event_rank
from wafermon.message import LEVELS, Batch, Message, level_rank

#: The source of what alerts tell. No rule about events sees it: that would never end.
ALERTS = "wafermon.alerts"
#: Sources that one rule waits for, and series of a metric that it holds for wrong.
MAX_SOURCES, MAX_SERIES = 10_000, 1_000
#: Numbers beyond are none that somebody measured, and no JSON.
_HUGE = 1e300


class Silence:
    """A source must be heard at least every so many seconds: a dead man's switch.

    Args:
        source: a name: it is waited for whatever it said last. A pattern: each source that came
            and has not said goodbye; until one comes, any.
        every: seconds.
        now: monotonic seconds; nobody is late before `every` has passed since then.

    >>> rule = Silence("config-service", 30.0, now=0.0)
    >>> [finding.message for finding in rule.check(Moment(31.0, 0.0))]
    ['config-service has been silent for 31 s']
    """

    kind = "silence"
    lasting = 0.0
    bad_payload = 0

    def __init__(self, source: str, every: float, now: float) -> None:
        self._names = Others(source)
        self._every = every
        self._began = now
        self._came = not self._names.several
        #: When each was heard last, the one that is silent longest first.
        self._heard: OrderedDict[str, float] = OrderedDict()
        if self._came:
            self._heard[source] = now
        self.evicted = 0

    def observe(self, batch: Batch, moment: Moment) -> None:
        """Hear the sources of a batch."""
        for source in self._names.among(batch.sources):
            self._heard[source] = moment.mono
            self._heard.move_to_end(source)
            self._came = True
        if self._names.several:
            # Of two connections of one name the other one brings it back with its next message.
            for message in batch.told.get("goodbye", ()):
                self._heard.pop(message["src"], None)
            while len(self._heard) > MAX_SOURCES:
                self._heard.popitem(last=False)
                self.evicted += 1

    def check(self, moment: Moment) -> Iterator[Finding]:
        """Who is silent."""
        if not self._came:
            silent = moment.mono - self._began
            if silent > self._every:
                message = f"no source {self._names.text} has come for {duration(silent)}"
                yield Finding("", message, silent, self._began + self._every)
        for source, heard in self._heard.items():
            silent = moment.mono - heard
            if silent <= self._every:
                return
            subject = source if self._names.several else ""
            message = f"{source} has been silent for {duration(silent)}"
            yield Finding(subject, message, silent, heard + self._every)

    def value(self, subject: str, moment: Moment) -> Optional[float]:
        """For how long it has been silent by now."""
        named = self._names.several == bool(subject)  # a reload may have made it another one
        heard = self._heard.get(subject or self._names.text) if named else None
        return None if heard is None else moment.mono - heard

    def inherit(self, other: Silence, moment: Moment) -> None:
        """When sources were heard last, and since when any is waited for."""
        if self._names.text == other._names.text:
            self._began, self._came = other._began, other._came
        for source, heard in other._heard.items():
            # One that is only waited for by its name did not come to a pattern.
            came = heard > other._began or other._names.several or not self._names.several
            if came and self._names.has(source):
                self._heard[source] = heard
                self._came = True


class Events:
    """So many events of a level, or a graver one, within a time.

    Args:
        source: a name or a pattern; all that it takes are counted together.
        level: the lowest level that counts.
        count: so many are too many.
        within: seconds.

    >>> rule = Events("*", "error", 1, 60.0)
    >>> rule.observe(Batch(
    ...     b'{"v":1,"src":"a","ts":1,"type":"event","data":{"level":"fatal","msg":"no disk"}}\\n'),
    ...     Moment(0.0, 0.0))
    >>> [finding.message for finding in rule.check(Moment(1.0, 1.0))]
    ['1 event of level error or graver within 1 min, the last one from a: no disk']
    """

    kind = "events"
    lasting = 0.0
    evicted = 0

    def __init__(self, source: str, level: str, count: int, within: float) -> None:
        self._names = Sources(source)
        self._level = level
        self._rank = level_rank(level)
        self._words = [f'"{word}"'.encode() for word in LEVELS[self._rank :]]
        self._count = count
        self._within = within
        self._window = Window(within)
        self._last = ""
        self.bad_payload = 0

    def observe(self, batch: Batch, moment: Moment) -> None:
        """Count events. Only a batch of a source that matters, with a word for a level that
        matters anywhere in its bytes, is decoded for it: 75 ns a message and word."""
        # Alerts that alerts set off would never end.
        sources = [source for source in self._names.among(batch.sources) if source != ALERTS]
        if not sources or not self._may_matter(batch.raw):
            return
        chosen, found, last = set(sources), 0, None
        for message in batch.messages:
            if message["type"] == "event" and message["src"] in chosen:
                rank = event_rank(message)
                if rank >= self._rank:
                    found, last = found + 1, message
                elif rank < 0:
                    self.bad_payload += 1
        if last is not None:
            self._window.add(moment.mono, found)
            said = last["data"].get("msg")
            self._last = f"{last['src']}: {said}" if isinstance(said, str) else last["src"]

    def check(self, moment: Moment) -> Iterator[Finding]:
        """Whether there were too many."""
        total = self._window.total(moment.mono)
        if total >= self._count:
            yield Finding(
                "",
                f"{total} {'event' if total == 1 else 'events'} of level {self._level} or graver"
                f" within {duration(self._within)}, the last one from {printable(self._last)}",
                total,
            )

    def value(self, subject: str, moment: Moment) -> Optional[float]:
        """How many there are in the window by now."""
        return self._window.total(moment.mono)

    def inherit(self, other: Events, moment: Moment) -> None:
        """The events that were counted, where the same ones count here."""
        if (self._names.text, self._rank) == (other._names.text, other._rank):
            self._window = other._window.resized(self._within, moment.mono)
            self._last = other._last

    def _may_matter(self, raw: bytes) -> bool:
        if any(word in raw for word in self._words):
            return True
        return b"\\" in raw and b"\\u00" in raw  # a level may be written with escapes


class MetricLimit:
    """A metric must stay within its bounds; what was told last counts until something else is.

    Args:
        metric: its name.
        source: a name or a pattern; each source, and each set of tags, is judged by itself.
        above: a value above this is wrong; None: none is.
        below: likewise.
        lasting: seconds that it has to be so without a break.

    >>> rule = MetricLimit("temp", "EQP*", 80.0, None, lasting=60.0)
    >>> rule.observe(Batch(
    ...     b'{"v":1,"src":"EQP7","ts":1,"type":"metric","data":{"name":"temp","value":81.5}}\\n'),
    ...     Moment(0.0, 0.0))
    >>> [(finding.subject, finding.message) for finding in rule.check(Moment(1.0, 1.0))]
    [('EQP7', 'temp of EQP7 is 81.5, above 80')]
    """

    kind = "metric"

    def __init__(
        self,
        metric: str,
        source: str,
        above: Optional[float],
        below: Optional[float],
        lasting: float,
    ) -> None:
        self._metric = metric
        self._names = Sources(source)
        self._above = float("inf") if above is None else above
        self._below = float("-inf") if below is None else below
        self.lasting = lasting
        #: Of the series that are out of bounds: since when, and what they were told last.
        self._wrong: dict[tuple[str, str], tuple[float, float]] = {}
        #: What the others were told last, the newest at the end: other bounds may come, and who
        #: was told that it was wrong wants to know what it is now.
        self._right: OrderedDict[tuple[str, str], float] = OrderedDict()
        self.evicted = self.bad_payload = 0

    def observe(self, batch: Batch, moment: Moment) -> None:
        """Take up the metric's values."""
        if not self._names.among(batch.sources):
            return
        for message in batch.told.get("metric", ()):
            if message["data"].get("name") == self._metric and self._names.has(message["src"]):
                self._take(message, moment.mono)
        gone = {message["src"] for message in batch.told.get("goodbye", ())}
        if gone:
            for series in [s for s in (*self._wrong, *self._right) if s[0] in gone]:
                self._wrong.pop(series, None)
                self._right.pop(series, None)

    def _take(self, message: Message, now: float) -> None:
        data = message["data"]
        value, tags = data.get("value"), data.get("tags", {})
        good = type(value) in (int, float) and abs(value) < _HUGE and type(tags) is dict
        if not good or not all(type(tag) is str for tag in tags.values()):
            self.bad_payload += 1
            return
        self._judge((message["src"], _joined(tags)), value, now)

    def _judge(self, series: tuple[str, str], value: float, now: float) -> None:
        if self._below <= value <= self._above:
            self._wrong.pop(series, None)
            self._right[series] = value
            self._right.move_to_end(series)
            if len(self._right) > MAX_SERIES:
                self._right.popitem(last=False)
        elif series in self._wrong or len(self._wrong) < MAX_SERIES:
            self._wrong[series] = self._wrong.get(series, (now, 0.0))[0], value
            self._right.pop(series, None)
        else:
            self.evicted += 1

    def check(self, moment: Moment) -> Iterator[Finding]:
        """Which series are out of bounds."""
        for (source, tags), (since, value) in self._wrong.items():
            high = value > self._above
            bound = f"above {self._above:g}" if high else f"below {self._below:g}"
            subject = _subject((source, tags))
            message = f"{self._metric} of {subject} is {value:g}, {bound}"
            yield Finding(printable(subject), printable(message), value, since)

    def value(self, subject: str, moment: Moment) -> Optional[float]:
        """What it was told last, unless its source said goodbye."""
        for series in reversed(self._right):  # who is asked about is among the last ones
            if printable(_subject(series)) == subject:
                return self._right[series]
        return None

    def inherit(self, other: MetricLimit, moment: Moment) -> None:
        """The last values of the same metric; what was wrong and is wrong here is so since then."""
        if self._metric != other._metric:
            return
        for series, value in other._right.items():
            if self._names.has(series[0]):
                self._judge(series, value, moment.mono)
        for series, (since, value) in other._wrong.items():
            if self._names.has(series[0]):
                self._judge(series, value, since)


def _subject(series: tuple[str, str]) -> str:
    """A source with its tags."""
    return " ".join(filter(None, series))


def _joined(tags: Mapping[str, str]) -> str:
    """Tags in one text, whatever their order; what is too long is told apart no more."""
    return " ".join(f"{key}={tags[key]}" for key in sorted(tags))[:MAX_WORDS]
