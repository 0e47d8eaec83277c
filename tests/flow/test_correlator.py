"""The correlator: traces out of any order, and its bounds."""

import gc
import json
import random

import pytest

from wafermon.flow import Correlator
from wafermon.flow.correlator import OWN_SOURCE, STEPS
from wafermon.flow.trace import MAX_LOOSE
from wafermon.flow.trace_record import FIRST_NOTES, LAST_NOTES, NOTE_CHARS
from wafermon.message import Batch


def span(sid, pid=None, ts=0, tid="t", src="a", **data):
    message = {"v": 1, "src": src, "ts": ts, "type": "span", "tid": tid, "sid": sid,
               "data": {"name": sid, "duration_ms": 1, **data}}
    if pid:
        message["pid"] = pid
    return message


def event(tid="t", sid=None, src="a", ts=1, **data):
    message = {"v": 1, "src": src, "ts": ts, "type": "event", "tid": tid, "data": data}
    return {**message, "sid": sid} if sid else message


def observe(correlator, *messages, now=0.0):
    correlator.observe(Batch(b"".join(json.dumps(m).encode() + b"\n" for m in messages)), now)
    return correlator


def tree(correlator, tid="t"):
    return [(depth, node.span.sid, node.orphan) for depth, node in correlator.trace(tid).walk()]


# -- what is taken up ------------------------------------------------------------------------------


def test_any_order_gives_the_same_tree():
    spans = [span("root"), span("a", "root", 1), span("b", "root", 2), span("a1", "a", 3)]
    wanted = [(0, "root", False), (1, "a", False), (2, "a1", False), (1, "b", False)]
    for seed in range(24):
        shuffled = spans[:]
        random.Random(seed).shuffle(shuffled)
        correlator = Correlator()
        for one in shuffled:
            observe(correlator, one)
        assert tree(correlator) == wanted


def test_messages_belong_to_their_span_or_to_the_trace():
    correlator = observe(Correlator(), event(sid="a", msg="x" * 999, level="warn"), span("a"),
                         event(sid="a"), event(), event(sid="z"))
    trace = correlator.trace("t")
    notes = trace.nodes["a"].notes
    assert notes.total == 2 and trace.loose_messages == 2
    assert notes.events[0] == (1, "a", "event", "warn", "x" * NOTE_CHARS)
    assert notes.events[1] == (1, "a", "event", None, None)


def test_of_many_messages_the_first_and_the_last_are_kept():
    correlator = observe(Correlator(), *(event(sid="a", msg=str(n)) for n in range(100)), span("a"))
    notes = correlator.trace("t").nodes["a"].notes
    assert notes.total == 100
    first, last = range(FIRST_NOTES), range(100 - LAST_NOTES, 100)
    assert [note.msg for note in notes.events] == [str(n) for n in [*first, *last]]


def test_messages_of_all_types_belong_to_a_trace():
    kinds = {"metric": {"name": "yield", "value": 1}, "progress": {"job_id": "j", "percent": 3},
             "resource": {"cpu": 1}, "heartbeat": None, "goodbye": {"reason": "done"}}
    messages = [{"v": 1, "src": "a", "ts": 1, "type": kind, "tid": "t", "data": data}
                for kind, data in kinds.items()]
    del messages[3]["data"]
    correlator = observe(Correlator(), span("s"), *messages)
    assert correlator.trace("t").loose_messages == 5


def test_payloads_that_hold_anything_do_no_harm():
    data = [{"level": [], "msg": {}}, {"level": {"a": 1}, "name": 5}, {}, {"msg": "\u202e" * 999}]
    correlator = observe(Correlator(), *(event(sid="a", **d) for d in data),
                         span("a", kind=[1], ctx="no object", extra={"x": [None] * 9}))
    node = correlator.trace("t").nodes["a"]
    assert (node.span.kind, node.span.ctx, node.notes.total) == (None, None, 4)
    assert len(node.notes.events[3].msg) == NOTE_CHARS


def test_a_finished_span_beats_an_open_one_in_any_order():
    opened, done = span("a", status="open", duration_ms=None), span("a", duration_ms=7)
    for order in ((opened, done), (done, opened)):
        found = observe(Correlator(), *order).trace("t").roots[0].span
        assert (found.duration_ms, found.status) == (7, "ok")
    assert observe(Correlator(), opened).trace("t").roots[0].span.duration_ms is None


