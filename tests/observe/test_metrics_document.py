"""docs/metrics.md against the /metrics of a sidecar that has everything turned on, both ways."""

import json
import re
import urllib.request

import pytest
from exposition import lenient, promtool, strict
from support import ROOT, eventually

from wafermon.testing import frame

ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| (.+) \|$", re.MULTILINE)


def documented():
    """Type, labels and meaning by name."""
    text = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    rows = ROW.findall(text)
    assert len({row[0] for row in rows}) == len(rows), "a name stands there twice"
    return {name: (kind, re.findall(r"`(\w+)`", labels), about) for name, kind, labels, about in rows}


def row(found):
    labels = {label: None for sample in found.samples for label in sample.labels if label != "le"}
    name = f"{found.name}_total" if found.type == "counter" else found.name
    return name, found.type, list(labels), found.documentation


def written(name, kind, labels, about):
    return f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {about} |"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """What a sidecar with everything turned on tells, by path and format."""
    from support import SidecarProcess

    folder = tmp_path_factory.mktemp("metrics")
    config = {
        "sidecar": {"data_dir": str(folder / "data"), "tcp": {"port": 0}, "health": {"metrics_port": 0},
                    "performance": {"processes": 2}},
        "backends": {"file": {"type": "file", "path": str(folder / "out.jsonl")}, "store": {"type": "store"},
                     "next": {"type": "forward", "address": "127.0.0.1:1"}},
        "alerts": {"quiet": {"source": "nobody", "every": "1s"}},
    }  # fmt: skip
    span = {"type": "span", "tid": "t", "data": {"name": "load", "duration_ms": 5, "status": "error"}}
    sent = [
        b"rubbish\n",
        frame(1, "etl"),
        frame(2, "etl", "progress", data={"job_id": "nightly", "percent": 100, "status": "done"}),
        frame(3, "etl", "heartbeat", data={"interval_s": 5}),
        frame(4, "etl", "resource", data={"cpu": 3, "mem": 5e6, "disk": {"free": 7}, "net": {"eth0": 1}}),
        frame(5, "etl", "metric", data={"name": "rows", "value": 3, "kind": "counter"}),
        frame(6, "etl", "metric", data={"name": "wait", "value": 0.2, "kind": "histogram", "tags": {"tool": "A"}}),
        frame(7, "etl", "metric", data={"name": "wait", "value": "long"}),
        frame(8, "etl", sid="root", **span),
        frame(9, "db", sid="child", pid="root", **span),
    ]
    sidecar = SidecarProcess(folder, config=config)
    try:
        sidecar.send(b"".join(sent))
        eventually(lambda: sidecar.total("sidecar_messages_received_total") == len(sent) - 1)
        found = {}
        for path in ("/metrics", "/metrics/messages"):
            for accept in ("", "application/openmetrics-text"):
                url = f"http://{sidecar.ready['admin']}{path}"
                request = urllib.request.Request(url, headers={"Accept": accept})
                with urllib.request.urlopen(request, timeout=10) as answer:
                    found[path, accept] = answer.read()
        yield found
    finally:
        sidecar.process.kill()
        sidecar.process.communicate()


def test_every_name_is_documented_and_every_documented_name_is_there(pages):
    document, missing, wrong = documented(), [], []
    for found in lenient(pages["/metrics", ""].decode()).values():
        name, kind, labels, about = row(found)
        if name not in document:
            missing.append(written(name, kind, labels, about))
            continue
        told = document.pop(name)
        if told[0] != kind or (found.samples and sorted(told[1]) != sorted(labels)):
            wrong.append(written(name, kind, labels, told[2]))
    assert not missing, "add to docs/metrics.md:\n" + "\n".join(missing)
    assert not wrong, "change in docs/metrics.md:\n" + "\n".join(wrong)
    assert not document, "no such family; remove from docs/metrics.md:\n" + "\n".join(document)


@pytest.mark.parametrize("path", ["/metrics", "/metrics/messages"])
def test_both_pages_are_valid_in_both_formats(pages, path):
    plain, openmetrics = pages[path, ""], pages[path, "application/openmetrics-text"]
    assert promtool("check", "metrics", stdin=plain) == ""
    assert openmetrics.endswith(b"\n# EOF\n")
    assert strict(openmetrics.decode()).keys() == lenient(plain.decode()).keys()


def test_what_sources_measured_is_there(pages):
    found = strict(pages["/metrics/messages", "application/openmetrics-text"].decode())
    assert found["rows"].type == "counter" and found["rows"].samples[0].value == 3
    assert found["wait"].type == "histogram"
    assert found["wait"].samples[-1].labels == {"src": "etl", "tool": "A"} and found["wait"].samples[-1].value == 1
    assert found["resource_disk"].samples[0].labels == {"src": "etl", "name": "free"}
    assert found["resource_cpu_percent"].samples[0].value == 3


def test_the_python_of_the_document_runs():
    text = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    pytest.importorskip("prometheus_client")
    exec(block, {})


def test_alerts_and_dashboard_name_only_what_there_is():
    known = set(documented())
    histograms = {name for name, (kind, _, _) in documented().items() if kind == "histogram"}
    known |= {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    deploy = ROOT / "deploy"
    dashboard = json.loads((deploy / "grafana" / "wafermon.json").read_text("utf-8"))
    texts = [json.dumps(dashboard)] + [(deploy / "prometheus" / n).read_text("utf-8") for n in ("alerts.yaml", "alerts_test.yaml")]
    for text in texts:
        assert not set(re.findall(r"\b(?:sidecar|process)_\w+", text)) - known
