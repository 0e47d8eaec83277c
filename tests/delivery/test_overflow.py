"""What goes when a queue overflows, and that every message is accounted for."""

import collections
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafermon.delivery import Backend, BatchQueue, RateLimit, Retry, Route
from wafermon.delivery.overflow import PATIENCE, SAMPLE_SHARE
from wafermon.errors import PermanentError, RetryableError
from wafermon.message import Batch
from wafermon.testing import FakeClock, frame, frames

DROPPING = ["drop_newest", "drop_oldest", "sample"]
URGENT = [
    {"type": "heartbeat"}, {"type": "goodbye"},
    {"data": {"level": "error", "msg": "x"}}, {"data": {"level": "fatal", "msg": "x"}},
]  # fmt: skip


def batch(first, count=1, src="a", **fields):
    return Batch(b"".join(frames(count, src, first, **fields)))


def inside(queue):
    """The numbers of the messages that wait, in order."""
    found = []
    while queue.messages:
        taken = queue.take(0)
        found += [m["ts"] - 1_700_000_000_000 for m in taken.messages]
        queue.done(taken)
    return found


def test_drop_newest_keeps_what_came_first():
    queue = BatchQueue(max_messages=5, when_full="drop_newest")
    for first in (1, 4, 7):
        assert queue.put(batch(first, 3)), "its feeder goes on"
    assert queue.account().dropped["queue_full"] == 4 and inside(queue) == [1, 2, 3, 4, 5]


def test_drop_oldest_keeps_what_came_last():
    queue = BatchQueue(max_messages=5, when_full="drop_oldest")
    for first in (1, 4, 7):
        queue.put(batch(first, 3))
    assert queue.account().dropped["queue_full"] == 4 and inside(queue) == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("policy", DROPPING)
def test_bytes_are_a_bound_too(policy):
    size = len(batch(10, 4).raw)
    queue = BatchQueue(max_bytes=size, when_full=policy)
    for first in (10, 14, 18):
        queue.put(batch(first, 4))
    assert queue.bytes <= size and queue.messages >= 2


@pytest.mark.parametrize("policy", DROPPING)
@pytest.mark.parametrize("fields", URGENT)
def test_what_is_urgent_goes_last(policy, fields):
    queue = BatchQueue(max_messages=20, when_full=policy)
    queue.put(batch(1, 1, **fields))
    queue.put(batch(2, 18))
    queue.put(batch(20, 1, **fields))
    queue.put(batch(21, 18))
    queue.put(batch(39, 2, **fields))
    numbers = inside(queue)
    assert {1, 20, 39, 40} <= set(numbers) and len(numbers) <= 20
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("policy, kept", [("drop_newest", [1, 2]), ("drop_oldest", [9, 10])])
def test_where_all_is_urgent_the_policy_decides(policy, kept):
    queue = BatchQueue(max_messages=2, when_full=policy)
    for first in range(1, 11):
        queue.put(batch(first, 1, type="heartbeat"))
    assert inside(queue) == kept


@pytest.mark.parametrize("policy", DROPPING)
def test_a_noisy_source_does_not_fill_it_alone(policy):
    queue = BatchQueue(max_messages=1000, per_source=100, when_full=policy)
    queue.put(batch(1, 50, "quiet"))
    for first in range(0, 5000, 50):
        queue.put(batch(first, 50, "noisy"))
    queue.put(batch(51, 20, "quiet"))
    assert queue.sources["quiet"] == 70 and queue.sources["noisy"] <= 100


@pytest.mark.parametrize("policy", DROPPING)
def test_what_a_worker_is_busy_with_counts_and_stays(policy):
    queue = BatchQueue(max_messages=4, when_full=policy)
    queue.put(batch(1, 3))
    taken = queue.take(0)
    queue.put(batch(4, 5))
    assert queue.messages == 4
    queue.done(taken)
    assert len(inside(queue)) == 1


def test_a_sample_keeps_traces_whole_and_a_tenth_of_them():
    queue = BatchQueue(max_messages=4000, when_full="sample")
    queue.put(batch(1, 3000))
    for number in range(2000):
        queue.put(batch(number, 1, tid=f"t{number % 500}"))
    for number in range(2000):
        queue.put(batch(number, 1, tid=f"t{number % 500}"))
    account = queue.account()
    kept = collections.Counter()
    while queue.messages:
        taken = queue.take(0)
        kept.update(m["tid"] for m in taken.messages if "tid" in m)
        queue.done(taken)
    assert set(kept.values()) == {8}, "all of a trace share one fate"
    assert 0.5 * SAMPLE_SHARE < len(kept) / 500 < 2 * SAMPLE_SHARE
    assert account.dropped["sampled_full"] == 4000 - sum(kept.values())
    assert account.dropped["queue_full"] == 0


def test_dead_letters_that_are_no_messages_can_overflow():
    queue = BatchQueue(max_messages=2, when_full="drop_newest")
    record = json.dumps({"time": 1, "reason": "fatal", "line": "error"}).encode() + b"\n"
    for _ in range(3):
        queue.put(Batch(record, sources={"x": 1}))
    assert queue.messages == 2


