"""The metrics that sources tell: valid whatever they are called, and bounded."""

import json

import pytest
from exposition import lenient, promtool, strict
from hypothesis import given, settings
from hypothesis import strategies as st

from wafermon.flow import UserMetrics
from wafermon.flow.metric_names import label_names
from wafermon.flow.series import BOUNDS, MAX_POINTS, Tail
from wafermon.flow.user_metrics import BYTES_A_SERIES, MAX_LABELS, MAX_PARTS, MAX_TAGS, RESOURCE
from wafermon.message import Batch
from wafermon.observe import Registry, render, render_openmetrics
from wafermon.testing import frame


def metric(name="rows", value=1, src="etl", **data):
    return frame(1, src, "metric", data={"name": name, "value": value, **data})


def feed(metrics, *lines, now=0.0, ms=1_000_000):
    metrics.observe(Batch(b"".join(lines), received_ms=ms), now)


def page(metrics, now=0.0):
    """Its families by name, as strict readers have them."""
    registry = Registry()
    registry.register(lambda: metrics.expose(now))
    assert lenient(render(registry).decode()).keys() == strict(render_openmetrics(registry).decode()).keys()
    return strict(render_openmetrics(registry).decode())


def values(metrics, now=0.0):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for found in page(metrics, now).values() for sample in found.samples
    }  # fmt: skip


def test_a_gauge_is_the_last_value_and_a_counter_the_sum():
    metrics = UserMetrics()
    for value in (3, 5):
        feed(metrics, metric("depth", value), metric("rows", value, kind="counter"))
    feed(metrics, metric("rows", 1, src="other", kind="counter", tags={"tool": 'A"\\'}))
    assert values(metrics) == {
        ("depth", ("src", "etl")): 5, ("rows_total", ("src", "etl")): 8,
        ("rows_total", ("src", "other"), ("tool", 'A"\\')): 1,
    }  # fmt: skip
    assert page(metrics)["rows"].type == "counter"


def test_a_histogram_counts_each_observation_in_its_bucket():
    metrics = UserMetrics()
    feed(metrics, *[metric("wait", value, kind="histogram") for value in (0, 0.001, 0.3, 1e9)])
    found = values(metrics)
    buckets = [found["wait_bucket", ("le", str(bound)), ("src", "etl")] for bound in BOUNDS]
    assert (buckets[0], buckets[BOUNDS.index(0.5)], buckets[-1]) == (2, 3, 3)
    assert found["wait_bucket", ("le", "+Inf"), ("src", "etl")] == 4
    assert found["wait_sum", ("src", "etl")] == 1e9 + 0.301 and found["wait_count", ("src", "etl")] == 4


@pytest.mark.parametrize("data", [
    {}, {"name": "x"}, {"value": 1}, {"name": "x", "value": "1"}, {"name": "x", "value": True}, {"name": "x", "value": None},
    {"name": "", "value": 1}, {"name": 7, "value": 1}, {"name": ["x"], "value": 1}, {"name": "a\nb", "value": 1},
    {"name": "x" * 129, "value": 1}, {"name": "x", "value": 1, "kind": "summary"}, {"name": "x", "value": 1, "kind": ["gauge"]},
    {"name": "x", "value": 1, "kind": RESOURCE}, {"name": "resource_cpu_percent", "value": 1, "kind": RESOURCE},
    {"name": "x", "value": 1, "tags": []}, {"name": "x", "value": 1, "tags": {"a": 1}}, {"name": "x", "value": 1, "tags": {"a": {}}},
    {"name": "x", "value": 1, "tags": {"": "b"}}, {"name": "x", "value": 1, "tags": {"a": "\x1b[2J"}},
    {"name": "x", "value": 1, "tags": {f"t{i}": "v" for i in range(MAX_TAGS + 1)}},
    {"name": "x", "value": 1, "unit": 5}, {"name": "x", "value": 10**400},
    {"name": "x", "value": -1, "kind": "counter"}, {"name": "x", "value": -0.1, "kind": "histogram"},
])
def test_what_is_no_metric_is_counted_and_left(data):
    metrics = UserMetrics()
    feed(metrics, frame(1, "etl", "resource", data={"cpu": 5}))
    feed(metrics, frame(2, "etl", "metric", data=data))
    assert metrics.left_out["bad_payload"] == 1
    assert values(metrics) == {("resource_cpu_percent", ("src", "etl")): 5}


