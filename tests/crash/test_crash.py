"""Kill the sidecar at named points, once and twice in a row, under a client that goes on.

The oracle stands outside: what the client was told, what the files hold. A second backend cannot
be written until the end, so that the journal keeps every frame that it ever took.
"""

import json
import pathlib
import signal
import sqlite3
import subprocess
import sys

import pytest
from raw import RawSession, number_of, numbered
from support import ROOT, eventually

pytestmark = pytest.mark.slow

RUNNER = pathlib.Path(__file__).with_name("runner.py")
#: Point -> the passage at which the process dies.
PASSAGES = {
    "accepted": 1, "decoded": 15, "queued": 25, "journal.begin": 4, "journal.committed": 4,
    "ack.sent": 4, "backend.sent": 4, "cursor.committed": 3, "socket.bound": 1, "drain.begun": 1,
    "reload.built": 1, "reload.swapped": 1,
}


RELOAD = ("reload.built", "reload.swapped")

#: What does not happen by itself.
ASK = {
    "drain.begun": lambda crashing: crashing.process.send_signal(signal.SIGTERM),
    **dict.fromkeys(RELOAD, lambda crashing: crashing.change()),
}


class Crashing:
    """A data folder, and one sidecar after the other on it."""

    def __init__(self, folder):
        self.folder = folder
        self.unix = str(folder / "data" / "sidecar.sock")
        self.ready = folder / "ready.json"
        self.out, self.held = folder / "out.jsonl", folder / "blocked" / "held.jsonl"
        (folder / "blocked").write_text("in the way of its folder")
        files = {name: {"type": "file", "path": str(path), "rotate": {"max_bytes": 0}}
                 for name, path in (("out", self.out), ("held", self.held))}
        self.config = folder / "config.json"
        self.settings = {
            "sidecar": {"data_dir": str(folder / "data"), "tcp": {"port": 0},
                        "health": {"metrics_port": 0}, "buffers": {"max_queue_size": 100},
                        "shutdown_timeout": 0.5},
            "backends": files,
        }
        self.config.write_text(json.dumps(self.settings))
        self.process = None

    def start(self, point="-", passage=0):
        self.ready.unlink(missing_ok=True)
        with open(self.folder / "stderr", "ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, str(RUNNER), point, str(passage), "run", "--config",
                 str(self.config), "--ready-file", str(self.ready)],
                cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, stderr=said)

    def died(self):
        return self.process.poll() is not None

    def change(self):
        """Give a backend other settings, and ask for a reload."""
        out = self.settings["backends"]["out"]
        out["fsync"] = "never" if out.get("fsync") == "batch" else "batch"
        self.reload()

    def toggle(self):
        """Take the backend that holds everything back out, or in again, and ask for a reload."""
        backends = self.settings["backends"]
        if "held" in backends:
            self.taken_out = backends.pop("held")
        else:
            backends["held"] = self.taken_out
        self.reload()

    def reload(self):
        self.config.write_text(json.dumps(self.settings))
        self.process.send_signal(signal.SIGHUP)

    def stop(self):
        eventually(lambda: self.ready.exists() or self.died(), "readiness")
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def journalled(self):
        """Every line that the journal holds, in order."""
        with sqlite3.connect(self.folder / "data" / "journal.db") as db:
            rows = db.execute("SELECT raw FROM batches ORDER BY seq").fetchall()
        db.close()
        return b"".join(raw for raw, in rows).splitlines(keepends=True)

    def last_out(self):
        """The number of the last whole line in the backend."""
        lines = self.out.read_bytes().splitlines(keepends=True) if self.out.exists() else []
        return number_of(lines[-1]) if lines and lines[-1].endswith(b"\n") else 0

    def unblock(self):
        (self.folder / "blocked").unlink()


@pytest.fixture
def crashing(tmp_path):
    crashing = Crashing(tmp_path)
    yield crashing
    if crashing.process is not None:
        crashing.process.kill()
        crashing.process.wait()


def crash(crashing, client, point, ask=None):
    """One life that ends at the point."""
    crashing.start(point, PASSAGES[point])
    begun = client.acked
    asks = [ask or ASK[point]] if point in ASK else []

    def died():
        client.pump()
        if asks and client.acked > begun and crashing.ready.exists():
            asks.pop()(crashing)
        return crashing.died()

    eventually(died, f"{point} is reached")
    assert crashing.process.returncode == -signal.SIGKILL
    assert not asks, "it was asked for, under load"


def first_seen(lines):
    return list(dict.fromkeys(map(number_of, lines)))


@pytest.mark.parametrize(
    "point, times", [("none", 0), *((point, times) for point in PASSAGES for times in (1, 2))]
)
def test_what_was_acknowledged_is_there_once(crashing, point, times):
    client = RawSession(crashing.unix, "s1")
    for _ in range(times):
        crash(crashing, client, point)
    crashing.start()
    survived = client.sent
    while client.sent < survived + 400:
        assert not crashing.died()
        client.pump()
    client.drain()
    client.close()
    assert client.levels.keys() == {"disk"}
    eventually(lambda: crashing.last_out() == client.sent, "the last message in the backend")
    assert crashing.stop() == 0

    frames = [numbered(q) for q in range(1, client.sent + 1)]
    assert crashing.journalled() == frames, "in the journal exactly once, in order, intact"
    out = crashing.out.read_bytes().splitlines(keepends=True)
    assert first_seen(out) == list(range(1, client.sent + 1)), "all are there, in order"
    assert set(out) == set(frames), "intact"
    if times == 0:
        assert out == frames, "and nothing twice without a crash"

    crashing.unblock()
    crashing.start()
    fresh = RawSession(crashing.unix, "s2", src="fresh", window=1, burst=1)
    while not fresh.sent:
        assert not crashing.died()
        fresh.pump()
    fresh.drain()
    fresh.close()
    frames.append(numbered(1, "fresh"))
    eventually(lambda: crashing.held.exists()
               and crashing.held.read_bytes().count(b"\n") >= len(frames), "the fresh message")
    assert crashing.stop() == 0
    assert crashing.held.read_bytes().splitlines(keepends=True) == frames


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("point", RELOAD)
def test_a_backend_that_a_killed_reload_took_out(crashing, point, times):
    """Whichever of the two configurations it died in: what it had not got is kept until it is back."""
    client = RawSession(crashing.unix, "s1")
    for _ in range(times):
        crash(crashing, client, point, Crashing.toggle)
    crashing.start()
    survived = client.sent
    while client.sent < survived + 400:
        assert not crashing.died()
        client.pump()
    client.drain()
    client.close()
    crashing.unblock()
    if "held" not in crashing.settings["backends"]:
        crashing.toggle()
    frames = [numbered(q) for q in range(1, client.sent + 1)]
    eventually(lambda: crashing.held.exists()
               and crashing.held.read_bytes().count(b"\n") >= len(frames), "all that was held back")
    eventually(lambda: crashing.last_out() == client.sent, "the last message in the other one")
    assert crashing.stop() == 0
    assert crashing.held.read_bytes().splitlines(keepends=True) == frames, "once, in order"
    out = crashing.out.read_bytes().splitlines(keepends=True)
    assert first_seen(out) == list(range(1, client.sent + 1)) and set(out) == set(frames)
