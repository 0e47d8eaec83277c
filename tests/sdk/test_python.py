"""The Python SDK against a real sidecar: what it promises, whatever is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from certificates import authority
from support import ROOT, SidecarProcess, eventually

from wafermon.backends import Store
from wafermon.client import CONNECTED, Client
from wafermon.delivery.journal import Journal
from wafermon.flow import Selection

pytestmark = pytest.mark.slow

TIMEOUT = 60


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MONITORING_")]:
        monkeypatch.delenv(name)


def where(sidecar, unix):
    if unix:
        return {"unix": sidecar.ready["unix"]}
    return {"host": sidecar.tcp[0], "port": sidecar.tcp[1]}


def stored(sidecar):
    return [json.loads(line) for _, line, _ in Store(str(sidecar.data / "store.db")).query(Selection())]


@pytest.mark.parametrize("delivery", ["ack", "send"])
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_every_verb_is_accepted_and_stored(sidecar, unix, delivery):
    with Client("db-loader", delivery=delivery, **where(sidecar, unix)) as client:
        with client.span("load") as load:
            client.log_event("info", "lot \u6676 loaded", {"lot": "L1"})
        client.log_metric("yield", 0.93, unit="ratio", tags={"wafer": 7})
        client.log_progress("nightly", 100, status="done")
        client.log_resource()
        client.heartbeat(30)
        assert client.flush(TIMEOUT)
        assert (client.state, client.sent) == (CONNECTED, 6)
    eventually(lambda: sidecar.total("sidecar_backend_messages_total", outcome="delivered") == 7)
    found = {message["type"]: message for message in stored(sidecar)}
    assert sorted(found) == ["event", "goodbye", "heartbeat", "metric", "progress", "resource", "span"]
    assert found["event"]["sid"] == load.sid == found["span"]["sid"]
    assert sidecar.total("sidecar_messages_rejected_total") == 0


def test_of_a_program_that_is_killed_the_trace_shows_where_it_was(sidecar):
    code = (
        "import os, sys; from wafermon.client import Client\n"
        "client = Client('loader', unix=sys.argv[1])\n"
        "with client.span('load', kind='batch', send_open=True), client.span('quick'): pass\n"
        "load = client.start_span('load again', ctx={'lot': 'L1'}, send_open=True)\n"
        "client.flush(30); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, sidecar.ready["unix"]], cwd=ROOT, timeout=TIMEOUT)
    assert done.returncode == -9
    eventually(lambda: sidecar.total("sidecar_messages_received_total") == 4)
    found = {}
    for brief in json.loads(sidecar.get("/api/traces"))["traces"]:
        for span in json.loads(sidecar.get(f"/api/traces/{brief['tid']}"))["spans"]:
            found[span["name"]] = (span["status"], span["duration_ms"] is None, span["ctx"])
    assert found == {"load": ("ok", False, None), "quick": ("ok", False, None), "load again": ("open", True, {"lot": "L1"})}


def test_acknowledged_means_in_the_journal(start_sidecar, tmp_path):
    """The sidecar is killed the moment that flush is true; no backend has ever worked."""
    config = dead_config(tmp_path)
    sidecar = start_sidecar(config=config)
    client = Client("a", **where(sidecar, False))
    for i in range(500):
        client.send("metric", {"n": i})
    assert client.flush(TIMEOUT)
    kill(sidecar)
    assert journalled(tmp_path) == list(range(500))
    assert client.close(0) == 0


def dead_config(folder, **tcp):
    (folder / "blocked").write_text("")
    return {
        "sidecar": {
            "data_dir": str(folder / "data"),
            "tcp": {"port": 0, **tcp},
            "health": {"metrics_port": 0},
            "shutdown_timeout": 0.2,
        },
        "backends": {"dead": {"type": "file", "path": str(folder / "blocked" / "x.jsonl")}},
    }


def kill(sidecar):
    sidecar.process.kill()
    sidecar.process.wait()


def journalled(folder):
    """The `n` of every message that the journal holds, in order."""
    journal = Journal(str(folder / "data" / "journal.db"))
    journal.open()
    found, after = [], 0
    try:
        while True:
            entries = journal.read(after)
            if not entries:
                return found
            after = entries[-1].seq
            for entry in entries:
                found += [
                    json.loads(line)["data"]["n"]
                    for line in entry.batch.raw.splitlines()
                    if b'"metric"' in line
                ]
    finally:
        journal.close()


class Mortal:
    """A sidecar that is killed while somebody sends, and started on the same addresses."""

    def __init__(self, folder, config):
        self.folder, self.config, self.starts = folder, config, 0
        self.start()
        self.config["sidecar"]["tcp"]["port"] = self.sidecar.tcp[1]

    def start(self):
        self.starts += 1
        folder = self.folder / f"start-{self.starts}"
        folder.mkdir()
        self.sidecar = SidecarProcess(folder, config=self.config)

    def die_while(self, client, times):
        """Kill it each time that it has acknowledged more."""
        for _ in range(times):
            before = client.sent
            eventually(lambda before=before: client.sent > before, "a receipt")
            self.die()
            self.start()

    def die(self):
        if self.sidecar.process.poll() is None:
            self.sidecar.process.kill()
            self.sidecar.process.communicate()


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("backend", ["dead", "file"])
def test_killed_again_and_again_under_load(tmp_path, unix, backend):
    """What was accepted is in the journal exactly once and in order, when close returns 0; in the
    file, which may see a batch again, all of it is."""
    config = dead_config(tmp_path)
    out = tmp_path / "out.jsonl"
    if backend == "file":
        config["backends"] = {"out": {"type": "file", "path": str(out), "rotate": {"max_bytes": 0}}}
    mortal = Mortal(tmp_path, config)
    client = Client("a", buffer_messages=1_000_000, **where(mortal.sidecar, unix))
    done, count = threading.Event(), 0

    def load():
        nonlocal count
        while not done.is_set():
            for _ in range(20):
                client.send("metric", {"n": count, "pad": "x" * (count % 500)})
                count += 1
            time.sleep(0.001)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        mortal.die_while(client, 5)
    finally:
        done.set()
        thread.join()
    try:
        assert client.close(TIMEOUT) == 0
        assert (client.sent, client.dropped, client.refused) == (count, 0, 0)
        if backend == "dead":
            mortal.die()
            assert journalled(tmp_path) == list(range(count))
        else:
            eventually(lambda: mortal.sidecar.total("sidecar_backend_queued_messages") == 0)
            assert mortal.sidecar.stop()[0] == 0
            lines = out.read_bytes().splitlines()
            found = [json.loads(line)["data"]["n"] for line in lines if b'"metric"' in line]
            assert list(dict.fromkeys(found)) == list(range(count))
    finally:
        mortal.die()


def test_a_sidecar_that_stops_while_a_client_closes(start_sidecar, tmp_path):
    """Both end at the same time: what was not acknowledged is told."""
    config = dead_config(tmp_path)
    sidecar = start_sidecar(config=config)
    client = Client("a", buffer_messages=100_000, **where(sidecar, True))
    for i in range(20_000):
        client.send("metric", {"n": i})
    eventually(lambda: client.sent)
    sidecar.process.terminate()
    left = client.close(1)
    assert sidecar.stop()[0] == 0
    assert client.sent + left == 20_000
    found = journalled(tmp_path)
    assert found == list(range(len(found)))
    assert len(found) >= client.sent


def test_a_killed_client_leaves_what_was_acknowledged(start_sidecar, tmp_path):
    script = (
        "import sys; from wafermon.client import Client\n"
        "c = Client('a', buffer_messages=100000, unix=sys.argv[1])\n"
        "n = 0\n"
        "while True:\n"
        "    c.send('metric', {'n': n}); n += 1\n"
        "    if n % 1000 == 0: print(c.sent, flush=True)\n"
        "    while n - c.sent > 50000: pass\n"  # what a full buffer drops is another matter
    )
    sidecar = start_sidecar(config=dead_config(tmp_path))
    child = subprocess.Popen(
        [sys.executable, "-c", script, sidecar.ready["unix"]], cwd=ROOT, stdout=subprocess.PIPE
    )
    said = 0
    for line in child.stdout:
        said = int(line)
        if said > 3000:
            break
    child.send_signal(signal.SIGKILL)
    rest, _ = child.communicate()
    said = int((rest.splitlines() or [said])[-1])
    eventually(lambda: sidecar.total("sidecar_active_connections") == 0)
    kill(sidecar)
    found = journalled(tmp_path)
    assert all(map(int.__eq__, found, range(len(found)))), "each once, in order"
    assert len(found) >= said


def test_a_stopped_sidecar_costs_the_caller_nothing(sidecar):
    """SIGSTOP: the buffer holds what it can, the caller goes on, and all of it arrives later."""
    client = Client("a", buffer_messages=5000, **where(sidecar, True))
    client.log_event("info", "x")
    assert client.flush(TIMEOUT)
    sidecar.process.send_signal(signal.SIGSTOP)
    try:
        for i in range(4000):
            client.log_event("info", str(i))
        assert not client.flush(0.2)
    finally:
        sidecar.process.send_signal(signal.SIGCONT)
    assert client.close(TIMEOUT) == 0
    assert (client.sent, client.dropped) == (4001, 0)


def test_tls_and_a_secret(start_sidecar, tmp_path):
    cert, key = authority().issue()
    secret = tmp_path / "secret"
    secret.write_text("tell nobody\n")
    config = dead_config(tmp_path, tls={"cert": cert, "key": key}, auth={"secret_file": str(secret)})
    config["backends"] = {"null": {"type": "null"}}
    sidecar = start_sidecar(config=config)
    told = []
    wrong = Client("a", secret="x", tls_ca=authority().path, on_error=told.append, **where(sidecar, False))
    wrong.log_event("info", "x")
    eventually(lambda: told)
    assert "refused by the sidecar: auth" in told[0]
    assert wrong.close(0) == 1
    env = {
        **os.environ,
        "MONITORING_TCP_PORT": str(sidecar.tcp[1]),
        "MONITORING_TLS_CA": authority().path,
        "MONITORING_SECRET": "tell nobody",
    }
    script = (
        "from wafermon.client import Client\n"
        "with Client('a') as c:\n"
        "    for i in range(5000): c.log_event('info', 'x')\n"
        "    assert c.close(30) == 0\n"
        "    assert (c.sent, c.dropped) == (5000, 0), (c.sent, c.dropped)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, timeout=TIMEOUT)
    assert (done.returncode, done.stderr) == (0, b"")
    eventually(lambda: sidecar.total("sidecar_backend_messages_total", outcome="delivered") == 5001)


def test_tls_and_plain_sending(start_sidecar, tmp_path):
    cert, key = authority().issue()
    config = dead_config(tmp_path, tls={"cert": cert, "key": key})
    config["backends"] = {"null": {"type": "null"}}
    sidecar = start_sidecar(config=config)
    client = Client("a", tls_ca=authority().path, delivery="send", buffer_messages=10_000,
                    **where(sidecar, False))
    for _ in range(5000):
        client.log_event("info", "x")
    assert client.close(TIMEOUT) == 0
    eventually(lambda: sidecar.total("sidecar_backend_messages_total", outcome="delivered") == 5001)
    assert sidecar.total("sidecar_messages_rejected_total") == 0
