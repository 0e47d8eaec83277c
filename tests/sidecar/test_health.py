"""Health in words: what is ok, degraded or down, since when, and for whom that is a 503."""

import json
import os
import time
import urllib.error
import urllib.request

import pytest
from support import eventually

from wafermon.cli import main
from wafermon.delivery import Backend, BatchQueue, DeadLetters, Journal, Pipeline, Route
from wafermon.errors import RetryableError
from wafermon.flow import Router
from wafermon.message import Reason, Reject
from wafermon.net import Request
from wafermon.observe.condition import DOWN, OK, Conditions, Rate
from wafermon.sidecar.health import Health
from wafermon.sidecar.pages.health import health, livez, readyz
from wafermon.testing import FakeClock, batch, frames


class Sink(Backend):
    def __init__(self):
        self.error = None

    def open(self):
        if self.error:
            raise RetryableError(self.error)

    def write(self, batch):
        if self.error:
            raise RetryableError(self.error)


class Whole:
    """A pipeline of one backend, and what is said of it."""

    def __init__(self, **queue):
        self.status, self.deaf, self.sink = "ok", [], Sink()
        self.route = Route("nas", self.sink, queue=BatchQueue(flush_seconds=0.01, **queue))
        self.pipeline = Pipeline(Router({}), {"nas": self.route})
        self.health = Health(self.pipeline, lambda: self.status, lambda: self.deaf)

    def ask(self, page, **query):
        answer = page(Request({name: [value] for name, value in query.items()}))
        return answer.status, answer.body.decode().strip()

    def full(self, **query):
        status, body = self.ask(health(self.pipeline, self.health, dict), **query)
        return status, json.loads(body)


def test_all_is_well():
    whole = Whole()
    status, told = whole.full(strict="1")
    assert (status, told["status"], told["reasons"]) == (200, "ok", [])
    assert told["backends"]["nas"]["status"] == told["loop"]["status"] == "ok"
    assert abs(told["backends"]["nas"]["since_ms"] / 1000 - time.time()) < 60
    assert whole.ask(livez(whole.health)) == whole.ask(readyz(whole.health)) == (200, "ok")


def test_a_backend_that_fails_degrades_and_its_liveness_does_not_care():
    whole = Whole()
    whole.sink.error = "no route to host"
    with whole.pipeline:
        whole.route.offer(batch(frames(1)))
        eventually(lambda: whole.route.failures)
        status, told = whole.full()
        assert (status, told["status"], told["reasons"]) == (200, "degraded", ["backend nas: no route to host"])
        assert whole.full(strict="1")[0] == 503 and whole.full(strict="0")[0] == 200
        part = told["backends"]["nas"]
        assert (part["status"], part["reason"], part["error"]) == ("down", "no route to host", "no route to host")
        since = part["since_ms"]
        failures = whole.route.failures
        eventually(lambda: whole.route.failures > failures)
        assert whole.full()[1]["backends"]["nas"]["since_ms"] == since, "the same outage"
        assert whole.ask(livez(whole.health)) == whole.ask(readyz(whole.health)) == (200, "ok")
        whole.sink.error = None
        eventually(lambda: whole.full()[1]["status"] == "ok")
        assert whole.full()[1]["backends"]["nas"]["since_ms"] >= since


def test_a_queue_that_is_nearly_full_degrades():
    whole = Whole(max_messages=10)
    whole.route.offer(batch(frames(7)))
    assert whole.full()[1]["status"] == "ok"
    whole.route.offer(batch(frames(1)))
    part = whole.full()[1]["backends"]["nas"]
    assert (part["status"], part["reason"]) == ("degraded", "its queue is 80% full")
    whole.route.queue.behind = 5
    assert whole.full()[1]["reasons"] == ["backend nas: it lags: 5 messages wait in the journal"]


def test_a_loop_that_is_stuck_is_down_everywhere():
    whole = Whole()
    whole.status = "down"
    assert whole.full()[0] == 503 and whole.full()[1]["reasons"] == ["loop: it is stuck: nothing is read or routed"]
    assert whole.ask(livez(whole.health))[0] == whole.ask(readyz(whole.health))[0] == 503


def test_who_drains_or_is_deaf_is_alive_and_not_ready():
    whole = Whole()
    whole.status = "draining"
    assert whole.full()[0] == 200 and whole.full(strict="1")[0] == 503
    assert whole.ask(livez(whole.health))[0] == 200 and whole.ask(readyz(whole.health)) == (503, "draining")
    whole.status, whole.deaf = "ok", ["127.0.0.1:17000"]
    assert whole.full()[1]["status"] == "degraded"
    assert whole.ask(readyz(whole.health)) == (503, "cannot listen on 127.0.0.1:17000, trying again")


