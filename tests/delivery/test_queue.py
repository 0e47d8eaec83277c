"""The queue: bounds, order, gathering."""

import threading
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from wafermon.delivery import BatchQueue
from wafermon.delivery import queue as module
from wafermon.message import Batch
from wafermon.testing import FakeClock, frames


def batch(count=1, src="a", first=0):
    return Batch(b"".join(frames(count, src=src, first=first)), sources={src: count})


def test_what_was_taken_counts_until_it_is_done():
    queue = BatchQueue()
    queue.put(batch(3))
    taken = queue.take()
    assert (queue.messages, queue.bytes, queue.sources) == (3, len(taken.raw), {"a": 3})
    queue.done(taken)
    assert (queue.messages, queue.bytes, queue.sources) == (0, 0, {})


def test_batches_join_in_order():
    queue = BatchQueue()
    parts = [batch(2, first=i * 2) for i in range(5)] + [batch(1, "b")]
    for part in parts:
        queue.put(part)
    taken = queue.take()
    assert taken.raw == b"".join(part.raw for part in parts)
    assert taken.sources == {"a": 10, "b": 1}
    assert {s: p.raw for s, p in taken.by_source().items()} == {
        "a": b"".join(part.raw for part in parts[:5]), "b": parts[5].raw,
    }


def test_what_a_predecessor_was_busy_with_goes_out_as_it_was():
    """By that a backend knows what it has sent already."""
    before, after = BatchQueue(), BatchQueue()
    before.put(batch(3))
    taken = before.take()
    before.put(batch(2, first=3))
    after.adopt(before)
    after.put(batch(1, first=5))
    assert after.take() is taken
    after.done(taken)
    assert len(after.take()) == 3 and after.messages == 3


def test_other_bounds_and_another_policy_hold_at_once():
    queue = BatchQueue(max_messages=4)
    assert not queue.put(batch(4))
    assert not queue.is_low(["a"])
    queue.follow(BatchQueue(max_messages=10))
    assert queue.is_low(["a"]) and queue.put(batch(5))
    queue.follow(BatchQueue(max_messages=4, when_full="drop_oldest"))
    assert queue.is_low(["a"]), "nobody waits for one that drops"
    assert queue.put(batch(1, first=9)) and queue.messages == 4
    assert queue.account().dropped["queue_full"] == 6


def test_one_write_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "WRITE_BYTES", 500)
    queue = BatchQueue()
    parts = [batch(2) for _ in range(10)] + [batch(20)]
    for part in parts:
        queue.put(part)
    sizes = []
    while queue.messages:
        taken = queue.take()
        sizes.append(len(taken.raw))
        queue.done(taken)
    assert sum(sizes) == sum(len(part.raw) for part in parts)
    assert all(size <= 500 for size in sizes[:-1]) and sizes[-1] == len(parts[-1].raw)


def test_full_by_messages_by_bytes_and_by_source():
    assert [BatchQueue(max_messages=5).put(batch(n)) for n in (4, 5)] == [True, False]
    size = len(batch(4).raw)
    assert [BatchQueue(max_bytes=size + d).put(batch(4)) for d in (1, 0)] == [True, False]
    queue = BatchQueue(per_source=4)
    assert queue.put(batch(3, "a")) and queue.put(batch(3, "b"))
    assert not queue.put(batch(1, "a"))
    assert queue.is_under(["b"]) and not queue.is_under(["a"]) and not queue.is_under(["b", "a"])


def test_low_is_half():
    queue = BatchQueue(max_messages=10, per_source=8)
    queue.put(batch(6))
    six = queue.take()
    queue.put(batch(4))
    assert not queue.is_low(["a"])
    queue.done(six)
    assert queue.messages == 4 and not queue.is_low(["a"]) and queue.is_low(["b"])
    queue.done(queue.take())
    assert queue.is_low(["a"])


def test_nothing_waits_for_a_batch_to_fill_when_all_is_quiet():
    queue = BatchQueue(flush_messages=1000, flush_seconds=3600)
    queue.put(batch(1))
    assert len(queue.take(timeout=5)) == 1  # and not in an hour


def test_nothing_waits_for_company_that_comes_after_a_silence(monkeypatch):
    monkeypatch.setattr(module, "QUIET_SECONDS", 30)
    clock = FakeClock(1000.0)
    queue = BatchQueue(flush_messages=4, flush_seconds=3600, clock=clock)
    for _ in range(2):
        queue.put(batch(1))
        queue.done(queue.take())  # waits 30 s where it takes this for company, and times out
        clock.advance(31)
    assert queue.messages == 0


def test_gathering_ends_at_the_bound_of_messages(monkeypatch):
    monkeypatch.setattr(module, "QUIET_SECONDS", 30)
    queue = BatchQueue(flush_messages=4, flush_seconds=3600)
    queue.put(batch(1))
    queue.done(queue.take())  # from now on it is busy
    queue.put(batch(1))
    got = []
    taker = threading.Thread(target=lambda: got.append(queue.take()))
    taker.start()
    for _ in range(3):
        queue.put(batch(1))
    taker.join(20)
    assert len(got[0]) == 4


def test_gathering_ends_at_the_bound_of_seconds():
    clock = FakeClock()
    queue = BatchQueue(flush_messages=1000, flush_seconds=5, clock=clock)
    queue.put(batch(1))
    assert queue.oldest_seconds() == 0
    clock.advance(5)
    assert queue.oldest_seconds() == 5
    assert len(queue.take()) == 1


def test_timeout_and_close():
    queue = BatchQueue()
    assert queue.take(timeout=0) is None
    queue.put(batch(1))
    queue.close()
    assert len(queue.take()) == 1
    assert queue.take() is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=20), st.data())
def test_accounts_always_balance(puts, data):
    queue, inside = BatchQueue(), []
    for source, count in puts:
        queue.put(batch(count, source))
        inside.append((source, count))
        if data.draw(st.booleans()):
            taken = queue.take()
            queue.done(taken)
            inside.clear()
        counts = {s: sum(n for t, n in inside if t == s) for s in "abc"}
        assert queue.sources == {s: n for s, n in counts.items() if n}
        assert queue.messages == sum(counts.values())


def test_small_batches_that_wait_cost_little_more_than_their_bytes():
    queue = BatchQueue(max_messages=10_000)
    lines = [line + b" " * 100 + b"\n" for line in (f[:-1] for f in frames(1000))]
    for line in lines[:10]:
        queue.put(Batch(line, sources={"test": 1}))
    tracemalloc.start()
    try:
        for n, line in enumerate(lines):
            one = Batch(b"".join((line, b"")), sources={"test": 1})
            one.seq = n + 1
            queue.put(one)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 300_000
    assert queue.messages == 1010 and queue.sources == {"test": 1010}
    taken = queue.take()
    assert taken.raw == b"".join(lines[:10] + lines) and taken.seq == 1000
    assert taken.by_source()["test"].raw == taken.raw
    queue.done(taken)
    assert (queue.messages, queue.bytes) == (0, 0)
