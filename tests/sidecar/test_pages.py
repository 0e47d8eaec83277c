"""What `/health` says of a journal at fault."""

import json
import time

from wafermon.delivery import Journal, Pipeline
from wafermon.flow import Router
from wafermon.net import Request
from wafermon.sidecar.health import Health
from wafermon.sidecar.pages.health import health as health_page


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
