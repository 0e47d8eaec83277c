"""What lies in deploy/ is what the programs that it is for take."""

import json
import re

from exposition import promtool
from support import ROOT

DASHBOARD = ROOT / "deploy" / "grafana" / "wafermon.json"
PROMETHEUS = ROOT / "deploy" / "prometheus"


def test_the_alert_rules_are_valid_and_each_fires_when_it_should():
    assert "SUCCESS" in promtool("check", "rules", "alerts.yaml", cwd=PROMETHEUS)
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yaml", cwd=PROMETHEUS)
    rules = set(re.findall(r"- alert: (\w+)", (PROMETHEUS / "alerts.yaml").read_text("utf-8")))
    tested = set(re.findall(r"\bWafermon\w+", (PROMETHEUS / "alerts_test.yaml").read_text("utf-8")))
    assert rules == tested


def dashboard():
    return json.loads(DASHBOARD.read_text("utf-8"))


def test_the_dashboard_can_be_imported_anywhere():
    board = dashboard()
    assert "id" not in board and board["uid"] == "wafermon" and board["schemaVersion"] >= 36
    assert [one["name"] for one in board["__inputs"]] == ["DS_PROMETHEUS"]
    required = {one["id"] for one in board["__requires"]}
    used = {panel["type"] for panel in board["panels"]} - {"row"}
    assert used <= required
    for panel in [*board["panels"], *board["templating"]["list"]]:
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${DS_PROMETHEUS}"


def test_the_panels_of_the_dashboard_do_not_overlap():
    cells = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        own = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not own & cells and all(x < 24 for x, _ in own), panel["title"]
        cells |= own
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])


def test_every_expression_of_the_dashboard_is_one(tmp_path):
    """As promtool sees it, with the variables of Grafana filled in."""
    rules = []
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "5m")
            rules.append({"record": "dashboard:panel", "labels": {"n": str(len(rules))}, "expr": expression})
    assert len(rules) > 20
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    assert "SUCCESS" in promtool("check", "rules", str(tmp_path / "rules.json"))
