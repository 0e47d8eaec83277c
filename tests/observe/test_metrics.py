"""Registry and exposition, read back by a foreign parser."""

import math

import pytest
from exposition import lenient, promtool, strict

from wafermon.observe import (
    CONTENT_TYPE,
    OPENMETRICS_TYPE,
    CappedCounts,
    Family,
    Histogram,
    Registry,
    Sample,
    exposition,
    family,
    process,
    render,
    render_openmetrics,
)

parser = pytest.importorskip("prometheus_client.parser")


def parsed(registry):
    return {f.name: f for f in parser.text_string_to_metric_families(render(registry).decode())}


def test_what_is_rendered_is_what_a_parser_reads():
    registry = Registry()
    awkward = {'quote " backslash \\ newline \n': 3, "晶": 4, "": 1.5}
    registry.register(lambda: [family("hits_total", "counter", "Hits \\ of\nall.", awkward, "source")])
    registry.register(lambda: [family("up", "gauge", "Up.", {"": math.inf})])
    found = parsed(registry)
    assert {s.labels["source"]: s.value for s in found["hits"].samples} == awkward
    assert found["hits"].documentation == "Hits \\ of\nall."
    assert found["up"].samples[0].value == math.inf


def test_histograms_are_cumulative_and_end_at_infinity():
    histogram = Histogram((0.1, 1.0))
    for value in (0.1, 0.5, 2.0, 3.0):
        histogram.observe(value)
    registry = Registry()
    registry.register(
        lambda: [Family("t_seconds", "histogram", "T.", (), [histogram.buckets((("backend", "x"),))])]
    )
    samples = {(s.name, s.labels.get("le")): s.value for s in parsed(registry)["t_seconds"].samples}
    assert samples == {
        ("t_seconds_bucket", "0.1"): 1, ("t_seconds_bucket", "1.0"): 2,
        ("t_seconds_bucket", "+Inf"): 4, ("t_seconds_sum", None): 5.6, ("t_seconds_count", None): 4,
    }


def test_one_name_from_two_components_is_one_family():
    registry = Registry()
    for reason in "ab":
        registry.register(lambda reason=reason: [family("d_total", "counter", "D.", {reason: 1}, "reason")])
    assert render(registry).count(b"# TYPE d_total") == 1
    assert len(parsed(registry)["d"].samples) == 2


def test_components_that_disagree_or_misname_are_refused():
    registry = Registry()
    registry.register(lambda: [family("d_total", "counter", "D.", {"": 1})])
    registry.register(lambda: [family("d_total", "gauge", "D.", {"": 1})])
    with pytest.raises(ValueError, match="d_total is a counter and a gauge"):
        registry.collect()
    for name, label in (("1d", "ok"), ("ok", "no-dash"), ("d\n", "ok")):
        bad = Registry()
        bad.register(lambda n=name, la=label: [Family(n, "gauge", "", [Sample("", ((la, "x"),), 1)])])
        with pytest.raises(ValueError, match="not a valid"):
            render(bad)


def test_counts_are_capped():
    counts = CappedCounts(cap=3)
    for i in range(10):
        counts.add(f"s{i}", 2)
    counts.add("s0", 1)
    assert counts == {"s0": 3, "s1": 2, "s2": 2, "_other": 14}
    assert counts.overflowed == 7


def test_equal_labels_of_several_components_are_added_up():
    registry = Registry()
    for _ in range(2):
        registry.register(lambda: [family("d_total", "counter", "D.", {"x": 2}, "reason")])
    assert render(registry).endswith(b'd_total{reason="x"} 4\n')


