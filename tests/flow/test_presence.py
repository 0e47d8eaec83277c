"""Presence: states by a fake clock."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafermon.flow import Expected, Presence
from wafermon.flow.capped import Capped
from wafermon.flow.rhythm import Rhythm
from wafermon.flow.source import FINISHED, LATE, LIVE, MISSING, STATES
from wafermon.testing import batch, frame


class World:
    """Sources and a clock."""

    def __init__(self, *expected, **settings):
        self.now = 1000.0
        self.presence = Presence(expected, now=self.now, **settings)

    def after(self, seconds):
        self.now += seconds
        return self

    def tell(self, src="a", type="event", count=1, **data):
        self.presence.observe(batch([frame(src=src, type=type, data=data)] * count), self.now)

    def join(self, src="a"):
        self.presence.joined(src, self.now)

    def leave(self, src="a", lived=10.0, abrupt=False):
        self.presence.left(src, lived, self.now, abrupt)

    def state(self, src="a"):
        return self.presence.state(src, self.now)

    def see(self, src="a"):
        return next(one for one in self.presence.view(self.now) if one.src == src)


def test_a_told_interval():
    world = World()
    world.tell(type="heartbeat", interval_s=30)
    assert [world.after(s).state() for s in (61, 2, 58, 2)] == [LIVE, LATE, LATE, MISSING]
    seen = world.see()
    assert (seen.interval_s, seen.interval_from, seen.since) == (30.0, "told", 1122.0)
    world.tell()
    assert world.state() == LIVE and world.see().since == world.now


@pytest.mark.parametrize("interval", [0, -1, True, "30", [], {}, 1e300])
def test_an_interval_that_is_none_is_counted(interval):
    world = World()
    world.tell(type="heartbeat", interval_s=interval)
    assert world.see().interval_s is None and world.presence.bad_payload == 1


def test_no_interval_is_no_fault():
    world = World()
    world.tell(type="heartbeat")
    world.presence.observe(batch([b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\n']), world.now)
    assert world.presence.bad_payload == 0


def test_the_rhythm_of_heartbeats_is_learned():
    world = World()
    world.join()
    for _ in range(8):
        world.after(60).tell(type="heartbeat")
    assert (world.see().interval_s, world.see().interval_from) == (60.0, "learned")
    assert [world.after(s).state() for s in (130, 1, 119, 1)] == [LIVE, LATE, LATE, MISSING]


def test_a_learned_rhythm_of_other_messages_is_a_guess():
    world = World()
    world.join()
    for _ in range(8):
        world.after(60).tell()
    assert world.after(3600).state() == LATE, "its connection is open: it is not missing"
    world.leave(abrupt=True)
    assert world.after(1).state() == MISSING


def test_no_rhythm_in_what_comes_at_random():
    world = World()
    for gap in (1, 60, 3, 200, 1, 7, 90, 2, 30, 400):
        world.after(gap).tell()
    assert world.see().interval_s is None


def test_who_talks_without_pause_has_no_rhythm():
    world = World()
    for _ in range(500):
        world.after(0.01).tell()
    assert world.see().interval_s is None


def test_a_source_without_an_interval():
    world = World(missing_after=300)
    world.join()
    world.tell()
    assert world.after(100_000).state() == LIVE, "its connection is open"
    world.leave(abrupt=True)
    assert [world.after(s).state() for s in (300, 1)] == [LIVE, MISSING]
    world.join()
    world.tell()
    assert world.state() == LIVE and world.see().since == world.now


def test_who_promised_nothing_and_left_in_order_is_no_alarm():
    world = World(missing_after=300)
    for _ in range(9):
        world.join()
        world.tell()
        world.leave(lived=0.01)
        assert world.after(60).state() == LIVE
    assert world.see().interval_from == "learned", "a guess, which it has not promised"
    assert [world.after(s).state() for s in (240, 1)] == [LIVE, FINISHED]
    assert world.see().since == world.now - 1
    world.join()
    world.tell()
    assert world.state() == LIVE


@pytest.mark.parametrize("promise", ["heartbeat", "expected", "abrupt"])
def test_who_promised_to_stay_is_missing(promise):
    world = World(*[Expected("a", 10)] if promise == "expected" else [], missing_after=300)
    world.join()
    world.tell(type="heartbeat" if promise == "heartbeat" else "event")
    world.leave(abrupt=promise == "abrupt")
    assert world.after(301).state() == MISSING


def test_goodbye_is_finished():
    world = World()
    world.join()
    world.tell(type="heartbeat", interval_s=1)
    world.tell(type="goodbye")
    world.leave()
    assert world.after(10_000).state() == FINISHED and world.see().since == 1000.0
    world.tell()
    assert world.state() == LIVE


def test_goodbye_of_one_of_two():
    world = World()
    world.join()
    world.join()
    world.tell()
    world.tell(type="goodbye")
    assert world.state() == LIVE
    world.leave()
    assert world.state() == LIVE and world.see().connections == 1
    world.leave()
    assert world.state() == FINISHED


def test_a_name_beats_a_pattern_and_a_long_one_a_short_one():
    world = World(Expected("*", 1), Expected("db-*", 10), Expected("db-1", 30))
    for src, every in (("db-1", 30), ("db-2", 10), ("etl", 1)):
        world.tell(src)
        world.state(src)
        assert world.see(src).interval_s == every


def test_expected_sources():
    world = World(Expected("config-service", 30), Expected("db-*", 10))
    assert world.state("config-service") == LATE and world.see("config-service").last_seen is None
    assert world.after(123).state("config-service") == MISSING
    assert world.state("db-1") is None, "of a pattern nobody knows who is meant"
    world.tell("config-service")
    world.tell("db-1", type="heartbeat", interval_s=3600)
    assert world.see("config-service").interval_from == "configured"
    assert world.after(43).state("db-1") == MISSING, "the configuration counts"


def test_other_settings_keep_what_is_known():
    world = World(Expected("a", 10))
    world.tell("a", count=5)
    world.presence.configure([Expected("b", 1)], missing_after=7, max_sources=9, now=world.now)
    seen = world.see("a")
    assert (seen.messages, seen.interval_s) == (5, None)
    assert world.after(8).state("a") == MISSING and world.state("b") == MISSING


def test_who_never_came_and_is_expected_no_more_is_forgotten():
    world = World(Expected("confg", 10), Expected("a", 10), Expected("b", 10))
    world.tell("a")
    world.presence.joined("b", world.now)
    world.presence.configure([Expected("config", 10)], missing_after=7, max_sources=9, now=world.now)
    assert world.state("confg") is None and len(world.presence) == 3, "its name was misspelt"
    assert world.state("a") == world.state("b") == LIVE


def test_counts_by_type_and_source():
    world = World()
    lines = [
        frame(src="a", data={}), frame(src="b", type="metric", data={}), frame(src="a", data={}),
        frame(src="a", type="span", tid="t", sid="s", data={}), frame(src="b", tid="t", data={}),
    ]  # fmt: skip
    world.presence.observe(batch(lines), world.now)
    world.tell("b", type="goodbye")
    assert world.see("a").by_type == {"event": 2, "span": 1}
    assert world.see("b").by_type == {"event": 1, "metric": 1, "goodbye": 1}
    assert (world.see("a").messages, world.see("b").messages) == (3, 3)


def test_rates_of_the_last_slots():
    world = World()  # a slot begins at 1000
    world.tell(count=50)
    world.after(5).tell(count=100)
    world.after(11)
    rates = world.presence.rates("a", world.now)
    assert len(rates) == 60 and rates[-4:] == [10.0, 20.0, 0.0, 0.0]
    assert world.see().per_s == 0.0
    assert sum(world.after(285).presence.rates("a", world.now)) == 20.0
    assert sum(world.after(5).presence.rates("a", world.now)) == 0.0
    assert world.presence.rates("nobody", world.now) == [0.0] * 60
    world = World()
    world.tell(count=50)
    world.after(300).tell(count=5)
    assert sum(world.after(5).presence.rates("a", world.now)) == 1.0


def test_the_sidecars_own_sources_have_no_presence():
    world = World()
    world.tell("wafermon.alerts")
    assert world.presence.view(world.now) == []


def test_too_many_sources():
    world = World(max_sources=3)
    for src in "abc":
        world.tell(src)
    world.tell("b", type="goodbye")
    world.tell("a")
    world.tell("d")
    assert world.state("b") is None, "it has finished"
    world.tell("e")  # c was heard of longest ago
    assert {one.src for one in world.presence.view(world.now)} == {"a", "d", "e"}
    assert world.presence.evicted == 2


def test_a_connection_outlives_an_eviction():
    world = World(max_sources=1)
    world.join("a")
    world.tell("a")
    world.tell("b")
    world.tell("a")
    assert world.see("a").connections == 1
    world.leave("a")
    assert world.see("a").connections == 0


def test_families():
    world = World()
    world.tell("a")
    found = {one.name: one for one in world.presence.collect(world.now + 2, unix=5000.0)}
    assert found["sidecar_source_last_seen_timestamp_seconds"].samples[0].value == 4998.0
    states = {s.labels[0][1]: s.value for s in found["sidecar_sources"].samples}
    assert states == {"live": 1, "late": 0, "missing": 0, "finished": 0}


@given(st.floats(1.0, 3600), st.floats(0, 0.05), st.integers(8, 30))
def test_a_rhythm_is_found_in_spite_of_jitter(interval, jitter, beats):
    rhythm = Rhythm()
    for number in range(beats):
        rhythm.beat(number * interval * (1 + jitter * (number % 2)))
    assert rhythm.interval is None or rhythm.interval == pytest.approx(interval, rel=1.0)
    if jitter < 0.001:
        assert rhythm.interval == pytest.approx(interval, rel=0.05)


def test_an_outage_is_no_rhythm_and_another_rhythm_is_learned():
    rhythm, now = Rhythm(), 0.0
    for _ in range(10):
        now += 10
        rhythm.beat(now)
    rhythm.beat(now := now + 5000)
    assert rhythm.interval == 10.0
    for _ in range(12):
        rhythm.beat(now := now + 60)
    assert rhythm.interval == 60.0


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["tell", "heartbeat", "goodbye", "join", "leave"]),
        st.sampled_from("abc"),
        st.floats(0, 400),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(_STEPS)
def test_whatever_happens_states_are_those_of_the_table(steps):
    world = World(max_sources=2)
    open_now = {"a": 0, "b": 0, "c": 0}
    for what, src, seconds in steps:
        world.after(seconds)
        if what == "join":
            open_now[src] += 1
            world.join(src)
        elif what == "leave":
            if not open_now[src]:
                continue
            open_now[src] -= 1
            world.leave(src)
        else:
            data = {"interval_s": 10} if what == "heartbeat" else {}
            world.tell(src, type="event" if what == "tell" else what, **data)
            if what != "goodbye":
                assert world.state(src) == LIVE, "it has just spoken"
    seen = world.presence.view(world.now)
    assert len(seen) <= 2
    for one in seen:
        assert one.state in STATES and one.since <= world.now
        assert one.connections == open_now[one.src]
        assert sum(one.by_type.values()) == one.messages
        if one.interval_s is None and one.connections and one.state != FINISHED:
            assert one.state == LIVE
    assert sum(world.presence.counts(world.now).values()) == len(seen)


@given(st.lists(st.tuples(st.sampled_from(["add", "touch", "end", "go_on", "drop"]), st.integers(0, 9))))
def test_a_capped_map_holds_its_bound(steps):
    items = Capped(4)
    for what, key in steps:
        known = items.get(key) is not None
        if what == "add" and not known:
            items.add(key, str(key))
            assert items.get(key) is not None or len(items) == 4
        elif known and what != "add":
            getattr(items, what)(key)
    assert len(items) <= 4
    items.resize(1)
    items.add(10, "10")
    assert len(items) == 1
