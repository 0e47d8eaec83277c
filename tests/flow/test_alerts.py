"""Alerts by a fake clock: each kind of rule, and the table of states."""

import datetime
import json
import os
import pathlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafermon.flow.alert_checks import MAX_JOBS, BackendDown, Drops, JobTrouble
from wafermon.flow.alert_deadline import Deadline
from wafermon.flow.alert_parts import Finding, Moment, Window, printable
from wafermon.flow.alert_rules import MAX_SERIES, MAX_SOURCES, Events, MetricLimit, Silence
from wafermon.flow.alerts import MAX_RECENT, MAX_SUBJECTS, Alerts, Plan
from wafermon.message import Batch
from wafermon.testing import frame

ROOT = pathlib.Path(__file__).parents[2]
START = datetime.datetime(2026, 11, 23, 12, 0).timestamp()  # a Monday


def at(seconds):
    return Moment(100.0 + seconds, START + seconds)


def batch(*lines, seconds=0.0):
    return Batch(b"".join(lines), received_ms=round((START + seconds) * 1000))


def beat(src, **more):
    return frame(type="heartbeat", src=src, **more)


def event(src="a", level="error", msg="m"):
    return frame(type="event", src=src, data={"level": level, "msg": msg})


def metric(value, src="a", name="temp", **more):
    return frame(type="metric", src=src, data={"name": name, "value": value, **more})


def progress(job, src="a", **more):
    return frame(type="progress", src=src, data={"job_id": job, "percent": 5, **more})


def subjects(rule, seconds):
    return [finding.subject for finding in rule.check(at(seconds))]


def messages(rule, seconds):
    return [finding.message for finding in rule.check(at(seconds))]


class Rule:
    """A rule that finds what it is told."""

    kind, evicted, bad_payload = "fake", 0, 0

    def __init__(self, lasting=0.0):
        self.lasting, self.found = lasting, []

    def observe(self, batch, moment):
        pass

    def check(self, moment):
        return [Finding(subject, f"{subject} is wrong") for subject in self.found]

    def value(self, subject, moment):
        return None

    def inherit(self, other, moment):
        pass


def book(rule, name="r"):
    alerts = Alerts()
    alerts.follow({name: Plan(1, lambda now: rule)}, at(0))
    return alerts


def told(alerts, seconds):
    return [(change.state, change.subject) for change in alerts.check(at(seconds))]


# -- the table of states -----------------------------------------------------------------------


def test_it_fires_once_and_resolves_once():
    rule = Rule()
    alerts = book(rule)
    assert told(alerts, 1) == []
    rule.found = ["x"]
    assert told(alerts, 2) == [("firing", "x")]
    assert [told(alerts, second) for second in range(3, 9)] == [[]] * 6
    assert [(row.state, row.since, row.fired) for row in alerts.rows()] == [("firing", START + 2, 1)]
    rule.found = []
    assert told(alerts, 9) == [("resolved", "x")]
    assert told(alerts, 10) == []
    (row,) = alerts.rows()
    assert (row.state, row.since, row.fired, row.last_fired) == ("ok", START + 9, 1, START + 2)
    rule.found = ["x"]
    assert told(alerts, 11) == [("firing", "x")]
    assert [change.state for change in alerts.recent] == ["firing", "resolved", "firing"]


def test_it_is_pending_until_it_has_lasted():
    rule = Rule(lasting=5.0)
    alerts = book(rule)
    rule.found = ["x"]
    assert told(alerts, 1) == [] and alerts.counts() == {"firing": 0, "pending": 1, "ok": 0}
    assert told(alerts, 5.9) == []
    assert alerts.rows()[0].since == START + 1
    assert told(alerts, 6) == [("firing", "x")]
    rule.found = []
    assert told(alerts, 7) == [("resolved", "x")]
    rule.found = ["x"]
    assert told(alerts, 8) == []
    rule.found = []
    assert told(alerts, 9) == [], "what never fired is not resolved"
    rule.found = ["x"]
    assert told(alerts, 10) == []
    assert told(alerts, 14) == [], "the time before the break does not count"
    assert told(alerts, 15) == [("firing", "x")]


