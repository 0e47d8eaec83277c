"""Alerts in the configuration and in a sidecar: events, commands, posts."""

import contextlib
import http.server
import json
import os
import pathlib
import re
import signal
import socket
import sys
import threading
import time

import pytest
from support import eventually

from wafermon.delivery import Pipeline
from wafermon.errors import ConfigError
from wafermon.flow import JobTracker, Presence, Router
from wafermon.flow.alerts import Change
from wafermon.net import EventLoop
from wafermon.sidecar import Sidecar, parse
from wafermon.sidecar.alert_actions import (
    MAX_WAITING,
    ActionError,
    Outcomes,
    Runner,
    Told,
    command,
    post,
)
from wafermon.sidecar.alerting import Alerting, event_of
from wafermon.sidecar.build import check
from wafermon.testing import FakeClock, frame

ROOT = pathlib.Path(__file__).parents[2]
HEARTBEAT = frame(type="heartbeat", src="config-service")


def faults(**rules):
    with pytest.raises(ConfigError) as caught:
        check(parse({"alerts": rules}))
    return caught.value.faults


# -- the configuration -------------------------------------------------------------------------


def test_every_example_of_the_document():
    pytest.importorskip("yaml")
    from wafermon.sidecar import yaml_format

    text = (ROOT / "docs" / "alerts.md").read_text("utf-8")
    blocks = re.findall(r"^( *)```yaml\n(.*?)^ *```", text, re.M | re.S)
    keys = set()
    for indent, block in blocks:
        document = yaml_format.read(re.sub(f"^{indent}", "", block, flags=re.M))
        check(parse({"backends": {"nas": {"type": "null"}, **document.pop("backends", {})}, **document}))
        keys |= {key for rule in document.get("alerts", {}).values() for key in rule}
    assert keys >= {"every", "by", "state", "level", "metric", "backend", "drops", "exec", "post"}


def test_all_faults_at_once_with_their_paths():
    assert faults(
        a={"source": "x", "evry": 3},
        b={"job": "j", "by": "6:00", "days": "mon-fry"},
        c={"drops": 0, "every": 3},
        d={"metric": "x", "above": "hot", "for": "x", "count": 1},
        e={"backend": "sore"},
        f={"level": "erorr", "exec": "page me"},
        g=5,
    ) == [
        "alerts.a: expected one of the keys every, by, state, level, metric, backend, drops, "
        "did you mean 'every'?",
        'alerts.b.by: expected a time of day from "00:00" to "23:59", got the string "6:00"',
        'alerts.b.days: expected days of the week such as "mon-fri" or "sat,sun", '
        'got the string "mon-fry"',
        "alerts.c: expected just one of the keys every, drops",
        "alerts.d.count: unknown key, expected one of "
        "metric, source, above, below, for, exec, post, timeout",
        'alerts.d.above: expected a number from -1e+15 to 1e+15, got the string "hot"',
        'alerts.d.for: expected a duration from 0 to 365d, such as 30 or "5m", got the string "x"',
        'alerts.f.level: expected one of debug, info, warn, error, fatal, got the string "erorr", '
        "did you mean 'error'?",
        'alerts.f.exec: expected a list, each a word, got the string "page me"',
        "alerts.g: expected a mapping, got the integer 5",
        "alerts.e.backend: no backend is called 'sore', did you mean 'store'?",
    ]


def test_rules_that_can_never_be_right():
    own = "the sidecar's own sources, wafermon.*, speak only when there is something to tell"
    for source in ("wafermon.alerts", "wafermon.*"):
        (fault,) = faults(a={"source": source, "every": "30s"})
        assert fault.startswith(f"alerts.a.source: {own}")
    assert faults(a={"metric": "x"}, b={"metric": "x", "above": 3, "below": 3}) == [
        "alerts.a: a rule about a metric needs above or below",
        "alerts.b.below: expected less than above, no value would be right",
    ]
    assert faults(a={"drops": 1, "post": "ftp://x/"}, b={"drops": 1, "post": "http://u:p@x/"}) == [
        "alerts.a.post: url: expected http://host/path or https://host/path",
        "alerts.b.post: url: a user or password does not belong there; use token_file or headers",
    ]


