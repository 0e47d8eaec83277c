"""The pipeline: accounts, observers, pausing of just those who feed a full queue."""

import json

import pytest

from wafermon.delivery import (
    Backend,
    BatchQueue,
    DeadLetters,
    Journal,
    Pipeline,
    RateLimit,
    Route,
    Tail,
)
from wafermon.delivery.feeders import Crowd
from wafermon.flow import Router, Rule
from wafermon.message import Batch, Reason, Reject
from wafermon.testing import frame, frames


class Keep(Backend):
    def __init__(self):
        self.raw = b""

    def write(self, batch):
        self.raw += batch.raw


class Feeder:
    def __init__(self):
        self.calls = []

    def pause(self):
        self.calls.append("pause")

    def resume(self):
        self.calls.append("resume")


def batch(count=1, src="a"):
    return Batch(b"".join(frames(count, src=src)))


def drain(route):
    route.queue.done(route.queue.take())
    route.on_done()


@pytest.fixture
def soon():
    return []


@pytest.fixture
def pipeline(soon):
    routes = {
        "small": Route("small", Keep(), queue=BatchQueue(max_messages=4)),
        "large": Route("large", Keep()),
    }
    router = Router({"a": [Rule("small"), Rule("large")], "b": [Rule("large")]})
    return Pipeline(router, routes, call_soon=soon.append)


def test_just_those_who_feed_a_full_queue_pause(pipeline, soon):
    a, b = Feeder(), Feeder()
    pipeline.submit(batch(3, "a"), a)
    pipeline.submit(batch(100, "b"), b)
    assert a.calls == b.calls == []
    pipeline.submit(batch(3, "a"), a)
    assert a.calls == ["pause"] and b.calls == []
    pipeline.submit(batch(1, "a"), a)
    assert a.calls == ["pause"], "once is enough"
    drain(pipeline.routes["small"])
    assert len(soon) == 1
    soon.pop()()
    assert a.calls == ["pause", "resume"] and b.calls == []
    drain(pipeline.routes["large"])
    assert soon == [], "nobody waits: nobody is woken"


def test_a_feeder_of_two_full_queues_waits_for_both(soon):
    routes = {n: Route(n, Keep(), queue=BatchQueue(max_messages=2)) for n in ("x", "y")}
    pipeline = Pipeline(Router({"*": [Rule("x"), Rule("y")]}), routes, call_soon=soon.append)
    feeder = Feeder()
    pipeline.submit(batch(2), feeder)
    drain(routes["x"])
    soon.pop()()
    assert feeder.calls == ["pause"]
    drain(routes["y"])
    soon.pop()()
    assert feeder.calls == ["pause", "resume"]


def test_a_feeder_that_is_gone_is_not_resumed(pipeline, soon):
    feeder = Feeder()
    pipeline.submit(batch(9, "a"), feeder)
    pipeline.forget(feeder)
    drain(pipeline.routes["small"])
    assert soon == [] and feeder.calls == ["pause"]


def test_accounts(pipeline):
    pipeline.submit(batch(3, "a"))
    pipeline.submit(batch(2, "nobody"))
    pipeline.submit(Batch(rejects=[Reject(Reason.OVERSIZE, b"x")]))
    assert pipeline.received == {"a": 3, "nobody": 2}
    assert pipeline.rejected["oversize"] == 1
    assert pipeline.buffered() == {"a": 6}
    samples = {(f.name, s.labels): s.value for f in pipeline.collect() for s in f.samples}
    assert samples["sidecar_messages_dropped_total", (("reason", "no_route"),)] == 2
    assert samples["sidecar_messages_routed_total", (("backend", "small"),)] == 3


def test_sources_are_capped():
    pipeline = Pipeline(Router({}), {}, max_sources=2)
    for i in range(5):
        pipeline.submit(batch(1, f"s{i}"))
    assert pipeline.received == {"s0": 1, "s1": 1, "_other": 3}


