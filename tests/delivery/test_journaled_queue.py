"""A queue with a journal behind it: lag, catch up, crash, a journal that fails or drops."""

import itertools
import json
import random
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafermon.delivery import Journal, JournaledQueue
from wafermon.errors import JournalError
from wafermon.message import Batch
from wafermon.testing import FakeClock, frames

IDS = itertools.count(1)


class World:
    """A journal in a folder, one queue on it, a source of numbered messages, and what came out."""

    made = []

    def __init__(self, folder, **bounds):
        self.made.append(self)
        self.path = str(folder / "journal.db")
        self.bounds = {"max_messages": 4, **bounds}
        self.put_ids, self.done_ids = [], []
        self.open()

    def open(self, **options):
        self.journal = Journal(self.path, **options)
        self.journal.open()
        self.queue = JournaledQueue(self.journal, "r", lambda batch: batch, **self.bounds)
        self.journal.positions = lambda: {"r": self.queue.position(self.journal.routed)}
        self.taken = None

    def crash(self):
        """All that was not committed is gone."""
        self.journal._file.close()
        self.open()

    def put(self, *counts, src="a"):
        """One batch, offered in parts, as the router does for several sources."""
        parts = []
        for place, count in enumerate(counts):
            ids = [next(IDS) for _ in range(count)]
            self.put_ids += ids
            raw = b"".join(line for i in ids for line in frames(1, src=f"{src}{place}", first=i))
            parts.append(Batch(raw))
        whole = Batch(b"".join(part.raw for part in parts))
        seq = self.journal.append(whole)
        answers = []
        for part in parts:
            packed = part.packed()
            packed.seq = whole.seq
            answers.append(self.queue.put(packed))
            yield
        self.journal.routed = seq
        self.answers = answers

    def put_all(self, *counts):
        for _ in self.put(*counts):
            pass
        return all(self.answers)

    def take(self):
        if self.taken is None:
            self.taken = self.queue.take(0)
        return self.taken

    def deliver(self, count=None):
        """Have the first so many of what was taken delivered."""
        if self.taken is None:
            return
        first, self.taken = self.taken.split(len(self.taken) if count is None else count)
        self.done_ids += ids_of(first)
        self.queue.done(first)
        if not len(self.taken):
            self.taken = None

    def drain(self):
        """Everything, until there is no more."""
        self.journal.commit()
        for _ in range(1000):
            if self.take() is None and not self.queue._lagging:
                return
            self.deliver()
        raise AssertionError("no end")


def ids_of(batch):
    return [json.loads(line)["ts"] - 1_700_000_000_000 for line in batch.lines]


def balances(queue):
    account = queue.account()
    return account.offered == (
        account.delivered + account.queued + account.dead_lettered + sum(account.dropped.values())
    )


@pytest.fixture(autouse=True)
def worlds_end():
    """Python 3.13 warns of databases that nobody closed."""
    yield
    while World.made:
        World.made.pop().journal._file.close()


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_it_lags_and_catches_up_in_order_and_once(world):
    for _ in range(10):
        assert world.put_all(3), "no feeder need pause"
    assert world.queue.behind and world.queue.messages < 10 and balances(world.queue)
    world.drain()
    assert world.done_ids == world.put_ids
    assert world.queue.behind == 0 and world.queue.account().delivered == 30
    world.put_all(1)
    world.drain()
    assert world.done_ids == world.put_ids, "and by memory again"


def test_parts_of_one_batch_share_its_fate_when_the_lag_begins_between_them(world):
    world.put_all(5, 2, 1)
    world.put_all(1, 1)
    world.drain()
    assert sorted(world.done_ids) == world.put_ids
    assert sum(world.queue.account().dropped.values()) == 0


def test_the_cursor_waits_for_every_part_of_a_batch(world):
    parts = world.put(1, 1)
    next(parts)  # the first part is offered
    world.take()
    world.deliver()
    assert world.queue.position(world.journal.routed) == 0, "the other part may still come"
    next(parts)
    assert next(parts, None) is None
    assert world.queue.position(world.journal.routed) == 0
    world.take()
    world.deliver()
    assert world.queue.position(world.journal.routed) == 1


def test_the_cursor_waits_for_a_part_that_comes_after_the_lag_began(world):
    parts = world.put(5, 1)
    next(parts)  # too much: from now on it lags
    world.take()
    world.deliver()
    assert world.queue.position(world.journal.routed) == 0
    assert list(parts) == [None]
    world.drain()
    assert world.done_ids == world.put_ids