def test_each_subject_is_an_alert_of_its_own():
    rule = Rule()
    alerts = book(rule)
    rule.found = ["x"]
    assert told(alerts, 1) == [("firing", "x")]
    rule.found = ["x", "y"]
    assert told(alerts, 2) == [("firing", "y")]
    rule.found = ["y"]
    assert told(alerts, 3) == [("resolved", "x")]
    assert [(row.subject, row.fired) for row in alerts.rows()] == [("y", 2)]


def test_subjects_are_bounded_and_counted_once_an_episode():
    rule = Rule()
    alerts = book(rule)
    rule.found = [str(n) for n in range(MAX_SUBJECTS + 50)]
    assert len(told(alerts, 1)) == MAX_SUBJECTS == len(alerts.rows())
    assert told(alerts, 2) == []
    assert left_out(alerts)["subjects"] == 1
    assert len(alerts.recent) == MAX_RECENT
    rule.found = rule.found[:3]
    alerts.check(at(3))
    assert alerts.counts()["firing"] == 3


def left_out(alerts):
    found = {family.name: family for family in alerts.collect()}
    samples = found["sidecar_alerts_left_out_total"].samples
    return {sample.labels[0][1]: sample.value for sample in samples}


@given(st.lists(st.sets(st.sampled_from("xyz"))), st.sampled_from([0.0, 2.0]))
def test_firing_and_resolved_take_turns(rounds, lasting):
    rule = Rule(lasting)
    alerts = book(rule)
    state = {}
    for second, found in enumerate(rounds):
        rule.found = sorted(found)
        for word, subject in told(alerts, second):
            assert state.get(subject, "resolved") != word
            state[subject] = word
        firing = {row.subject for row in alerts.rows() if row.state == "firing"}
        assert firing == {subject for subject, word in state.items() if word == "firing"}
        assert firing <= found


def test_a_rule_that_is_equal_keeps_its_state_over_a_reload():
    one, other = Rule(), Rule()
    alerts = Alerts()
    plan = Plan("one", lambda now: one)
    alerts.follow({"a": plan, "b": Plan("two", lambda now: other)}, at(0))
    one.found = other.found = ["x"]
    assert len(told(alerts, 1)) == 2
    fresh = Rule()
    again = {"a": Plan("one", lambda now: pytest.fail("made anew")), "b": Plan("2", lambda now: fresh)}
    ended = alerts.follow(again, at(2))
    assert [(c.name, c.state, c.subject, c.message) for c in ended] == [
        ("b", "resolved", "x", "the rule was changed by a reload: x is wrong")
    ]
    assert told(alerts, 3) == [], "the one goes on, the other one is told to be over already"
    assert [(row.name, row.state, row.fired) for row in alerts.rows()] == [
        ("a", "firing", 1), ("b", "ok", 1)
    ]
    ended = alerts.follow({}, at(4))
    assert [(c.name, c.state, c.message) for c in ended] == [
        ("a", "resolved", "the rule was removed by a reload: x is wrong")
    ]
    assert told(alerts, 5) == [] and alerts.rows() == []
    assert [change.state for change in alerts.recent] == ["firing"] * 2 + ["resolved"] * 2


# -- a rule that a reload changes ----------------------------------------------------------------


def changed(alerts, rule, seconds):
    changes = alerts.follow({"r": Plan(object(), lambda now: rule)}, at(seconds))
    return [(change.state, change.subject, change.value) for change in changes]


def test_other_bounds_judge_the_last_values():
    def limit(above, source="*", lasting=0.0, metric="temp"):
        return MetricLimit(metric, source, above, None, lasting)

    alerts = book(limit(90))
    alerts.observe(batch(metric(85, "a"), metric(95, "b"), metric(50, "c")), at(0).mono)
    assert told(alerts, 1) == [("firing", "b")]
    assert changed(alerts, limit(80), 10) == [("firing", "a", 85)], "a at once, b goes on"
    assert alerts.counts() == {"firing": 2, "pending": 0, "ok": 0}
    assert changed(alerts, limit(92), 20) == [("resolved", "a", 85)]
    assert changed(alerts, limit(70, "a", 5.0), 30) == [("resolved", "b", None)], "it is not asked for"
    assert told(alerts, 34) == [] and told(alerts, 35) == [("firing", "a")]
    assert changed(alerts, limit(70, metric="other"), 40) == [("resolved", "a", None)]
    assert alerts.rows()[0].fired == 3, "counted on"


