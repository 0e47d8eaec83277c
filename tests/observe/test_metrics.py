"""Registry and exposition, read back by a foreign parser."""

import math

import pytest

from wafermon.observe import CappedCounts, Family, Histogram, Registry, Sample, family, render

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
        lambda: [Family("t_seconds", "histogram", "T.", histogram.samples((("backend", "x"),)))]
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
    registry.register(lambda: [family("d", "counter", "D.", {"": 1})])
    registry.register(lambda: [family("d", "gauge", "D.", {"": 1})])
    with pytest.raises(ValueError, match="d is a counter and a gauge"):
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