def test_a_batch_that_is_committed_and_not_yet_routed_is_left_alone(world):
    world.put_all(5)
    parts = world.put(1, 1)
    next(parts)
    world.journal.commit()
    world.take()
    world.deliver()
    assert world.queue._read_back() is None, "its other part has still to come"
    assert list(parts) == [None]
    world.drain()
    assert world.done_ids == world.put_ids and balances(world.queue)
    assert world.queue.account().dropped["journal_full"] == 0


def test_a_bisected_batch_moves_the_cursor_when_all_of_it_is_done(world):
    world.put_all(2)
    world.put_all(1)
    assert len(world.take()) == 3
    world.deliver(2)
    assert world.queue.position(world.journal.routed) == 0 and world.queue.messages == 1
    world.deliver()
    assert world.queue.position(world.journal.routed) == 2


def test_after_a_crash_it_goes_on_where_the_cursor_was(world):
    for _ in range(6):
        world.put_all(2)
    world.take()
    world.deliver()
    world.journal.commit()
    world.crash()
    delivered = list(world.done_ids)
    assert delivered and world.queue.account().offered == 0
    world.drain()
    assert world.done_ids == world.put_ids
    assert world.queue.account().offered == len(world.put_ids) - len(delivered)


def test_what_a_journal_dropped_is_counted_as_lost(tmp_path):
    world = World(tmp_path)
    world.crash()
    world.journal.close()
    world.open(max_bytes=600, drop_oldest=True)
    for _ in range(12):
        world.put_all(4)
        world.journal.commit()
    world.drain()
    account = world.queue.account()
    lost = account.dropped["journal_full"]
    assert lost and account.delivered + lost == 48 and account.queued == 0
    assert world.done_ids[-4:] == world.put_ids[-4:]


def failing(monkeypatch, world):
    def write(*arguments, **named):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(world.journal, "_retry_at", 0.0)
    monkeypatch.setattr(world.journal._file, "write", write)


def test_a_journal_that_fails_while_it_lags_loses_nothing(world, monkeypatch):
    for _ in range(3):
        world.put_all(3)
    world.journal.commit()
    with monkeypatch.context() as broken:
        failing(broken, world)
        for _ in range(3):
            world.put_all(3)
        world.journal.commit()
        assert world.journal.error and not world.queue.is_kept
        assert world.queue.behind and balances(world.queue)
        for _ in range(20):
            world.take()
            world.deliver()
        assert sum(world.queue.account().dropped.values()) == 0
    world.journal._retry_at = 0.0
    world.put_all(1)
    world.drain()
    assert world.journal.error is None and world.done_ids == world.put_ids


def test_a_journal_that_fails_makes_feeders_of_a_full_queue_pause(world, monkeypatch):
    failing(monkeypatch, world)
    world.put_all(1)
    world.journal.commit()
    assert not world.put_all(5)
    assert not world.put_all(1) and world.queue.behind == 0
    world.drain()
    assert world.done_ids == world.put_ids


def test_a_journal_that_cannot_be_read_is_read_again(world, monkeypatch, caplog):
    for _ in range(3):
        world.put_all(5)
    world.journal.commit()
    world.take()
    world.deliver()
    monkeypatch.setattr("wafermon.delivery.journaled_queue.RETRY_SECONDS", 0.001)
    with monkeypatch.context() as broken:
        broken.setattr(world.journal, "read", raiser(JournalError("cannot read the journal")))
        assert world.queue._read_back() is None and world.queue._read_back() is None
    assert len(caplog.records) == 1
    world.drain()
    assert world.done_ids == world.put_ids


def raiser(error):
    def call(*arguments):
        raise error

    return call


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest", "sample"])
def test_one_that_drops_never_lags_and_holds_nothing_back_in_a_full_journal(tmp_path, policy):
    world = World(tmp_path, max_messages=8, when_full=policy)
    world.put_all(2)
    world.take()  # its backend hangs
    for _ in range(20):
        assert world.put_all(2)
    assert world.queue.behind == 0 and world.queue.messages <= 8 and balances(world.queue)
    assert world.queue.position(world.journal.routed) == 0 and world.queue.is_kept
    world.journal.commit()
    world.journal.max_bytes = 1
    assert world.queue.position(world.journal.routed) == 21 and not world.queue.is_kept
    world.deliver()
    world.drain()
    assert world.queue.position(world.journal.routed) == 21 and world.queue.is_kept


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
def test_one_that_drops_recovers_within_its_bounds_and_before_what_is_new(tmp_path, policy):
    world = World(tmp_path, max_messages=50, when_full=policy)
    for _ in range(5):
        world.put_all(2)
    world.journal.commit()
    world.bounds["max_messages"] = 8
    world.crash()
    world.put_all(1)
    world.drain()
    account = world.queue.account()
    assert account.offered == 11 == account.delivered + account.dropped["queue_full"]
    assert world.done_ids == sorted(world.done_ids) and 8 <= len(world.done_ids) <= 9
    assert (world.put_ids[-1] in world.done_ids) and balances(world.queue)


