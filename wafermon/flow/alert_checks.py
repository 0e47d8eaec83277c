"""What an alert may be about: rules that look at jobs, backends and counters.

As those in `alert_rules`; what they look at they are given as functions, so that they know nothing
of who keeps it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Callable, Optional

from wafermon.flow.alert_parts import Finding, Moment, Names, Sources, Window, printable
from wafermon.flow.duration import duration
from wafermon.flow.job_run import progress_of
from wafermon.message import Batch

#: Jobs that one rule follows, and those that it asks about each time.
MAX_JOBS, _JOBS_A_CHECK = 10_000, 200
#: A job in one of these may get into any other without a word.
_OPEN_STATES = ("running", "stalled")
_WORDS = {"stalled": "is stalled", "died": "has died", "failed": "has failed"}
#: For so long a job that is over is held against it.
HELD_SECONDS = 86_400.0
#: Reasons of drops that a message tells, those with the most first.
_TOLD_REASONS = 3


#: The state of a job of a source, and why it is in it; None for one that is not known.
Look = Callable[[str, str], Optional[tuple[str, Optional[str]]]]
#: The backends that are down, each with the reason.
Down = Callable[[], Mapping[str, str]]
#: How many messages were dropped up to now, by where and why.
Dropped = Callable[[], Mapping[str, int]]


class JobTrouble:
    """A job must not be stalled, died or failed.

    Who follows jobs is asked about each that goes by here, 200 a check, so with more of them than
    that it takes some checks until all have been asked about. A job that died or failed is not held
    against it for longer than a day: it may never run again.

    Args:
        states: those that it must not be in.
        job: its `job_id` or a pattern.
        source: that of its source, or a pattern.
        lasting: seconds that it has to be so.
        look: tells of one job.
        known: those that there are already, each with its source first.

    >>> rule = JobTrouble(["died"], "load", "*", 0.0, lambda src, job: ("died", "no goodbye"),
    ...                   known=[("etl", "load")])
    >>> [finding.message for finding in rule.check(Moment(0.0, 0.0))]
    ['job load of etl has died: no goodbye']
    """

    kind = "job"

    def __init__(
        self,
        states: Iterable[str],
        job: str,
        source: str,
        lasting: float,
        look: Look,
        known: Iterable[tuple[str, str]] = (),
    ) -> None:
        self._states = frozenset(states)
        self._look, self._job, self._source = look, Names(job), Sources(source)
        self.lasting = lasting
        #: Jobs that may come into such a state, the one asked about longest ago first.
        self._jobs: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._wrong: dict[tuple[str, str], Finding] = {}
        self.evicted = self.bad_payload = 0
        for source, job in known:
            self._follow(source, job)

    def observe(self, batch: Batch, moment: Moment) -> None:
        """Notice which jobs there are."""
        for message in batch.told.get("progress", ()):
            told = progress_of(message)
            if told is None:
                self.bad_payload += 1
            else:
                self._follow(message["src"], told.job_id)

    def check(self, moment: Moment) -> list[Finding]:
        """Which jobs are in trouble."""
        for _ in range(min(len(self._jobs), _JOBS_A_CHECK)):
            key, _ = self._jobs.popitem(last=False)
            if self._goes_on(key, moment.mono):
                self._jobs[key] = None
        return list(self._wrong.values())

    def value(self, subject: str, moment: Moment) -> Optional[float]:
        """None: a job has no number."""
        return None

    def inherit(self, other: JobTrouble, moment: Moment) -> None:
        """Since when jobs are in trouble; each is asked about at once."""
        for key, finding in other._wrong.items():
            self._follow(*key)
            if key in self._jobs:
                self._wrong[key] = finding
                if not self._goes_on(key, moment.mono):
                    del self._jobs[key]

    def _follow(self, source: str, job: str) -> None:
        key = source, job
        if key in self._jobs or not (self._job.has(job) and self._source.has(source)):
            return
        self._jobs[key] = None
        if len(self._jobs) > MAX_JOBS:
            gone, _ = self._jobs.popitem(last=False)
            self._wrong.pop(gone, None)
            self.evicted += 1

    def _goes_on(self, key: tuple[str, str], now: float) -> bool:
        """Ask about a job; whether to ask again."""
        source, job = key
        state, why = self._look(source, job) or ("", None)
        before = self._wrong.pop(key, None)
        if state not in self._states:
            return state in _OPEN_STATES
        since = now if before is None or before.since is None else before.since
        if state not in _OPEN_STATES and now - since > HELD_SECONDS:
            return False
        message = f"job {job} of {source} {_WORDS[state]}{f': {why}' if why else ''}"
        subject = printable(f"{job} of {source}")
        self._wrong[key] = Finding(subject, printable(message), None, since)
        return True


class BackendDown:
    """A backend must work.

    Args:
        backend: its name or a pattern.
        lasting: seconds that it has to be down.
        down: tells those that are down.

    >>> rule = BackendDown("*", 0.0, lambda: {"nas": "no space left"})
    >>> list(rule.check(Moment(0.0, 0.0)))[0].message
    'backend nas is down: no space left'
    """

    kind = "backend"
    evicted = bad_payload = 0

    def __init__(self, backend: str, lasting: float, down: Down) -> None:
        self._names, self._down = Names(backend), down
        self.lasting = lasting

    def observe(self, batch: Batch, moment: Moment) -> None:
        """Nothing: routes know of themselves."""

    def check(self, moment: Moment) -> Iterator[Finding]:
        """Which backends are down."""
        down = self._down()
        for name in self._names.among(down):
            message = f"backend {name} is down: {down[name]}"
            yield Finding(name if self._names.several else "", printable(message))

    def value(self, subject: str, moment: Moment) -> Optional[float]:
        """None: a backend has no number."""
        return None

    def inherit(self, other: BackendDown, moment: Moment) -> None:
        """Nothing: routes know of themselves."""


class Drops:
    """So many messages dropped within a time.

    Args:
        count: so many are too many.
        within: seconds.
        dropped: tells the drops since the start; what there is by now does not count.

    >>> drops = {"queue_full (backend nas)": 5}
    >>> rule = Drops(1, 60.0, lambda: drops)
    >>> list(rule.check(Moment(0.0, 0.0)))
    []
    >>> drops["queue_full (backend nas)"] = 8
    >>> list(rule.check(Moment(1.0, 1.0)))[0].message
    '3 messages dropped within 1 min: 3 queue_full (backend nas)'
    """

    kind = "drops"
    lasting = 0.0
    evicted = bad_payload = 0

    def __init__(self, count: int, within: float, dropped: Dropped) -> None:
        self._count, self._within, self._dropped = count, within, dropped
        self._before = dict(dropped())
        #: Of each place and reason that drops anything: there are a handful of reasons a backend.
        self._windows: dict[str, Window] = {}

    def observe(self, batch: Batch, moment: Moment) -> None:
        """Nothing: it is counted where it happens."""

    def check(self, moment: Moment) -> Iterator[Finding]:
        """Whether there were too many."""
        now = moment.mono
        for where, count in self._dropped().items():
            more = count - self._before.get(where, 0)  # below 0: a backend began anew
            self._before[where] = count
            if more > 0:
                self._windows.setdefault(where, Window(self._within)).add(now, more)
        totals = {where: window.total(now) for where, window in self._windows.items()}
        self._windows = {where: self._windows[where] for where, total in totals.items() if total}
        total = sum(totals.values())
        if total >= self._count:
            most = sorted(totals, key=lambda where: -totals[where])[:_TOLD_REASONS]
            words = ", ".join(f"{totals[where]} {where}" for where in most if totals[where])
            noun = "message" if total == 1 else "messages"
            message = f"{total} {noun} dropped within {duration(self._within)}: {words}"
            yield Finding("", printable(message), total)

    def value(self, subject: str, moment: Moment) -> Optional[float]:
        """How many there are in the window by now."""
        return sum(window.total(moment.mono) for window in self._windows.values())

    def inherit(self, other: Drops, moment: Moment) -> None:
        """The drops that were counted, and up to where."""
        self._before = other._before
        self._windows = {
            where: window.resized(self._within, moment.mono)
            for where, window in other._windows.items()
        }
