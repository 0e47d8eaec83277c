"""What becomes of settled traces, and readers on other threads while the loop goes on."""

import json
import threading

import pytest
from support import eventually

from wafermon.flow import Correlator
from wafermon.flow.rule import keeps
from wafermon.flow.trace_record import Summary
from wafermon.net import EventLoop, Request
from wafermon.sidecar import traces
from wafermon.sidecar.pages.traces import trace as trace_page
from wafermon.sidecar.pages.traces import traces as traces_page
from wafermon.sidecar.schema_traces import Keep, Traces
from wafermon.sidecar.traces import SettledTraces, bounds, is_kept
from wafermon.testing import batch, frame

ALL = Traces(quiet=0.1, route=True, keep=Keep(share=1))


def spans(count, tid="t{}", src="a", first=0):
    data = {"name": "load", "duration_ms": 5}
    return batch([frame(n, src, "span", tid=tid.format(n), sid=f"s{n}", data=data)
                  for n in range(first, first + count)])


@pytest.fixture
def settled():
    """Make the part under test on a loop that runs."""
    loop, submitted, made = EventLoop(), [], []
    thread = threading.Thread(target=loop.run)

    def make(config, start=True):
        correlator = Correlator(**bounds(config))
        part = SettledTraces(correlator, config, loop)
        made.append(part)
        if start:
            part.start(submitted.append)
        if not thread.is_alive():
            thread.start()
        return correlator, part, submitted

    yield make
    for part in made:
        part.stop()
    loop.stop()
    thread.join(10)
    loop.close()


def on_loop(part, call):
    done = threading.Event()
    part._loop.call_soon(lambda: (call(), done.set()))
    assert done.wait(10)


def test_each_trace_is_routed_once(settled):
    correlator, part, submitted = settled(ALL)
    on_loop(part, lambda: correlator.observe(spans(50), part._loop.clock()))
    eventually(lambda: part.outcomes["routed"] == 50, "fifty traces")
    messages = [message for one in submitted for message in one.messages]
    assert sorted(m["tid"] for m in messages) == sorted(f"t{n}" for n in range(50))
    assert {m["src"] for m in messages} == {"wafermon.traces"}
    assert max(map(len, submitted)) <= 8


def test_what_nobody_asks_for_is_passed_over(settled):
    correlator, part, submitted = settled(Traces(quiet=0.1))
    on_loop(part, lambda: correlator.observe(spans(5), part._loop.clock()))
    eventually(lambda: correlator.settled["complete"] == 5, "settled")
    assert not any(part.outcomes.values()) and not submitted


def test_it_is_followed_while_it_runs(settled):
    correlator, part, submitted = settled(Traces(quiet=0.1))
    on_loop(part, lambda: part.follow(ALL))
    on_loop(part, lambda: correlator.observe(spans(1), part._loop.clock()))
    eventually(lambda: submitted, "a trace")


def test_a_trace_that_was_not_sent_is_judged_again(settled):
    keep = Keep(errors=True, slower_than_ms=0, share=0)
    correlator, part, submitted = settled(Traces(quiet=0.1, route=True, keep=keep))
    on_loop(part, lambda: correlator.observe(spans(1), part._loop.clock()))
    eventually(lambda: part.outcomes["sampled"] == 1, "the first look")
    for n in (1, 2):  # an error comes late, then something else
        late = frame(9, "a", "span", tid="t0", sid=f"late{n}", pid="s0",
                     data={"name": "late", "duration_ms": 5, "status": "error"})
        on_loop(part, lambda late=late: correlator.observe(batch([late]), part._loop.clock()))
        eventually(lambda: correlator.record("t0").complete and part.outcomes["routed"] == 1, "it")
    assert part.outcomes["sampled"] == 1 and len(submitted) == 1
    assert submitted[0].messages[0]["data"]["level"] == "error"


def test_a_trace_of_an_error_alone_is_routed_when_it_is_given_up(settled):
    correlator, part, submitted = settled(ALL)
    told = frame(1, "a", "event", tid="t", data={"level": "fatal", "msg": "boom"})
    on_loop(part, lambda: correlator.observe(batch([told]), part._loop.clock()))
    on_loop(part, lambda: correlator.tidy(part._loop.clock() + 9_999))
    eventually(lambda: submitted, "it")
    (message,) = submitted[0].messages
    assert message["data"]["level"] == "error" and message["data"]["msg"].startswith("a no span: ")