def test_an_observer_that_fails_harms_nobody(caplog):
    seen = []

    class Bad:
        def observe(self, batch, now):
            raise ValueError("oh")

    class Good:
        def observe(self, batch, now):
            seen.append((len(batch), now))

    sink = Keep()
    pipeline = Pipeline(
        Router({"*": [Rule("sink")]}), {"sink": Route("sink", sink)},
        observers=[Bad(), Good()], clock=lambda: 7.0,
    )
    with pipeline:
        for _ in range(3):
            pipeline.submit(batch(2))
    assert seen == [(2, 7.0)] * 3 and pipeline.observer_errors == 3
    assert sink.raw == batch(2).raw * 3
    assert len(caplog.records) == 1


def test_dead_letters_hold_bytes_of_any_kind():
    sink = Keep()
    letters = DeadLetters(sink, clock=lambda: 1.5)
    letters.rejected([Reject(Reason.INVALID_JSON, b"caf\xc3\xa9 \x00"), Reject(Reason.OVERSIZE, b"\xff\n")])
    letters.start()
    assert letters.settle(10)
    letters.refused(batch(1), "nas", "too sour")
    assert letters.stop(10) == 0
    records = [json.loads(line) for line in sink.raw.splitlines()]
    assert records == [
        {"time": 1500, "reason": "invalid_json", "line": "caf\u00e9 \x00"},
        {"time": 1500, "reason": "oversize", "base64": "/wo="},
        {"time": 1500, "reason": "too sour", "backend": "nas", "line": batch(1).lines[0].decode()},
    ]


def test_tail_shows_what_passes_and_counts_what_is_missed():
    tail = Tail(max_viewers=1, max_messages=3)
    tail.observe(batch(1), 0.0)
    view = tail.view()
    assert tail.view() is None, "too many"
    for _ in range(3):
        tail.observe(batch(2), 0.0)
    assert len(view.next(timeout=5)) == 4 and view.missed == 2
    assert view.next(timeout=0) is None
    view.close()
    other = tail.view()
    tail.close()
    assert other.next(timeout=60) is None and tail.view() is None


def test_a_rule_for_a_route_that_is_not_there_is_told_at_once():
    with pytest.raises(ValueError, match="no route for: nope"):
        Pipeline(Router({"*": [Rule("nope")]}), {})


class Trap:
    """Fails on every batch with a message that says `poison`."""

    def __init__(self, work):
        self.work, self.calls = work, 0

    def __call__(self, batch):
        self.calls += 1
        if b"poison" in batch.raw:
            raise RecursionError("nested too deeply")
        return self.work(batch)


def poisoned(count, *at):
    lines = [line.replace(b"event", b"poison") if i in at else line for i, line in enumerate(frames(count))]
    return Batch(b"".join(lines), sources={"script": count})


@pytest.mark.parametrize("step", ["clean", "route", "admit"])
def test_a_message_that_cannot_be_dealt_with_is_counted_and_costs_no_other(step, caplog):
    routes = {name: Route(name, Keep()) for name in ("x", "y")}
    router = Router({"*": [Rule("x"), Rule("y", types=["event"])]})
    limit = RateLimit(per_second=1000, burst=1000)
    pipeline = Pipeline(router, routes, rate_limit=limit)
    owner = limit if step == "admit" else router
    setattr(owner, step, Trap(getattr(owner, step)))
    whole = poisoned(9, 2, 7)
    whole.marks = [("k", 9)]
    pipeline.submit(whole)
    pipeline.submit(poisoned(3))
    wanted = [line for i, line in enumerate(frames(9)) if i not in (2, 7)] + list(frames(3))
    for route in routes.values():
        assert route.queue.account().offered == len(wanted)
        assert route.queue.take().raw == b"".join(wanted)
    assert pipeline.internal_errors == 2
    assert caplog.text.count("dropped by a fault of our own") == 1
    shown = [s.value for f in pipeline.collect() for s in f.samples if ("reason", "internal_error") in s.labels]
    assert sum(shown) == 2


