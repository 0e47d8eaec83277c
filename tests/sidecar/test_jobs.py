"""Jobs and sources, from scripts to what the sidecar's pages and commands say."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error

import pytest
from support import ROOT, eventually

from wafermon.cli import main
from wafermon.delivery import Pipeline, Route
from wafermon.flow import JobTracker, Presence, Router, Rule
from wafermon.net import Request
from wafermon.sidecar import job_history
from wafermon.sidecar.job_history import JobHistory
from wafermon.sidecar.pages.jobs import jobs
from wafermon.sidecar.pages.sources import sources
from wafermon.testing import batch, frame

JOB = r"""
use strict; use warnings; use WaferMon;
my $m = WaferMon->new(src => 'loader', delivery => 'send');
$m->log_progress('nightly', $_ * 10, msg => "step $_") for 1 .. 3;
$m->flush;
print "started\n"; STDOUT->flush;
<STDIN>;
"""


def progress(percent, job_id="load", **more):
    return frame(type="progress", data={"job_id": job_id, "percent": percent, **more}, src="sh")


def config(folder, **more):
    return {
        "sidecar": {
            "data_dir": str(folder), "tcp": {"port": 0},
            "health": {"metrics_port": 0},
        },
        "jobs": {"died_after": "0.3s"},
        **more,
    }  # fmt: skip


def listed(sidecar, what, **query):
    words = "&".join(f"{key}={value}" for key, value in query.items())
    return json.loads(sidecar.get(f"/api/{what}?{words}"))[what]


def state_of_job(sidecar):
    found = listed(sidecar, "jobs")
    return found[0]["state"] if found else None


@pytest.fixture
def perl_job(start_sidecar, tmp_path):
    """A sidecar, and a Perl script with a job that is under way."""
    if shutil.which("perl") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("perl is missing, and this is CI")
        pytest.skip("there is no perl here")
    sidecar = start_sidecar(config=config(tmp_path / "data"))
    job = subprocess.Popen(
        ["perl", "-I", str(ROOT / "perl" / "lib"), "-MIO::Handle", "-e", JOB],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "MONITORING_UNIX_SOCKET": sidecar.ready["unix"]},
    )  # fmt: skip
    try:
        assert job.stdout.readline() == b"started\n"
        eventually(lambda: state_of_job(sidecar) == "running", "a running job")
        yield sidecar, job
    finally:
        job.kill()
        job.communicate()


def test_a_perl_job_that_is_killed_has_died(perl_job):
    sidecar, job = perl_job
    job.send_signal(signal.SIGKILL)
    eventually(lambda: state_of_job(sidecar) == "died", "its death")
    [found] = listed(sidecar, "jobs", state="died", q="NIGHT")
    assert (found["percent"], found["msg"]) == (30, "step 3")
    assert found["reason"] == "its connection ended at 30 %, without a goodbye"
    [source] = listed(sidecar, "sources")
    assert (source["src"], source["state"], source["connections"]) == ("loader", "live", 0)
    assert sidecar.total("sidecar_jobs", state="died") == 1


def test_a_perl_job_that_ends_has_finished(perl_job):
    sidecar, job = perl_job
    job.communicate(b"\n", timeout=30)
    [source] = eventually(lambda: listed(sidecar, "sources", state="finished"), "its goodbye")
    assert source["by_type"] == {"progress": 3, "goodbye": 1}
    [found] = listed(sidecar, "jobs")
    assert (found["state"], found["reason"]) == ("failed", "its source said goodbye at 30 %")


def test_a_shell_that_connects_for_each_update_is_not_dead(start_sidecar, tmp_path):
    sidecar = start_sidecar(config=config(tmp_path / "data"))
    for percent in (10, 20, 30):
        sidecar.send(progress(percent))
        eventually(lambda p=percent: [j for j in listed(sidecar, "jobs") if j["percent"] == p])
        eventually(lambda: listed(sidecar, "sources")[0]["connections"] == 0, "its end")
    left = listed(sidecar, "sources")[0]["last_seen_ms"]
    eventually(lambda: json.loads(sidecar.get("/api/jobs"))["now_ms"] > left + 600)
    assert state_of_job(sidecar) == "running"


def test_settings_change_in_place(start_sidecar, tmp_path):
    sidecar = start_sidecar(config=config(tmp_path / "data"))
    with sidecar.connect() as sock:
        sock.sendall(progress(10))
        eventually(lambda: state_of_job(sidecar) == "running")
        changed = config(tmp_path / "data", presence={"expected": [{"src": "cron", "every": "1h"}]})
        changed["jobs"] = {"stall_after": "0.1s"}
        (sidecar.folder / "config.json").write_text(json.dumps(changed))
        sidecar.process.send_signal(signal.SIGHUP)
        eventually(lambda: state_of_job(sidecar) == "stalled", "the new setting")
        assert [one["src"] for one in listed(sidecar, "sources", state="late")] == ["cron"]


def test_the_commands(start_sidecar, tmp_path, capsys):
    sidecar = start_sidecar(config=config(tmp_path / "data"))

    def ask(*words):
        assert main([*words, "--admin", sidecar.ready["admin"]]) == 0
        return capsys.readouterr().out

    assert "no jobs yet" in ask("jobs") and "no sources yet" in ask("sources")
    sidecar.send(progress(52, "night\x1b[2Jly", msg="ge\u0144"))
    sidecar.send(progress(100, "other", status="done"))
    eventually(lambda: len(listed(sidecar, "jobs")) == 2)
    head, *lines = ask("jobs").splitlines()
    assert head.split() == ["STATE", "JOB", "SOURCE", "PROGRESS"]
    assert "running  night\\x1b[2Jly  sh" in lines[0] and "ge\u0144" in lines[0]
    assert "[##########..........]  52.0 %" in lines[0] and lines[1].startswith("done ")
    assert "no such job" in ask("jobs", "--state", "died")
    assert json.loads(ask("jobs", "other", "--json"))["jobs"][0]["job_id"] == "other"
    assert "live   sh" in ask("sources") and "progress=2" in ask("sources", "s")


def test_a_command_without_a_sidecar(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["jobs", "--admin", address]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--admin HOST:PORT" in said
    assert f"wafermon jobs: no sidecar answers at {address}" in said


def test_history_outlives_a_restart(start_sidecar, tmp_path):
    for runs in (1, 2):
        sidecar = start_sidecar(config=config(tmp_path / "data"))
        sidecar.send(progress(0))
        eventually(lambda s=sidecar: state_of_job(s) == "running")
        [found] = listed(sidecar, "jobs")
        assert (found["runs"], len(found["history"])) == (runs, runs - 1)
        sidecar.send(progress(100, status="done"))
        eventually(lambda s=sidecar: state_of_job(s) == "done")
        assert sidecar.stop()[0] == 0


def test_a_running_job_outlives_a_restart(start_sidecar, tmp_path):
    patient = {**config(tmp_path / "data"), "jobs": {"died_after": "1h"}}
    before = start_sidecar(config=patient)
    with before.connect() as sock:
        sock.sendall(progress(10) + progress(30, msg="step 3"))
        [first] = eventually(lambda: [j for j in listed(before, "jobs") if j["percent"] == 30])
        assert before.stop()[0] == 0
    after = start_sidecar(config=patient)
    [found] = listed(after, "jobs")
    assert (found["state"], found["percent"], found["msg"]) == ("running", 30, "step 3")
    assert abs(found["started_ms"] - first["started_ms"]) <= 2
    after.send(progress(40))
    [found] = eventually(lambda: [j for j in listed(after, "jobs") if j["percent"] == 40])
    assert (found["runs"], found["state"]) == (1, "running")
    assert after.stop()[0] == 0
    impatient = start_sidecar(config=config(tmp_path / "data"))
    [found] = eventually(lambda: listed(impatient, "jobs", state="died"), "its death")
    assert "has not come back" in found["reason"] and found["percent"] == 40


def test_the_end_of_a_session_is_a_death_and_that_of_a_command_is_none(start_sidecar, tmp_path):
    sidecar = start_sidecar(config=config(tmp_path / "data"))
    address = f"--unix={sidecar.ready['unix']}"
    assert main(["send", "progress", "--src", "cron", address, "job_id=step", "percent=10"]) == 0
    script = (
        "import os, sys; from wafermon.client import Client; c = Client('py', unix=sys.argv[1]);"
        "c.log_progress('load', 40); c.flush(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, sidecar.ready["unix"]], cwd=ROOT, timeout=30)
    [found] = eventually(lambda: listed(sidecar, "jobs", state="died"), "a death")
    assert (found["job_id"], found["percent"]) == ("load", 40)
    [found] = listed(sidecar, "jobs", q="step")
    assert found["state"] == "running"


def test_a_source_of_single_messages_is_finished_and_not_missing(start_sidecar, tmp_path):
    sidecar = start_sidecar(config=config(tmp_path / "data", presence={"missing_after": "1s"}))
    sidecar.send(frame(src="plain"))
    address = f"--unix={sidecar.ready['unix']}"
    assert main(["send", "event", "--src", "command", address, "level=info", "msg=hi"]) == 0
    assert main(["send", "goodbye", "--src", "bye", address]) == 0
    assert main(["send", "heartbeat", "--src", "beat", address]) == 0
    eventually(lambda: listed(sidecar, "sources", state="missing"), "the end of patience")
    eventually(lambda: len(listed(sidecar, "sources", state="live")) == 0, "the end of all")
    states = {one["src"]: one["state"] for one in listed(sidecar, "sources")}
    assert states == {
        "plain": "finished", "command": "finished", "bye": "finished", "beat": "missing",
    }  # fmt: skip


class Disk:
    """Jobs, and the file that they are in."""

    def __init__(self, folder):
        self.path = folder / "jobs.jsonl"

    def jobs(self, **settings):
        jobs = JobTracker(Presence(), **settings)
        self.history = JobHistory(str(self.path), jobs, lambda: 1000.0, lambda: 1e9)
        self.history.start()
        return jobs

    def stop(self):
        self.history.stop(30)
        return self.path.read_bytes().splitlines(keepends=True)


@pytest.fixture
def three_jobs(tmp_path):
    """A file with three jobs in it."""
    disk = Disk(tmp_path)
    jobs = disk.jobs()
    for number, job_id in enumerate(("a", "b", "c")):
        jobs.observe(batch([progress(10, job_id, msg="\u0144")]), 900.0 + number)
    assert len(disk.stop()) == 3
    return disk


@pytest.mark.parametrize("bad", [
    b"\xff", b"torn", b"[1, 2]", b"{}", b"7", b"[" * 100_000, b'{"a":' * 30_000, b"x" * 3_000_000, b"\0",
])  # fmt: skip
def test_a_line_that_cannot_be_read_costs_that_line(three_jobs, caplog, bad):
    lines = three_jobs.path.read_bytes().splitlines(keepends=True)
    lines.insert(1, bad + b"\n")
    three_jobs.path.write_bytes(b"".join(lines))
    jobs = three_jobs.jobs()
    assert [one.job_id for one in jobs.view(1000.0)] == ["a", "b", "c"]
    faults = three_jobs.history.faults
    assert faults["bad_line"] >= 1 and faults["not_read"] == 0
    assert "jobs.jsonl cannot be read" in caplog.text
    assert len(three_jobs.stop()) == 3


@pytest.mark.parametrize("key, value", [
    ("src", ""), ("src", 7), ("job_id", "x" * 257), ("state", "late"), ("state", []), ("state", "done"),
    ("percent", 101), ("percent", float("nan")), ("percent", True), ("percent", "5"), ("msg", 5),
    ("tid", "\n"), ("started", None), ("started", 1e300), ("updated", "x"), ("ended", 5), ("gap_s", []),
    ("runs", -1), ("runs", 1.5), ("history", [[0, float("nan"), "done"]]), ("history", [[1, 1, []]]),
    ("history", [[1, 1]]), ("history", None), ("reason", {}),
])  # fmt: skip
def test_a_job_that_is_none_of_ours_is_not_recalled(three_jobs, key, value):
    rows = [json.loads(line) for line in three_jobs.path.read_bytes().splitlines()]
    rows[1][key] = value
    three_jobs.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    jobs = three_jobs.jobs()
    assert [one.job_id for one in jobs.view(1000.0)] == ["a", "c"]
    assert three_jobs.history.faults["bad_line"] == 1
    three_jobs.stop()


def test_those_heard_of_last_are_recalled(three_jobs):
    jobs = three_jobs.jobs(max_jobs=2)
    assert [one.job_id for one in jobs.view(1000.0)] == ["b", "c"]
    three_jobs.stop()


def test_no_job_is_from_the_future(three_jobs):
    """The clock was set back while the sidecar was away."""
    jobs = JobTracker(Presence())
    history = JobHistory(str(three_jobs.path), jobs, lambda: 1000.0, lambda: 5e8)
    history.start()
    assert {one.updated for one in jobs.view(1000.0)} == {1000.0}
    history.stop(30)


def test_a_history_that_cannot_be_read_or_written(tmp_path, caplog):
    (tmp_path / "jobs.jsonl").mkdir()
    jobs = JobTracker(Presence())
    history = JobHistory(str(tmp_path / "jobs.jsonl"), jobs)
    history.start()
    jobs.observe(batch([progress(100, status="done")]), 1.0)
    history.stop(30)
    assert "begins anew" in caplog.text and "cannot be written" in caplog.text


def test_a_fault_of_our_own_is_told_and_does_not_end_the_history(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(job_history, "WRITE_SECONDS", 0.01)
    disk = Disk(tmp_path)
    jobs = disk.jobs()
    view, faults = jobs.view, [ZeroDivisionError("a fault")]

    def faulty(now):
        if faults:
            raise faults.pop()
        return view(now)

    monkeypatch.setattr(jobs, "view", faulty)
    jobs.observe(batch([progress(10)]), 1.0)
    eventually(disk.path.exists, "a second try")
    assert disk.history.faults["not_written"] == 1
    assert "cannot be written: a fault" in caplog.text and "Traceback" in caplog.text
    assert len(disk.stop()) == 1


@pytest.mark.parametrize("path", ["jobs?state=live", "sources?state=died", "jobs?limit=-1", "jobs?sort=msg", "sources?sort=src:sideways"])
def test_bad_parameters(sidecar, path):
    with pytest.raises(urllib.error.HTTPError) as refused:
        sidecar.get(f"/api/{path}")
    assert refused.value.code == 400 and b"expected" in refused.value.read()
    refused.value.close()


class World:
    """The parts behind the pages."""

    def __init__(self):
        self.now = 100.0
        self.presence = Presence(missing_after=10, now=self.now)
        self.jobs = JobTracker(self.presence)
        self.pipeline = Pipeline(Router({"*": [Rule("sink")]}), {"sink": Route("sink", None)})

    def tell(self, src, type="event", **data):
        for observer in (self.presence, self.jobs):
            observer.observe(batch([frame(src=src, type=type, data=data)]), self.now)

    def ask(self, what, **query):
        page = {"jobs": lambda: jobs(self.jobs, self.clock),
                "sources": lambda: sources(self.presence, self.pipeline, self.clock)}[what]()
        return json.loads(page(Request({key: [value] for key, value in query.items()})).body)

    def clock(self):
        return self.now


def test_sources_are_in_order_and_bounded():
    world = World()
    world.tell("gone")
    world.now += 20
    for src in ("b", "a", "bye"):
        world.tell(src, "heartbeat", interval_s=1)
    world.tell("bye", "goodbye")
    world.pipeline.lost.add("a", 3)
    answer = world.ask("sources")
    assert [one["src"] for one in answer["sources"]] == ["gone", "a", "b", "bye"]
    states = [one["state"] for one in answer["sources"]]
    assert states == ["missing", "live", "live", "finished"]
    first = answer["sources"][1]
    assert (first["dropped"], first["interval_s"], first["interval_from"]) == (3, 1.0, "told")
    assert len(first["rates"]) == 60 and answer["now_ms"] - first["last_seen_ms"] in range(1000)
    answer = world.ask("sources", state="live", limit="1")
    assert (answer["total"], answer["evicted"], len(answer["sources"])) == (2, 0, 1)
    assert set(first) == {
        "src", "state", "since_ms", "first_seen_ms", "last_seen_ms", "connections", "interval_s",
        "interval_from", "messages", "by_type", "per_s", "rates", "dropped",
    }  # fmt: skip


def test_all_rows_are_sorted_before_they_are_cut_off():
    world = World()
    for count, src in ((3, "b"), (1, "a"), (2, "c")):
        for _ in range(count):
            world.tell(src)
    world.tell("b", "heartbeat", interval_s=5)
    world.pipeline.lost.add("a", 3)

    def names(sort):
        return [one["src"] for one in world.ask("sources", sort=sort, limit="2")["sources"]]

    assert (names("messages"), names("messages:up")) == (["b", "c"], ["a", "c"])
    assert (names("src:up"), names("src:down"), names("dropped")) == (["a", "b"], ["c", "b"], ["a", "b"])
    assert names("interval_s:up") == names("interval_s:down") == ["b", "a"]  # who has none is last
    assert world.ask("sources", sort="src", limit="2")["total"] == 3


def test_jobs_are_sorted():
    world = World()
    for job_id, percent in (("a", 30), ("b", 50), ("c", 10)):
        world.tell("etl", "progress", job_id=job_id, percent=percent)
    assert [one["job_id"] for one in world.ask("jobs", sort="percent")["jobs"]] == ["b", "a", "c"]
    assert [one["job_id"] for one in world.ask("jobs", sort="job_id:up")["jobs"]] == ["a", "b", "c"]


def test_jobs_are_in_order():
    world = World()
    for job_id, status in (("old", "running"), ("ok", "done"), ("bad", "failed"), ("new", "running")):
        world.now += 1
        world.tell("etl", "progress", job_id=job_id, percent=50, status=status)
    answer = world.ask("jobs")
    assert [one["job_id"] for one in answer["jobs"]] == ["bad", "new", "old", "ok"]
    assert answer["jobs"][0]["history"][0]["state"] == "failed"
    assert world.ask("jobs", q="OL")["total"] == 1
    assert set(answer["jobs"][0]) == {
        "job_id", "src", "state", "percent", "msg", "started_ms", "updated_ms", "ended_ms",
        "percent_per_s", "eta_s", "eta_ms", "eta_method", "stalled_for_s", "reason", "tid", "runs",
        "usual_s", "history",
    }  # fmt: skip


def test_a_run_that_begins_in_the_batch_in_which_the_last_one_ended(start_sidecar, tmp_path):
    """As in the backlog of a `forward` link."""
    sidecar = start_sidecar(config=config(tmp_path / "data"))
    runs = [progress(100, status="done"), frame(type="goodbye", src="sh"), progress(5)]
    with sidecar.connect() as link:
        link.sendall(b"".join(runs))
        eventually(lambda: listed(sidecar, "jobs"), "a job")
        (job,), (source,) = listed(sidecar, "jobs"), listed(sidecar, "sources")
        assert (job["state"], job["percent"], job["runs"]) == ("running", 5, 2)
        assert source["state"] == "live"