# -- actions -----------------------------------------------------------------------------------


def told(state="firing", message="a has been silent for 31 s"):
    change = Change("a-silent", "silence", "", state, message, 31.5, 1000.0, 1001.0)
    return Told(change, event_of(change))


def run(words, timeout=20.0, ending=None):
    command(words, timeout)(told(), ending or threading.Event())


def alive(pid):
    """Whether a process runs; one that is dead may wait for its parent to notice."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_command_gets_what_there_is_to_tell_and_no_shell(tmp_path):
    script = "import os, sys; open(sys.argv[1], 'w').write(os.environ['WAFERMON_ALERT_' + sys.argv[2]])"
    for name, word in (
        ("NAME", "a-silent"), ("KIND", "silence"), ("STATE", "firing"), ("SUBJECT", ""),
        ("MESSAGE", "a has been silent for 31 s"), ("VALUE", "31.5"), ("SINCE_MS", "1000000"),
    ):
        out = tmp_path / f"{name};$HOME *"
        run([sys.executable, "-c", script, str(out), name])
        assert out.read_text() == word


def test_a_command_that_does_not_exist():
    with pytest.raises(ActionError, match="no-such-program cannot be run: .*No such file") as caught:
        run(["/no-such-program", "x"])
    assert caught.value.result == "failed"


def test_what_a_command_that_fails_says_is_told_in_part():
    script = "import sys; print('bad\\x1b[2J' + 'x' * 10_000_000, flush=True); sys.exit(3)"
    with pytest.raises(ActionError, match=r"ended with 3; it said: bad\\x1b\[2Jxxx") as caught:
        run([sys.executable, "-c", script])
    assert len(str(caught.value)) < 1000


def test_a_command_that_hangs_is_killed_with_all_that_it_started(tmp_path):
    out = tmp_path / "pids"
    script = f"sleep 1000 & echo $! $$ > {out}.new; mv {out}.new {out}; trap '' TERM; sleep 1000"
    with pytest.raises(ActionError, match=r"was killed, it took over 0\.5 s") as caught:
        run(["sh", "-c", script], timeout=0.5)
    assert caught.value.result == "timed_out"
    for pid in out.read_text().split():
        eventually(lambda pid=pid: not alive(pid), "the death of the group")


def test_a_command_that_leaves_a_child_behind_with_its_pipe_is_done(tmp_path):
    out = tmp_path / "pid"
    run(["sh", "-c", f"sleep 1000 & echo $! > {out}"])
    os.kill(int(out.read_text()), signal.SIGKILL)


def test_a_stop_ends_a_command():
    ending = threading.Event()
    threading.Timer(0.3, ending.set).start()
    with pytest.raises(ActionError, match="as the sidecar ends") as caught:
        run(["sleep", "1000"], ending=ending)
    assert caught.value.result == "failed"


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers with what it is told, 200 in the end, and keeps what came."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.answers.pop(0) if self.server.answers else 200
        self.server.came.append((self.path, self.headers["Content-Type"], body))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def receiver(*answers):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.daemon_threads, server.answers, server.came = True, list(answers), []
        server.url = f"http://127.0.0.1:{server.server_address[1]}/alerts?key=secret"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_post_is_the_event():
    with receiver() as server:
        post(server.url, 10.0)(told(), threading.Event())
        ((path, kind, body),) = server.came
    assert (path, kind) == ("/alerts?key=secret", "application/json")
    assert json.loads(body)["data"]["ctx"] == {
        "name": "a-silent", "kind": "silence", "state": "firing", "since_ms": 1_000_000, "value": 31.5,
    }


@pytest.mark.parametrize(
    ("answers", "tries", "failed"), [([503], 2, False), ([503] * 5, 3, True), ([400], 1, True)]
)
def test_a_post_is_tried_again_where_that_may_help(monkeypatch, answers, tries, failed):
    monkeypatch.setattr("wafermon.sidecar.alert_actions.RETRY_SECONDS", 0.01)
    with receiver(*answers) as server:
        with contextlib.ExitStack() as expected:
            if failed:
                caught = expected.enter_context(pytest.raises(ActionError, match="not posted"))
            post(server.url, 10.0)(told(), threading.Event())
        assert len(server.came) == tries
    if failed:
        assert "secret" not in str(caught.value)


def test_a_stop_ends_the_wait_for_the_next_try():
    ending = threading.Event()
    ending.set()
    with pytest.raises(ActionError, match="not posted: the sidecar ends"):
        post("http://127.0.0.1:1/", 10.0)(told(), ending)


def test_a_rule_does_one_thing_at_a_time_in_order_and_never_blocks():
    go, done, counts = threading.Event(), [], Outcomes()

    def act(told, ending):
        go.wait(30)
        done.append(told.change.message)
        if told.change.message == "1":
            raise ActionError("no")
        if told.change.message == "2":
            raise ZeroDivisionError

    runner = Runner("a", act, counts)
    for number in range(MAX_WAITING + 11):
        runner.put(told(message=str(number)))
        if number == 0:
            eventually(lambda: not runner._waiting, "the first one to begin")
    go.set()
    runner.wait(30)
    assert runner.is_idle and done == [str(number) for number in range(MAX_WAITING + 1)]
    assert result(counts) == {"ok": MAX_WAITING - 1, "failed": 2, "timed_out": 0, "dropped": 10}
    runner.put(told())
    runner.wait(30)
    runner.stop()
    runner.put(told())
    assert len(done) == MAX_WAITING + 2


def result(counts):
    (found,) = counts.collect()
    return {sample.labels[0][1]: sample.value for sample in found.samples}


# -- a sidecar ---------------------------------------------------------------------------------


def config(folder, alerts, **more):
    return {
        "sidecar": {"data_dir": str(folder / "data"), "tcp": {"port": 0}, "health": {"metrics_port": 0},
                    "buffers": {"flush_interval": 0.05}},
        "backends": {"out": {"type": "file", "path": str(folder / "out.jsonl")}},
        "alerts": alerts,
        **more,
    }


def alerts_in(path):
    """What the file backend got of alerts."""
    try:
        lines = path.read_text().split("\n")[:-1]  # the last one may be half written
    except FileNotFoundError:
        return []
    messages = [json.loads(line) for line in lines]
    return [m["data"] for m in messages if m["src"] == "wafermon.alerts"]


@pytest.mark.slow
def test_a_heartbeat_that_stops_and_comes_back(tmp_path, start_sidecar):
    log = tmp_path / "log"
    with receiver() as server:
        sidecar = start_sidecar(config=config(tmp_path, {
            "silent": {
                "source": "config-service", "every": "1s", "post": server.url,
                "exec": ["sh", "-c", f'echo "$WAFERMON_ALERT_NAME $WAFERMON_ALERT_STATE" >> {log}; '
                                     f"grep SigBlk /proc/self/status > {log}.signals"],
            },
            "missing": {"source": "config-service", "every": "1s", "exec": ["/no/such/program"]},
            "hangs": {"source": "config-service", "every": "1s",
                      "exec": ["sh", "-c", f"echo $$$$ > {log}.pid; exec sleep 1000"]},
        }))
        out = tmp_path / "out.jsonl"
        eventually(lambda: len(alerts_in(out)) == 3, "three events")
        assert {data["ctx"]["state"] for data in alerts_in(out)} == {"firing"}
        eventually(lambda: server.came and log.exists(), "the command and the post")
        with sidecar.connect() as sock:
            eventually(lambda: sock.sendall(HEARTBEAT) or len(alerts_in(out)) == 6, "the end of it")
            states = [data["ctx"]["state"] for data in alerts_in(out)]
            assert states == ["firing"] * 3 + ["resolved"] * 3
            eventually(lambda: len(server.came) == 2, "the second post")
            posted = [json.loads(body)["data"]["level"] for _, _, body in server.came]
            assert posted == ["error", "info"]
            eventually(lambda: log.read_text().count("\n") == 2, "the second command")
            found = json.loads(sidecar.get("/api/alerts"))
            assert sidecar.total("sidecar_alert_actions_total", result="failed") >= 1
        assert log.read_text() == "silent firing\nsilent resolved\n"
        signals = pathlib.Path(f"{log}.signals")
        if signals.exists() and signals.read_text():
            assert int(signals.read_text().split()[1], 16) == 0, "no signal is blocked in it"
        assert {alert["name"]: alert["fired"] for alert in found["alerts"]} == dict.fromkeys(
            ("silent", "missing", "hangs"), 1
        )
        assert [change["state"] for change in found["recent"]] == ["resolved"] * 3 + ["firing"] * 3
        status, err = sidecar.stop()
    assert status == 0
    pid = pathlib.Path(f"{log}.pid").read_text()
    eventually(lambda: not alive(int(pid)), "the end of the command that hangs")
    assert "alert missing: exec: /no/such/program cannot be run" in err


def sidecar_in_process(tmp_path, alerts, **more):
    return Sidecar(parse(config(tmp_path, alerts, **more)))


def states(sidecar):
    return {(row.name, row.subject): row.state for row in sidecar.alerting.alerts.rows()}


@pytest.mark.slow
def test_each_kind_of_rule_in_a_sidecar(tmp_path):
    """Once through everything: the right parts are asked."""
    rules = {
        "errors": {"level": "error", "source": "db-*", "count": 2},
        "hot": {"metric": "temp", "above": 80},
        "job": {"state": "failed"},
        "nas": {"backend": "nas"},
        "drops": {"drops": 1},
        "late": {"job": "load", "by": "06:00"},
    }
    backends = {
        "out": {"type": "file", "path": str(tmp_path / "out.jsonl")},
        "nas": {"type": "file", "path": str(tmp_path / "file" / "x.jsonl")},
    }
    (tmp_path / "file").write_text("in the way")
    with sidecar_in_process(tmp_path, rules, backends=backends) as sidecar:
        eventually(lambda: states(sidecar), "the rules")
        lines = [
            *(frame(n, src="db-1", data={"level": "error", "msg": "m"}) for n in range(2)),
            frame(type="metric", src="EQP", data={"name": "temp", "value": 99}),
            frame(type="progress", src="etl",
                  data={"job_id": "j", "percent": 9, "status": "failed", "msg": "no rows"}),
            b"this is no frame\n",
        ]
        host, port = sidecar.addresses()["tcp"].rsplit(":", 1)
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(b"".join(lines))
        wanted = {
            ("errors", ""): "firing", ("hot", "EQP"): "firing", ("job", "j of etl"): "firing",
            ("nas", ""): "firing", ("drops", ""): "firing", ("late", ""): "ok",
        }
        eventually(lambda: states(sidecar) == wanted, "all of them to fire")
        found = {row.name: row.message for row in sidecar.alerting.alerts.rows()}
        assert found["drops"] == "1 message dropped within 1 min: 1 invalid_json (input)"
        assert found["job"].startswith("job j of etl has failed")
        (tmp_path / "file").unlink()
        eventually(lambda: states(sidecar)["nas", ""] == "ok", "the backend")


@pytest.mark.slow
def test_hundreds_at_once_are_told_by_and_by_and_each_once(tmp_path):
    rules = {"silent": {"source": "EQP*", "every": "1s"}}
    with sidecar_in_process(tmp_path, rules) as sidecar:
        host, port = sidecar.addresses()["tcp"].rsplit(":", 1)
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(b"".join(frame(type="heartbeat", src=f"EQP{n}") for n in range(300)))
        wanted = sorted(f"EQP{n}" for n in range(300))

        def told():
            found = [data["ctx"] for data in alerts_in(tmp_path / "out.jsonl")]
            return sorted(c["subject"] for c in found if "subject" in c and c["state"] == "firing")

        eventually(lambda: told() == wanted, "300 events")
        found = [row for row in sidecar.alerting.alerts.rows() if row.state == "firing"]
        assert len(found) == 300
    assert told() == wanted


@pytest.mark.slow
def test_a_reload_keeps_what_is_equal(tmp_path):
    silent = {"source": "a", "every": "1s"}
    log = tmp_path / "log"
    told_of = ["sh", "-c", f'echo "$WAFERMON_ALERT_NAME $WAFERMON_ALERT_STATE" >> {log}']
    before = {"kept": silent, "actions": silent, "gone": {**silent, "exec": told_of}, "changed": silent}
    after = {"kept": silent, "actions": {**silent, "exec": ["true"]}, "new": silent,
             "changed": {**silent, "every": "1h"}}
    with sidecar_in_process(tmp_path, before) as sidecar:
        eventually(lambda: set(states(sidecar).values()) == {"firing"}, "all of them to fire")
        assert sidecar.reload(parse(config(tmp_path, after)))
        found = {name: state for (name, _), state in states(sidecar).items()}
        assert found == {"kept": "firing", "actions": "firing", "new": "ok", "changed": "ok"}
        eventually(lambda: states(sidecar)["new", ""] == "firing", "the new one")
        eventually(lambda: log.exists() and log.read_text().count("\n") == 2, "both commands")
    told = [(data["ctx"]["name"], data["ctx"]["state"]) for data in alerts_in(tmp_path / "out.jsonl")]
    assert sorted(told) == [
        ("actions", "firing"), ("changed", "firing"), ("changed", "resolved"),
        ("gone", "firing"), ("gone", "resolved"), ("kept", "firing"), ("new", "firing"),
    ]
    assert log.read_text() == "gone firing\ngone resolved\n", "its command, though it is gone"


def test_a_job_that_was_done_before_a_restart_is_known(tmp_path):
    by = time.strftime("%H:%M", time.localtime(time.time() + 7200))
    rules = {"late": {"job": "load", "by": by}, "other": {"job": "unload", "by": by}}
    done = {"job_id": "load", "percent": 100, "status": "done"}

    def is_done(sidecar, name):
        return sidecar.alerting.alerts._entries[name].rule._done

    with sidecar_in_process(tmp_path, rules) as sidecar:
        eventually(lambda: states(sidecar), "the rules")
        assert not is_done(sidecar, "late")
        host, port = sidecar.addresses()["tcp"].rsplit(":", 1)
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(frame(type="progress", src="etl", data=done))
        eventually(lambda: is_done(sidecar, "late"), "the job")
    with sidecar_in_process(tmp_path, rules) as sidecar:
        eventually(lambda: states(sidecar), "the rules")
        assert is_done(sidecar, "late") and not is_done(sidecar, "other")


def test_time_that_the_process_stood_still_counts_for_nobody():
    clock = FakeClock()
    loop = EventLoop(clock=clock)
    alerting = Alerting(loop, wall=clock)
    rules = parse({"alerts": {"silent": {"source": "a", "every": "30s"}}}).alerts
    alerting.start(rules, Pipeline(Router({}), {}), JobTracker(Presence()))
    alerting.follow(rules)

    def state_after(seconds):
        clock.advance(seconds)
        alerting._tick()
        return alerting.alerts.rows()[0].state

    assert state_after(1) == "ok"
    assert state_after(3600) == "ok", "the machine slept"
    assert {state_after(1) for _ in range(29)} == {"ok"}
    assert state_after(1) == "firing"
    loop.close()


def test_pages_say_what_is_wrong_with_a_question(sidecar):
    assert json.loads(sidecar.get("/api/alerts?limit=5")) == {
        "now_ms": pytest.approx(time.time() * 1000, abs=60_000), "total": 0, "alerts": [], "recent": [],
    }
    with pytest.raises(OSError, match="400"):
        sidecar.get("/api/alerts?limit=-1")