def test_a_router_that_always_fails_leaves_nothing_uncounted(tmp_path):
    journal = Journal(str(tmp_path / "journal.db"))
    journal.open()
    router = Router({"*": [Rule("x")]})
    pipeline = Pipeline(router, {"x": Route("x", Keep())}, journal=journal)
    for number, step in enumerate(("route", "clean"), 1):
        setattr(router, step, Trap(getattr(router, step)))
        whole = poisoned(5, 0, 1, 2, 3, 4)
        whole.marks = [("k", 5 * number)]
        pipeline.submit(whole)
        assert pipeline.internal_errors == sum(pipeline.received.values()) == 5 * number
        assert journal.assigned == journal.routed == number, "marks are committed, receipts go out"
    journal.start()
    journal.close()
    assert pipeline.routes["x"].queue.account().offered == 0


def test_a_failure_halfway_through_routing_counts_no_drop_twice():
    class Bad(dict):
        def get(self, *_):
            raise ValueError("oh")

    batch = Batch(frame(1, src="nobody") + frame(2, src="a"))
    batch.messages[1]["data"] = Bad()
    router = Router({"a": [Rule("x", level="error")]})
    pipeline = Pipeline(router, {"x": Route("x", Keep())})
    pipeline.submit(batch)
    assert router.dropped["no_route"] == 1
    assert sum(router.dropped.values()) + pipeline.internal_errors == 2


def test_a_queue_that_fails_counts_and_stops_no_other_route(caplog):
    def fail(batch):
        raise ValueError("oh")

    routes = {name: Route(name, Keep()) for name in ("bad", "good")}
    routes["bad"].queue._append = fail
    pipeline = Pipeline(Router({"*": [Rule("bad"), Rule("good")]}), routes)
    for _ in range(2):
        pipeline.submit(batch(3))
    account = routes["bad"].queue.account()
    assert (account.offered, account.queued, account.dropped["internal_error"]) == (6, 0, 6)
    assert routes["good"].queue.account().queued == 6
    assert caplog.text.count("dropped by a fault of our own") == 1


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest", "sample"])
def test_a_queue_drops_just_the_message_that_it_cannot_parse(policy, monkeypatch):
    queue = BatchQueue(when_full=policy)
    trap = Trap(Batch.by_source)
    monkeypatch.setattr(Batch, "by_source", lambda self: trap(self))
    queue.put(poisoned(5, 3))
    account = queue.account()
    assert (account.offered, account.queued, account.dropped["internal_error"]) == (5, 4, 1)


def test_who_cannot_be_told_apart_waits():
    class Unreadable:
        @property
        def messages(self):
            raise RecursionError

    routes = {"x": Route("x", Keep(), queue=BatchQueue(max_messages=2))}
    pipeline = Pipeline(Router({"*": [Rule("x")]}), routes)
    feeders = [Feeder(), Feeder()]
    pipeline.submit(batch(4), Crowd([(feeder, 2) for feeder in feeders], Unreadable()))
    assert [feeder.calls for feeder in feeders] == [["pause"], ["pause"]]


def test_rejects_are_redacted_before_they_are_kept():
    class Letters:
        def rejected(self, rejects):
            self.lines = [reject.line for reject in rejects]

    letters = Letters()
    pipeline = Pipeline(Router({}, redact=["data.pin"]), {}, dead_letters=letters)
    pipeline.submit(Batch(rejects=[Reject(Reason.BAD_FIELD, b'{"data":{"pin":1}}'), Reject(Reason.OVERSIZE, b"x")]))
    assert letters.lines == [b'{"data":{"pin":"[redacted]"}}', b"[redacted: 1 bytes]"]


def test_dead_letters_that_fail_stop_no_message(caplog):
    class Letters:
        def rejected(self, rejects):
            raise ValueError("oh")

    pipeline = Pipeline(Router({"*": [Rule("x")]}), {"x": Route("x", Keep())}, dead_letters=Letters())
    pipeline.submit(Batch(frame(1), rejects=[Reject(Reason.BAD_FIELD, b"x")]))
    assert pipeline.rejected["bad_field"] == pipeline.routes["x"].queue.account().queued == 1
    assert "leave no dead letters" in caplog.text