def test_an_infinite_value_and_a_sum_that_becomes_so_are_left():
    metrics = UserMetrics()
    feed(metrics, *[metric("n", 1e308, kind=kind) for kind in ("counter", "histogram") for _ in range(2)])
    raw = frame(1, "etl", "metric", data={"name": "g", "value": 0}).replace(b'"value":0', b'"value":1e400')
    feed(metrics, raw)
    assert metrics.left_out["bad_payload"] == 3
    assert values(metrics)["n_total", ("src", "etl")] == 1e308


def test_resource_messages_are_gauges_too():
    metrics = UserMetrics()
    feed(metrics, frame(1, "etl", "resource", data={
        "cpu": 12.5, "mem": 1e9, "disk": {"read": 5, "bad": "x"}, "net": {"eth0/rx": 7}, "more": 3}))
    feed(metrics, frame(2, "etl", "resource", data={"net": [1], "cpu": None}))
    feed(metrics, frame(3, "b", "resource", data={"disk": {f"d{i}": i for i in range(MAX_PARTS + 1)}}))
    assert values(metrics) == {
        ("resource_cpu_percent", ("src", "etl")): 12.5, ("resource_memory_bytes", ("src", "etl")): 1e9,
        ("resource_disk", ("name", "read"), ("src", "etl")): 5, ("resource_net", ("name", "eth0/rx"), ("src", "etl")): 7,
    }  # fmt: skip
    assert metrics.left_out["bad_payload"] == 3


def clashes(metrics):
    registry = Registry()
    registry.register(metrics.collect)
    return strict(render_openmetrics(registry).decode())["sidecar_user_metric_name_clashes"].samples[0].value


@pytest.mark.parametrize("backwards", [False, True])
def test_a_name_of_two_kinds_and_two_names_that_become_one(backwards):
    """Whoever came first: after a restart each has the name that it had."""
    metrics = UserMetrics()
    told = [metric("rows", 1, kind=kind) for kind in ("gauge", "counter", "histogram")]
    told += [metric("queue.depth", 2), metric("queue depth", 3), metric("rows_total", 5, kind="counter")]
    told += [metric("depth", tags={"a.b": "1"}), metric("depth", tags={"a_b": "2"})]
    feed(metrics, *(told[::-1] if backwards else told))
    assert {name: one.type for name, one in page(metrics).items()} == {
        "rows": "gauge", "rows_added": "counter", "rows_observed": "histogram", "queue_depth": "gauge",
        "queue_depth_value": "gauge", "rows_05250554": "counter", "depth": "gauge",
    }  # fmt: skip
    found = values(metrics)
    assert found["queue_depth", ("src", "etl")] == 3 and found["queue_depth_value", ("src", "etl")] == 2
    assert found["rows_05250554_total", ("src", "etl")] == 5
    labels = [dict(key[1:]) for key in found if key[0] == "depth"]
    assert {"src": "etl", "a_b": "2"} in labels and {"src": "etl", "a_b_f64b43cb": "1"} in labels
    assert clashes(metrics) == 4


def test_who_is_called_so_already_keeps_the_name():
    metrics = UserMetrics()
    feed(metrics, metric("queue.depth", 1), metric("queue_depth", 2, kind="histogram"))
    assert {name: one.type for name, one in page(metrics).items()} == {"queue_depth": "histogram", "queue_depth_value": "gauge"}


def test_what_prometheus_adds_to_a_scrape_is_nobodys():
    metrics = UserMetrics()
    for name in ("up", "scrape_duration_seconds", "scrape_my", "ALERTS", "process_open_fds"):
        feed(metrics, metric(name), metric(name, kind="counter", src="b"))
    assert {name.partition("_")[0] for name in page(metrics)} == {"user"}
    assert ("user_up", ("src", "etl")) in values(metrics)


