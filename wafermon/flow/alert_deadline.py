"""What an alert may be about: a rule that looks at the calendar."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from typing import Optional

from wafermon.flow.alert_parts import Finding, Moment, Names
from wafermon.flow.job_run import DONE, progress_of
from wafermon.message import Batch

_DAY = datetime.timedelta(days=1)


class Deadline:
    """A job must be done by a time of the day, local time, on certain days of the week.

    A run that is done in the day before counts for it. One that is done too late ends the alert,
    and counts for nothing else. Days are those of the calendar, so they have 23 or 25 hours where
    the clocks change; a time that such a day leaves out comes an hour later, and of one that it has
    twice the first counts.

    Args:
        job: its `job_id`, or a pattern, which any of its jobs satisfies.
        hour: of the day.
        minute: of that hour.
        days: of the week, Monday is 0.
        now: Unix seconds; the first time is the next one after it.
        done: runs that were done before: the `job_id`, and when in Unix seconds. Which of them were
            too late is not known, so each counts for the time that follows.

    >>> noon = datetime.datetime(2026, 11, 23, 12).timestamp()  # a Monday
    >>> rule = Deadline("nightly-load", 6, 0, frozenset(range(5)), now=noon)
    >>> late = Moment(0.0, noon + 18.5 * 3600)
    >>> [finding.message for finding in rule.check(late)]
    ['nightly-load is not done, it was due on 2026-11-24 at 06:00']
    """

    kind = "deadline"
    lasting = 0.0
    evicted = 0

    def __init__(
        self,
        job: str,
        hour: int,
        minute: int,
        days: frozenset[int],
        now: float,
        done: Iterable[tuple[str, float]] = (),
    ) -> None:
        self._names = Names(job)
        self._time = datetime.time(hour, minute)
        self._days = days
        self._due, self._opens = self._next(now)
        self._done = any(at > self._opens and self._names.has(name) for name, at in done)
        self.bad_payload = 0

    def observe(self, batch: Batch, moment: Moment) -> None:
        """Notice a job that is done."""
        for message in batch.told.get("progress", ()):
            told = progress_of(message)
            if told is None:
                self.bad_payload += 1
            elif told.status == DONE and self._names.has(told.job_id):
                self._is_done(moment.unix)

    def _is_done(self, now: float) -> None:
        self._turn(now)
        if now > self._due:
            self._due, self._opens = self._next(now)
        elif now > self._opens:
            self._done = True

    def _turn(self, now: float) -> None:
        """What was done in time is settled: the next time counts."""
        if self._done and now > self._due:
            self._done = False
            self._due, self._opens = self._next(now)

    def check(self, moment: Moment) -> Iterator[Finding]:
        """Whether it is late."""
        now = moment.unix
        self._turn(now)
        late = now - self._due
        if late >= 0 and not self._done:
            due = datetime.datetime.fromtimestamp(self._due)
            message = f"{self._names.text} is not done, it was due on {due:%Y-%m-%d at %H:%M}"
            yield Finding("", message, late, moment.mono - late)
        elif late < -9 * 86_400:  # the clock was set back by days
            self._due, self._opens = self._next(now)

    def value(self, subject: str, moment: Moment) -> Optional[float]:
        """None: nothing is late any more."""
        return None

    def inherit(self, other: Deadline, moment: Moment) -> None:
        """That a job is late, where the whole day before the time that is due here went by without
        it; and what was done, where the same time comes next."""
        if self._names.text != other._names.text:
            return
        now = moment.unix
        other._turn(now)
        if other._due <= now:
            due, opens = self._previous(now)
            if opens >= other._opens:
                self._due, self._opens, self._done = due, opens, False
        elif (self._due, self._opens) == (other._due, other._opens):
            self._done = other._done  # which of the runs were too late it knows

    def _previous(self, now: float) -> tuple[float, float]:
        """The last time that it was due, and the same time of the day before."""
        day = datetime.datetime.fromtimestamp(now).date()
        while day.weekday() not in self._days or self._at(day) > now:
            day -= _DAY
        return self._at(day), self._at(day - _DAY)

    def _next(self, now: float) -> tuple[float, float]:
        """The next time that it is due, and the same time of the day before."""
        day = datetime.datetime.fromtimestamp(now).date()
        while day.weekday() not in self._days or self._at(day) <= now:
            day += _DAY
        return self._at(day), self._at(day - _DAY)

    def _at(self, day: datetime.date) -> float:
        return datetime.datetime.combine(day, self._time).timestamp()