def test_a_rule_that_becomes_one_of_another_kind_is_over():
    alerts = book(Silence("a", 30.0, now=100.0))
    assert told(alerts, 31) == [("firing", "")]
    assert changed(alerts, Drops(1, 60.0, dict), 40) == [("resolved", "", 31)]


def test_another_time_of_silence_counts_from_when_it_was_heard():
    alerts = book(Silence("EQP*", 60.0, now=100.0))
    alerts.observe(batch(beat("EQP1"), beat("EQP2"), beat("EQP3")), at(1).mono)
    alerts.observe(batch(beat("EQP2")), at(40).mono)
    assert told(alerts, 45) == []
    assert changed(alerts, Silence("EQP*", 30.0, at(45).mono), 45) == [
        ("firing", "EQP1", 44), ("firing", "EQP3", 44)
    ]
    assert changed(alerts, Silence("EQP3", 30.0, at(50).mono), 50) == [
        ("resolved", "EQP1", None), ("resolved", "EQP3", None), ("firing", "", 49)
    ]
    assert changed(alerts, Silence("EQP3", 300.0, at(60).mono), 60) == [("resolved", "", 59)]


def test_a_name_that_never_came_is_no_source_of_a_pattern():
    alerts = book(Silence("a", 30.0, now=100.0))
    assert changed(alerts, Silence("a*", 30.0, at(20).mono), 20) == []
    assert messages(alerts._entries["r"].rule, 51) == ["no source a* has come for 31 s"]


def test_another_window_counts_what_was_counted():
    drops = {"x": 0}
    alerts = book(Events("a", "error", 3, 60.0))
    alerts.observe(batch(event(), event()), at(10).mono)
    assert told(alerts, 11) == []
    assert changed(alerts, Events("a", "error", 2, 600.0), 20) == [("firing", "", 2)]
    assert changed(alerts, Events("a", "error", 1, 5.0), 30) == [("resolved", "", 0)]
    alerts = book(Drops(3, 60.0, lambda: drops))
    drops["x"] = 2
    assert told(alerts, 1) == []
    drops["x"] = 4
    assert changed(alerts, Drops(4, 600.0, lambda: drops), 2) == [("firing", "", 4)]


def test_a_job_in_trouble_stays_so_and_another_state_is_none():
    look = {("etl", f"j{n}"): ("died", "x") for n in range(300)}.get
    known = [("etl", f"j{n}") for n in range(300)]
    alerts = book(JobTrouble(["died"], "*", "*", 0.0, lambda *key: look(key), known))
    assert len(told(alerts, 1)) == 200 and len(told(alerts, 2)) == 100
    fresh = JobTrouble(["died", "failed"], "*", "*", 0.0, lambda *key: look(key), known)
    assert changed(alerts, fresh, 3) == [], "also those that are not asked about in the first round"
    other = JobTrouble(["failed"], "*", "*", 0.0, lambda *key: look(key), known)
    assert {state for state, _, _ in changed(alerts, other, 4)} == {"resolved"}


def test_a_job_that_is_late_is_late_by_another_time_too():
    alerts = book(deadline())
    assert told(alerts, DUE) == [("firing", "")]

    def other(hour, minute, seconds):
        now = at(seconds).unix
        return changed(alerts, Deadline("load", hour, minute, frozenset(range(7)), now), seconds)

    assert other(6, 30, DUE + HOUR) == []
    assert alerts.counts()["firing"] == 1
    assert other(9, 0, DUE + HOUR) == [("resolved", "", None)], "it is not due yet"
    assert told(alerts, DUE + 3 * HOUR) == [("firing", "")]


