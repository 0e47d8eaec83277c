"""A route: retries, bisection, stop, and its account of everything."""

import threading

import pytest
from support import eventually

from wafermon.delivery import Backend, BatchQueue, Breaker, Retry, Route, Slots
from wafermon.errors import PermanentError, RetryableError
from wafermon.message import Batch
from wafermon.testing import FakeClock, frames

AT_ONCE = Retry(initial=0.0)


def batch(count=1, first=0):
    return Batch(b"".join(frames(count, first=first)), sources={"test": count})


class Sink(Backend):
    """Keeps lines; `faults` are raised first, one a write."""

    def __init__(self, faults=(), refuse=()):
        self.lines, self.faults, self.refuse = [], list(faults), refuse
        self.opened = self.closed = self.idled = 0

    def open(self):
        self.opened += 1

    def write(self, batch):
        if self.faults:
            fault = self.faults.pop(0)
            if fault is not None:
                raise fault
        if any(word in line for line in batch.lines for word in self.refuse):
            raise PermanentError("do not like it")
        self.lines += batch.lines

    def idle(self):
        self.idled += 1

    def close(self):
        self.closed += 1


class Hanging(Backend):
    """Hangs in `write` until it is let go."""

    def __init__(self):
        self.entered, self.release = threading.Event(), threading.Event()

    def write(self, batch):
        self.entered.set()
        assert self.release.wait(60)


def account(route):
    return route.delivered + route.queued + route.dead_lettered + sum(route.dropped.values())


def test_in_order_and_closed_once():
    sink = Sink()
    route = Route("r", sink)
    for i in range(10):
        route.offer(batch(3, first=i * 3))
    route.start()
    assert route.stop(10) == 0
    assert sink.lines == [line.rstrip(b"\n") for line in frames(30, first=0)]
    assert sink.closed == 1 and route.delivered == route.offered == 30 == account(route)
    assert route.stop(10) == 0


def test_stop_without_start_gives_everything_up():
    route = Route("r", Sink())
    route.offer(batch(4))
    assert route.stop(1) == 4
    assert route.dropped["shutdown"] == 4 and account(route) == 4


@pytest.mark.parametrize("fault", [RetryableError("down"), OSError("odd"), ZeroDivisionError()])
def test_retries_until_taken(fault, caplog):
    sink = Sink(faults=[fault, fault, fault])
    route = Route("r", sink, retry=AT_ONCE)
    route.offer(batch(2))
    route.start()
    eventually(lambda: route.delivered == 2)
    route.stop(10)
    assert route.retries == 3 and len(sink.lines) == 2 and account(route) == 2
    assert sink.opened >= 4  # opened anew after each failure
    assert route.failing_since is None and route.error is None
    failures = [r for r in caplog.records if "works again" not in r.message]
    assert len(failures) == 1, "an outage is told once"
    assert bool(failures[0].exc_info) != isinstance(fault, RetryableError)


def test_health_while_it_fails():
    sink = Sink(faults=[RetryableError("disk is full")] * 10_000)
    route = Route("r", sink, retry=Retry(initial=30, share=lambda: 1.0))
    route.offer(batch())
    route.start()
    eventually(lambda: route.error)
    assert route.error == "disk is full" and route.failing_since is not None
    sink.faults.clear()
    assert route.stop(10) == 0, "a stop cuts the wait for a retry short"
    assert route.delivered == 1


def test_the_guilty_line_alone_is_dead_lettered():
    sink, dead = Sink(refuse=[b'"msg":"5"', b'"msg":"63"']), []
    route = Route("r", sink, dead_letter=lambda b, name, why: dead.append((b.raw, name, why)))
    whole = batch(100)
    guilty = [line for line in whole.lines if any(word in line for word in sink.refuse)]
    assert len(guilty) == 2
    route.offer(whole)
    route.start()
    route.stop(10)
    assert sink.lines == [line for line in whole.lines if line not in guilty]
    assert dead == [(line + b"\n", "r", "do not like it") for line in guilty]
    assert (route.delivered, route.dead_lettered, account(route)) == (98, 2, 100)
    assert route.queue.messages == 0 and route.queue.sources == {}


