"""Drops are counted by source, where they happen."""

import pytest

from wafermon.delivery import Backend, BatchQueue, Pipeline, RateLimit, Route
from wafermon.delivery.account import GAVE_UP, REFUSED, SHUTDOWN
from wafermon.flow import Router, Rule
from wafermon.testing import batch, frame, frames


def mixed(a, b):
    return batch(frames(a, src="a") + frames(b, src="b"))


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
def test_a_full_queue(policy):
    queue = BatchQueue(max_messages=8, when_full=policy)
    queue.put(mixed(4, 4))
    queue.put(mixed(0, 4))
    assert set(queue.lost) == {"queue_full"}
    assert sum(queue.lost["queue_full"].values()) == sum(queue.account().dropped.values()) > 0


def test_the_bound_of_one_source():
    queue = BatchQueue(max_messages=100, per_source=8, when_full="drop_oldest")
    queue.put(mixed(20, 5))
    assert queue.lost == {"queue_full": {"a": queue.account().dropped["queue_full"]}}


def test_sampled():
    queue = BatchQueue(max_messages=100, when_full="sample")
    queue.put(mixed(80, 0))
    queue.put(mixed(0, 15))
    assert queue.lost == {"sampled_full": {"b": queue.account().dropped["sampled_full"]}}


def test_what_a_backend_refused_or_was_given_up():
    queue = BatchQueue()
    queue.put(mixed(1, 2))
    for part in queue.take(0).split(1):
        queue.done(part, REFUSED if len(part) == 1 else "delivered")
    assert queue.lost == {"refused": {"a": 1}}
    queue.put(mixed(2, 2))
    queue.take(0)
    queue.drop_taken(GAVE_UP)
    queue.put(mixed(0, 3))
    queue.give_up(SHUTDOWN)
    queue.put(mixed(1, 0))
    assert queue.lost == {"refused": {"a": 1}, "gave_up": {"a": 2, "b": 2}, "shutdown": {"a": 1, "b": 3}}


def test_a_successor_goes_on():
    queue, heir = BatchQueue(max_messages=1, when_full="drop_newest"), BatchQueue()
    queue.put(mixed(3, 0))
    heir.adopt(queue)
    assert heir.lost == queue.lost and heir.lost["queue_full"]["a"] > 0


class Sink(Backend):
    def write(self, batch):
        pass


def test_the_rate_limit_and_all_routes_together():
    limit = RateLimit(per_second=1, burst=2, clock=lambda: 0.0)
    route = Route("sink", Sink())
    pipeline = Pipeline(Router({"*": [Rule("sink")]}), {"sink": route}, rate_limit=limit)
    pipeline.submit(batch([*frames(5, src="a"), frame(src="b")]))
    assert dict(pipeline.lost) == {"a": 3} and pipeline.rate_limited == 3
    route.queue.put(batch(frames(10, src="a")))
    route.queue.give_up(SHUTDOWN)
    assert pipeline.dropped() == {"a": 15, "b": 1}
    assert pipeline.dropped_of("a") == [("input", "rate_limited", 3), ("backend sink", "shutdown", 12)]
    assert pipeline.dropped_of("c") == []