def test_a_run_that_was_too_late_does_not_count_after_a_reload():
    alerts = book(deadline())
    told(alerts, DUE)
    alerts.observe(batch(progress("load", status="done"), seconds=DUE + HOUR), at(DUE + HOUR).mono)
    assert told(alerts, DUE + HOUR) == [("resolved", "")]
    again = Deadline("load", 6, 0, frozenset(range(6)), START + DUE + 2 * HOUR, [("load", START + DUE + HOUR)])
    assert changed(alerts, again, DUE + 2 * HOUR) == []
    assert told(alerts, DUE + 24 * HOUR) == [("firing", "")]


def test_what_is_over_has_the_number_of_then():
    alerts = book(MetricLimit("temp", "*", 80.0, None, lasting=0.0))
    alerts.observe(batch(metric(99, "a", tags={"x": "1"})), at(0).mono)
    assert [change.value for change in alerts.check(at(1))] == [99]
    alerts.observe(batch(metric(42, "a", tags={"x": "1"}), metric(7, "a")), at(2).mono)
    assert [change.value for change in alerts.check(at(3))] == [42]
    alerts = book(Events("a", "error", 2, 60.0))
    alerts.observe(batch(event(), event()), at(0).mono)
    assert [change.value for change in alerts.check(at(1))] == [2]
    assert [change.value for change in alerts.check(at(90))] == [0]
    alerts = book(Silence("a", 30.0, now=100.0))
    assert [change.value for change in alerts.check(at(31))] == [31]
    alerts.observe(batch(beat("a")), at(40).mono)
    assert [change.value for change in alerts.check(at(41))] == [1]


# -- silence -----------------------------------------------------------------------------------


def test_a_source_that_never_came_has_the_same_time():
    rule = Silence("a", 30.0, now=100.0)
    assert messages(rule, 30) == []
    assert messages(rule, 30.5) == ["a has been silent for 30 s"]
    rule.observe(batch(beat("b")), at(31))
    assert len(messages(rule, 31)) == 1
    rule.observe(batch(beat("b"), event("a")), at(32))
    assert messages(rule, 62) == []
    assert len(messages(rule, 62.1)) == 1


def test_a_goodbye_is_no_excuse_for_a_name_but_for_one_of_a_pattern():
    name, pattern = Silence("a", 30.0, now=100.0), Silence("a*", 30.0, now=100.0)
    for rule in (name, pattern):
        rule.observe(batch(beat("a")), at(1))
        rule.observe(batch(frame(type="goodbye", src="a")), at(2))
    assert len(messages(name, 60)) == 1
    assert messages(pattern, 60) == []
    pattern.observe(batch(beat("a")), at(61))
    assert subjects(pattern, 100) == ["a"]


def test_a_pattern_waits_for_each_that_came():
    rule = Silence("EQP*", 30.0, now=100.0)
    assert messages(rule, 31) == ["no source EQP* has come for 31 s"]
    rule.observe(batch(beat("EQP1"), beat("EQP2"), beat("other")), at(32))
    assert messages(rule, 33) == []
    rule.observe(batch(beat("EQP1")), at(50))
    assert subjects(rule, 63) == ["EQP2"]
    assert subjects(rule, 81) == ["EQP2", "EQP1"]


def test_sources_are_bounded():
    rule = Silence("*", 30.0, now=100.0)
    for first in range(0, MAX_SOURCES + 10, 1000):
        lines = [beat(f"s{n}") for n in range(first, min(first + 1000, MAX_SOURCES + 10))]
        rule.observe(batch(*lines), at(first / 1e6))
    assert rule.evicted == 10
    assert len(subjects(rule, 100)) == MAX_SOURCES


# -- events ------------------------------------------------------------------------------------


def test_events_of_a_level_are_counted_in_a_window():
    rule = Events("db-*", "error", 3, 60.0)
    rule.observe(batch(event("db-1"), event("db-2", "warn"), event("etl"), beat("db-1")), at(0))
    rule.observe(batch(event("db-2", "fatal")), at(30))
    assert messages(rule, 31) == []
    rule.observe(batch(event("db-3", msg="no\x1b[2Jspace")), at(50))
    (finding,) = rule.check(at(51))
    assert finding.value == 3
    assert finding.message.endswith(r"within 1 min, the last one from db-3: no\x1b[2Jspace")
    assert len(messages(rule, 60)) == 1, "never less than the window"
    assert messages(rule, 62) == []