def test_of_two_that_contradict_each_other_the_same_one_counts_in_any_order():
    one, other = span("a", "p", 1, duration_ms=5), span("a", "q", 2, duration_ms=6, status="error")
    found = {observe(Correlator(), *order).trace("t").nodes["a"].span
             for order in ((one, other), (other, one), (one, other, one), (other, one, one, other))}
    assert len(found) == 1


def test_payloads_that_are_none_are_counted():
    bad = [span("a", name=5), span("b", duration_ms="1"), span("c", duration_ms=True),
           span("d", status="what"), span("e", duration_ms=-1), span("f", status=[]),
           span("h", duration_ms=10**400), span("i", status=None, duration_ms=1)]
    bad.append({k: v for k, v in span("g").items() if k != "data"} | {"data": {}})
    correlator = observe(Correlator(), *bad, span("good"))
    assert tree(correlator) == [(0, "good", False)]
    assert correlator.left_out["bad_payload"] == len(bad)


def test_a_ctx_nested_too_deep_to_be_kept_costs_no_span():
    message = span("a")
    deep = message["data"]["ctx"] = {}
    for _ in range(3_000):
        deep["x"] = deep = {}
    batch = Batch(b"\n", [message])
    correlator = Correlator()
    correlator.observe(batch, 0.0)
    assert correlator.trace("t").nodes["a"].span.ctx is None


def test_assembled_traces_are_not_correlated_again():
    correlator = observe(Correlator(), event(src=OWN_SOURCE), span("a", tid="u"))
    assert correlator.tids() == ["u"]


def test_of_a_span_finished_twice_an_error_wins_then_the_longer():
    for one, other, status, ms in (
        (span("a", duration_ms=5, status="error"), span("a", duration_ms=70), "error", 5),
        (span("a", duration_ms=9), span("a", duration_ms=10), "ok", 10),
    ):
        for order in ((one, other), (other, one), (one, other, one)):
            found = observe(Correlator(), *order).trace("t").nodes["a"].span
            assert (found.status, found.duration_ms) == (status, ms)


def test_what_the_end_of_a_span_does_not_say_its_begin_did():
    begun = span("a", "p", 100, status="open", ctx={"lot": "L1"}, kind="server")
    ended = span("a", ts=107, duration_ms=7)
    for order in ((begun, ended), (ended, begun), (begun, ended, ended, begun)):
        correlator = observe(Correlator(), *order)
        found = correlator.trace("t").nodes["a"].span
        assert (found.parent, found.start_ms, found.duration_ms, found.status) == ("p", 100, 7, "ok")
        assert (found.kind, found.ctx) == ("server", {"lot": "L1"})
        assert correlator.record("t").closed_roots == correlator.record("t").open_roots == 0
        assert correlator.bytes == correlator.record("t").bytes


def test_an_error_that_is_sent_twice_counts_once():
    one = event(sid="a", level="error", msg="torn", ctx={"row": 7})
    other = event(sid="a", level="error", msg="torn", ctx={"row": 8})
    record = observe(Correlator(), span("a"), one, one, other, one).record("t")
    assert record.summary().error_events == 2 and record.trace().nodes["a"].notes.total == 2


def test_what_names_no_known_span_is_shown():
    correlator = observe(Correlator(), event(sid="gone", src="b", level="fatal", msg="lost", ts=9),
                         event(src="c", msg="here", ts=5))
    trace, summary = correlator.trace("t"), correlator.record("t").summary()
    assert [(n.ts, n.src, n.level, n.msg) for n in trace.loose] == [
        (5, "c", None, "here"), (9, "b", "fatal", "lost"),
    ]  # fmt: skip
    assert (summary.services, summary.error_events, summary.start_ms) == (("b", "c"), 1, 5)
    observe(correlator, span("gone", src="b"))
    assert [n.msg for n in correlator.trace("t").loose] == ["here"]
    assert correlator.record("t").summary().services == ("b", "c")
    observe(correlator, event(src="d", ts=6))
    assert correlator.record("t").summary().services == ("b", "c", "d")


def test_of_what_names_no_known_span_errors_stay():
    correlator = observe(Correlator(), *(event(sid=f"s{n}", ts=n, msg="x") for n in range(200)),
                         event(sid="last", ts=999, level="error", msg="why"))
    loose = correlator.trace("t").loose
    assert len(loose) == MAX_LOOSE and loose[-1].msg == "why"


# -- settling --------------------------------------------------------------------------------------


def settling(**more):
    settled = []
    return Correlator(quiet=5, on_settled=settled.append, **more), settled


