"""Trees of traces and what their times mean, for traces that were shuffled, doubled and broken."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafermon.flow.trace import Span, assemble
from wafermon.flow.trace_record import summarize
from wafermon.flow.trace_times import critical_path, error_path, gaps, self_ms, services, skew_ms
from wafermon.flow.trace_view import chosen, message_of, trace_object
from wafermon.message import MAX_FRAME_BYTES, check
from wafermon.wire import Decoder, encode


def span(sid, parent=None, start=0, ms=1.0, src="a", status="ok", **more):
    return Span(sid, parent, src, f"span {sid}", start, ms, status, **more)


@st.composite
def spans(draw, nested=False):
    """Spans with any parents at all: lost ones, circles, of themselves; or a sound trace."""
    count = draw(st.integers(1, 12))
    made = []
    for n in range(count):
        if nested:
            parent = made[draw(st.integers(0, n - 1))] if n else None
            low, high = (parent.start_ms, int(parent.end_ms)) if parent else (0, 1_000)
            start = draw(st.integers(low, high))
            ms = float(draw(st.integers(0, high - start)))
            if parent is None:
                start, ms = 0, 1_000.0
            made.append(span(str(n), parent and parent.sid, start, ms, src=f"s{n % 3}"))
        else:
            parent = draw(st.sampled_from([None, "lost", *map(str, range(count))]))
            ms = draw(st.none() | st.floats(0, 50))
            status = "open" if ms is None else draw(st.sampled_from(["ok", "error"]))
            made.append(span(str(n), parent, draw(st.integers(0, 20)), ms, f"s{n % 3}", status))
    return made


def shape(trace):
    return [(d, n.span, n.orphan, n.cycle) for d, n in trace.walk()]


@given(spans(), st.data())
def test_the_order_does_not_matter_nor_what_comes_twice(found, data):
    again = data.draw(st.lists(st.sampled_from(found), max_size=5))
    mixed = data.draw(st.permutations([*found, *again]))
    assert shape(assemble("t", mixed)) == shape(assemble("t", found))


@given(spans(), st.data())
def test_each_span_stands_once_below_its_parent_or_at_the_top(found, data):
    kept = data.draw(st.lists(st.sampled_from(found), unique=True))
    trace = assemble("t", kept)
    assert sorted(n.span.sid for _, n in trace.walk()) == sorted(s.sid for s in kept)
    known = {s.sid for s in kept}
    for _, node in trace.walk():
        above = trace.parent(node)
        assert node.orphan == (node.span.parent is not None and node.span.parent not in known)
        if above is None:
            assert node in trace.roots
            assert node.orphan or node.cycle or node.span.parent is None
        else:
            assert above.span.sid == node.span.parent and node in above.children
            assert node.depth == above.depth + 1


@given(spans())
def test_times_of_anything_stay_within_the_trace(found):
    trace = assemble("t", found)
    whole = trace.end_ms - trace.start_ms
    path = critical_path(trace)
    assert all(ms >= 0 for ms in path.values()) and sum(path.values()) <= whole + 1e-6
    for node in trace.nodes.values():
        own = self_ms(node)
        assert own is None or 0 <= own <= node.span.duration_ms
    assert sum(s.spans for s in services(trace)) == len(found)
    failed = [s.sid for s in found if s.status == "error"]
    way = error_path(trace)
    assert bool(way) == bool(failed) and (not way or way[-1] in failed)
    for gap in gaps(trace, 1.0):
        assert gap.duration_ms >= 1 and trace.start_ms <= gap.start_ms
        assert gap.start_ms + gap.duration_ms == trace.nodes[gap.before].span.start_ms
    assert trace_object(trace)["duration_ms"] in (None, whole)


@given(spans(nested=True))
def test_in_a_sound_trace_all_time_is_accounted_for(found):
    trace = assemble("t", found)
    path = critical_path(trace)
    assert sum(path.values()) == pytest.approx(1_000.0)
    root, way = trace.nodes["0"], set(path)
    assert root.span.sid in way
    for sid in way - {"0"}:
        assert trace.nodes[sid].span.parent in way
    assert not any(skew_ms(node, trace.parent(node)) for node in trace.nodes.values())
    # The children of one span, were they one after the other, and its own time make it up.
    assert self_ms(root) + sum(c.span.duration_ms for c in root.children) >= 1_000 - 1e-6


def test_cycles_are_cut_once_and_lose_nothing():
    found = [span("a", "c"), span("b", "a", 1), span("c", "b", 2), span("d", "b", 3)]
    trace = assemble("t", found)
    assert [(d, n.span.sid, n.orphan, n.cycle) for d, n in trace.walk()] == [
        (0, "a", False, True), (1, "b", False, False), (2, "c", False, False), (2, "d", False, False),
    ]
    (own,) = assemble("t", [span("x", "x")]).roots
    assert own.cycle and not own.orphan


def test_a_span_without_its_parent_is_a_marked_root():
    assert shape(assemble("t", [span("a", "gone")])) == [(0, span("a", "gone"), True, False)]


def test_the_critical_path_follows_what_was_waited_for():
    trace = assemble("t", [
        span("root", None, 0, 100.0), span("first", "root", 10, 30.0),
        span("beside", "root", 15, 10.0), span("last", "root", 50, 40.0),
        span("in-last", "last", 60, 20.0),
    ])  # fmt: skip
    assert critical_path(trace) == {"root": 30.0, "first": 30.0, "last": 20.0, "in-last": 20.0}


def test_the_critical_path_goes_on_where_work_is_handed_over():
    trace = assemble("t", [
        span("take", None, 0, 10.0), span("wait", "take", 9, 50.0, "queue"),
        span("load", "take", 59, 40.0, "loader"),
    ])  # fmt: skip
    path = critical_path(trace)
    assert list(path) == ["take", "wait", "load"] and sum(path.values()) == 99.0


def test_starts_in_whole_milliseconds_do_not_hide_who_ran_before():
    trace = assemble("t", [span("root", None, 0, 4.0), span("a", "root", 0, 2.4), span("b", "root", 2, 2.0)])
    assert critical_path(trace) == {"root": 0.0, "a": 2.0, "b": 2.0}


def test_self_time_counts_children_that_overlap_once():
    trace = assemble("t", [
        span("root", None, 0, 100.0), span("a", "root", 10, 30.0), span("b", "root", 20, 30.0),
        span("outside", "root", 90, 500.0), span("open", "b", 45, None, status="open"),
    ])  # fmt: skip
    assert self_ms(trace.nodes["root"]) == 50.0
    assert self_ms(trace.nodes["b"]) == 25.0
    assert self_ms(trace.nodes["open"]) is None


@pytest.mark.parametrize(("child", "skew"), [
    (span("c", "p", 95, 5.0, "b"), -5.0),  # begins before its parent
    (span("c", "p", 95, 5.0, "a"), None),  # one source has one clock
    (span("c", "p", 99, 5.0, "b"), None),  # starts are whole milliseconds
    (span("c", "p", 145, 10.0, "b"), 5.0),  # would have fitted in
    (span("c", "p", 145, 10.0, "a"), None),  # on one clock it is what happened
    (span("c", "p", 145, 10.0, "b", kind="consumer"), None),
    (span("c", "p", 145, 60.0, "b"), 55.0),
    (span("c", "p", 3_600_150, 50.0, "b"), 3_600_050.0),  # an hour off
    (span("c", "p", 160, None, "b", "open"), 10.0),
    (span("c", "p", 145, None, "b", "open"), None),
])  # fmt: skip
def test_clocks_that_disagree_are_shown_and_not_mended(child, skew):
    trace = assemble("t", [span("p", None, 100, 50.0), child])
    node = trace.nodes["c"]
    assert skew_ms(node, trace.parent(node)) == skew
    assert node.span == child


def test_gaps_between_siblings_and_between_roots():
    trace = assemble("t", [
        span("a", None, 0, 40.0), span("a1", "a", 5, 5.0), span("a2", "a", 30, 10.0),
        span("b", "lost", 60, 10.0), span("open", None, 90, None, status="open"),
        span("c", None, 200, 1.0),
    ])  # fmt: skip
    found = [(gap.parent, gap.before, gap.start_ms, gap.duration_ms) for gap in gaps(trace, 5)]
    assert found == [
        (None, "b", 40.0, 20.0), (None, "open", 70.0, 20.0), ("a", "a2", 10.0, 20.0),
    ]


def test_no_gap_before_a_span_whose_clock_differs():
    trace = assemble("t", [
        span("p", None, 0, 100.0), span("c", "p", 10, 5.0, "b"), span("d", "p", 3_600_000, 5.0, "c"),
    ])  # fmt: skip
    assert gaps(trace, 5) == []


def test_the_error_path_ends_where_the_error_began():
    trace = assemble("t", [
        span("root", status="error"), span("a", "root", 1, status="error"), span("b", "a", 2),
        span("c", "b", 5, status="error"), span("d", "b", 4, status="error"),
    ])  # fmt: skip
    assert error_path(trace) == ["root", "a", "b", "d"]
    assert error_path(assemble("t", [span("root")])) == []


@pytest.mark.parametrize("name", ["deep", "wide", "circle"])
def test_a_trace_of_10_000_spans(name):
    count = 10_000
    parent = {"deep": lambda n: str(n - 1) if n else None, "wide": lambda n: "0" if n else None,
              "circle": lambda n: str((n + 1) % count)}[name]
    found = [span(str(n), parent(n), n % 999, 5.0) for n in range(count)]
    shown = trace_object(assemble("t", found))
    assert len(shown["spans"]) == count
    assert max(one["depth"] for one in shown["spans"]) == {"deep": count - 1, "wide": 1, "circle": count - 1}[name]


# -- as a message ----------------------------------------------------------------------------------


def routed(found, **more):
    message = message_of(assemble("t", found, **more), summarize("t", found), "wafermon.traces", 7)
    assert check(message) is None
    (back,) = Decoder().feed(encode(message)).messages
    return back


def test_a_trace_becomes_an_event():
    message = routed([span("a", None, 3, 9.0), span("b", "gone", 5, 2.0, "b", "error")])
    ctx = message["data"]["ctx"]
    assert message["tid"] == "t" and message["data"]["level"] == "error"
    assert message["data"]["msg"] == (
        "a span a took 9 ms: 2 spans of 2 sources, 1 with an error, 1 without its parent; not complete"
    )
    assert [s["sid"] for s in ctx["spans"]] == ["a", "b"] and ctx["left_out"] == 0
    assert ctx["spans"][0]["duration_ms"] == 9.0 and ctx["spans"][1]["orphan"] is True


@pytest.mark.parametrize("char", ["x", '"', "源", "😀", "\u2028"])
def test_a_trace_of_any_size_fits_into_a_frame(char):
    found = [Span(f"{n}{char * 120}", None if n % 3 else f"p{char * 120}", f"{n % 99}{char * 120}", char * 9_000,
                  2**53 - 1, 1e15, "error", char * 200, {"x": char * 5_000}) for n in range(2_000)]
    message = message_of(assemble(char * 128, found), summarize(char * 128, found), "wafermon.traces", 7)
    frame = encode(message)  # raises where it is too long
    assert len(frame) > MAX_FRAME_BYTES // 4
    ctx = message["data"]["ctx"]
    assert ctx["left_out"] + len(ctx["spans"]) == 2_000


def test_what_matters_most_is_left_out_last():
    deep = [span(str(n), str(n - 1) if n else None, n, 1.0) for n in range(3_000)]
    deep[2_999] = deep[2_999]._replace(status="error", parent="5")
    ctx = routed(deep)["data"]["ctx"]
    sids = [s["sid"] for s in ctx["spans"]]
    assert "2999" in sids and "0" in sids and len(sids) < 3_000


@settings(max_examples=30)
@given(spans())
def test_any_trace_becomes_a_frame(found):
    routed(found)


def test_filters_of_lists():
    one = summarize("abc", [span("r", None, 0, 5.0, "loader", "error")])
    other = summarize("def", [span("r", None, 0, 50.0, "mover"), span("s", "r", 0, 5.0, "loader")])
    assert chosen([one, other]) == [one, other]
    assert chosen([one, other], src="mover") == [other]
    assert chosen([one, other], min_ms=50) == [other]
    assert chosen([one, other], errors=True) == [one]
    assert chosen([one, other], text="SPAN R") == [one, other]
    assert chosen([one, other], text="abc") == [one]
    assert chosen([one, other], text="mov") == [other]
