"""The summary and its stream, of a sidecar that runs."""

import http.client
import json
import threading

import pytest
from support import eventually

from wafermon.message import Batch
from wafermon.net import Request
from wafermon.sidecar import Sidecar
from wafermon.sidecar.load import parse
from wafermon.sidecar.pages.live import Live


@pytest.fixture
def running(tmp_path):
    config = {"data_dir": str(tmp_path), "tcp": {"port": 0}, "health": {"metrics_port": 0}}
    with Sidecar(parse({"sidecar": config})) as sidecar:
        yield sidecar


def test_the_summary_holds_what_was_promised(running):
    lines = [
        b'{"v":1,"src":"a","ts":1,"type":"progress","data":{"job_id":"j","percent":1}}\n',
        b'{"v":1,"src":"b","ts":1,"type":"heartbeat"}\n',
    ]
    running.loop.call_soon(lambda: running.pipeline.submit(Batch(b"".join(lines))))
    told = eventually(lambda: running.summary.value()["messages"]["received_total"] and running.summary.value())
    assert told["status"] == "ok" and told["reasons"] == [] and told["drops"] == []
    assert told["messages"] == {"received_total": 2, "per_s": told["messages"]["per_s"], "rejected_total": 0, "dropped_total": 0}
    assert told["sources"] == {"missing": 0, "late": 0, "live": 2, "finished": 0}
    assert told["jobs"] == {"died": 0, "failed": 0, "stalled": 0, "running": 1, "done": 0}
    assert told["alerts"] == {"firing": 0, "names": []}
    assert [one["name"] for one in told["backends"]] == ["store"] and told["journal"]["status"] == "ok"
    assert told["memory_bytes"] > 10**6 and told["listen"]["tcp"] == running.addresses()["tcp"]
    assert json.dumps(told)


def test_what_the_rules_drop_is_no_loss_and_rejected_frames_are_no_messages(tmp_path):
    config = {
        "sidecar": {"data_dir": str(tmp_path), "tcp": {"port": 0}, "health": {"metrics_port": 0}},
        "backends": {"none": {"type": "null"}},
        "routing": {"*": [{"backend": "none", "types": ["metric"]}]},
    }
    with Sidecar(parse(config)) as sidecar:
        sidecar.loop.call_soon(lambda: sidecar.pipeline.submit(Batch(b'{"v":1,"src":"b","ts":1,"type":"heartbeat"}\n')))
        sidecar.loop.call_soon(lambda: sidecar.pipeline.rejected.__setitem__("invalid_json", 3))
        told = eventually(lambda: sidecar.summary.value()["messages"]["rejected_total"] and sidecar.summary.value())
        assert told["messages"]["dropped_total"] == 0
        shown = {(drop["where"], drop["reason"]): drop["count"] for drop in told["drops"]}
        assert shown == {("input", "invalid_json"): 3, ("routing", "filtered"): 1}
        assert all(drop["about"] for drop in told["drops"])


def events(running):
    connection = http.client.HTTPConnection(running.addresses()["admin"], timeout=20)
    connection.request("GET", "/api/live")
    return connection, connection.getresponse()


def test_events_come_until_the_sidecar_stops(running):
    connection, answer = events(running)
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.readline() == b"retry: 3000\n" and answer.readline() == b"\n"
    for _ in range(2):
        assert answer.readline() == b"event: summary\n"
        assert json.loads(answer.readline().partition(b": ")[2])["version"]
        assert answer.readline() == b"\n"
    threading.Timer(0.01, running.live.close).start()
    answer.read()  # ends
    connection.close()


def test_there_are_so_many_at_most(running):
    streams = [events(running) for _ in range(8)]
    connection, answer = events(running)
    assert answer.status == 503 and b"/api/summary" in answer.read()
    connection.close()
    for connection, answer in streams:
        answer.close()
        connection.close()

    def is_free():
        connection, answer = events(running)
        status = answer.status
        answer.close()
        connection.close()
        return status == 200

    eventually(is_free, "a free stream")


def test_all_who_listen_share_one_summary_a_second():
    made, now = [], [0.0]

    def value():
        made.append(now[0])
        return len(made)

    live = Live(value, clock=lambda: now[0])
    first, second = (iter(live.page(Request()).body) for _ in range(2))
    for stream in (first, second):
        next(stream)
    assert next(first) == next(second) == b"event: summary\ndata: 1\n\n"
    now[0] = 1.0
    assert next(second) == next(first) == b"event: summary\ndata: 2\n\n"
    live.close()
    assert list(first) == [] and live.page(Request()).status == 503


def test_a_token_guards_all_but_the_probes_and_is_read_anew(tmp_path):
    secret = tmp_path / "token"
    secret.write_text("tell nobody but the fab\n")
    document = {"data_dir": str(tmp_path / "d"), "tcp": {"port": 0}, "health": {"metrics_port": 0, "token_file": str(secret)}}

    def status(path, token=None):
        connection = http.client.HTTPConnection(sidecar.addresses()["admin"], timeout=10)
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status

    with Sidecar(parse({"sidecar": document})) as sidecar:
        for path in sidecar.admin.paths:
            if path in ("/livez", "/readyz"):
                assert status(path) == 200
            else:
                assert status(path) == 401, path
        assert status("/api/summary", "tell nobody but the fab") == 200
        secret.write_text("another one for the fab\n")
        sidecar.reload(parse({"sidecar": document}))
        assert status("/api/summary", "tell nobody but the fab") == 401
        assert status("/api/summary", "another one for the fab") == 200
