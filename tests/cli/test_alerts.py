"""`wafermon alerts`: what is wrong, for people and for programs."""

import json
import subprocess
import sys

from support import ROOT, eventually

from wafermon.cli.alerts import _lines
from wafermon.cli.lines import PLAIN, Style


def alerts(admin, *more):
    return subprocess.run([sys.executable, "-m", "wafermon", "alerts", "--admin", admin, *more],
                          cwd=ROOT, timeout=60, capture_output=True, text=True)


def test_a_sidecar_without_rules_teaches(sidecar):
    done = alerts(sidecar.ready["admin"])
    assert done.returncode == 0 and "there are no alerts" in done.stdout
    assert "every: 30s" in done.stdout


def test_what_fires(tmp_path, start_sidecar):
    sidecar = start_sidecar(config={
        "sidecar": {"data_dir": str(tmp_path / "data"), "tcp": {"port": 0},
                    "health": {"metrics_port": 0}},
        "backends": {"none": {"type": "null"}},
        "alerts": {"silent": {"source": "a", "every": "1s"}, "quiet": {"drops": 1}},
    })
    admin = sidecar.ready["admin"]
    found = eventually(
        lambda: [a for a in json.loads(sidecar.get("/api/alerts"))["alerts"] if a["fired"]], "an alert"
    )
    assert found[0]["name"] == "silent"
    lines = alerts(admin).stdout.splitlines()
    assert lines[0].split() == ["STATE", "ALERT", "SINCE", "FIRED"]
    assert lines[1].split()[:2] == ["firing", "silent"] and "a has been silent for" in lines[1]
    assert lines[2].split()[:2] == ["ok", "quiet"]
    assert lines[4].startswith("TOLD LAST") and lines[5].startswith("firing")
    assert json.loads(alerts(admin, "--json").stdout)["alerts"][0]["state"] == "firing"


def test_nobody_answers():
    done = alerts("127.0.0.1:1")
    assert done.returncode == 1 and "no sidecar answers at 127.0.0.1:1" in done.stderr


def test_nothing_reaches_the_terminal_as_it_is():
    told = {
        "total": 1002,
        "alerts": [{"name": "a", "state": "firing", "since_ms": 0, "fired": 3,
                    "message": "x\x1b[2J\u202e" + "y" * 200}],
        "recent": [{"name": "a", "state": "resolved", "at_ms": 10**18, "message": "z\x07"}],
    }
    lines = list(_lines(told, PLAIN))
    assert all(line.isprintable() for line in lines)
    assert lines[2] == "(1 of 1002 are shown)"
    narrow = list(_lines(told, Style(width=60, colour=True, terminal=True)))
    assert narrow[1].startswith("\x1b[31mfiring") and narrow[1].endswith("…\x1b[0m")