def test_a_trace_settles_once_its_root_is_closed_and_it_is_quiet():
    correlator, settled = settling()
    observe(correlator, span("a", "root"), span("root", status="open"), now=0.0)
    correlator.tidy(now=10.0)
    assert not settled and not correlator.record("t").complete
    observe(correlator, span("root"), now=11.0)
    correlator.tidy(now=15.9)
    assert not settled
    correlator.tidy(now=16.0)
    assert [record.tid for record in settled] == ["t"] and settled[0].complete
    observe(correlator, span("late", "root"), now=17.0)
    assert not correlator.record("t").complete
    correlator.tidy(now=30.0)
    assert len(settled) == 2 and correlator.record("t").complete  # nobody has passed it on yet
    settled[0].is_sent = True
    observe(correlator, span("later", "root"), now=31.0)
    correlator.tidy(now=40.0)
    observe(correlator, span("later", "root"), now=41.0)  # nothing new
    correlator.tidy(now=50.0)
    assert len(settled) == 2
    assert correlator.settled == {"complete": 1, "incomplete": 0}


def test_a_trace_that_is_forgotten_settles_as_it_is():
    correlator, settled = settling(ttl=60)
    observe(correlator, span("a", "gone"), event("only-events"))
    for _ in range(9):
        correlator.tidy(now=60.0)
    assert [(record.tid, record.complete) for record in settled] == [("t", False)]
    assert len(correlator) == 0 and correlator.evicted["ttl"] == 2
    assert correlator.bytes == 0


def test_roots_told_twice_count_once():
    correlator, settled = settling()
    opened, done = span("r", status="open"), span("r")
    observe(correlator, opened, done, done, opened, span("s", status="open"), now=0.0)
    correlator.tidy(now=9.0)
    assert not settled  # the other root is open
    observe(correlator, span("s"), now=9.0)
    correlator.tidy(now=20.0)
    assert len(settled) == 1


# -- bounds ----------------------------------------------------------------------------------------


def test_bounds():
    correlator = Correlator(max_traces=3, max_spans=2, ttl=60)
    for i in range(5):
        observe(correlator, span("a", tid=f"t{i}"))
    assert correlator.tids() == ["t2", "t3", "t4"] and correlator.evicted["traces"] == 2
    observe(correlator, span("b", tid="t2"), span("c", tid="t2"), event("t2", "a"), event("t2", "b"),
            event("t2", "c"), now=30.0)
    assert len(list(correlator.trace("t2").walk())) == 2
    assert correlator.left_out["trace_full"] == 2 and correlator.trace("t2").left_out == 2
    observe(correlator, event("new"), now=70.0)
    assert correlator.tids() == ["t2", "new"]
    assert correlator.evicted == {"traces": 2, "ttl": 2, "bytes": 0}
    assert correlator.trace("gone") is None


def test_a_root_that_is_told_last_has_room():
    correlator = Correlator(max_spans=200, quiet=5)
    observe(correlator, *(span(f"e{n}", "root", n, status="error") for n in range(300)))
    assert len(correlator.record("t").spans) == 202  # some room for errors
    observe(correlator, span("root", duration_ms=900, status="error"), span("root2"))
    correlator.tidy(now=9.0)
    record = correlator.record("t")
    assert len(record.spans) == 203 and record.left_out == 99 and record.complete
    summary = record.summary()
    assert (summary.name, summary.duration_ms, summary.orphans) == ("root", 900, 0)


def test_a_root_that_is_told_last_has_room_in_memory():
    correlator = Correlator(max_bytes=400_000)
    for n in range(300):
        observe(correlator, span(f"s{n}", "root", ctx={"x": "y" * 500}))
    observe(correlator, span("root", ctx={"x": "y" * 9_000}))
    assert correlator.record("t").bytes < 110_000 and correlator.left_out["trace_full"] > 100
    assert correlator.record("t").summary().orphans == 0


def test_memory_is_bounded_whatever_takes_it():
    limit = 300_000
    correlator = Correlator(max_bytes=limit)
    long = "x" * 9_000
    for n in range(200):
        observe(correlator, span("s", tid=f"t{n}", ctx={"long": long}),
                span("n", tid=f"u{n}", name=long), *(event(f"v{n}", f"s{i}") for i in range(30)))
        assert correlator.bytes <= limit
    assert correlator.evicted["bytes"] > 500
    assert correlator.bytes == sum(record.bytes for record in correlator.records())


