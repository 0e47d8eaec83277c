"""The pipeline: accounts, observers, pausing of just those who feed a full queue."""

import json

import pytest

from wafermon.delivery import Backend, BatchQueue, DeadLetters, Pipeline, Route, Tail
from wafermon.flow import Router, Rule
from wafermon.message import Batch, Reason, Reject
from wafermon.testing import frames


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
    route = Route("dead-letters", sink)
    letters = DeadLetters(route, clock=lambda: 1.5)
    letters.rejected([Reject(Reason.INVALID_JSON, b"caf\xc3\xa9 \x00"), Reject(Reason.OVERSIZE, b"\xff\n")])
    letters.refused(batch(1), "nas", "too sour")
    route.start()
    route.stop(10)
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
