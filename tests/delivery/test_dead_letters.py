"""Dead letters: kept before anybody is told that what they hold is dealt with."""

import contextlib
import http.server
import json
import os
import signal
import threading

import pytest
from raw import file_config, numbered, opened
from support import eventually

from wafermon.delivery import Backend, DeadLetters, Journal, Pipeline, Retry, Route
from wafermon.errors import PermanentError, RetryableError
from wafermon.flow import Router, Rule
from wafermon.message import Batch, Reason, Reject
from wafermon.testing import batch, frames

BAD = b'{"v":1,"src":"raw","ts":1,"type":"event","data":"%s","q":%d}\n'
REJECT = Reject(Reason.INVALID_JSON, b"rubbish")


class File(Backend):
    """Keeps records, as long as it works."""

    def __init__(self):
        self.lines, self.works, self.gate = [], True, threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def write(self, batch):
        self.entered.set()
        assert self.gate.wait(20)
        if not self.works:
            raise RetryableError("no space left")
        self.lines += batch.lines


class Feeder:
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def pause(self):
        pass

    def resume(self):
        pass

    def safe(self, q, level, answers):
        self.told.append((q, level))


class Sour(Backend):
    """Refuses a line for good."""

    def __init__(self):
        self.lines = []

    def write(self, batch):
        if b'"msg":"2"' in batch.raw:
            raise PermanentError("too sour")
        self.lines += batch.lines


@contextlib.contextmanager
def running(folder, file, sync="full"):
    """A pipeline with a journal and dead letters; the test is its loop."""
    letters = DeadLetters(file)
    letters.route._retry = Retry(0.001, 0.001)
    journal = Journal(str(folder / "journal.db"), sync=sync)
    journal.open()
    sink = {"sink": Route("sink", Sour())}
    pipeline = Pipeline(Router({"*": [Rule("sink")]}), sink, dead_letters=letters, journal=journal)
    letters.start()
    with pipeline:
        try:
            yield pipeline
        finally:
            file.gate.set()
            pipeline.stop(10)
            journal.close()
            letters.stop(10)


def asks(pipeline, rejects=(), q=1):
    feeder = Feeder()
    pipeline.submit(Batch(rejects=list(rejects)), feeder)
    pipeline.expect(feeder, q)
    return feeder


def test_a_receipt_waits_for_the_dead_letter(tmp_path):
    file = File()
    file.gate.clear()
    with running(tmp_path, file) as pipeline:
        feeder = asks(pipeline, [REJECT])
        commit = threading.Thread(target=pipeline.journal.commit)
        commit.start()
        assert file.entered.wait(20)
        pipeline.committed()
        assert feeder.told == [] and pipeline.journal.committed == 0, "nor its mark"
        file.gate.set()
        commit.join(20)
        pipeline.committed()
        assert feeder.told == [(1, "disk")] and len(file.lines) == 1
        assert asks(pipeline).told == [(1, "disk")], "at once"


def test_while_dead_letters_cannot_be_written_receipts_say_memory(tmp_path):
    file = File()
    file.works = False
    with running(tmp_path, file) as pipeline:
        assert asks(pipeline).told == [(1, "disk")], "as there are none"
        feeder = asks(pipeline, [REJECT])
        pipeline.journal.commit()
        pipeline.committed()
        assert feeder.told == [(1, "memory")]
        assert asks(pipeline).told == [(1, "memory")]
        waits = threading.Thread(target=pipeline.dead_letters.settle, args=(3600,))
        waits.start()
        waits.join(20)
        in_vain = waits.is_alive()
        file.works = True
        waits.join(20)
        assert not in_vain, "no commit waits for what fails"
        eventually(lambda: file.lines)
        assert pipeline.dead_letters.settle(10)
        assert asks(pipeline).told == [(1, "disk")]


def test_a_journal_that_is_not_synced_promises_memory(tmp_path):
    with running(tmp_path, File(), sync="normal") as pipeline:
        feeder = Feeder()
        pipeline.submit(batch(frames(1)), feeder)
        pipeline.expect(feeder, 1)
        pipeline.journal.commit()
        pipeline.committed()
        assert feeder.told == [(1, "memory")] == asks(pipeline).told
        assert pipeline.journal.error is None