def test_a_foreign_linter_has_nothing_to_say_of_what_scripts_send():
    metrics = UserMetrics()
    for name in ("rows", "wafer_count", "yield_sum", "lots_total", "bucket_bucket", "queueDepth", "etl.rows", "2nd", "up", "load_seconds"):
        feed(metrics, *[metric(name, kind=kind, tags={"lotId": "x", "le": "y"}) for kind in ("gauge", "counter", "histogram")])
    feed(metrics, frame(1, "etl", "resource", data={"cpu": 3, "mem": 5e6, "disk": {"free": 7}, "net": {"eth0": 1}}))
    registry = Registry()
    registry.register(lambda: metrics.expose(0.0))
    assert promtool("check", "metrics", stdin=render(registry)) == ""
    assert {"wafer_count_value", "lots", "queue_depth", "rows_added"} <= page(metrics).keys()


def test_nobody_poses_as_the_sidecar_and_reserved_labels_stay_so():
    metrics = UserMetrics()
    feed(metrics, metric("sidecar_backend_up", 1, tags={"backend": "nas"}), metric("resource_cpu_percent", 3))
    feed(metrics, metric("h", 1, kind="histogram", tags={"le": "5", "src": "me", "__name__": "x", "a-b": "1", "a.b": "2", "": ""}))
    feed(metrics, metric("h", 1, kind="histogram", tags={"le": "5", "src": "me", "__name__": "x", "a-b": "1", "a.b": "2", "e": ""}))
    found = page(metrics)
    assert set(found) == {"user_sidecar_backend_up", "resource_cpu_percent_value", "h"}
    labels = found["h"].samples[-1].labels
    assert (labels["src"], labels["tag_src"], labels["tag_le"], labels["name"], "e" in labels) == ("etl", "me", "5", "x", False)
    assert {value for label, value in labels.items() if label.startswith("a_b")} == {"1", "2"}


def test_tags_in_another_order_and_empty_ones_are_the_same_series():
    metrics = UserMetrics()
    feed(metrics, metric(value=1, tags={"a": "1", "b": "2"}), metric(value=2, tags={"b": "2", "a": "1", "c": ""}))
    assert values(metrics) == {("rows", ("a", "1"), ("b", "2"), ("src", "etl")): 2}


def test_a_series_that_is_silent_is_dropped_though_nothing_comes_any_more():
    metrics = UserMetrics(stale_seconds=60)
    feed(metrics, metric("old"), metric("rows", kind="counter"), now=0)
    feed(metrics, metric("rows", kind="counter"), now=50)
    assert set(page(metrics, 59)) == {"old", "rows"} and set(page(metrics, 61)) == {"rows"}
    assert metrics.evicted["stale"] == 0, "that is done as messages come, a few at a time"
    feed(metrics, frame(1, "x"), now=100)
    assert metrics.evicted["stale"] == 1
    feed(metrics, metric("rows", 1, kind="gauge"), now=200)
    assert metrics.evicted["stale"] == 2
    assert page(metrics, 200)["rows"].type == "gauge", "the name is free again"


def test_past_the_cap_the_series_that_was_silent_longest_goes():
    metrics = UserMetrics(max_series=4)
    for src in "abcd":
        feed(metrics, metric(src=src))
    feed(metrics, metric(src="a"))
    feed(metrics, metric(src="e"))
    assert {key[1][1] for key in values(metrics)} == set("acde") and metrics.evicted["full"] == 1
    metrics.follow(2, 300.0)
    assert {key[1][1] for key in values(metrics)} == set("ae") and metrics.evicted["full"] == 3


