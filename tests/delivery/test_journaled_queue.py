"""A queue with a journal behind it: lag, catch up, crash, a journal that fails or drops."""

import itertools
import json
import os
import random
import sqlite3
import threading
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafermon.delivery import Journal, JournaledQueue
from wafermon.delivery.journal_file import JournalFile
from wafermon.errors import JournalError, RetryableError
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
        self.reroute = lambda batch: batch
        self.put_ids, self.done_ids = [], []
        self.open()

    def open(self, **options):
        self.journal = Journal(self.path, **options)
        self.journal.open()
        self.queue = JournaledQueue(self.journal, "r", lambda batch: self.reroute(batch), **self.bounds)
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

    def fail(self, error):
        """Let the disk fail from the next commit on, or no longer."""
        self.journal._retry_at = 0.0

        def check():
            if error is not None:
                raise error

        self.journal._file._usable = lambda: check() or JournalFile._usable(self.journal._file)

    def does_not_wait(self):
        """Whether a take ends without a commit."""
        unread = self.queue._unread
        return not unread or unread[0].end or self.journal.committed > unread[0].after

    def drain(self):
        """Everything, until there is no more."""
        self.journal.commit()
        for _ in range(1000):
            if self.take() is None and not self.queue._unread:
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
    left = len(world.put_ids) - len(delivered)
    assert delivered and world.queue.account().offered == left == world.queue.account().queued
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


def full(tmp_path, **bounds):
    """A route that lags and whose backend is dead, and a journal that drops the oldest."""
    world = World(tmp_path, **bounds)
    world.journal.close()
    world.open(max_bytes=50_000, drop_oldest=True)
    world.put_all(4)
    world.take()
    for _ in range(40):
        world.put_all(60, 60)
        world.journal.commit()
    return world


def held(world):
    return [i for entry in world.journal.read(0, 1 << 30) for i in ids_of(entry.batch)]


def test_what_a_journal_dropped_is_counted_at_once_although_the_backend_is_dead(tmp_path):
    world = full(tmp_path)
    left, account = held(world), world.queue.account()
    assert 0 < len(left) < 4800 and balances(world.queue)
    assert account.queued == len(left) + 4, "those in memory, too"
    assert account.dropped["journal_full"] == 4804 - account.queued
    world.deliver()
    world.drain()
    assert world.done_ids == world.put_ids[:4] + left and balances(world.queue)
    assert world.queue.account().dropped["journal_full"] == 4804 - len(left) - 4


def test_the_end_leaves_what_is_in_the_journal_and_no_more(tmp_path):
    """What it dropped meanwhile is gone with the memory of the process."""
    world = full(tmp_path)
    world.queue.leave()
    left = held(world)
    assert world.queue.account().queued == len(left) and balances(world.queue)
    world.deliver()
    assert balances(world.queue), "what came back after all is counted already"


def test_the_end_leaves_nothing_in_memory_that_the_journal_dropped(tmp_path):
    """Batches wait there that nobody took, and some the journal still has."""
    world = World(tmp_path, max_messages=10_000)
    world.journal.close()
    world.open(max_bytes=2_000, drop_oldest=True)
    for _ in range(10):
        world.put_all(4)
        world.journal.commit()
    left = held(world)
    world.queue.leave()
    account = world.queue.account()
    assert 0 < account.queued == len(left) < 40 and account.dropped["journal_full"] == 40 - len(left)
    assert balances(world.queue)


def test_the_end_keeps_in_the_account_what_the_journal_has(world):
    for _ in range(9):
        world.put_all(2)
    world.journal.commit()
    world.queue.leave()
    assert world.queue.account().queued == 18 and not sum(world.queue.account().dropped.values())


def test_a_backlog_of_before_is_queued_from_the_start(world):
    for _ in range(5):
        world.put_all(3, 2)
    world.journal.commit()
    world.crash()
    assert world.queue.account().queued == 25 and balances(world.queue)
    world.put_all(1)
    assert world.queue.account().queued == 26
    world.drain()
    account = world.queue.account()
    assert (account.delivered, account.queued, account.offered) == (26, 0, 26)
    world.journal.commit()
    world.crash()
    assert world.queue.account().offered == 0