def test_an_escaped_level_counts():
    rule = Events("*", "error", 1, 60.0)
    line = rb'{"v":1,"src":"a","ts":1,"type":"event","data":{"level":"\u0065rror","msg":"m"}}' + b"\n"
    rule.observe(batch(line), at(0))
    assert len(messages(rule, 1)) == 1


def test_a_batch_without_a_word_is_not_decoded():
    rule = Events("a", "error", 1, 60.0)
    other, quiet = batch(event("b")), batch(event("a", "info"))
    for one in (other, quiet):
        assert one.sources  # the server knows them
        one._messages = None
        rule.observe(one, at(0))
        assert one._messages is None


def test_payloads_are_open():
    rule = Events("*", "error", 1, 60.0)
    for data in ({"level": ["error"]}, {"msg": '"error"'}, {"level": 5, "x": "error"}):
        rule.observe(batch(frame(type="event", src="a", data=data)), at(0))
    assert messages(rule, 1) == []
    assert rule.bad_payload >= 2
    rule.observe(batch(frame(type="event", src="a", data={"level": "error", "msg": {"x": 1}})), at(0))
    assert messages(rule, 1)[0].endswith("the last one from a")


def test_alerts_set_off_no_alerts():
    everything, exact, other = (
        Events(source, "debug", 1, 60.0)
        for source in ("*", "wafermon.alerts", "wafermon.forward/host")
    )
    lines = [event("wafermon.alerts"), event("wafermon.forward/host")]
    for rule in (everything, exact, other):
        rule.observe(batch(*lines), at(0))
    assert [len(messages(rule, 1)) for rule in (everything, exact, other)] == [0, 0, 1]
    silence, own = Silence("*", 30.0, now=100.0), Silence("wafermon.*", 30.0, now=100.0)
    for rule in (silence, own):
        rule.observe(batch(*lines, event("etl")), at(0))
    assert subjects(silence, 31) == ["etl"] and subjects(own, 31) == [""]
    for _ in range(3):
        own.observe(batch(*lines), at(31))
        assert messages(own, 31) == ["no source wafermon.* has come for 31 s"], "it hears not itself"
    named = Silence("wafermon.alerts", 30.0, now=100.0)
    named.observe(batch(*lines), at(31))
    assert messages(named, 32) == ["wafermon.alerts has been silent for 32 s"]


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 5)), max_size=30),
    st.sampled_from([1.0, 7.0, 60.0]),
)
def test_a_window_forgets_nothing_early_and_all_in_time(steps, seconds):
    window, now, came = Window(seconds), 0.0, []
    for pause, count in steps:
        now += pause
        window.add(now, count)
        came.append((now, count))
        least = sum(n for when, n in came if when > now - seconds)
        most = sum(n for when, n in came if when >= now - seconds * 62 / 60)
        assert least <= window.total(now) <= most
        assert len(window._counts) <= 62


# -- metrics -----------------------------------------------------------------------------------


def test_a_metric_has_to_be_wrong_without_a_break():
    alerts = book(MetricLimit("temp", "EQP*", 80.0, None, lasting=60.0))
    alerts.observe(batch(metric(85, "EQP1"), metric(99, "etl"), metric(99, "EQP1", "x")), at(0).mono)
    assert told(alerts, 1) == [] and alerts.counts()["pending"] == 1
    alerts.observe(batch(metric(79, "EQP1"), metric(86, "EQP1")), at(30).mono)
    assert told(alerts, 61) == [], "it was right in between, between two looks"
    alerts.observe(batch(metric(99, "EQP1"), metric(87, "EQP1")), at(80).mono)
    assert told(alerts, 89) == []
    assert told(alerts, 90) == [("firing", "EQP1")], "since it is wrong, whatever it was since"
    alerts.observe(batch(metric(80, "EQP1")), at(91).mono)
    assert told(alerts, 91) == [("resolved", "EQP1")]