def test_a_queue_full_of_what_is_urgent_is_not_searched_for_each_message(monkeypatch):
    from wafermon.delivery import overflow

    cuts = []
    cut = overflow.cut
    monkeypatch.setattr(overflow, "cut", lambda *a, **k: cuts.append(1) or cut(*a, **k))
    queue = BatchQueue(max_messages=10 * PATIENCE, when_full="drop_oldest")
    for number in range(40 * PATIENCE):
        queue.put(batch(number, type="heartbeat"))
    assert queue.messages <= 10 * PATIENCE
    assert len(cuts) < 4 * 40 * PATIENCE


# -- every message is accounted for ------------------------------------------------------------


class Moody(Backend):
    """Answers as it is told: taken, not now, never, or never for a line with a 3 in it."""

    def __init__(self):
        self.mood, self.lines = "ok", []

    def write(self, batch):
        if self.mood == "down":
            raise RetryableError("down")
        if self.mood == "alternating":
            self.mood = "down"
            raise PermanentError("no")
        if any(b"3" in line for line in batch.lines) and self.mood == "picky":
            raise PermanentError("a 3")
        self.lines += batch.lines


def balances(route):
    account = route.queue.account()
    assert account.queued >= 0 and min(account.dropped.values()) >= 0
    return account.offered == (
        account.delivered + account.queued + account.dead_lettered + sum(account.dropped.values())
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "turn", "down", "ok", "picky", "alternating", "later"]),
            st.integers(1, 6),
            st.sampled_from("ab"),
        ),
        max_size=40,
    ),
    st.sampled_from(["block", *DROPPING]),
    st.booleans(),
)
def test_offered_is_always_what_became_of_it(steps, policy, letters):
    clock, sink, dead = FakeClock(), Moody(), []
    route = Route(
        "r", sink,
        queue=BatchQueue(max_messages=8, per_source=6, when_full=policy, clock=clock),
        retry=Retry(0, give_up_after=10),
        dead_letter=(lambda batch, *_: dead.append(batch.lines[0])) if letters else None,
        clock=clock,
    )  # fmt: skip
    route._pause = lambda seconds: (clock.advance(max(seconds, 3)), None)[1]
    offered = 0
    for step, count, src in steps:
        if step == "put":
            route.offer(batch(offered, count, src))
            offered += count
        elif step == "turn":
            taken = route.queue.take(0)
            if taken is not None:
                route._deliver_or_drop(taken)
        elif step == "later":
            clock.advance(count)
        else:
            sink.mood = step
        assert balances(route)
    account = route.queue.account()
    assert account.offered == offered and account.delivered == len(sink.lines)
    assert len(set(sink.lines)) == len(sink.lines), "nothing twice"
    assert account.dead_lettered == len(dead)
    route.stop(0)
    route.offer(batch(offered))
    assert balances(route)
    assert sum(route.queue.sources.values()) == route.queue.messages


@given(st.lists(st.sampled_from(["ok", "retry", "never"]), max_size=60), st.integers(1, 9))
def test_a_backend_that_changes_its_mind_loses_and_doubles_nothing(moods, count):
    """Bisected while it alternates between errors, each line is delivered or a dead letter, once,
    and in order."""
    answers, lines, dead = iter(moods), [], []

    class Fickle(Backend):
        def write(self, batch):
            mood = next(answers, "ok")
            if mood == "retry":
                raise RetryableError("not now")
            if mood == "never":
                raise PermanentError("never")
            lines.extend(batch.lines)

    route = Route("r", Fickle(), retry=Retry(0), dead_letter=lambda b, *_: dead.extend(b.lines))
    route._pause = lambda seconds: None
    route.offer(batch(1, count))
    route._deliver_or_drop(route.queue.take(0))
    assert sorted(lines + dead) == sorted(batch(1, count).lines)
    assert lines == sorted(lines, key=batch(1, count).lines.index)
    assert balances(route) and route.queue.messages == 0


# -- on the way in -----------------------------------------------------------------------------


def test_a_rate_limit_is_each_sources_own_and_spares_what_is_urgent():
    clock = FakeClock()
    limit = RateLimit(per_second=10, burst=5, clock=clock)
    mixed = Batch(batch(1, 8, "loud").raw + batch(1, 3, "calm").raw + frame(9, "loud", "goodbye"))
    mixed.marks = [("session", 7)]
    admitted = limit.admit(mixed)
    assert admitted.sources == {"loud": 5, "calm": 3} and admitted.marks == [("session", 7)]
    assert any(message["type"] == "goodbye" for message in admitted.messages)
    assert len(limit.admit(batch(1, 8, "loud"))) == 0
    clock.advance(0.2)
    assert len(limit.admit(batch(1, 8, "loud"))) == 2
    small = batch(1, 1, "calm")
    assert limit.admit(small) is small, "within the limit nothing is touched"


def test_a_rate_limit_remembers_so_many_sources_and_no_more():
    clock = FakeClock()
    limit = RateLimit(per_second=1, burst=2, max_sources=3, clock=clock)
    for i in range(10):
        limit.admit(batch(1, 2, f"s{i}"))
    assert limit.evictions == 7 and len(limit._buckets) == 3
    clock.advance(60)
    limit.admit(batch(1, 1, "new"))
    assert limit.evictions == 7 and len(limit._buckets) == 1, "full buckets go at no loss"