def test_a_message_that_nests_too_deeply_for_its_backend_is_refused_not_retried_for_ever():
    dead = []
    route = Route("r", Sink(faults=[RecursionError("x")]), dead_letter=lambda *a: dead.append(a))
    route.offer(batch())
    route.start()
    route.stop(10)
    assert len(dead) == 1 and route.retries == 0


def test_a_hanging_backend_is_left_behind_at_the_deadline_and_counted():
    sink = Hanging()
    route = Route("r", sink)
    route.offer(batch(5))
    route.start()
    assert sink.entered.wait(10)
    route.offer(batch(2))
    assert route.stop(0.05) == 7
    assert route.dropped["shutdown"] == 7 and account(route) == 7
    sink.release.set()


def test_abandon_lets_a_stop_go_on_at_once():
    sink = Hanging()
    route = Route("r", sink)
    route.offer(batch(1))
    route.start()
    assert sink.entered.wait(10)
    lost = []
    stopper = threading.Thread(target=lambda: lost.append(route.stop(3600)))
    stopper.start()
    route.abandon()
    stopper.join(20)
    assert lost == [1]
    sink.release.set()


def test_full_and_dropping_where_nobody_can_pause():
    route = Route("r", Sink(), queue=BatchQueue(max_messages=3, when_full="drop_newest"))
    assert [route.offer(batch(2)) for _ in range(4)] == [True] * 4
    assert (route.offered, route.dropped["queue_full"], route.queued) == (8, 5, 3)
    blocking = Route("r", Sink(), queue=BatchQueue(max_messages=3))
    assert [blocking.offer(batch(2)) for _ in range(3)] == [True, False, False]
    assert blocking.queued == 6


def test_idle_comes_when_it_is_quiet_and_opens_the_backend_early():
    sink = Sink()
    route = Route("r", sink)
    route.start()
    eventually(lambda: sink.idled)
    assert sink.opened == 1
    route.stop(10)


def test_a_backend_that_cannot_even_close_ends_its_thread():
    class Bad(Sink):
        def close(self):
            raise OSError("no")

    route = Route("r", Bad())
    route.offer(batch())
    route.start()
    assert route.stop(10) == 0


def test_slots_bound_how_many_are_busy():
    slots, sinks = Slots(1), [Hanging(), Hanging()]
    routes = [Route(f"r{i}", sink, slots=slots) for i, sink in enumerate(sinks)]
    for route in routes:
        route.offer(batch())
        route.start()
    assert eventually(lambda: [s for s in sinks if s.entered.is_set()])
    # The second one comes in only because the first hangs, and lends its slot after a second.
    assert sinks[0].entered.wait(20) and sinks[1].entered.wait(20)
    assert slots.busy == 2
    for sink in sinks:
        sink.release.set()
    assert [route.stop(10) for route in routes] == [0, 0]


def test_the_delay_is_never_shorter_than_asked_and_has_a_bound():
    retry = Retry(initial=1, maximum=8, share=lambda: 0.5)
    assert [retry.delay(n) for n in (1, 2, 3, 4, 5, 10_000)] == [0.5, 1, 2, 4, 4, 4]
    assert retry.delay(1, retry_after=6) == 6
    assert retry.delay(1, retry_after=1e9) == 3_600


def test_a_message_that_only_its_backend_cannot_decode_is_dead_lettered_alone():
    class Shallow(Sink):
        def write(self, batch):
            if any(b"deep" in line for line in batch.lines):
                raise RecursionError("deep")
            super().write(batch)

    sink, dead = Shallow(), []
    route = Route("r", sink, dead_letter=lambda *letter: dead.append(letter))
    deep = frames(1)[0].replace(b'"1"', b'"deep"')
    raw = b"".join(frames(3)) + deep + b"".join(frames(3, first=4))
    # Of two sources: its halves cannot tell theirs without decoding, which is what fails.
    route.offer(Batch(raw, sources={"test": 6, "other": 1}))
    route.start()
    assert route.stop(10) == 0
    assert (len(sink.lines), len(dead), route.queue.messages) == (6, 1, 0)
    assert route.queue.sources == {} and account(route) == 7


def test_a_fault_of_our_own_costs_its_batch_and_not_the_thread():
    def broken(*letter):
        raise ValueError("no room for letters")

    sink = Sink(refuse=[b'"msg":"2"'])
    route = Route("r", sink, dead_letter=broken)
    route.offer(batch(3, first=1))
    route.start()
    eventually(lambda: route.dropped["internal_error"])
    route.offer(batch(2, first=10))
    assert route.stop(10) == 0 and account(route) == 5
    assert b'"10"' in sink.lines[-2]