def test_both_bounds_and_every_series_by_itself():
    rule = MetricLimit("temp", "*", 80.0, 10.0, lasting=0.0)
    rule.observe(batch(metric(81, "a"), metric(20, "b"), metric(9.5, "c")), at(0))
    assert messages(rule, 1) == ["temp of a is 81, above 80", "temp of c is 9.5, below 10"]
    tagged = [metric(v, "d", tags={"chamber": c, "a": "b"}) for v, c in ((99, "A"), (50, "B"))]
    rule.observe(batch(*tagged), at(1))
    assert subjects(rule, 1) == ["a", "c", "d a=b chamber=A"]
    rule.observe(batch(frame(type="goodbye", src="d")), at(2))
    assert subjects(rule, 2) == ["a", "c"]


@pytest.mark.parametrize(
    "data", [{"value": True}, {"value": "9"}, {"value": None}, {"value": 10**400}, {},
             {"value": 99, "tags": 3}, {"value": 99, "tags": {"a": 1}}, {"value": 99, "tags": None}],
)
def test_what_is_no_number_is_counted(data):
    rule = MetricLimit("temp", "a", 80.0, None, lasting=0.0)
    rule.observe(batch(frame(type="metric", src="a", data={"name": "temp", **data})), at(0))
    assert (messages(rule, 0), rule.bad_payload) == ([], 1)


def test_series_are_bounded():
    rule = MetricLimit("temp", "*", 80.0, None, lasting=0.0)
    rule.observe(batch(*(metric(99, f"s{n}") for n in range(MAX_SERIES + 5))), at(0))
    assert (len(subjects(rule, 0)), rule.evicted) == (MAX_SERIES, 5)


# -- deadlines ---------------------------------------------------------------------------------


def deadline(job="load", days=range(7), now=START):
    return Deadline(job, 6, 0, frozenset(days), now)


HOUR = 3600.0
#: 06:00 on the next morning, counted from START.
DUE = 18 * HOUR


def done(rule, seconds, job="load", **more):
    rule.observe(batch(progress(job, status="done", **more)), at(seconds))


def test_a_job_that_is_not_done_in_time():
    rule = deadline()
    assert messages(rule, DUE - 1) == []
    assert messages(rule, DUE) == ["load is not done, it was due on 2026-11-24 at 06:00"]
    done(rule, DUE + HOUR, "other")
    rule.observe(batch(progress("load"), progress("load", status="failed")), at(DUE + HOUR))
    assert len(messages(rule, DUE + HOUR)) == 1
    done(rule, DUE + HOUR)
    assert messages(rule, DUE + HOUR) == []
    assert len(messages(rule, DUE + 24 * HOUR)) == 1, "the late run does not count for the next day"


def test_a_job_that_is_done_in_time():
    rule = deadline()
    done(rule, DUE - HOUR)
    assert messages(rule, DUE) == [] and messages(rule, DUE + 23 * HOUR) == []
    assert len(messages(rule, DUE + 24 * HOUR)) == 1, "each day anew"
    done(rule, DUE + 25 * HOUR)
    done(rule, DUE + 26 * HOUR)
    assert messages(rule, DUE + 48 * HOUR) == [], "a second run counts for the next day"


def test_a_run_that_was_done_before_a_restart():
    def restarted(*runs):
        return Deadline("lo*", 6, 0, frozenset(range(7)), START, [(job, START + s) for job, s in runs])

    assert messages(restarted(("load", -5 * HOUR)), DUE) == []
    assert len(messages(restarted(("load", -7 * HOUR), ("other", -1 * HOUR)), DUE)) == 1


def test_done_at_the_very_last_moment_and_looked_at_later():
    rule = deadline()
    done(rule, DUE)
    assert messages(rule, DUE) == [] == messages(rule, DUE + 60)
    rule = deadline()
    done(rule, DUE - 1)
    done(rule, DUE + 1)
    assert messages(rule, DUE + 24 * HOUR) == []


def test_a_job_stays_late_over_the_next_times():
    rule = deadline()
    for day in range(3):
        assert messages(rule, DUE + 24 * day * HOUR) == [
            "load is not done, it was due on 2026-11-24 at 06:00"
        ]
    done(rule, DUE + 50 * HOUR)
    assert messages(rule, DUE + 50 * HOUR) == []


