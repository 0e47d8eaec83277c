"""Alerts at work: rules out of the configuration, asked each second; what they find is an event."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

from wafermon.delivery import Pipeline
from wafermon.delivery.account import REROUTED
from wafermon.errors import ConfigError
from wafermon.flow.alert_checks import HELD_SECONDS, BackendDown, Drops, JobTrouble
from wafermon.flow.alert_deadline import Deadline
from wafermon.flow.alert_parts import Moment, Rule
from wafermon.flow.alert_rules import ALERTS, Events, MetricLimit, Silence
from wafermon.flow.alerts import FIRING, Alerts, Change, Plan
from wafermon.flow.duration import duration
from wafermon.flow.jobs import JobTracker
from wafermon.message import Batch, Message
from wafermon.net import EventLoop
from wafermon.observe import Family
from wafermon.sidecar import schema_alerts as schema
from wafermon.sidecar.alert_actions import Action, Outcomes, Runner, Told, command, post

_EVERY_SECONDS = 1.0
#: Where the process stood still for longer, say with its machine, that time counts for nobody.
_STOOD_SECONDS = 5.0
_STOP_SECONDS = 0.5
#: So many changes are told in one go, and so much later the next ones: 1 ms each time.
_TOLD_AT_ONCE, _PAUSE_SECONDS = 20, 0.005
_NO_ACTIONS: Mapping[str, Any] = {"exec": (), "post": None, "timeout": 0.0}


class Alerting:
    """Evaluate the rules of a configuration, tell what changes, and set off what it asks for.

    Args:
        loop: whose thread this lives on.
        wall: Unix seconds.

    Thread: `observe` and `follow` loop only; `start` once, any; `stop` any; the rest any.
    """

    def __init__(self, loop: EventLoop, wall: Callable[[], float] = time.time) -> None:
        self.alerts = Alerts()
        self._loop, self._wall = loop, wall
        self._last = loop.clock()
        self._stood = 0.0
        self._sources: Optional[_Sources] = None
        self._outcomes = Outcomes()
        #: What is still to be told, each with what it sets off: a reload may take that away.
        self._untold: deque[tuple[Change, list[Runner]]] = deque()
        self._runners: dict[str, list[Runner]] = {}
        #: Those of rules that are gone: what they have still to do they do.
        self._leaving: list[Runner] = []
        self._rules: Mapping[str, schema.AlertRule] = {}

    def start(
        self, rules: Mapping[str, schema.AlertRule], pipeline: Pipeline, jobs: JobTracker
    ) -> None:
        """Begin, on the loop's thread once that runs.

        Args:
            rules: by name.
            pipeline: gets the events; rules look at its backends and drops,
            jobs: and at these.
        """
        self._sources = _Sources(pipeline, jobs, self._loop.clock)
        self._loop.call_soon(lambda: self.follow(rules))
        self._loop.call_soon(self._tick)

    def follow(self, rules: Mapping[str, schema.AlertRule]) -> None:
        """Go on by other rules; those that are equal but for their actions keep their state.

        Who was told by a rule that something is wrong is told when a reload ends that.
        """
        if self._sources is None:
            return
        make = self._sources.rule
        plans = {
            name: Plan(dataclasses.replace(rule, **_NO_ACTIONS), functools.partial(make, rule))
            for name, rule in rules.items()
        }
        changes = self.alerts.follow(plans, self._moment())
        self._await([change for change in changes if change.state != FIRING])
        self._take_actions(rules)
        self._await([change for change in changes if change.state == FIRING])

    def _take_actions(self, rules: Mapping[str, schema.AlertRule]) -> None:
        before, self._runners = self._runners, {
            name: self._runners[name]
            if name in self._runners and _actions_of(self._rules[name]) == _actions_of(rule)
            else [Runner(name, action, self._outcomes) for action in actions(rule)]
            for name, rule in rules.items()
        }
        for name, runners in before.items():
            if self._runners.get(name) is not runners:
                self._leaving += runners
        needed = [runner for _, runners in self._untold for runner in runners]
        self._leaving = [r for r in self._leaving if not r.is_idle or r in needed]
        self._rules = rules

    def stop(self) -> None:
        """Cut off what actions do. Waits half a second at most, for commands to be killed."""
        runners = [*self._leaving, *(r for some in list(self._runners.values()) for r in some)]
        for runner in runners:
            runner.stop()
        deadline = time.monotonic() + _STOP_SECONDS
        for runner in runners:
            runner.wait(max(0.0, deadline - time.monotonic()))

    def observe(self, batch: Batch, now: float) -> None:
        """Show a batch to the rules. `now` is monotonic seconds."""
        self.alerts.observe(batch, self._running(now))

    def collect(self) -> list[Family]:
        """Yield the alerts and what became of their actions."""
        return [*self.alerts.collect(), *self._outcomes.collect()]

    def _tick(self) -> None:
        self._loop.call_later(_EVERY_SECONDS, self._tick)
        self._await(self.alerts.check(self._moment()))

    def _await(self, changes: Sequence[Change]) -> None:
        """Tell these after those that are not told yet."""
        if changes and not self._untold:
            self._loop.call_soon(self._tell)
        self._untold += [(change, self._runners.get(change.name, [])) for change in changes]

    def _tell(self) -> None:
        """Tell some at a time: a line that is cut may silence hundreds at once."""
        count = min(len(self._untold), _TOLD_AT_ONCE)
        taken = [self._untold.popleft() for _ in range(count)]
        if self._untold:
            self._loop.call_later(_PAUSE_SECONDS, self._tell)
        told = [Told(change, event_of(change)) for change, _ in taken]
        for one, (_, runners) in zip(told, taken):
            for runner in runners:
                runner.put(one)
        if told and self._sources is not None:
            self._sources.pipeline.submit(Batch.join([one.event for one in told]))

    def _moment(self) -> Moment:
        return Moment(self._running(self._loop.clock()), self._wall())

    def _running(self, now: float) -> float:
        """Monotonic seconds in which this process ran."""
        if now - self._last > _STOOD_SECONDS:
            self._stood += now - self._last
        self._last = now
        return now - self._stood


def event_of(change: Change) -> Batch:
    """The message that tells of an alert: an `event` of source `wafermon.alerts`."""
    context: dict[str, object] = {
        "name": change.name,
        "kind": change.kind,
        "state": change.state,
        "since_ms": round(change.since * 1000),
    }
    if change.subject:
        context["subject"] = change.subject
    if change.value is not None:
        context["value"] = round(change.value, 3)
    at_ms = round(change.at * 1000)
    message: Message = {
        "v": 1,
        "src": ALERTS,
        "ts": at_ms,
        "type": "event",
        "data": {
            "level": "error" if change.state == FIRING else "info",
            "msg": f"{change.name}: {change.message}",
            "ctx": context,
        },
    }
    line = json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"
    return Batch(line, [message], received_ms=at_ms, sources={ALERTS: 1})


def actions(rule: schema.AlertRule) -> list[Action]:
    """What a rule sets off.

    Raises:
        ValueError: it can never work.
    """
    found = []
    if rule.exec:
        found.append(command(rule.exec, rule.timeout))
    if rule.post is not None:
        found.append(post(rule.post, rule.timeout))
    return found


def check(rules: Mapping[str, schema.AlertRule]) -> None:
    """Build all that can be built without touching the system.

    Raises:
        ConfigError: with every fault.
    """
    faults = []
    for name, rule in rules.items():
        try:
            actions(rule)
        except ValueError as error:
            faults.append(f"alerts.{name}.post: {error}")
    if faults:
        raise ConfigError(faults)


def _actions_of(rule: schema.AlertRule) -> tuple[object, ...]:
    return tuple(getattr(rule, key) for key in _NO_ACTIONS)


class _Sources:
    """What rules look at; makes them. Loop thread."""

    def __init__(self, pipeline: Pipeline, jobs: JobTracker, clock: Callable[[], float]) -> None:
        self.pipeline, self._jobs, self._clock = pipeline, jobs, clock

    def rule(self, rule: schema.AlertRule, now: Moment) -> Rule:
        """A rule out of its configuration."""
        if isinstance(rule, schema.Silence):
            return Silence(rule.source, rule.every, now.mono)
        if isinstance(rule, schema.Deadline):
            hour, minute = map(int, rule.by.split(":"))
            days = schema.weekdays(rule.days)
            return Deadline(rule.job, hour, minute, days, now.unix, self._done(now.unix))
        if isinstance(rule, schema.JobTrouble):
            known = self._jobs.names(now.mono - HELD_SECONDS)
            return JobTrouble(rule.state, rule.job, rule.source, rule.for_, self._look, known)
        if isinstance(rule, schema.Events):
            return Events(rule.source, rule.level, rule.count, rule.within)
        if isinstance(rule, schema.MetricLimit):
            return MetricLimit(rule.metric, rule.source, rule.above, rule.below, rule.for_)
        if isinstance(rule, schema.BackendDown):
            return BackendDown(rule.backend, rule.for_, self._down)
        return Drops(rule.drops, rule.within, self._dropped)

    def _look(self, src: str, job_id: str) -> Optional[tuple[str, Optional[str]]]:
        return self._jobs.verdict(src, job_id, self._clock())

    def _done(self, unix: float) -> list[tuple[str, float]]:
        """The runs that were done, also those before a restart, and when."""
        at_zero = unix - self._clock()
        return [(job_id, at_zero + done) for job_id, done in self._jobs.done()]

    def _down(self) -> dict[str, str]:
        return {
            name: route.error or f"a call hangs for {duration(route.hanging_seconds)}"
            for name, route in self.pipeline.routes.items()
            if not route.is_up
        }

    def _dropped(self) -> dict[str, int]:
        """Messages that nobody gets, though somebody should: rules of the routing are meant so,
        and what another configuration sends elsewhere is there."""
        return {
            f"{reason} ({where})": count
            for where, reason, count in self.pipeline.drops()
            if where != "routing" and reason != REROUTED
        }
