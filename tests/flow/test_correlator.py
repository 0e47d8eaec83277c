"""The correlator: trees out of any order, and its bounds."""

import json
import random

from wafermon.flow import Correlator
from wafermon.message import Batch


def span(sid, pid=None, ts=0, tid="t", **data):
    message = {"v": 1, "src": "a", "ts": ts, "type": "span", "tid": tid, "sid": sid,
               "data": {"name": sid, "duration_ms": 1, **data}}
    if pid:
        message["pid"] = pid
    return message


def event(tid="t", sid=None):
    message = {"v": 1, "src": "a", "ts": 1, "type": "event", "tid": tid, "data": {}}
    return {**message, "sid": sid} if sid else message


def observe(correlator, *messages, now=0.0):
    correlator.observe(Batch(b"".join(json.dumps(m).encode() + b"\n" for m in messages)), now)
    return correlator


def tree(correlator, tid="t"):
    return [(depth, node.span.sid, node.orphan) for depth, node in correlator.trace(tid).walk()]


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


def test_a_span_without_its_parent_is_a_marked_root():
    assert tree(observe(Correlator(), span("a", "gone"))) == [(0, "a", True)]


def test_cycles_are_cut_once_and_lose_nothing():
    correlator = observe(Correlator(), span("a", "c"), span("b", "a", 1), span("c", "b", 2), span("d", "b", 3))
    assert tree(correlator) == [(0, "a", True), (1, "b", False), (2, "c", False), (2, "d", False)]
    assert tree(observe(Correlator(), span("x", "x"))) == [(0, "x", True)]


def test_messages_belong_to_their_span_or_to_the_trace():
    correlator = observe(Correlator(), event(sid="a"), span("a"), event(sid="a"), event(), event(sid="z"))
    trace = correlator.trace("t")
    assert trace.roots[0].span.messages == 2
    assert trace.loose_messages == 2


def test_a_finished_span_beats_an_open_one_in_any_order():
    opened, done = span("a", status="open", duration_ms=None), span("a", duration_ms=7)
    for order in ((opened, done), (done, opened)):
        found = observe(Correlator(), *order).trace("t").roots[0].span
        assert (found.duration_ms, found.status) == (7, "ok")
    assert observe(Correlator(), opened).trace("t").roots[0].span.duration_ms is None


def test_payloads_that_are_none_are_counted():
    bad = [span("a", name=5), span("b", duration_ms="1"), span("c", duration_ms=True),
           span("d", status="what"), span("e", duration_ms=-1), span("f", status=[])]
    bad.append({k: v for k, v in span("g").items() if k != "data"} | {"data": {}})
    correlator = observe(Correlator(), *bad, span("good"))
    assert tree(correlator) == [(0, "good", False)]
    assert correlator.left_out["bad_payload"] == len(bad)


def test_bounds():
    correlator = Correlator(max_traces=3, max_spans=2, ttl=60)
    for i in range(5):
        observe(correlator, span("a", tid=f"t{i}"))
    assert correlator.tids() == ["t2", "t3", "t4"] and correlator.evicted["traces"] == 2
    observe(correlator, span("b", tid="t2"), span("c", tid="t2"), event("t2", "a"), event("t2", "b"),
            event("t2", "c"), now=30.0)
    assert len(list(correlator.trace("t2").walk())) == 2
    assert correlator.left_out["trace_full"] == 2
    observe(correlator, event("new"), now=70.0)
    assert correlator.tids() == ["t2", "new"] and correlator.evicted == {"traces": 2, "ttl": 2}
    assert correlator.trace("gone") is None


def test_a_deep_trace_does_not_recurse():
    correlator = observe(Correlator(max_spans=5000), *(span(f"s{i}", f"s{i - 1}" if i else None, i) for i in range(3000)))
    assert [depth for depth, _ in correlator.trace("t").walk()] == list(range(3000))