def test_receipts_say_memory_while_dead_letters_cannot_be_written(tmp_path):
    journal = Journal(str(tmp_path / "journal.db"))
    journal.open()
    sink = Sink()
    sink.error = "disk full"
    letters = DeadLetters(sink)
    pipeline = Pipeline(Router({}), {}, journal=journal, dead_letters=letters)
    page = health(pipeline, Health(pipeline, lambda: "ok"), dict)

    def told():
        return json.loads(page(Request()).body)

    class Feeder:
        def safe(self, q, level, answers):
            self.level = level

    def receipt():
        pipeline.expect(feeder := Feeder(), 1)
        return feeder.level

    assert told()["journal"]["receipts"] == receipt() == "disk"
    letters.rejected([Reject(Reason.INVALID_JSON, b"rubbish")])
    letters.start()
    eventually(lambda: told()["dead_letters"]["status"] == "down")
    assert told()["journal"]["receipts"] == receipt() == "memory"
    assert told()["status"] == "degraded" and told()["reasons"] == ["dead_letters: disk full"]
    sink.error = None
    letters.stop(5)
    assert told()["journal"]["receipts"] == receipt() == "disk"
    journal.close()


def test_conditions_know_since_when():
    clock = FakeClock(100.0)
    conditions = Conditions(clock)
    assert conditions.note("a").since_ms == 100_000
    clock.advance(50)
    assert conditions.note("a", DOWN, "x", ago=7).since_ms == 143_000
    clock.advance(50)
    assert conditions.note("a", DOWN, "y") == (DOWN, "y", 143_000)
    assert conditions.note("a").since_ms == 200_000
    conditions.note("b")
    conditions.keep(["b"])
    clock.advance(1)
    assert (conditions.note("a").since_ms, conditions.note("b", OK).since_ms) == (201_000, 200_000)


def test_a_rate_looks_at_the_last_seconds_only():
    rate = Rate(10)
    rate.note(0, 0)
    assert rate.per_second is None
    for now in range(2, 60, 2):
        rate.note(0 if now < 40 else 5 * (now - 40), now)
    assert rate.per_second == 5.0


# -- of a sidecar that runs ------------------------------------------------------------------------


def config(folder, **backends):
    return {
        "sidecar": {"data_dir": str(folder / "data"), "tcp": {"port": 0}, "health": {"metrics_port": 0}},
        "backends": {"out": {"type": "file", "path": str(folder / "out.jsonl")}, **backends},
    }  # fmt: skip