def test_days_of_the_week():
    friday = START + 4 * 24 * HOUR
    rule = deadline(days=range(5), now=friday)
    rule.observe(Batch(progress("load", status="done"), received_ms=0), Moment(0.0, friday + HOUR))
    saturday_6 = friday + 18 * HOUR
    for hours in (0, 24, 47.9):
        assert list(rule.check(Moment(0.0, saturday_6 + hours * HOUR))) == []
    (finding,) = rule.check(Moment(0.0, saturday_6 + 48 * HOUR))
    assert "2026-11-30 at 06:00" in finding.message, "a run on Friday is too early for Monday"


def test_a_clock_that_is_set_back_by_weeks():
    rule = deadline(now=START + 30 * 24 * HOUR)
    assert messages(rule, 0) == []
    assert len(messages(rule, DUE)) == 1


DST = """
import datetime, sys, time
time.tzset()
from wafermon.flow.alert_deadline import Deadline
from wafermon.flow.alert_parts import Moment
begin, hour, minute, days = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
now = datetime.datetime.fromisoformat(begin).timestamp()
rule = Deadline("load", hour, minute, frozenset(range(7)), now)
end, fired = now + days * 86400, []
from wafermon.message import Batch
run = Batch(b'{"v":1,"src":"a","ts":1,"type":"progress","data":{"job_id":"load","percent":1,"status":"done"}}\\n')
while now < end:
    now += 60
    if list(rule.check(Moment(0.0, now))):
        fired.append(time.strftime("%m-%dT%H:%M%z", time.localtime(now)))
        rule.observe(run, Moment(0.0, now))
print(*fired)
"""


@pytest.mark.parametrize(
    ("zone", "begin", "time", "fired"),
    [
        # The clocks of Berlin went forward at 02:00 on 2026-03-29 and back at 03:00 on 2026-10-25.
        ("Europe/Berlin", "2026-03-28T12:00", "06:00", "03-29T06:00+0200 03-30T06:00+0200"),
        ("Europe/Berlin", "2026-10-24T12:00", "06:00", "10-25T06:00+0100 10-26T06:00+0100"),
        ("Europe/Berlin", "2026-03-28T12:00", "02:30", "03-29T03:30+0200 03-30T02:30+0200"),
        ("Europe/Berlin", "2026-10-24T12:00", "02:30", "10-25T02:30+0200 10-26T02:30+0100"),
        ("America/New_York", "2026-10-31T12:00", "00:00", "11-01T00:00-0400 11-02T00:00-0500"),
        ("Asia/Kolkata", "2026-11-23T23:59", "00:00", "11-24T00:00+0530 11-25T00:00+0530"),
        ("UTC", "2026-11-23T23:30", "23:59", "11-23T23:59+0000 11-24T23:59+0000"),
    ],
)
def test_local_time_over_changes_of_the_clock(zone, begin, time, fired):
    ran = subprocess.run(
        [sys.executable, "-c", DST, begin, *time.split(":"), "2"], capture_output=True, text=True,
        env={**os.environ, "TZ": zone, "PYTHONPATH": str(ROOT)}, timeout=60,
    )
    assert (ran.stdout.strip(), ran.stderr) == (fired, "")


def test_a_job_without_a_name_is_counted():
    rule, other = deadline(), JobTrouble(["died"], "*", "*", 0.0, lambda *_: None)
    for job in (None, 5, ["load"], {}):
        for one in (rule, other):
            one.observe(batch(progress(job, status="done")), at(0))
    assert rule.bad_payload == other.bad_payload == 4


# -- jobs --------------------------------------------------------------------------------------