def test_openmetrics_is_what_a_strict_parser_reads():
    registry = Registry()
    awkward = {'quote " backslash \\ newline \n': 3, "晶": 4, "": 1.5, "a}b{c": 0.0}
    histogram = Histogram()
    histogram.observe(0.3)
    registry.register(lambda: [
        family("hits_total", "counter", 'Hits "of" \\ all\n.', awkward, "source"),
        family("up", "gauge", "Up.", {"": math.inf}),
        family("nothing", "gauge", "No sample.", {}),
        Family("t_seconds", "histogram", "T.", (), [histogram.buckets((("backend", "x"),))]),
    ])  # fmt: skip
    page = render_openmetrics(registry).decode()
    assert page.startswith('# HELP hits Hits \\"of\\" \\\\ all\\n.\n# TYPE hits counter\nhits_total{')
    found = strict(page)
    assert {s.labels["source"]: s.value for s in found["hits"].samples} == awkward
    assert found["hits"].documentation == 'Hits "of" \\ all\n.' and found["hits"].type == "counter"
    assert found["up"].samples[0].value == math.inf and found["t_seconds"].type == "histogram"
    assert lenient(render(registry).decode()).keys() == found.keys()


@pytest.mark.parametrize("accept, content_type", [
    ("", CONTENT_TYPE),
    ("*/*", CONTENT_TYPE),
    ("text/html,application/xhtml+xml,*/*;q=0.8", CONTENT_TYPE),
    ("application/openmetrics-text", OPENMETRICS_TYPE),
    ("Application/OpenMetrics-Text ; Version=1.0.0", OPENMETRICS_TYPE),
    ("application/openmetrics-text;version=0.0.1", CONTENT_TYPE),
    ("application/openmetrics-text;q=0", CONTENT_TYPE),
    ("application/openmetrics-text;q=rubbish", CONTENT_TYPE),
    ("application/openmetrics-text;q=0.2,text/plain;q=0.7", CONTENT_TYPE),
    # Prometheus 2.42 and 3.x
    ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
     "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", OPENMETRICS_TYPE),
    ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;"
     "version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2",
     OPENMETRICS_TYPE),
])
def test_the_format_is_chosen_by_accept(accept, content_type):
    body, told = exposition(Registry(), accept)
    assert told == content_type and body == (b"# EOF\n" if told == OPENMETRICS_TYPE else b"")


def test_a_counter_must_be_named_as_one():
    registry = Registry()
    registry.register(lambda: [family("hits", "counter", "Hits.", {"": 1})])
    with pytest.raises(ValueError, match="must end in _total"):
        render(registry)


def test_the_process_is_told_under_the_usual_names():
    registry = Registry()
    registry.register(process.collect)
    page = render(registry)
    assert promtool("check", "metrics", stdin=page) == ""
    values = {name: found.samples[0].value for name, found in lenient(page.decode()).items()}
    assert values["process_cpu_seconds"] > 0 and values["process_resident_memory_bytes"] > 1e6
    assert 3 <= values["process_open_fds"] <= values["process_max_fds"]
    assert render(registry).count(b"process_start_time_seconds") == 3
    again = lenient(render(registry).decode())
    assert again["process_start_time_seconds"].samples[0].value == values["process_start_time_seconds"]


def test_a_histogram_of_two_components_is_added_up_bucket_by_bucket():
    """And is written the same, in one piece or sample by sample."""
    one, both = Registry(), Registry()
    histogram, twice = Histogram((0.1, 1.0)), Histogram((0.1, 1.0))
    for value in (0.05, 0.25, 7):
        histogram.observe(value)
        for _ in range(2):
            twice.observe(value)
    for labels in ((), (("backend", 'a"b'),)):
        one.register(lambda la=labels: [Family("t_seconds", "histogram", "T.", (), [twice.buckets(la)])])
        for _ in range(2):
            both.register(lambda la=labels: [Family("t_seconds", "histogram", "T.", (), [histogram.buckets(la)])])
    alone = Registry()
    alone.register(lambda: [Family("t_seconds", "histogram", "T.", (), [twice.buckets((("backend", 'a"b'),)), twice.buckets()])])
    pages = [sorted(render(registry).splitlines()) for registry in (one, both, alone)]
    assert pages[0] == pages[1] == pages[2] and len(pages[0]) == 12
    assert strict(render_openmetrics(both).decode())["t_seconds"].samples[0].value == 2
    bad = Registry()
    bad.register(lambda: [Family("t", "histogram", "T.", (), [histogram.buckets((("no-dash", ""),))])])
    with pytest.raises(ValueError, match="not a valid label"):
        render(bad)