def test_it_stops_with_the_rest_in_the_journal(world):
    for _ in range(5):
        world.put_all(3)
    world.queue.close()
    assert world.take() is not None
    world.deliver()
    world.journal.commit()
    while world.take() is not None:
        world.deliver()
    assert world.done_ids == world.put_ids and world.queue.is_kept


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.integers(1, 3), min_size=1, max_size=3)),
        st.tuples(st.sampled_from(["take", "commit", "crash", "part"]), st.just(None)),
        st.tuples(st.just("done"), st.integers(1, 4)),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.booleans())
def test_whatever_happens_each_message_is_delivered_and_without_a_crash_once(
    tmp_path_factory, steps, crashes
):
    world = World(tmp_path_factory.mktemp("j"))
    half_way = None
    for step, argument in steps:
        if step in ("put", "part"):
            for _ in half_way or ():
                pass
            half_way = world.put(*argument) if step == "put" else None
            if half_way:
                next(half_way)
        elif step == "take":
            if not world.queue._lagging or world.journal.committed > world.queue._read_to:
                world.take()
        elif step == "done" and world.taken is not None:
            world.deliver(min(argument, len(world.taken)))
        elif step == "commit":
            world.journal.commit()
        elif step == "crash" and crashes:
            for _ in half_way or ():
                pass
            half_way = None
            world.journal.commit()  # what is not committed was never acknowledged
            world.crash()
        assert balances(world.queue)
        assert world.queue.position(world.journal.routed) <= world.journal.routed
    for _ in half_way or ():
        pass
    world.drain()
    firsts = list(dict.fromkeys(world.done_ids))
    assert firsts == world.put_ids, "each at least once, in order"
    assert crashes or world.done_ids == world.put_ids, "and without a crash once"
    assert sum(world.queue.account().dropped.values()) == 0
    world.journal.commit()
    assert world.queue.position(world.journal.routed) == world.journal.assigned
    world.journal.close()


def test_random_crashes_with_a_cursor_that_is_committed_now_and_then(tmp_path):
    """The position is never ahead: what comes after a crash begins with what was not delivered."""
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    world = World(tmp_path, max_messages=6)
    for _ in range(400):
        step = chance.choice(["put", "put", "take", "done", "commit", "crash"])
        if step == "put":
            world.put_all(*[chance.randint(1, 3) for _ in range(chance.randint(1, 3))])
        elif step == "take" and world.journal.committed > world.queue._read_to:
            world.take()
        elif step == "done" and world.taken is not None:
            world.deliver(chance.randint(1, len(world.taken)))
        elif step == "commit":
            world.journal.commit()
        elif step == "crash" and chance.random() < 0.2:
            world.journal.commit()
            world.crash()
    world.drain()
    assert list(dict.fromkeys(world.done_ids)) == world.put_ids, f"seed {seed}"


def test_feeders_of_a_full_queue_pause_for_a_moment_before_it_lags(tmp_path):
    clock = FakeClock()
    world = World(tmp_path, patience=0.1, clock=clock, flush_seconds=0)
    assert world.put_all(3)
    assert not world.put_all(3), "a feeder pauses"
    assert not world.queue.is_low(["a0"]) and not world.queue.behind
    world.take()
    world.deliver()
    assert world.queue.is_low(["a0"]), "it has caught up: its patience begins anew"
    clock.advance(5)
    assert not world.put_all(4)
    clock.advance(0.1)
    assert world.queue.is_low(["a0"]), "it is over: feeders go on, and the route lags"
    assert world.put_all(2) and world.put_all(3)
    assert world.queue.behind == 3
    world.journal.commit()
    while world.take() is not None:
        world.deliver()
    assert world.done_ids == world.put_ids
    world.journal.close()