def test_of_a_backlog_the_share_of_others_is_rerouted_when_it_is_read(world):
    """How much of it is for a route that filters nobody knows before."""
    for _ in range(5):
        world.put_all(4)
    world.journal.commit()
    world.crash()
    world.reroute = lambda batch: batch.split(1)[0]
    world.take()
    account = world.queue.account()
    assert account.dropped["rerouted"] > 0 and balances(world.queue)
    world.drain()
    account = world.queue.account()
    assert account.delivered == 5 and account.dropped["rerouted"] == 15 and balances(world.queue)


def damaged(world, change):
    """Alter the raw bytes of what waits in the journal."""
    with closing(sqlite3.connect(world.path)) as db, db:
        for seq, raw in db.execute("SELECT seq, raw FROM batches").fetchall():
            db.execute("UPDATE batches SET raw = ? WHERE seq = ?", (change(raw), seq))


@pytest.mark.parametrize("change, lost", [
    (lambda line: line.replace(b'"', b"\xff", 1), 1),
    (lambda line: line.replace(b"{", b"[", 1), 1),
    (lambda line: line.replace(b'"src"', b'"s\0c"'), 1),
    (lambda line: line.replace(b'"src"', b'"sxc"'), 1),
    (lambda line: line.replace(b'"event"', b'"evemt"'), 1),
    (lambda line: line.replace(b'"v":1', b'"v":2'), 1),
    (lambda line: line[:-1] + b",", 2),
    (lambda line: line.replace(b",", b"\n", 1), 1),
])
@pytest.mark.parametrize("version", [1, 2])
def test_a_damaged_line_becomes_a_dead_letter_and_all_around_it_is_delivered(
    tmp_path, change, lost, version, caplog
):
    letters = []
    world = World(tmp_path, dead_letter=lambda *letter: letters.append(letter))
    for _ in range(6):
        world.put_all(8)
    world.journal.commit()
    guilty = world.put_ids[21]

    def spoil(raw):
        lines = raw.splitlines(keepends=True)
        return b"".join(change(x) if ids_of(Batch(x)) == [guilty] else x for x in lines)

    damaged(world, spoil)
    if version == 1:
        with closing(sqlite3.connect(world.path)) as db, db:
            db.execute("UPDATE batches SET counts = substr(counts, 1, instr(counts, ' ') - 1)")
    world.journal.commit()
    world.crash()
    world.drain()
    gone = [i for i in world.put_ids if i not in world.done_ids]
    assert gone == world.put_ids[21 : 21 + lost]
    assert world.done_ids == [i for i in world.put_ids if i not in gone]
    assert letters and all(to == "r" and why == "journal_damaged" for _, to, why in letters)
    assert caplog.text.count("damaged") == 1 and balances(world.queue)
    account = world.queue.account()
    assert account.dropped["journal_damaged"] == len(letters) and account.delivered == 48 - lost


def test_a_damaged_line_waits_until_its_dead_letter_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr("wafermon.delivery.journaled_queue.RETRY_SECONDS", 0.001)
    disk = [RetryableError("no space")]
    letters = []

    def write(batch, to, why):
        if disk:
            raise disk[0]
        letters.append(batch.raw)

    world = World(tmp_path, dead_letter=write)
    world.put_all(3)
    world.journal.commit()
    damaged(world, lambda raw: b"\0" + raw[1:])
    world.crash()
    assert world.queue._read_back() is None and world.queue.account().queued == 3
    disk.clear()
    world.drain()
    assert world.done_ids == world.put_ids[1:] and len(letters) == 1 and balances(world.queue)