def test_what_waits_at_a_stop_is_routed(start_sidecar, tmp_path):
    sink = tmp_path / "traces.jsonl"
    sidecar = start_sidecar(config={
        "sidecar": {"data_dir": str(tmp_path / "data"), "tcp": {"port": 0},
                    "health": {"metrics_port": 0}},
        "backends": {"sink": {"type": "file", "path": str(sink)}, "other": {"type": "null"}},
        "routing": {"wafermon.traces": [{"backend": "sink"}], "*": [{"backend": "other"}]},
        "traces": {"route": True, "quiet": "1h", "keep": {"share": 1}},
    })  # fmt: skip
    begun = {"name": "load", "status": "open"}
    sidecar.send(spans(20).raw + frame(1, "a", "span", tid="open", sid="s", data=begun))
    assert sidecar.stop()[0] == 0
    told = [json.loads(line)["data"]["ctx"] for line in sink.read_bytes().splitlines()]
    assert sorted(one["tid"] for one in told) == sorted([*(f"t{n}" for n in range(20)), "open"])
    assert told[-1]["tid"] == "open" and not told[-1]["complete"], "those that are whole come first"


def test_a_stop_submits_what_the_loop_was_handed(settled, monkeypatch):
    correlator, part, submitted = settled(ALL, start=False)
    part._submit = submitted.append
    correlator.observe(spans(3), 0.0)
    part._handed.append(spans(2))  # the loop ended before it came to it
    part.stop(30.0)
    assert [len(one) for one in submitted] == [2, 3]
    assert (part.outcomes["routed"], part.outcomes["stop"]) == (5, 0)


def test_what_a_stop_keeps_from_being_routed_is_counted(settled):
    correlator, part, _ = settled(Traces(quiet=60, route=True))
    on_loop(part, lambda: correlator.observe(spans(3), part._loop.clock()))
    part.stop()
    part.stop()
    assert part.outcomes["stop"] == 3


def test_a_flood_is_bounded_and_counted(settled, monkeypatch):
    monkeypatch.setattr(traces, "MAX_WAITING", 10)
    correlator, part, _ = settled(ALL, start=False)  # nobody takes what waits
    correlator.observe(spans(30), 0.0)
    correlator.tidy(9.0)
    assert part.outcomes["overflow"] == 20


def test_a_fault_of_our_own_costs_one_trace(settled, monkeypatch):
    real = traces.message_of

    def faulty(trace, *rest):
        if trace.tid == "t3":
            raise RecursionError
        return real(trace, *rest)

    monkeypatch.setattr(traces, "message_of", faulty)
    correlator, part, _ = settled(ALL)
    on_loop(part, lambda: correlator.observe(spans(9), part._loop.clock()))
    eventually(lambda: part.outcomes["routed"] == 8, "the others")
    assert part.outcomes["internal_error"] == 1


def test_what_is_kept():
    ok, slow = Summary("t", "load", "x", 0, 5.0), Summary("t", "load", "x", 0, 1_000.0)
    none = Keep(errors=True, slower_than_ms=1_000, share=0)
    assert not is_kept(ok, none) and is_kept(slow, none)
    assert is_kept(ok._replace(errors=1), none) and is_kept(ok._replace(error_events=1), none)
    assert not is_kept(ok._replace(errors=1), Keep(errors=False, share=0))
    assert not is_kept(ok._replace(duration_ms=None), none)
    share = Keep(share=0.3)
    kept = [n for n in range(1_000) if is_kept(ok._replace(tid=str(n)), share)]
    assert 200 < len(kept) < 400
    assert kept == [n for n in range(1_000) if keeps({"tid": str(n)}, 0.3)]  # as routes sample


def test_pages_are_read_while_spans_come():
    """Readers take no lock: what they see is whole, whatever the loop does meanwhile."""
    correlator = Correlator(max_traces=50, quiet=0.001)
    ending, faults, seen = threading.Event(), [], []

    def read():
        listed, one = traces_page(correlator), trace_page(correlator)
        try:
            while not ending.is_set():
                for found in json.loads(listed(Request()).body)["traces"]:
                    answer = one(Request(rest=found["tid"]))
                    if answer.status == 200:
                        shown = json.loads(answer.body)
                        seen.append(shown["tid"] == found["tid"] and len(shown["spans"]) > 0)
                json.loads(listed(Request({"q": ["load"]})).body)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    now = 0
    while len(seen) < 60 and not faults:
        correlator.observe(spans(20, first=now * 20), float(now))
        correlator.observe(spans(50, tid="long", first=now * 50), float(now))
        now += 1
    ending.set()
    for thread in threads:
        thread.join(10)
    assert not faults and all(seen)