def test_large_spans_make_room_among_many_small_traces():
    correlator = Correlator(max_bytes=1_000_000)
    observe(correlator, *(span("s", tid=f"small{n}") for n in range(1_000)))
    for n in range(20):
        observe(correlator, *(span("s", tid=f"{n}-{i}", name="x" * 60_000) for i in range(10)))
        assert correlator.bytes <= 1_000_000


def test_one_trace_takes_a_quarter_of_the_memory_at_most():
    correlator = observe(Correlator(max_bytes=400_000), span("a", tid="other"))
    for n in range(1_000):
        observe(correlator, span(f"s{n}", ctx={"x": "y" * 500}), event(sid=f"e{n}", msg="z" * 200))
    assert correlator.record("t").bytes < 102_000
    assert correlator.tids() == ["other", "t"] and correlator.left_out["trace_full"] > 1_000


def test_other_bounds_are_taken_up_in_place():
    correlator = observe(Correlator(), *(span("a", tid=f"t{n}") for n in range(100)))
    correlator.follow(ttl=3600, max_traces=10, max_spans=1, max_bytes=10**6, quiet=5)
    for _ in range(9):
        correlator.tidy(now=0.0)
    assert correlator.tids() == [f"t{n}" for n in range(90, 100)]


def test_nothing_that_is_kept_concerns_the_garbage_collector():
    correlator = Correlator()
    messages = [span(f"s{n}", "s0", n, name="load", ctx={"a": [1, {"b": 2}]}) for n in range(2_000)]
    batch = Batch(b"".join(json.dumps(m).encode() + b"\n" for m in messages))
    gc.collect()
    before = len(gc.get_objects())
    correlator.observe(batch, 0.0)
    del batch
    gc.collect()
    assert len(gc.get_objects()) - before < 100


class Counting(Correlator):
    """Counts what one call does."""

    def __init__(self, **bounds):
        super().__init__(**bounds)
        self.work = 0

    def _calm(self, record, now):
        done = super()._calm(record, now)
        self.work += done
        return done

    def _forget(self, record, reason):
        weight = super()._forget(record, reason)
        self.work += weight
        return weight


@pytest.mark.parametrize("spans_a_trace", [1, 50])
def test_each_call_does_a_bounded_piece_of_work(spans_a_trace):
    """40,000 spans come, then an hour of silence: what is due then goes piece by piece."""
    correlator = Counting(max_traces=200_000, max_bytes=10**9, ttl=60, quiet=5)
    traces, at = 40_000 // spans_a_trace, 0
    while at < traces:
        some = range(at, min(traces, at := at + 300 // spans_a_trace + 1))
        observe(correlator, *(span(f"s{n}", tid=f"t{i}") for i in some for n in range(spans_a_trace)))
    assert len(correlator) == traces and correlator.work == 0
    calls = 0
    while len(correlator):
        correlator.work = 0
        observe(correlator, span("x", tid="other"), now=1_000.0 + calls)
        assert correlator.work <= STEPS + 12
        correlator.work = 0
        correlator.tidy(now=1_000.0 + calls)
        assert correlator.work <= STEPS + 12
        calls += 1
        if len(correlator) == 1:
            break
    assert correlator.evicted["ttl"] == traces
    assert correlator.settled["complete"] + correlator.settled["incomplete"] >= traces


def test_what_comes_goes_at_the_same_pace():
    correlator = Correlator(max_traces=1_000, quiet=0.001)
    for n in range(200):
        observe(correlator, *(span("a", tid=f"t{n}-{i}") for i in range(300)), now=float(n))
        assert len(correlator) <= 1_000
    assert correlator.evicted["traces"] == 200 * 300 - 1_000


def test_readers_on_other_threads_see_whole_traces():
    """A copy is made in one step, so that the loop may go on meanwhile."""
    correlator = observe(Correlator(), span("a"), span("b", "a"))
    record = correlator.record("t")
    seen = record.trace()
    observe(correlator, span("c", "a"))
    assert len(seen.nodes) == 2 and len(record.trace().nodes) == 3
    assert record.summary().spans == 3
    assert record.summary() is not None and record.summed[0] == record.version


def test_its_counters_are_families():
    correlator = observe(Correlator(), span("a", duration_ms=20, status="error"))
    found = {one.name: one for one in correlator.collect()}
    assert found["sidecar_correlator_traces"].samples[0].value == 1
    assert found["sidecar_correlator_bytes"].samples[0].value == correlator.bytes > 0
    (errors,) = found["sidecar_span_errors_total"].samples
    assert (dict(errors.labels), errors.value) == ({"source": "a", "name": "a"}, 1)