def test_one_source_gets_half_of_the_series():
    metrics = UserMetrics(max_series=10)
    feed(metrics, metric(src="good"))
    feed(metrics, *[metric(src="bad", tags={"lot": str(i)}) for i in range(100)])
    assert metrics.left_out["too_many"] == 95 and metrics.evicted["full"] == 0
    assert sum(("src", "good") in key for key in values(metrics)) == 1
    feed(metrics, metric(src="good", name="more"))
    assert len(metrics.series(0.0)) == 7


def test_the_names_of_tags_in_one_family_are_bounded():
    metrics = UserMetrics()
    feed(metrics, *[metric(tags={f"t{i}": "x"}) for i in range(MAX_LABELS * 2)])
    assert metrics.left_out["too_many"] == MAX_LABELS and len(page(metrics)["rows"].samples) == MAX_LABELS


def test_memory_is_bounded_in_bytes_not_only_in_series():
    metrics = UserMetrics(max_series=20)
    long = {f"{i:x>128}": "y" * 128 for i in range(MAX_TAGS)}
    feed(metrics, *[metric(src=f"s{i}", tags=long) for i in range(20)])
    assert metrics._bytes <= 20 * BYTES_A_SERIES and 1 <= len(metrics.series(0.0)) < 10
    held = metrics.series(0.0)
    assert metrics._bytes == sum(2_500 + 4 * one.chars for one in held)
    feed(metrics, frame(1, "x"), now=1e6)
    feed(metrics, frame(1, "x"), now=1e6)
    assert (metrics._bytes, metrics._by_source, metrics._families, len(metrics._known)) == (0, {}, {}, 0)


def test_a_ring_holds_ten_minutes_and_is_thinned():
    tail = Tail()
    for second in range(3_600):
        tail.add(1_000_000 + second * 1_000, second)
    points = tail.points()
    assert len(points) == MAX_POINTS and points[-1] == [1_000_000 + 3_599_000, 3_599]
    assert {b[0] - a[0] for a, b in zip(points, points[1:])} == {5_000}
    tail.add(points[-1][0] - 3_000, 7.0)
    assert tail.points()[-1] == [points[-1][0], 7], "blocks may overtake each other a little"
    tail.add(1_000, 1.0)
    assert tail.points() == [[1_000, 1]], "the clock was set back"


@given(st.permutations(["a b", "a.b", "a_b", "aB", "le", "tag_le", "src", "2", "tag_2"]))
def test_labels_stay_apart_whatever_their_order(tags):
    found = label_names(tags)
    assert len(set(found.values())) == len(tags) and found == label_names(sorted(tags))
    assert all(found[tag] == tag for tag in ("a_b", "tag_le", "tag_2"))


TEXT = st.text(max_size=5) | st.sampled_from(["rows", "rows_total", "rows.total", "rows_count", "le", "src", "温度", "1", "_", "x_bucket", "x", "up", "rowsTotal"])
DATA = st.dictionaries(st.sampled_from(["name", "value", "kind", "tags", "unit"]), st.one_of(
    TEXT, st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.none(), st.sampled_from(["gauge", "counter", "histogram"]),
    st.dictionaries(TEXT, TEXT, max_size=3), st.lists(st.integers(), max_size=1)))
GOOD = st.fixed_dictionaries({"name": TEXT, "value": st.floats(allow_nan=False, allow_infinity=False)}, optional={
    "kind": st.sampled_from(["gauge", "counter", "histogram"]), "tags": st.dictionaries(TEXT, TEXT, max_size=3)})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["metric", "resource"]), st.sampled_from("ab"), GOOD | DATA), max_size=30), st.integers(1, 12))
def test_whatever_is_told_the_page_is_valid_and_within_its_bounds(told, max_series):
    metrics = UserMetrics(max_series=max_series, stale_seconds=5)
    for now, (kind, src, data) in enumerate(told):
        line = json.dumps({"v": 1, "src": src, "ts": 1, "type": kind, "data": data}).encode() + b"\n"
        feed(metrics, line, now=float(now))
        assert len(metrics.series(float(now))) <= max_series
    page(metrics, float(len(told)))
    assert sum(metrics._by_source.values()) == len(metrics._known) == sum(one.size for one in metrics._families.values())