def test_the_circuit_opens_probes_and_closes():
    sink = Sink(faults=[RetryableError("down")] * 4)
    pauses, states = [], []
    route = Route("r", sink, retry=AT_ONCE, breaker=Breaker(failures=3, probe_after=7))
    route._pause = lambda seconds: (pauses.append(seconds), states.append(route.breaker.state))
    whole = batch(4)
    route.offer(whole)
    route._deliver_or_drop(route.queue.take(0))
    assert pauses == [0, 0, 7, 7], "no attempt before the pause is over"
    assert [state.value for state in states] == ["closed", "closed", "open", "open"]
    assert (route.breaker.state.value, route.breaker.opened) == ("closed", 1)
    assert sink.lines == whole.lines and route.is_up


def test_what_fails_too_long_is_given_up_whole_and_the_next_one_tried():
    clock, sink = FakeClock(), Sink(faults=[PermanentError("no")] + [RetryableError("down")] * 3)
    route = Route("r", sink, retry=Retry(20, 20, give_up_after=30, share=lambda: 1.0), clock=clock)
    route._pause = clock.advance
    route.offer(batch(4))
    route._deliver_or_drop(route.queue.take(0))
    assert route.dropped["gave_up"] == 4 == account(route) and not sink.lines
    assert not route.is_up and route.queue.messages == 0
    route.offer(batch(2))
    route._deliver_or_drop(route.queue.take(0))
    assert route.delivered == 2 and route.is_up


def test_without_dead_letters_what_is_refused_is_a_drop():
    route = Route("r", Sink(refuse=[b'"msg":"2"']))
    route.offer(batch(3, first=1))
    route.start()
    assert route.stop(10) == 0
    assert (route.delivered, route.dropped["refused"], account(route)) == (2, 1, 3)


def test_to_close_is_no_proof_that_a_backend_works(caplog):
    route = Route("r", Sink(faults=[RetryableError("down")] * 1000), retry=Retry(0.001, 0.001))
    route.offer(batch())
    route.start()
    eventually(lambda: route.error)
    assert route.stop(0) == 1 and route.wait(10)
    assert route.backend.closed == 1 and route.error == "down" and not route.is_up
    assert "works again" not in caplog.text


def test_a_write_that_takes_too_long_shows():
    sink, clock = Hanging(), FakeClock()
    route = Route("r", sink, timeout=5, clock=clock)
    route.offer(batch())
    route.start()
    assert sink.entered.wait(10)
    assert route.is_up and route.hanging_seconds == 0
    clock.advance(6)
    assert not route.is_up and route.hanging_seconds == 6
    sink.release.set()
    assert route.stop(10) == 0 and route.is_up


def test_a_write_that_comes_back_after_the_end_does_not_count_twice():
    sink = Hanging()
    route = Route("r", sink)
    route.offer(batch(5))
    route.start()
    assert sink.entered.wait(10)
    assert route.stop(0) == 5
    sink.release.set()
    route._thread.join(10)
    assert account(route) == route.offered == 5 == route.dropped["shutdown"]
    assert route.delivered == route.queued == 0


def test_slots_are_given_in_order():
    """Who is done and comes again at once goes to the end of the line."""
    slots, turns = Slots(1, clock=FakeClock()), []

    def work(name):
        with slots:
            turns.append(name)

    others = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    with slots:
        for place, thread in enumerate(others, 1):
            thread.start()
            eventually(lambda place=place: len(slots._line) == place)
    work("again")
    for thread in others:
        thread.join(30)
    assert turns == ["a", "b", "again"] and slots.busy == 0


def test_a_queue_that_fails_does_not_end_the_thread(caplog):
    class Odd(BatchQueue):
        faults = 1

        def take(self, timeout=None):
            if self.faults:
                self.faults = 0
                raise ValueError("odd")
            return super().take(timeout)

    route = Route("r", Sink(), queue=Odd(), retry=Retry(0, 0))
    route.offer(batch())
    route.start()
    eventually(lambda: route.delivered == 1)
    assert route.stop(10) == 0 and len([r for r in caplog.records if r.exc_info]) == 1
