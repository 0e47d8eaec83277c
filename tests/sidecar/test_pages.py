"""What `/health` says of a journal at fault."""

import contextlib
import json
import time
import urllib.error
import urllib.parse

import pytest
from support import eventually

from wafermon.delivery import Journal, Pipeline
from wafermon.flow import Router, UserMetrics
from wafermon.net import Request
from wafermon.sidecar.health import Health
from wafermon.sidecar.pages.health import health as health_page
from wafermon.sidecar.pages.series import LINES, by_name, resources, series
from wafermon.testing import batch, frame


def test_a_commit_that_hangs_shows_before_it_fails(tmp_path):
    journal = Journal(str(tmp_path / "journal.db"))
    journal.open()
    pipeline = Pipeline(Router({}), {}, journal=journal)
    page = health_page(pipeline, Health(pipeline, lambda: "ok"), dict)

    def health():
        return json.loads(page(Request()).body)

    assert (health()["status"], health()["journal"]["status"]) == ("ok", "ok")
    journal._busy_since = time.monotonic() - 3
    found = health()
    assert found["status"] == "degraded" and found["journal"]["error"] == "a commit hangs"
    assert found["journal"]["hanging_for_s"] >= 3 and found["journal"]["receipts"] == "disk"
    journal._busy_since = None
    assert health()["status"] == "ok"
    journal.close()


def measured():
    user = UserMetrics()
    lines = [frame(src=f"etl-{n}", type="metric", data={"name": "rows", "value": n, "tags": {"tool": f"T{n}"}}) for n in range(8)]
    lines += [frame(src="etl-1", type="metric", data={"name": "rows", "value": 5, "unit": "k"}),
              frame(src="etl-1", type="resource", data={"cpu": 5})]
    user.observe(batch(lines), 0.0)
    return user


def asked(page, **query):
    return json.loads(page(Request({key: [value] for key, value in query.items()})).body)


def test_series_of_one_name_and_unit_are_one_metric():
    page = by_name(measured(), lambda: 1.0)
    first, second = asked(page)["metrics"]
    assert (first["name"], first["unit"], first["series_total"], first["lowest"], first["highest"]) == ("rows", None, 8, 0.0, 7.0)
    assert [one["value"] for one in first["series"]] == [7.0, 6.0, 5.0, 4.0, 3.0][:LINES] and first["series"][0]["points"]
    assert (second["unit"], second["series_total"]) == ("k", 1)
    assert asked(page, q="t3")["metrics"][0]["series_total"] == 1 and asked(page, src="etl")["metrics"] == []


def test_series_are_asked_for_by_name_and_source_and_sorted():
    page = series(measured(), lambda: 1.0)
    assert [one["value"] for one in asked(page, name="rows", sort="value", limit="3")["series"]] == [7.0, 6.0, 5.0]
    assert asked(page, name="row")["total"] == 0 and asked(page, src="etl-1")["total"] == 2
    user = resources(measured(), lambda: 1.0)
    assert asked(user, q="ETL")["total"] == 1 and asked(user, q="other")["total"] == 0


def test_all_about_one_source(sidecar):
    name = "a/b <img> ü"
    sidecar.send(b"".join(json.dumps(line).encode() + b"\n" for line in (
        frame_of(name, "event", {"level": "error", "msg": "no disk"}), frame_of(name, "resource", {"cpu": 12.5}),
        frame_of(name, "progress", {"job_id": "load", "percent": 40}), frame_of("other", "progress", {"job_id": "no", "percent": 1}),
        frame_of(name, "span", {"name": "load", "duration_ms": 5}, tid="t1", sid="1"),
        frame_of("other", "span", {"name": "x", "duration_ms": 5}, tid="t2", sid="1"),
    )))
    path = f"/api/sources/{urllib.parse.quote(name, safe='')}"

    def found():
        with contextlib.suppress(urllib.error.HTTPError):
            answer = json.loads(sidecar.get(path))
            return answer if answer["source"]["messages"] == 4 else None

    found = eventually(found, "the source")
    assert found["source"]["by_type"] == {"event": 1, "resource": 1, "progress": 1, "span": 1}
    assert [(one["level"], one["msg"]) for one in found["errors"]] == [("error", "no disk")]
    assert (found["jobs_total"], found["jobs"][0]["job_id"], [one["tid"] for one in found["traces"]]) == (1, "load", ["t1"])
    assert found["resources"]["cpu"][0][1] == 12.5 and found["drops"] == [] and found["errors_sampled"] is False
    with pytest.raises(urllib.error.HTTPError) as refused:
        sidecar.get("/api/sources/nobody")
    assert refused.value.code == 404 and b"nobody" in refused.value.read()
    refused.value.close()


def frame_of(src, kind, data, **more):
    return {"v": 1, "src": src, "ts": 1, "type": kind, "data": data, **more}