def test_a_lag_goes_on_around_what_its_journal_has_lost(tmp_path, monkeypatch):
    """A page is gone while the route lags: the rest of it comes, and what does not is counted."""
    monkeypatch.setattr("wafermon.delivery.journaled_queue.RETRY_SECONDS", 0.001)
    world = World(tmp_path)
    for _ in range(60):
        world.put_all(40)
        world.journal.commit()
    with open(world.path, "r+b") as file:
        world.journal._file._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        file.seek(os.stat(world.path).st_size // 2 // 16384 * 16384)
        file.write(bytes(16384))
    world.journal._file._reader.execute("PRAGMA shrink_memory")
    world.take()
    while world.taken is not None:
        world.deliver()
        world.taken = world.queue._read_back()
    assert world.journal.read_error and world.journal.quarantined is None
    world.drain()
    account = world.queue.account()
    lost = account.dropped["journal_damaged"]
    assert lost and world.journal.quarantined and balances(world.queue)
    assert account.delivered == 2400 - lost and account.queued == 0
    assert world.done_ids == [i for i in world.put_ids if i in set(world.done_ids)]


def test_a_file_that_is_found_late_comes_before_what_waits_and_after_what_went(world):
    for _ in range(3):
        world.put_all(2)
    world.journal.commit()
    world.crash()
    disk = [OSError(5, "Input/output error")]

    def prepare():
        if disk:
            raise disk[0]

    world.journal.close()
    world.open(prepare=prepare)
    world.journal.on_found = lambda: world.queue.found(
        world.journal.cursors.get("r", 0), world.journal.found_to)
    before, world.put_ids = world.put_ids, []
    world.put_all(1)
    world.take()
    world.deliver()
    world.put_all(1, 1)
    assert len(world.take()) == 2, "in flight while the file is found"
    world.put_all(2)
    world.journal.commit()
    world.journal._retry_at = 0.0
    disk.clear()
    world.journal.commit()
    assert world.queue.position(world.journal.routed) == 0, "none of the file is delivered"
    world.deliver()
    assert world.queue.position(world.journal.routed) == 0
    world.drain()
    assert world.done_ids == world.put_ids[:3] + before + world.put_ids[3:]
    assert world.queue.position(world.journal.routed) == world.journal.assigned
    assert balances(world.queue)


def test_an_idle_route_wakes_when_the_file_is_found(world):
    world.put_all(1)
    world.journal.commit()
    world.take()
    world.deliver()
    taken = []
    taker = threading.Thread(target=lambda: taken.append(world.queue.take()))
    taker.start()
    world.queue.found(0, 1)
    taker.join(30)
    assert taken == [None] and len(world.queue.take(0)) == 1


def test_a_lag_ends_where_the_journal_begins_to_fail_and_feeders_pause_then(world, monkeypatch):
    """What was skipped is read from there; what comes is held in memory, within its bounds."""
    for _ in range(3):
        world.put_all(3)
    assert world.queue.behind == 3
    world.journal.commit()
    with monkeypatch.context() as broken:
        failing(broken, world)
        world.put_all(1)
        world.journal.commit()
        assert world.journal.error and world.queue.behind == 4, "it fails from now on"
        assert not world.put_all(1) and world.queue.behind == 4
        assert not world.queue.is_low(["a0"])
        world.queue.take(0)
        world.taken = world.queue._taken
        held = {seq for span in world.queue.undelivered() for seq in span}
        assert held == set(range(1, world.journal.assigned + 1))
    world.journal._retry_at = 0.0
    world.journal.commit()
    assert world.queue.is_low(["a0"]), "the journal works: feeders go on"
    world.put_all(9)
    assert world.put_all(1), "and it may lag again"
    world.drain()
    assert world.done_ids == world.put_ids and balances(world.queue)


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


def test_one_that_lags_and_is_to_drop_from_now_on_reads_what_it_skipped(world):
    """Another policy, taken up while it runs: what comes next goes to memory, behind the rest."""
    for _ in range(4):
        world.put_all(3)
    assert world.queue.behind
    other = JournaledQueue(world.journal, "r", lambda batch: batch, max_messages=50, when_full="drop_newest")
    world.queue.follow(other)
    skipped = world.queue.behind
    world.put_all(3)
    assert world.queue.behind == skipped, "it lags no further"
    world.drain()
    assert world.done_ids == world.put_ids and balances(world.queue)


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
        st.tuples(
            st.sampled_from(["take", "commit", "crash", "part", "fail", "mend"]), st.just(None)
        ),
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
            if world.does_not_wait():
                world.take()
        elif step == "done" and world.taken is not None:
            world.deliver(min(argument, len(world.taken)))
        elif step == "commit":
            world.journal.commit()
        elif step == "fail":
            world.fail(OSError(28, "No space left on device"))
        elif step == "mend":
            world.fail(None)
        elif step == "crash" and crashes:
            world.fail(None)
            for _ in half_way or ():
                pass
            half_way = None
            world.journal.commit()  # what is not committed was never acknowledged
            world.crash()
        assert balances(world.queue)
        assert world.queue.position(world.journal.routed) <= world.journal.routed
    for _ in half_way or ():
        pass
    world.fail(None)
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
        elif step == "take" and world.does_not_wait():
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
