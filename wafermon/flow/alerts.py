"""Alerts: what became of the findings of rules, and what there is to tell of them.

One alert is a rule and a subject of it:

| state | found for less than `lasting` | found for longer | not found |
|---|---|---|---|
| `ok` | `pending` | `firing`, told | |
| `pending` | | `firing`, told | `ok` |
| `firing` | | | `ok`, told as `resolved` |

So it is told once however long it stands, and once when it is over. That it is over is told also
where its rule goes, or becomes one to which it is not wrong: nobody would tell it otherwise.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Callable, NamedTuple, Optional

from wafermon.flow.alert_parts import Finding, Moment, Rule
from wafermon.flow.duration import duration
from wafermon.message import Batch
from wafermon.observe import Family, family

OK, PENDING, FIRING, RESOLVED = "ok", "pending", "firing", "resolved"
#: The states, the one first that somebody should look at first.
STATES = (FIRING, PENDING, OK)
#: Subjects that one rule is told of at a time.
MAX_SUBJECTS = 500
#: What was told last is remembered.
MAX_RECENT = 100
_REMOVED, _CHANGED = "the rule was removed by a reload: ", "the rule was changed by a reload: "


class Plan(NamedTuple):
    """A rule that is wanted.

    Attributes:
        key: what it is made of. A rule with an equal one goes on.
        make: makes it.
    """

    key: object
    make: Callable[[Moment], Rule]


class Change(NamedTuple):
    """Something to tell. Times are Unix seconds.

    Attributes:
        name: of the rule,
        kind: and what kind it is.
        subject: with what something is wrong; empty where the rule is about one thing.
        state: `firing` or `resolved`.
        message: in words.
        value: the number behind it, as it is at that time.
        since: when it began.
        at: when it is told.
    """

    name: str
    kind: str
    subject: str
    state: str
    message: str
    value: Optional[float]
    since: float
    at: float


class Row(NamedTuple):
    """An alert as it is. Times are Unix seconds, None for never; `fired` is that of its rule."""

    name: str
    kind: str
    subject: str
    state: str
    since: float
    message: str
    value: Optional[float]
    fired: int
    last_fired: Optional[float]


class _Alert(NamedTuple):
    """A subject that something is wrong with, since when in monotonic and in Unix seconds."""

    state: str
    began: float
    since: float
    finding: Finding


class _Entry:
    """A rule with its alerts. Written on the loop thread."""

    def __init__(self, name: str, key: object, rule: Rule, now: Moment) -> None:
        self.name, self.key, self.rule = name, key, rule
        #: Those that are not ok.
        self.alerts: dict[str, _Alert] = {}
        self.ok_since = now.unix
        self.fired = 0
        self.last_fired: Optional[float] = None
        #: Times that there were more subjects than may be told of, and whether there are.
        self.left_out = 0
        self._full = False

    def inherit(self, other: _Entry, now: Moment) -> list[Change]:
        """Take the place of another one of the same name; what that has to tell."""
        self.fired, self.last_fired = other.fired, other.last_fired
        if type(self.rule) is not type(other.rule):
            return other.end(_CHANGED, now)
        self.rule.inherit(other.rule, now)
        self.alerts, self.ok_since = other.alerts, other.ok_since
        return list(self.look(now, _CHANGED))

    def end(self, words: str, now: Moment) -> list[Change]:
        """Tell of all that fires that it is over."""
        firing = [alert for alert in self.alerts.values() if alert.state == FIRING]
        return [self._change(alert, RESOLVED, words, now, alert.finding.value) for alert in firing]

    def look(self, now: Moment, why: str = "") -> Iterator[Change]:
        """Ask the rule, and tell what is new.

        Args:
            why: what is over is over, where it is not for what was wrong.
        """
        findings = iter(self.rule.check(now))
        found = {one.subject: one for one in itertools.islice(findings, MAX_SUBJECTS)}
        full = next(findings, None) is not None
        self.left_out += full and not self._full
        self._full = full
        for subject in [subject for subject in self.alerts if subject not in found]:
            alert = self.alerts.pop(subject)
            self.ok_since = now.unix
            if alert.state == FIRING:
                words = why or f"over after {duration(now.mono - alert.began)}: "
                value = self.rule.value(subject, now)
                yield self._change(alert, RESOLVED, words, now, value)
        for subject, finding in found.items():
            before = self.alerts.get(subject)
            alert = self.alerts[subject] = self._judged(before, finding, now)
            if alert.state == FIRING and (before is None or before.state != FIRING):
                self.fired += 1
                self.last_fired = now.unix
                yield self._change(alert, FIRING, "", now, finding.value)

    def _judged(self, before: Optional[_Alert], finding: Finding, now: Moment) -> _Alert:
        if before is not None and before.state == FIRING:
            return _Alert(FIRING, before.began, before.since, finding)
        began = finding.since
        if began is None:
            began = now.mono if before is None else before.began
        lasted = now.mono - began
        state = FIRING if lasted >= self.rule.lasting else PENDING
        return _Alert(state, began, now.unix - lasted, finding)

    def _change(
        self, alert: _Alert, state: str, words: str, now: Moment, value: Optional[float]
    ) -> Change:
        finding = alert.finding
        return Change(
            self.name,
            self.rule.kind,
            finding.subject,
            state,
            words + finding.message,
            value,
            alert.since,
            now.unix,
        )

    def rows(self) -> list[Row]:
        """Its alerts that are not ok; where all is, one row that says so."""
        kind, fired, last = self.rule.kind, self.fired, self.last_fired
        return [
            Row(self.name, kind, f.subject, state, since, f.message, f.value, fired, last)
            for state, _, since, f in list(self.alerts.values())
        ] or [Row(self.name, kind, "", OK, self.ok_since, "", None, fired, last)]


class Alerts:
    """All rules, asked again and again.

    Thread: `follow`, `observe` and `check` loop only; the rest any.

    >>> from wafermon.flow.alert_rules import Silence
    >>> alerts = Alerts()
    >>> plan = Plan(30.0, lambda now: Silence("etl", 30.0, now.mono))
    >>> alerts.follow({"etl-silent": plan}, Moment(0.0, 1000.0))
    []
    >>> [(change.state, change.message) for change in alerts.check(Moment(31.0, 1031.0))]
    [('firing', 'etl has been silent for 31 s')]
    >>> alerts.check(Moment(32.0, 1032.0))
    []
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        #: What was told last, the newest at the end.
        self.recent: deque[Change] = deque(maxlen=MAX_RECENT)
        self._bad_payload = self._evicted = self._left_out = 0

    def follow(self, plans: Mapping[str, Plan], now: Moment) -> list[Change]:
        """Go on by other rules.

        One whose key is equal keeps its state. One that is another one now, of the same kind, goes
        on with what it knows as far as that fits. What fires of one that is gone is over.

        Returns:
            What there is to tell of it.
        """
        changes: list[Change] = []
        before, self._entries = self._entries, {
            name: self._kept(name, plan) or _Entry(name, plan.key, plan.make(now), now)
            for name, plan in plans.items()
        }
        for name, entry in before.items():
            after = self._entries.get(name)
            if after is not entry:
                self._bad_payload += entry.rule.bad_payload
                self._evicted += entry.rule.evicted
                self._left_out += entry.left_out
                changes += after.inherit(entry, now) if after else entry.end(_REMOVED, now)
        self.recent.extend(changes)
        return changes

    def _kept(self, name: str, plan: Plan) -> Optional[_Entry]:
        entry = self._entries.get(name)
        return entry if entry is not None and entry.key == plan.key else None

    def observe(self, batch: Batch, now: float) -> None:
        """Show a batch to all rules. `now` is monotonic seconds; the batch knows the wall's."""
        if self._entries:
            moment = Moment(now, batch.received_ms / 1000)
            for entry in self._entries.values():
                entry.rule.observe(batch, moment)

    def check(self, now: Moment) -> list[Change]:
        """What there is to tell; each is told once."""
        changes = [change for entry in self._entries.values() for change in entry.look(now)]
        self.recent.extend(changes)
        return changes

    def rows(self) -> list[Row]:
        """All alerts, those first that somebody should look at first."""
        rows = [row for entry in list(self._entries.values()) for row in entry.rows()]
        return sorted(rows, key=lambda row: (STATES.index(row.state), row.name, row.subject))

    def counts(self) -> dict[str, int]:
        """How many alerts are in each state."""
        counts = dict.fromkeys(STATES, 0)
        for row in self.rows():
            counts[row.state] += 1
        return counts

    def collect(self) -> list[Family]:
        """Yield the alerts by state, and how often each rule fired."""
        entries = list(self._entries.values())
        rules = [entry.rule for entry in entries]
        evicted = self._evicted + sum(rule.evicted for rule in rules)
        bad_payload = self._bad_payload + sum(rule.bad_payload for rule in rules)
        left_out = self._left_out + sum(entry.left_out for entry in entries)
        return [
            family("sidecar_alerts", "gauge", "Alerts by state.", self.counts(), "state"),
            family(
                "sidecar_alerts_fired_total",
                "counter",
                "How often the alerts of a rule fired.",
                {entry.name: entry.fired for entry in entries},
                "name",
            ),
            family(
                "sidecar_alerts_left_out_total",
                "counter",
                "What alerts did not take into account: subjects past the bound of a rule, what it"
                " had to forget, and messages that it could not read.",
                {"subjects": left_out, "evicted": evicted, "bad_payload": bad_payload},
                "reason",
            ),
        ]