def test_a_job_in_trouble():
    states = {("etl", "load-1"): ("running", None), ("etl", "other"): ("died", "gone")}
    rule = JobTrouble(["died", "failed"], "load-*", "etl", 0.0, lambda *key: states.get(key))
    rule.observe(batch(progress("load-1", "etl"), progress("other", "etl")), at(0))
    rule.observe(batch(progress("load-1", "someone")), at(0))
    assert messages(rule, 1) == []
    states["etl", "load-1"] = ("died", "no\ngoodbye")
    assert messages(rule, 2) == [r"job load-1 of etl has died: no\ngoodbye"]
    states["etl", "load-1"] = ("running", None)
    assert messages(rule, 3) == []
    states["etl", "load-1"] = ("done", None)
    assert messages(rule, 4) == [] and not rule._jobs, "nothing is expected of it any more"
    states["etl", "load-1"] = ("failed", None)
    rule.observe(batch(progress("load-1", "etl")), at(5))
    assert subjects(rule, 5) == ["load-1 of etl"]
    assert subjects(rule, 5 + 86_400) == ["load-1 of etl"]
    assert subjects(rule, 6 + 86_400) == [], "for a day at most"


def test_a_job_that_nobody_follows_is_not_remembered_either():
    rule = JobTrouble(["died"], "*", "*", 0.0, lambda *_: None)
    rule.observe(batch(progress("x" * 257, "etl"), progress("", "etl")), at(0))
    assert (len(rule._jobs), rule.bad_payload) == (0, 2)


def test_a_job_that_stalls_and_goes_on():
    state = ["stalled"]
    rule = JobTrouble(["stalled"], "*", "*", 0.0, lambda *_: (state[0], "no change"), [("a", "j")])
    assert rule.check(at(1))[0].since == at(1).mono == rule.check(at(50))[0].since
    assert len(messages(rule, 90_000)) == 1, "as long as it stalls"
    state[0] = "died"
    assert messages(rule, 90_001) == [] and not rule._jobs


def test_many_jobs_are_asked_about_by_and_by_and_bounded():
    asked = []
    rule = JobTrouble(["died"], "*", "*", 0.0, lambda *key: asked.append(key) or ("running", None))
    rule.observe(batch(*(progress(f"j{n}") for n in range(1000))), at(0))
    for second in range(5):
        before = len(asked)
        rule.check(at(second))
        assert len(asked) - before == 200
    assert len(set(asked)) == 1000
    for n in range(MAX_JOBS):
        rule._follow("a", f"k{n}")
    assert (rule.evicted, len(rule._jobs)) == (1000, MAX_JOBS)


# -- backends and drops ------------------------------------------------------------------------


def test_a_backend_that_is_down_for_long():
    down = {}
    alerts = book(BackendDown("nas", 30.0, lambda: down))
    down["store"] = "no space"
    assert told(alerts, 1) == [] and alerts.counts()["ok"] == 1
    down["nas"] = "no\x00space"
    assert told(alerts, 2) == []
    assert told(alerts, 32) == [("firing", "")]
    assert alerts.rows()[0].message == r"backend nas is down: no\x00space"
    assert subjects(BackendDown("*", 0.0, lambda: down), 0) == ["store", "nas"]
    down.clear()
    assert told(alerts, 33) == [("resolved", "")]


def test_drops_in_a_window():
    drops = {"by queue_full of backend nas": 1000}
    rule = Drops(10, 60.0, lambda: dict(drops))
    assert messages(rule, 0) == [], "what was there before does not count"
    drops["by queue_full of backend nas"] += 8
    assert messages(rule, 1) == []
    drops["rejected as oversize"] = 2
    (finding,) = rule.check(at(2))
    assert finding.value == 10 and finding.message == (
        "10 messages dropped within 1 min: 8 by queue_full of backend nas, 2 rejected as oversize"
    )
    assert messages(rule, 63.5) == [] and messages(rule, 64) == []
    assert not rule._windows
    del drops["by queue_full of backend nas"]  # the backend goes, and comes back
    messages(rule, 70)
    drops["by queue_full of backend nas"] = 1008
    assert messages(rule, 71) == []
    drops["by queue_full of backend nas"] = 5  # and begins anew
    assert messages(rule, 72) == []
    drops["by queue_full of backend nas"] = 15
    assert len(messages(rule, 73)) == 1


def test_words_from_the_wire_are_bounded_and_printable():
    assert len(printable("x" * 5000)) == 200
    assert printable("a\x00b\ud800\u202e") == r"a\x00b\ud800\u202e"
    json.dumps(printable("\ud800"))
