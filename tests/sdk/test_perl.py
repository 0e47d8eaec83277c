"""The Perl SDK against a real sidecar."""

import json
import os
import shutil
import subprocess

import pytest
from support import ROOT, eventually

from wafermon.backends import Store
from wafermon.flow import Selection

if shutil.which("perl") is None:
    if os.environ.get("CI") == "true":
        pytest.fail("perl is missing, and this is CI")
    pytest.skip("there is no perl here", allow_module_level=True)

SCRIPT = r"""
use strict; use warnings; use WaferMon;
my $m = WaferMon->new(src => 'db-loader');
my $load = $m->start_span('load lot');
$m->log_event('info', "lot \x{6676} loaded", {lot => 'L1', dies => 512, id => '0042'});
my $parse = $m->start_span('parse');
$m->log_metric('yield', 0.93, unit => 'ratio', tags => {wafer => 7});
$parse->end;
$m->log_progress('nightly', 100, status => 'done');
$m->log_resource;
$load->end(status => 'error');
$m->heartbeat(interval_s => 30);
exit($m->close);
"""


def run(sidecar, script, **env):
    return subprocess.run(
        ["perl", "-I", str(ROOT / "perl" / "lib"), "-e", script], capture_output=True, timeout=60,
        env={**os.environ, "MONITORING_UNIX_SOCKET": sidecar.ready["unix"], **env},
    )


def messages(sidecar, count):
    eventually(lambda: sidecar.total("sidecar_backend_messages_total", outcome="delivered") == count)
    found = Store(str(sidecar.data / "store.db")).query(Selection())
    return [json.loads(line) for _, line, _ in found]


def test_every_verb_is_accepted_and_stored(sidecar):
    done = run(sidecar, SCRIPT)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    found = messages(sidecar, 8)
    by_type = {m["type"]: m for m in found if m["type"] != "span"}
    spans = {m["data"]["name"]: m for m in found if m["type"] == "span"}
    assert sorted(by_type) == ["event", "goodbye", "heartbeat", "metric", "progress", "resource"]
    assert by_type["event"]["data"] == {
        "level": "info", "msg": "lot \u6676 loaded", "ctx": {"lot": "L1", "dies": 512, "id": "0042"},
    }
    load, parse = spans["load lot"], spans["parse"]
    assert (parse["pid"], parse["tid"]) == (load["sid"], load["tid"]) and "pid" not in load
    assert by_type["metric"]["sid"] == parse["sid"] and by_type["event"]["sid"] == load["sid"]
    assert by_type["metric"]["data"]["tags"] == {"wafer": "7"}
    assert load["data"]["status"] == "error"
    assert by_type["resource"]["data"]["mem"] > 1_000_000
    assert sidecar.total("sidecar_messages_rejected_total") == 0


def test_a_trace_goes_on_from_its_environment(sidecar):
    tid, sid = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    done = run(sidecar, "use WaferMon; my $m = WaferMon->new(src => 'x'); $m->start_span('s')->end;",
               TRACEPARENT=f"00-{tid}-{sid}-01")
    assert done.returncode == 0
    span = next(m for m in messages(sidecar, 2) if m["type"] == "span")
    assert (span["tid"], span["pid"]) == (tid, sid)


def test_a_script_of_one_line_that_just_ends_delivers(sidecar):
    assert run(sidecar, "use WaferMon; our $m = WaferMon->new(src => 'cron');"
                        " $m->log_event('warn', 'short') for 1..500; exit 3").returncode == 3
    found = messages(sidecar, 501)
    assert found[-1]["type"] == "goodbye" and "3" in found[-1]["data"]["reason"]
