"""Rate, errors and durations by source and span name, and who calls whom."""

import pytest

from wafermon.flow import ServiceGraph
from wafermon.flow.service_graph import BOUNDS_MS, NOTE_SECONDS, Edge, quantile
from wafermon.flow.trace import Span
from wafermon.observe import Registry, render


def stats(graph, now=0.0):
    return {(one.src, one.name): one for one in graph.stats(now)}


def test_calls_errors_and_durations():
    graph = ServiceGraph()
    for n in range(100):
        graph.count("loader", "parse", n, "error" if n % 10 == 0 else "ok")
    graph.count("loader", "load", 5_000.0, "ok")
    found = stats(graph)
    parse = found["loader", "parse"]
    assert (parse.calls, parse.errors) == (100, 10)
    assert 40 <= parse.p50 <= 60 and 90 <= parse.p95 <= 100 and parse.p95 <= parse.p99 <= 100
    assert 2_500 < found["loader", "load"].p50 <= 5_000


def test_the_rate_is_that_of_the_last_minute_and_durations_of_the_last_five():
    graph, now = ServiceGraph(), 0.0
    for _ in range(100):
        graph.count("a", "x", 1_000.0, "ok")
    for turn in range(12):
        graph.note(now)
        now += NOTE_SECONDS
        for _ in range(60 if turn < 10 else 30):
            graph.count("a", "x", 1.0, "ok")
    found = stats(graph, now)["a", "x"]
    assert found.calls == 760 and found.rate_per_s == pytest.approx(1.0)
    assert found.p99 <= 1.0  # the slow ones are long ago
    for _ in range(12):
        graph.note(now)
        now += NOTE_SECONDS
    found = stats(graph, now)["a", "x"]
    assert found.rate_per_s == 0 and found.p50 is not None


def test_a_name_that_came_after_a_note_counts_whole():
    graph = ServiceGraph()
    graph.note(0.0)
    graph.note(30.0)
    graph.count("a", "new", 3.0, "ok")
    assert stats(graph, 60.0)["a", "new"].rate_per_s == pytest.approx(1 / 60)


def test_no_percentile_is_outside_of_what_was_seen():
    graph = ServiceGraph()
    for ms in (110.0, 120.0, 115.0):
        graph.count("a", "x", ms, "ok")
    found = stats(graph)["a", "x"]
    assert found.p50 == found.p95 == found.p99 == 120.0
    graph.count("a", "y", 240.0, "ok")
    found = stats(graph)["a", "y"]
    assert found.p50 == found.p99 == 240.0


def test_names_past_the_cap_are_counted_together():
    graph = ServiceGraph(max_names=3)
    for n in range(10):
        graph.count("a", f"x{n}", 1.0, "ok")
        graph.count("a", "y" * 5_000, 1.0, "ok")
    found = stats(graph)
    assert len(found) == 4 and found["_other", "_other"].calls == 8 == graph.evicted
    assert found["a", "y" * 128].calls == 10


def test_a_source_with_too_many_names_has_one_for_the_rest_and_leaves_room_for_others():
    graph = ServiceGraph(max_names=7, max_names_a_source=3)
    for n in range(10):
        graph.count("etl", f"load LOT{n}", 1.0, "ok")
    for src in "abcde":
        graph.count(src, "parse", 1.0, "ok")
    graph.count("etl", "load LOT1", 1.0, "error")
    found = {key: (one.calls, one.errors) for key, one in stats(graph).items()}
    assert found == {
        ("etl", "load LOT0"): (1, 0), ("etl", "load LOT1"): (2, 1), ("etl", "load LOT2"): (1, 0), ("etl", "_other"): (7, 0),
        ("a", "parse"): (1, 0), ("b", "parse"): (1, 0), ("c", "parse"): (1, 0), ("_other", "_other"): (2, 0),
    }  # fmt: skip
    assert graph.evicted == 9


def test_calls_between_sources():
    graph = ServiceGraph(max_edges=2)
    a, b = Span("1", None, "a", "x", 0, 1.0), Span("2", "1", "b", "y", 0, 1.0, "error")
    graph.add_calls([b, Span("3", "2", "b", "own", 0, 1.0), a, Span("4", "gone", "c", "z", 0, 1.0)])
    graph.add_calls([a, b, Span("3", "2", "c", "z", 0, 1.0)])
    graph.add_calls([a, Span("2", "1", "d", "z", 0, 1.0)])
    assert graph.edges() == [
        Edge("a", "b", 2, 2), Edge("_other", "_other", 1, 0), Edge("b", "c", 1, 0),
    ]  # fmt: skip
    assert graph.evicted == 1


def test_families_are_capped_and_valid():
    graph = ServiceGraph()
    for n in range(300):
        graph.count(f"a{n % 5}", f'x"{n}\\', 20.0, "ok")
    registry = Registry()
    registry.register(graph.collect)
    text = render(registry).decode()
    assert text.count("sidecar_span_duration_seconds_count{") == 201
    (other,) = [ln for ln in text.split("\n") if ln.startswith("sidecar_span_duration_seconds_count")
                and "_other" in ln]
    assert other.endswith((" 100", " 100.0"))
    assert 'le="+Inf"' in text and text.count("sidecar_span_errors_total{") == 201


@pytest.mark.parametrize(("counts", "share", "wanted"), [
    ([0] * 18, 0.5, None), ([4] + [0] * 17, 0.5, 0.5), ([0] * 17 + [3], 0.99, BOUNDS_MS[-1]),
    ([1] * 18, 1.0, BOUNDS_MS[-1]), ([2, 2] + [0] * 16, 0.75, 1.75),
])  # fmt: skip
def test_quantiles_out_of_buckets(counts, share, wanted):
    assert quantile(counts, share) == wanted
