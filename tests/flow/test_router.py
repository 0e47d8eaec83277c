"""The router: which rule takes what, and that nothing vanishes without a reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafermon.flow import Router, Rule
from wafermon.message import LEVELS, ROUTED_TYPES, Batch


def message(src="a", type="event", ts=1, data=None, **more):
    if type == "span":
        more = {"tid": "t", "sid": "s", **more}
    return {"v": 1, "src": src, "ts": ts, "type": type, "data": data or {}, **more}


def batch(*messages):
    return Batch(b"".join(json.dumps(m).encode() + b"\n" for m in messages))


def sent(router, *messages):
    """Backend -> the messages that it got."""
    out = {}
    for backend, part in router.route(batch(*messages)):
        out.setdefault(backend, []).extend(part.messages)
        assert [json.loads(line) for line in part.lines] == part.messages
    return out


def test_whole_batch_passes_as_it_is():
    router, whole = Router({"*": [Rule("store")]}), batch(message(), message(ts=2))
    assert [(name, part is whole) for name, part in router.route(whole)] == [("store", True)]


@pytest.mark.parametrize(
    "source, backend",
    [("db-loader", "exact"), ("db-load", "longer"), ("db-x", "shorter"), ("x", "any")],
)
def test_the_most_specific_entry_wins_whatever_its_place(source, backend):
    entries = [("*", "any"), ("db-*", "shorter"), ("db-lo*", "longer"), ("db-loader", "exact")]
    for order in (entries, entries[::-1]):
        router = Router({pattern: [Rule(name)] for pattern, name in order})
        assert list(sent(router, message(source))) == [backend]


def test_no_entry_is_a_drop_with_its_reason():
    router = Router({"b": [Rule("store")], "c": []})
    assert sent(router, message("a"), message("c"), message("b")) == {"store": [message("b")]}
    assert router.dropped == {"no_route": 2, "filtered": 0, "sampled": 0}


def test_every_rule_that_matches_sends():
    router = Router({"*": [Rule("nas", types=["span"]), Rule("store"), Rule("alerts", level="error")]})
    span, info = message(type="span"), message(data={"level": "info"})
    fatal = message(data={"level": "fatal"})
    got = sent(router, span, info, fatal)
    assert got["store"] == [span, info, fatal]
    assert got["nas"] == [span]
    assert got["alerts"] == [span, fatal]  # a level says nothing of other types
    assert sum(router.dropped.values()) == 0


def test_a_backend_gets_a_message_once():
    router = Router({"*": [Rule("store", types=["event"]), Rule("store", level="warn")]})
    both = message(data={"level": "error"})
    assert sent(router, both) == {"store": [both]}


@pytest.mark.parametrize("level", LEVELS)
def test_level(level):
    events = [message(data={"level": known}) for known in LEVELS]
    odd = [message(data={"level": "loud"}), message(data={}), message(data={"level": 3})]
    got = sent(Router({"*": [Rule("b", level=level)]}), *events, *odd)
    assert got["b"] == events[LEVELS.index(level):]


@pytest.mark.parametrize(
    "wanted, data, matches",
    [
        ("EQP*", {"tool": "EQP07"}, True),
        ("EQP*", {"tool": "eqp07"}, False),
        ("EQP*", {"tool": 7}, False),
        ("EQP*", {}, False),
        ("EQP*", {"tool": "a\nEQP07"}, False),
        (["A", "B?"], {"tool": "B1"}, True),
        (["A", 7], {"tool": 7}, True),
        ([7], {"tool": "7"}, False),
        (1, {"tool": True}, False),
        (True, {"tool": True}, True),
        (True, {"tool": 1}, False),
        (1, {"tool": 1.0}, True),
        (None, {"tool": None}, True),
        (None, {}, False),
        ([1, None], {"tool": [1]}, False),
        ("*", {"tool": {"x": 1}}, False),
        ("a.c", {"tool": "abc"}, False),
    ],
)
def test_where(wanted, data, matches):
    router = Router({"*": [Rule("b", where={"data.ctx.tool": wanted})]})
    assert bool(sent(router, message(data={"ctx": data}))) is matches
    assert router.dropped["filtered"] == (not matches)


def test_where_on_the_envelope_and_through_no_object():
    router = Router({"*": [Rule("b", where={"tid": "t1", "data.ctx.a": "*"})]})
    assert sent(router, message(tid="t1", data={"ctx": {"a": "x"}}))
    assert not sent(router, message(tid="t1", data={"ctx": "text"}), message(tid="t1"), message())


def test_a_sample_keeps_a_trace_whole():
    router = Router({"*": [Rule("b", sample=0.3)]})
    messages = [message(ts=ts, tid=f"t{ts % 400}") for ts in range(2000)]
    kept = sent(router, *messages)["b"]
    tids = {m["tid"] for m in kept}
    assert kept == [m for m in messages if m["tid"] in tids]
    assert 80 < len(tids) < 160  # 120 expected
    assert router.dropped == {"no_route": 0, "filtered": 0, "sampled": 2000 - len(kept)}


def test_a_smaller_sample_is_a_part_of_a_larger_one():
    messages = [message(ts=ts) for ts in range(500)]
    kept = [
        {m["ts"] for m in sent(Router({"*": [Rule("b", sample=share)]}), *messages).get("b", [])}
        for share in (0, 0.1, 0.5, 1)
    ]
    assert kept[0] <= kept[1] <= kept[2] <= kept[3]
    assert len(kept[0]) == 0 and len(kept[3]) == 500 and 200 < len(kept[2]) < 300


def test_the_memory_of_sources_is_bounded():
    router = Router({"*": [Rule("b")]}, max_sources=10)
    for i in range(25):
        assert sent(router, message(f"s{i}"))
    assert len(router._plans) <= 10 and router.evictions == 2


rules = st.lists(
    st.builds(
        Rule,
        backend=st.sampled_from(["x", "y"]),
        types=st.lists(st.sampled_from(sorted(ROUTED_TYPES)), max_size=2),
        level=st.sampled_from([None, "info", "error"]),
        where=st.sampled_from([{}, {"data.n": 1}, {"data.n": [2, "a*"]}]),
        sample=st.sampled_from([1.0, 1.0, 0.5, 0.0]),
    ),
    max_size=3,
)
some_messages = st.lists(
    st.builds(
        message,
        src=st.sampled_from(["a", "ab", "b"]),
        type=st.sampled_from(["event", "span", "metric"]),
        ts=st.integers(0, 50),
        data=st.sampled_from([{"n": 1}, {"n": 2, "level": "info"}, {"n": "ab", "level": "fatal"}]),
    ),
    min_size=1,
    max_size=12,
)


@given(st.dictionaries(st.sampled_from(["a", "a*", "b", "*"]), rules, max_size=3), some_messages)
def test_every_message_goes_somewhere_or_is_counted(routing, messages):
    router = Router(routing)
    numbered = [{**m, "n": i} for i, m in enumerate(messages)]
    seen, per_backend = set(), {}
    for backend, part in router.route(batch(*numbered)):
        numbers = [m["n"] for m in part.messages]
        assert numbers == sorted(numbers)
        assert not per_backend.setdefault(backend, set()) & set(numbers), "sent twice"
        per_backend[backend] |= set(numbers)
        seen |= set(numbers)
    assert len(messages) == len(seen) + sum(router.dropped.values())


def test_the_order_among_sources_is_kept_for_each_backend():
    messages = [message("ab"[i % 2], "event" if i % 3 else "span", ts=i) for i in range(12)]
    for rules in ([Rule("x")], [Rule("x", types=["event", "span"])], [Rule("x"), Rule("y", types=["span"])]):
        got = sent(Router({"a": rules, "b": rules}), *messages)
        assert got["x"] == messages
    got = sent(Router({"a": [Rule("x")], "b": [Rule("x", types=["event"])]}), *messages)
    assert got["x"] == [m for m in messages if m["src"] == "a" or m["type"] == "event"]


def test_backends_are_known():
    assert Router({"a": [Rule("x")], "b*": [Rule("y"), Rule("x")]}).backends == {"x", "y"}


@given(st.dictionaries(st.sampled_from(["a", "a*", "a?", "b", "*"]), rules, max_size=4), some_messages)
def test_what_is_explained_is_what_is_done(routing, messages):
    router = Router(routing)
    for one in messages:
        before = dict(router.dropped)
        backends = {backend for backend, _ in router.route(batch(one))}
        dropped = [reason for reason, count in router.dropped.items() if count > before[reason]]
        ruling = router.explain(one)
        assert set(ruling.backends) == backends
        assert [trial.rule for trial in ruling.trials] == list(routing.get(ruling.entry, ()))
        if not ruling.trials:
            assert dropped == ["no_route"]
        elif all(trial.failed for trial in ruling.trials):
            assert dropped == ["filtered"]
        else:
            assert dropped == ([] if backends else ["sampled"])


def test_the_words_of_an_explanation():
    rules = [
        Rule("x", types=["event", "span"], level="warn"),
        Rule("x", where={"data.ctx.tool": ["EQP*", 7]}),
        Rule("x", where={"data.ctx": "a"}, sample=0),
        Rule("x", types=["event"], sample=0),
    ]
    router = Router({"db-*": rules, "*": [], "d*": [], "x": []})
    ruling = router.explain(message("db-1", data={"level": "info", "ctx": {"tool": "a\x1b" * 99}}))
    assert (ruling.entry, ruling.beaten, ruling.backends) == ("db-*", ("d*", "*"), [])
    first, second, third, fourth = ruling.trials
    assert first.met == ('type is "event"',)
    assert first.failed == 'data.level is "info", wanted warn or graver'
    assert second.failed.startswith('data.ctx.tool is "a\\u001ba')
    assert second.failed.endswith('..., wanted "EQP*" or 7') and len(second.failed) < 120
    assert third.failed == 'data.ctx is an object, wanted "a"'
    assert (fourth.failed, fourth.kept, fourth.sends) == ("", False, False)
    assert router.explain(message("db-1")).trials[1].failed == (
        'there is no data.ctx.tool, wanted "EQP*" or 7'
    )