def test_what_is_refused_is_not_done_before_its_dead_letter_is_written():
    file, sink = File(), Sour()
    file.works = False
    letters = DeadLetters(file)
    route = Route("r", sink, retry=Retry(0.001, 0.001), dead_letter=letters.refused)
    route.offer(batch(frames(3)))
    route.start()
    eventually(lambda: route.retries > 3)
    assert (route.dead_lettered, len(sink.lines), route.queued) == (0, 1, 2)
    assert "no dead letter: no space left" in route.error and not route.is_up
    file.works = True
    assert route.stop(10) == 0
    assert (route.dead_lettered, len(sink.lines), route.queued) == (1, 2, 0)
    assert [json.loads(line)["reason"] for line in file.lines] == ["too sour"], "once"
    counted = {key.labels[0][1]: key.value for f in letters.collect() for key in f.samples if key.labels}
    assert counted == {"offered": 1, "written": 1, "dropped": 0}


def test_what_is_dropped_of_a_flood_holds_nobody_up():
    file = File()
    file.gate.clear()
    letters = DeadLetters(file)
    letters.route.queue.max_bytes = 1000
    letters.start()
    for _ in range(100):
        letters.rejected([REJECT])
    assert not letters.is_written
    file.gate.set()
    assert letters.settle(20)
    assert letters.stop(20) == 0
    dropped = letters.route.dropped["queue_full"]
    assert dropped and len(file.lines) == 100 - dropped


@pytest.fixture
def picky():
    """The URL of a server that refuses one message for good."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(400 if b'"n":13,' in body else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def letters_of(folder):
    path = folder / "data" / "dead-letters.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []


def health(sidecar):
    return json.loads(sidecar.get("/health"))


@pytest.mark.slow
def test_a_kill_loses_no_dead_letter(start_sidecar, tmp_path, picky):
    """What was refused after its receipt, while its dead letter cannot be written; and what was
    rejected, as soon as there is a receipt."""
    config = file_config(tmp_path)
    config["backends"]["picky"] = {"type": "http", "url": picky, "retry": {"max": 0.1}}
    blocking = tmp_path / "data" / "dead-letters.jsonl"
    blocking.mkdir(parents=True)
    sidecar = start_sidecar(config=config)
    sock, lines, _ = opened(sidecar, "s")
    with sock:
        sock.sendall(b"".join(map(numbered, range(1, 31))))
        while (last := lines.next())["q"] < 30:
            pass
    assert last["level"] == "disk"
    eventually(lambda: "no dead letter" in health(sidecar)["backends"]["picky"].get("error", ""))
    found = health(sidecar)
    assert found["status"] == "degraded" and found["dead_letters"]["status"] == "down"
    assert "EISDIR" in found["dead_letters"]["error"]
    sidecar.process.kill()
    sidecar.process.wait()
    blocking.rmdir()
    sidecar = start_sidecar(config=config)
    eventually(lambda: letters_of(tmp_path))
    assert {json.loads(one["line"])["q"] for one in letters_of(tmp_path)} == {13}
    eventually(lambda: health(sidecar)["status"] == "ok")
    for turn in range(3):
        sock, lines, _ = opened(sidecar, f"turn-{turn}")
        with sock:
            sock.sendall(BAD % (b"turn-%d" % turn, 1))
            assert lines.next() == {"v": 1, "type": "ack", "q": 1, "level": "disk"}
            os.kill(sidecar.process.pid, signal.SIGKILL)
        # Not always the last: what was refused before a kill may be refused again.
        assert any(f"turn-{turn}" in one["line"] for one in letters_of(tmp_path))
        sidecar.process.wait()
        sidecar = start_sidecar(config=config)


def test_dead_letters_that_are_lost_at_a_stop_are_told(start_sidecar, tmp_path):
    (tmp_path / "data" / "dead-letters.jsonl").mkdir(parents=True)
    sidecar = start_sidecar(config=file_config(tmp_path))
    eventually(lambda: health(sidecar)["dead_letters"]["status"] == "down")
    sidecar.send(b"rubbish\n" * 7)
    eventually(lambda: health(sidecar)["dead_letters"]["queued"] == 7)
    assert health(sidecar)["status"] == "degraded"
    status, said = sidecar.stop()
    assert status == 1
    assert "7 messages could not be delivered and are lost" in said


def test_a_file_that_was_late_once_is_not_waited_for_again():
    file = File()
    file.gate.clear()
    letters = DeadLetters(file)
    letters.start()
    letters.rejected([REJECT])
    assert not letters.settle(0.01)
    assert not letters.settle(3600), "at once, or this test hangs"
    file.gate.set()
    eventually(lambda: letters.is_written)
    assert letters.settle(0), "and now it is waited for as before"
    assert letters.stop(20) == 0