def status_of(sidecar, path):
    try:
        with urllib.request.urlopen(f"http://{sidecar.ready['admin']}{path}", timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_the_backends_of_a_sidecar(start_sidecar, tmp_path):
    (tmp_path / "file").touch()
    bad = {"type": "file", "path": str(tmp_path / "file" / "out.jsonl"), "buffer": {"max_messages": 7}}
    sidecar = start_sidecar(config=config(tmp_path, bad=bad))
    sidecar.send(b"".join(frames(5)))
    eventually(lambda: sidecar.total("sidecar_backend_messages_total", outcome="delivered") == 5)

    def backends():
        return {one["name"]: one for one in json.loads(sidecar.get("/api/backends"))["backends"]}

    found = eventually(lambda: (b := backends())["bad"]["failed"] and b)
    assert (found["out"]["state"], found["out"]["reason"], found["out"]["delivered"]) == ("up", None, 5)
    assert found["out"]["oldest_s"] is None and found["out"]["type"] == "file"
    assert found["bad"]["queued_messages"] == found["bad"]["offered"] == 5
    assert found["bad"]["capacity_messages"] == 7 and found["bad"]["queued_bytes"] > 0
    assert found["bad"]["state"] == "down" and "Not a directory" in found["bad"]["reason"]
    assert 0 <= found["bad"]["oldest_s"] < 60 and found["bad"]["since_ms"] > 1.7e12
    assert eventually(lambda: backends()["out"]["per_s"] is not None)
    assert sidecar.total("sidecar_backend_oldest_message_seconds", backend="bad") > 0
    assert (status_of(sidecar, "/health"), status_of(sidecar, "/health?strict=1")) == (200, 503)
    assert status_of(sidecar, "/livez") == status_of(sidecar, "/readyz") == 200


def test_the_series_and_resources_of_a_sidecar(sidecar):
    sent = [
        {"type": "metric", "data": {"name": "rows", "value": 3, "kind": "counter", "unit": "rows", "tags": {"tool": "EQP07"}}},
        {"type": "metric", "data": {"name": "<img src=x>", "value": 1.5}},
        {"type": "resource", "data": {"cpu": 7, "mem": 100, "disk": {"free": 5}, "net": {"rx": 1}}},
    ]  # fmt: skip
    lines = [json.dumps({"v": 1, "src": "etl", "ts": 1, **message}).encode() + b"\n" for message in sent]
    sidecar.send(b"".join([*lines, lines[0]]))
    eventually(lambda: sidecar.total("sidecar_messages_received_total") == 4)
    told = json.loads(sidecar.get("/api/series"))
    assert (told["total"], told["evicted"]) == (2, 0)
    one, two = told["series"]
    assert (one["name"], one["value"], one["unit"], len(one["points"])) == ("<img src=x>", 1.5, None, 1)
    assert {**two, "points": two["points"][0][1]} == {
        "name": "rows", "src": "etl", "kind": "counter", "unit": "rows", "tags": {"tool": "EQP07"}, "value": 6, "points": 6,
    }  # fmt: skip
    assert [s["name"] for s in json.loads(sidecar.get("/api/series?q=eqp07"))["series"]] == ["rows"]
    limited = json.loads(sidecar.get("/api/series?limit=1"))
    assert (len(limited["series"]), limited["total"]) == (1, 2)
    assert status_of(sidecar, "/api/series?limit=x") == 400
    (source,) = json.loads(sidecar.get("/api/resources"))["sources"]
    assert source["src"] == "etl" and source["cpu"][0][1] == 7 and source["mem"][0][1] == 100
    assert source["disk"]["free"][0][1] == 5 and source["net"]["rx"][0][1] == 1
    assert json.loads(sidecar.get("/api/resources?src=nobody"))["sources"] == []


def test_a_reload_changes_the_bounds_and_keeps_what_is_known(start_sidecar, tmp_path):
    document = config(tmp_path)
    sidecar = start_sidecar(config=document)
    for src in "abc":
        sidecar.send(frames(1, src, type="metric", data={"name": "rows", "value": 1})[0])
        eventually(lambda src=src: sidecar.total("sidecar_messages_received_total", source=src) == 1)
    document["sidecar"]["user_metrics"] = {"max_series": 2}
    (sidecar.folder / "config.json").write_text(json.dumps(document))
    os.kill(sidecar.process.pid, 1)
    eventually(lambda: sidecar.total("sidecar_user_series") == 2)
    assert b'rows{src="c"} 1.0' in sidecar.get("/metrics/messages")


def test_the_command(start_sidecar, tmp_path, capsys):
    (tmp_path / "file").touch()
    sidecar = start_sidecar(config=config(tmp_path, bad={"type": "file", "path": str(tmp_path / "file" / "x")}))
    sidecar.send(frames(1)[0])
    eventually(lambda: json.loads(sidecar.get("/health"))["status"] == "degraded")
    admin = ["--admin", sidecar.ready["admin"]]
    assert main(["health", *admin]) == 0
    out = capsys.readouterr().out
    assert out.startswith("degraded: backend bad: ") and out.count("\n") == 1
    assert main(["health", *admin, "--strict"]) == 1
    capsys.readouterr()
    assert main(["health", *admin, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["backends"]["bad"]["status"] == "down"


def test_the_command_where_nobody_answers(capsys):
    assert main(["health", "--admin", "127.0.0.1:1"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "is it running" in said.err and said.err.count("\n") == 1


@pytest.mark.parametrize("status, told, line, plain, strict", [
    (200, {"status": "ok", "reasons": []}, "ok", 0, 0),
    (200, {"status": "draining", "reasons": []}, "draining", 0, 1),
    (200, {"status": "degraded", "reasons": ["backend a: \x1b[2J", "b"]}, "degraded: backend a: \\x1b[2J; b", 0, 1),
    (503, {"status": "down"}, "down: loop: it is stuck", 1, 1),
    (200, [1], "None", 1, 1),
    (200, {"status": "ok", "reasons": 7}, "ok", 0, 0),
])
def test_the_lines_of_the_command(capsys, status, told, line, plain, strict):
    from wafermon.net import AdminServer, Response

    with AdminServer("127.0.0.1", 0, {"/health": lambda request: Response.json(told, status)}) as admin:
        assert main(["health", "--admin", admin.address]) == plain
        assert capsys.readouterr().out == line + "\n"
        assert main(["health", "--admin", admin.address, "--strict"]) == strict
