"""Our registries as a collector of prometheus_client."""

import pytest
from exposition import strict

from wafermon.observe import Histogram, Registry, family, render_openmetrics
from wafermon.observe.metrics import Family

prometheus_client = pytest.importorskip("prometheus_client")


def test_what_it_exposes_is_what_we_expose():
    from prometheus_client.openmetrics.exposition import generate_latest

    from wafermon.contrib.prometheus import Collector

    histogram = Histogram((0.1, 1.0))
    histogram.observe(0.5)
    ours, theirs = Registry(), prometheus_client.CollectorRegistry()
    ours.register(lambda: [
        family("hits_total", "counter", "Hits.", {'a"b\n': 3, "c": 4}, "source"),
        family("up", "gauge", "Up.", {"": 1.5}),
        Family("t_seconds", "histogram", "T.", (), [histogram.buckets((("backend", "x"),))]),
    ])  # fmt: skip
    theirs.register(Collector(ours))
    prometheus_client.Gauge("own", "Of the program itself.", registry=theirs).set(7)

    def samples(page):
        return {
            (s.name, *sorted(s.labels.items())): s.value for one in strict(page).values() for s in one.samples
        }  # fmt: skip

    found = samples(generate_latest(theirs).decode())
    assert found.pop(("own",)) == 7
    assert found == samples(render_openmetrics(ours).decode()) and len(found) == 8
    assert theirs.get_sample_value("hits_total", {"source": "c"}) == 4
    ours.register(lambda: [family("later", "gauge", "Later.", {"": 1})])
    assert theirs.get_sample_value("later") == 1
