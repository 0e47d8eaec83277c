"""Reload: all of a new configuration or nothing, no message lost or doubled, a fault that shows."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest
from support import ROOT, eventually

from wafermon.backends import FileBackend
from wafermon.errors import ConfigError
from wafermon.message import Batch
from wafermon.sidecar import Reloader, Sidecar, parse
from wafermon.sidecar.reload import RESTART, needs_restart
from wafermon.sidecar.watch_file import FileWatch
from wafermon.testing import frame, frames

pytestmark = pytest.mark.slow

# -- what needs a restart ----------------------------------------------------------------------


def test_what_needs_a_restart_is_named_key_by_key():
    new = {"sidecar": {"data_dir": "/elsewhere", "journal": {"sync": "normal", "enabled": False},
                       "performance": {"worker_threads": 9}, "health": {"metrics_port": 0}}}
    assert needs_restart(parse({}), parse(new)) == [
        f"sidecar.{key}: needs a restart"
        for key in ("data_dir", "journal.enabled", "journal.sync", "performance.worker_threads",
                    "health.metrics_port")
    ]
    live = {"sidecar": {"health": {"health_check_interval": 1}, "shutdown_timeout": 1,
                        "buffers": {"max_queue_size": 1}, "tcp": {"port": 1}}}
    assert needs_restart(parse({}), parse(live)) == []
    assert len(RESTART) == len(set(RESTART))


# -- the file ----------------------------------------------------------------------------------


def test_a_file_counts_as_changed_once_two_readings_are_equal(tmp_path):
    path = tmp_path / "c.json"
    path.write_text("1")
    watch = FileWatch(lambda: str(path))
    first = watch.remember()
    assert [watch.settled() for _ in range(3)] == [False] * 3
    path.write_text("2")
    assert not watch.settled()
    path.write_text("3")
    assert not watch.settled(), "it still changes"
    assert watch.settled() and watch.settled(), "until somebody takes notice"
    assert watch.remember() != first
    assert not watch.settled()
    path.write_text("4")
    assert not watch.settled()
    path.write_text("3")
    assert not watch.settled() and not watch.settled(), "there and back is nothing"


def test_every_way_to_replace_a_file_is_seen(tmp_path):
    one, two, link = (tmp_path / name for name in ("one.json", "two.json", "link.json"))
    one.write_text("1")
    two.write_text("2")
    link.symlink_to(one)
    watch = FileWatch(lambda: str(link))

    def change(action):
        watch.remember()
        action()
        return not watch.settled() and watch.settled()

    def swap(target):
        (tmp_path / "new").symlink_to(target)
        os.replace(tmp_path / "new", link)

    assert change(lambda: swap(two))
    assert not change(lambda: swap(two)), "the same content by another way is no change"
    assert change(lambda: two.write_text("9")), "behind the link"
    same = os.stat(two)
    assert change(lambda: (two.write_text("8"), os.utime(two, ns=(same.st_atime_ns, same.st_mtime_ns))))
    assert change(two.unlink), "a dangling link is a fault, and a fault is a change"
    assert change(lambda: two.mkdir())
    assert change(lambda: swap(one))
    assert change(link.unlink)


def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "c.json")
    assert FileWatch(lambda: str(tmp_path / "c.json")).remember() == "is no regular file"


# -- asking for it -----------------------------------------------------------------------------


class Pieces:
    """A reloader whose file is a text, and whose apply waits to be let go."""

    def __init__(self, poll=0.0):
        self.fault = None
        self.applied = 0
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.reloader = Reloader(self.read, lambda: None)
        self.loaded = self.reloader.loaded
        self.reloader.first()
        self.poll = poll

    def read(self):
        if self.fault is not None:
            raise self.fault
        return parse({})

    def apply(self, config):
        self.applied += 1
        self.entered.release()
        assert self.go.acquire(timeout=30)
        return False

    def __enter__(self):
        self.reloader.start(self.apply, lambda: self.poll)
        return self

    def __exit__(self, *_):
        self.reloader.stop()
        self.go.release(1000)


def test_at_most_one_runs_and_one_is_pending():
    with Pieces() as pieces:
        pieces.reloader.request()
        assert pieces.entered.acquire(timeout=30)
        for _ in range(200):
            pieces.reloader.request()
        pieces.go.release()
        assert pieces.entered.acquire(timeout=30)
        pieces.go.release()
        eventually(lambda: pieces.loaded.reloads["unchanged"] == 2)
        assert pieces.applied == 2


def test_a_request_before_the_start_is_done_then():
    pieces = Pieces()
    pieces.reloader.request()
    assert pieces.applied == 0
    with pieces:
        assert pieces.entered.acquire(timeout=30)


@pytest.mark.parametrize(
    "fault, said",
    [
        (ConfigError(["a: wrong", "b: wrong"]), "a: wrong; b: wrong"),
        (OSError(98, "cannot listen on x: taken"), "cannot listen on x: taken"),
        (ZeroDivisionError("a bug"), "ZeroDivisionError('a bug')"),
    ],
)
def test_whatever_fails_is_told_and_the_next_one_mends_it(fault, said, caplog):
    with Pieces() as pieces:
        before = pieces.loaded.shown()
        pieces.fault = fault
        pieces.reloader.request()
        eventually(lambda: pieces.loaded.reloads["failed"] == 1)
        stale = pieces.loaded.shown()
        assert stale["config"] == "stale" and stale["config_fault"] == said
        assert stale["config_loaded_ms"] == before["config_loaded_ms"]
        for part in said.split("; "):
            assert sum(r.getMessage() == f"config: {part}" for r in caplog.records) == 1
        pieces.fault = None
        pieces.go.release()
        pieces.reloader.request()
        eventually(lambda: pieces.loaded.reloads["unchanged"] == 1)
        assert pieces.loaded.shown() == before


# -- a sidecar in this process -----------------------------------------------------------------


def document(folder, *names, sidecar=None, **backends):
    """A config with a file a backend, named like it, unless more is said."""
    files = {name: {"type": "file", "path": str(folder / f"{name}.jsonl")} for name in names}
    base = {"data_dir": str(folder / "data"), "tcp": {"port": 0}, "health": {"metrics_port": 0},
            "reload": {"poll": 0}, "shutdown_timeout": 5}
    return {"sidecar": {**base, **(sidecar or {})}, "backends": {**files, **backends}}


JOURNAL = pytest.mark.parametrize("journal", [True, False], ids=["journal", "memory"])


@pytest.fixture
def running(tmp_path):
    started = []

    def run(config):
        sidecar = Sidecar(parse(config))
        sidecar.start()
        started.append(sidecar)
        return sidecar

    yield run
    for sidecar in started:
        sidecar.stop(10)


def lines(path):
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def submit(sidecar, *messages):
    """Let the loop take messages as if they had come from a socket."""
    batch = Batch(b"".join(messages))
    sidecar.server.on_loop(lambda: sidecar.pipeline.submit(batch))


def test_who_stays_who_is_new_and_who_goes(running, tmp_path):
    sidecar = running(document(tmp_path, "stays", "changes", "goes"))
    before = dict(sidecar.pipeline.routes)
    submit(sidecar, *frames(10))
    changed = {"type": "file", "path": str(tmp_path / "changes.jsonl"), "fsync": "batch"}
    assert sidecar.reload(parse(document(tmp_path, "stays", "comes", changes=changed)))
    after = sidecar.pipeline.routes
    assert sorted(after) == ["changes", "comes", "stays"]
    assert after["stays"] is before["stays"] and after["changes"] is not before["changes"]
    submit(sidecar, *frames(10, first=11))
    sidecar.stop(10)
    assert lines(tmp_path / "stays.jsonl") == lines(tmp_path / "changes.jsonl") == frames(20)
    assert lines(tmp_path / "goes.jsonl") == frames(10)
    assert lines(tmp_path / "comes.jsonl") == frames(10, first=11), "from then on, not before"


ROUTE_SETTINGS = {
    "buffer": {"max_messages": 7, "when_full": "drop_newest"}, "retry": {"max": 3},
    "breaker": {"failures": 9}, "timeout": 7, "dead_letter": False,
}


@pytest.mark.parametrize("key", ROUTE_SETTINGS)
def test_what_is_not_the_backends_own_changes_in_place(running, tmp_path, key):
    """The batch at hand, and what the backend knows of it, stays with its object."""
    file = {"type": "file", "path": str(tmp_path / "a.jsonl")}
    sidecar = running(document(tmp_path, a=file))
    route = sidecar.pipeline.routes["a"]
    backend = route.backend
    submit(sidecar, *frames(10))
    assert sidecar.reload(parse(document(tmp_path, a={**file, key: ROUTE_SETTINGS[key]})))
    assert sidecar.pipeline.routes["a"] is route and route.backend is backend
    queue = route.queue
    assert {"buffer": (queue.max_messages, queue.when_full) == (7, "drop_newest"),
            "retry": route._retry.maximum == 3, "breaker": route.breaker._limit == 9,
            "timeout": route._timeout == 7, "dead_letter": route._dead_letter is None}[key]
    submit(sidecar, *frames(5, first=11))
    sidecar.stop(10)
    assert lines(tmp_path / "a.jsonl") == frames(15)


def test_the_bounds_that_all_share_change_in_place(running, tmp_path):
    sidecar = running(document(tmp_path, "a", "b"))
    before = dict(sidecar.pipeline.routes)
    buffers = {"max_queue_size": 11, "per_source_buffer": 7, "flush_interval": 2, "flush_batch_size": 5}
    sidecar.reload(parse(document(tmp_path, "a", "b", sidecar={"buffers": buffers})))
    assert sidecar.pipeline.routes == before
    for route in before.values():
        queue = route.queue
        assert (queue.max_messages, queue._per_source, queue._flush_seconds, queue._flush_messages) == (11, 7, 2, 5)


def test_the_same_config_changes_nothing(running, tmp_path):
    sidecar = running(document(tmp_path, "a"))
    routes = sidecar.pipeline.routes
    assert not sidecar.reload(parse(document(tmp_path, "a")))
    assert sidecar.pipeline.routes is routes


@pytest.mark.parametrize(
    "section",
    [{"journal": {"enabled": False}}, {"data_dir": "/elsewhere"}, {"tcp": {"host": "192.0.2.1"}}],
    ids=["journal", "data_dir", "an address that is not ours"],
)
def test_what_cannot_be_had_is_refused_whole(running, tmp_path, section):
    sidecar = running(document(tmp_path, "a"))
    config, routes, addresses = sidecar.config, sidecar.pipeline.routes, sidecar.addresses()
    if "tcp" in section:
        section = {"tcp": {**section["tcp"], "insecure": True}}
    new = parse(document(tmp_path, "a", "b", sidecar=section))
    with pytest.raises((ConfigError, OSError)):
        sidecar.reload(new)
    assert sidecar.config is config and sidecar.pipeline.routes is routes
    assert sidecar.addresses() == addresses
    submit(sidecar, *frames(5))
    sidecar.stop(10)
    assert lines(tmp_path / "a.jsonl") == frames(5) and not (tmp_path / "b.jsonl").exists()


def test_a_listener_moves_and_its_connections_stay(running, tmp_path):
    sidecar = running(document(tmp_path, "a"))
    host, port = sidecar.addresses()["tcp"].split(":")
    with socket.create_connection((host, int(port))) as early, socket.create_server((host, 0)) as free:
        number = free.getsockname()[1]
        free.close()
        early.sendall(frame(1))
        eventually(lambda: lines(tmp_path / "a.jsonl") == frames(1))
        sidecar.reload(parse(document(tmp_path, "a", sidecar={"tcp": {"port": number}})))
        assert sidecar.addresses()["tcp"] == f"{host}:{number}"
        with socket.create_connection((host, number)) as late:
            late.sendall(frame(2))
            eventually(lambda: lines(tmp_path / "a.jsonl") == frames(2))
            early.sendall(frame(3))
            eventually(lambda: lines(tmp_path / "a.jsonl") == frames(3))
        with pytest.raises(OSError):
            socket.create_connection((host, int(port)), timeout=5)


@pytest.fixture
def hanging(monkeypatch):
    """Writes to a file of this name hang, until they are let go."""
    entered, go = threading.Semaphore(0), threading.Event()
    write = FileBackend.write

    def slow(self, batch):
        if self.path.endswith("hangs.jsonl") and not go.is_set():
            entered.release()
            assert go.wait(60)
        write(self, batch)

    monkeypatch.setattr(FileBackend, "write", slow)
    yield entered, go
    go.set()


@JOURNAL
def test_a_write_at_hand_is_waited_for_and_the_queue_goes_on(running, tmp_path, hanging, journal):
    entered, go = hanging
    on = {"journal": {"enabled": journal}, "shutdown_timeout": 60}
    sidecar = running(document(tmp_path, "hangs", sidecar=on))
    submit(sidecar, *frames(10))
    assert entered.acquire(timeout=30)
    for number in range(11, 31):
        submit(sidecar, frame(number))
    changed = {"type": "file", "path": str(tmp_path / "hangs.jsonl"), "fsync": "batch"}
    new = parse(document(tmp_path, sidecar=on, hangs=changed))
    reload = threading.Thread(target=sidecar.reload, args=(new,))
    old = sidecar.pipeline.routes["hangs"]
    reload.start()
    eventually(lambda: old.halted)
    submit(sidecar, frame(31))
    assert sidecar.pipeline.routes["hangs"] is old, "not before it has ended"
    go.set()
    reload.join(30)
    submit(sidecar, frame(32))
    sidecar.stop(10)
    assert lines(tmp_path / "hangs.jsonl") == frames(32)


@JOURNAL
def test_a_write_that_hangs_is_left_behind(running, tmp_path, hanging, journal):
    """Its successor writes what it had, at another place; the old write counts no more."""
    entered, go = hanging
    on = {"journal": {"enabled": journal}, "shutdown_timeout": 0.1}
    config = {"type": "file", "path": str(tmp_path / "hangs.jsonl")}
    sidecar = running(document(tmp_path, sidecar=on, b=config))
    submit(sidecar, *frames(10))
    assert entered.acquire(timeout=30)
    submit(sidecar, *frames(10, first=11))
    sidecar.reload(parse(document(tmp_path, "b", sidecar=on)))
    submit(sidecar, *frames(10, first=21))
    eventually(lambda: lines(tmp_path / "b.jsonl") == frames(30))
    go.set()
    eventually(lambda: lines(tmp_path / "hangs.jsonl"))
    sidecar.stop(10)
    route = sidecar.pipeline.routes["b"]
    assert lines(tmp_path / "b.jsonl") == frames(30)
    assert route.offered == route.delivered == 30 and route.queued == 0


@JOURNAL
def test_another_name_for_a_path_waits_until_it_is_closed(running, tmp_path, hanging, journal):
    entered, go = hanging
    on = {"journal": {"enabled": journal}, "shutdown_timeout": 60}
    config = {"type": "file", "path": str(tmp_path / "hangs.jsonl")}
    sidecar = running(document(tmp_path, sidecar=on, one=config))
    submit(sidecar, *frames(10))
    assert entered.acquire(timeout=30)
    submit(sidecar, *frames(10, first=11))
    sidecar.reload(parse(document(tmp_path, sidecar=on, two=config)))
    submit(sidecar, *frames(10, first=21))
    assert not entered.acquire(timeout=0.2), "two writers of one file"
    assert list(sidecar.pipeline.retired) == ["one"]
    go.set()
    eventually(lambda: lines(tmp_path / "hangs.jsonl") == frames(30))
    eventually(lambda: not sidecar.pipeline.retired)


def blocked(folder):
    """A backend that cannot write: its folder is a file."""
    (folder / "blocked").write_text("")
    return {"type": "file", "path": str(folder / "blocked" / "x.jsonl")}


def test_the_rest_of_a_backend_that_is_gone_waits_for_its_return(running, tmp_path):
    on = {"shutdown_timeout": 0.1}
    dead = blocked(tmp_path)
    sidecar = running(document(tmp_path, "good", sidecar=on, dead=dead))
    submit(sidecar, *frames(10))
    sidecar.reload(parse(document(tmp_path, "good", sidecar=on)))
    eventually(lambda: not sidecar.pipeline.retired)
    assert sidecar.pipeline.orphaned == {"kept": 10, "lost": 0, "given_up": 0}
    (tmp_path / "blocked").unlink()
    sidecar.stop(10)
    sidecar = running(document(tmp_path, "good", sidecar=on))
    submit(sidecar, *frames(10, first=11))
    eventually(lambda: len(lines(tmp_path / "good.jsonl")) == 20)
    sidecar.reload(parse(document(tmp_path, "good", sidecar=on, dead=dead)))
    eventually(lambda: lines(tmp_path / "blocked" / "x.jsonl")[:10] == frames(10))
    assert not sidecar.journal.cursors, "it is nobody's any more"


def test_the_rest_of_a_backend_that_is_gone_is_given_up_when_the_journal_is_half_full(
    running, tmp_path, caplog
):
    """It holds back what the others have got; before these have to wait for it, it goes."""
    on = {"shutdown_timeout": 0.1, "journal": {"max_bytes": 1_000_000}}
    sidecar = running(document(tmp_path, "good", sidecar=on, dead=blocked(tmp_path)))
    submit(sidecar, *frames(10))
    sidecar.reload(parse(document(tmp_path, "good", sidecar=on)))
    eventually(lambda: not sidecar.pipeline.retired)
    journal, sent = sidecar.journal, 10
    while list(journal.cursors) == ["dead"]:
        held = journal.bytes
        submit(sidecar, *frames(50, first=sent + 1, pad="x" * 1000))
        sent += 50
        eventually(lambda h=held: journal.bytes != h, "a commit")
        assert sent < 1000, "it goes at half of the bound"
    assert sent > 300
    assert "the journal is half full: what it kept for dead is given up" in caplog.text
    assert sidecar.pipeline.orphaned == {"kept": 10, "lost": 0, "given_up": 10}
    eventually(lambda: lines(tmp_path / "good.jsonl") == [
        *frames(10), *(f for n in range(11, sent, 50) for f in frames(50, first=n, pad="x" * 1000))])
    submit(sidecar, frame(sent + 1))  # a commit more: it takes what is done
    eventually(lambda: journal.bytes < 100_000, "room")
    (tmp_path / "blocked").unlink()
    sidecar.reload(parse(document(tmp_path, "good", sidecar=on, dead={
        "type": "file", "path": str(tmp_path / "blocked" / "x.jsonl")})))
    submit(sidecar, frame(sent + 2))
    eventually(lambda: lines(tmp_path / "blocked" / "x.jsonl") == [frame(sent + 2)], "from now on")


def test_without_a_journal_the_rest_is_lost_and_counted(running, tmp_path, caplog):
    on = {"journal": {"enabled": False}, "shutdown_timeout": 0.1}
    sidecar = running(document(tmp_path, "good", sidecar=on, dead=blocked(tmp_path)))
    submit(sidecar, *frames(10))
    sidecar.reload(parse(document(tmp_path, "good", sidecar=on)))
    eventually(lambda: not sidecar.pipeline.retired)
    assert sidecar.pipeline.orphaned == {"kept": 0, "lost": 10, "given_up": 0}
    assert "dead: 10 messages" in caplog.text
    assert sidecar.stop(10) == 0, "they were counted when they were lost"


@JOURNAL
def test_a_backend_that_comes_back_while_it_drains_takes_over(running, tmp_path, journal):
    on = {"journal": {"enabled": journal}, "shutdown_timeout": 60}
    dead = blocked(tmp_path)
    sidecar = running(document(tmp_path, "good", sidecar=on, dead=dead))
    submit(sidecar, *frames(10))
    sidecar.reload(parse(document(tmp_path, "good", sidecar=on)))
    assert list(sidecar.pipeline.retired) == ["dead"]
    sidecar.reload(parse(document(tmp_path, "good", "dead", sidecar=on)))
    assert not sidecar.pipeline.retired
    eventually(lambda: lines(tmp_path / "dead.jsonl") == frames(10))
    assert sidecar.pipeline.orphaned == {"kept": 0, "lost": 0, "given_up": 0}


# -- a process ---------------------------------------------------------------------------------


class Reloaded:
    """A sidecar process whose config can be written anew."""

    def __init__(self, start_sidecar, config, **more):
        self.sidecar = start_sidecar(config=config, **more)
        self.path = self.sidecar.folder / "config.json"

    def write(self, text):
        temporary = self.path.with_suffix(".new")
        temporary.write_text(text if isinstance(text, str) else json.dumps(text))
        os.replace(temporary, self.path)

    def results(self):
        return {r: self.sidecar.total("sidecar_config_reloads_total", result=r)
                for r in ("ok", "failed", "unchanged")}

    def hup(self):
        """Ask, and wait until it is done."""
        before = sum(self.results().values())
        self.sidecar.process.send_signal(signal.SIGHUP)
        return eventually(lambda: sum((r := self.results()).values()) > before and r)

    def health(self):
        return json.loads(self.sidecar.get("/health"))


class Sender(threading.Thread):
    """Send numbered frames over a connection of one's own, until told to stop."""

    def __init__(self, sidecar, name):
        super().__init__()
        self.source = name
        self.count = 0
        self.enough = threading.Event()
        self._sidecar = sidecar

    def run(self):
        with self._sidecar.connect() as sock:
            while not self.enough.is_set():
                sock.sendall(b"".join(frames(20, src=self.source, first=self.count + 1)))
                self.count += 20
                self.enough.wait(0.002)


def numbers(path, source):
    found = map(json.loads, lines(path))
    return [message["ts"] % 10_000_000 for message in found if message["src"] == source]


@pytest.mark.parametrize("change", ["retry", "buffers", "timeout", "secret_file", "src", "address"])
def test_a_batch_at_hand_of_a_link_is_not_doubled(start_sidecar, tmp_path, change):
    """The next sidecar is stopped with frames that it has not acknowledged, and goes on after the
    reload. Only another address is another place, which gets them all again."""
    def chain(settings, **sidecar):
        link = {"type": "forward", "address": receiver.ready["unix"], "timeout": 1, "retry": {"max": 0.1}}
        return document(tmp_path / "sender", sidecar=sidecar, on={**link, **settings})

    for name in ("sender", "receiver"):
        (tmp_path / name).mkdir()
    receiver = start_sidecar(config=document(tmp_path / "receiver", "out"))
    reloaded = Reloaded(start_sidecar, chain({}))
    sender = reloaded.sidecar
    sender.send(b"".join(frames(10)))
    eventually(lambda: sender.total("sidecar_backend_messages_total", outcome="delivered") == 10)
    receiver.process.send_signal(signal.SIGSTOP)
    sender.send(b"".join(frames(100, first=11)))
    eventually(lambda: sender.total("sidecar_backend_retries_total"))
    sender.send(b"".join(frames(10, first=111)))
    (tmp_path / "secret").write_text("sesame-of-the-fab")
    settings = {"retry": {"max": 0.2}, "timeout": 20, "secret_file": str(tmp_path / "secret"),
                "src": "link-of-fab7", "address": f"127.0.0.1:{receiver.tcp[1]}"}
    sidecar = {"buffers": {"flush_interval": 2}} if change == "buffers" else {}
    reloaded.write(chain({change: settings[change]} if change in settings else {}, **sidecar))
    assert reloaded.hup()["ok"] == 1
    receiver.process.send_signal(signal.SIGCONT)
    eventually(lambda: sender.total("sidecar_backend_messages_total", outcome="delivered") == 120)
    assert sender.stop()[0] == receiver.stop()[0] == 0
    got = sorted(json.loads(line)["ts"] % 10_000 for line in lines(tmp_path / "receiver" / "out.jsonl"))
    assert sorted(set(got)) == list(range(1, 121))
    assert (len(got) > 120) == (change == "address")


@JOURNAL
def test_traffic_during_fifty_reloads(start_sidecar, tmp_path, journal):
    def config(step):
        """`stays` is never touched, `changes` each time, `comes` is there every second time, and
        each time another name writes to `renamed.jsonl`."""
        no_rotation = {"max_bytes": 0}
        backend = {name: {"type": "file", "path": str(tmp_path / f"{name}.jsonl"), "rotate": no_rotation}
                   for name in ("stays", "changes", "comes", "renamed")}
        backend["changes"]["rotate"] = {"max_bytes": 0, "keep": 1 + step}
        backend[f"renamed-{step}"] = backend.pop("renamed")
        if step % 2:
            del backend["comes"]
        return document(tmp_path, sidecar={"journal": {"enabled": journal}}, **backend)

    reloaded = Reloaded(start_sidecar, config(0))
    sidecar = reloaded.sidecar
    senders = [Sender(sidecar, f"s{n}") for n in range(4)]
    for sender in senders:
        sender.start()
    try:
        for step in range(1, 51):
            reloaded.write("{ broken" if step % 5 == 0 else config(step))
            reloaded.hup()
    finally:
        for sender in senders:
            sender.enough.set()
            sender.join(30)
    assert reloaded.results() == {"ok": 40, "failed": 10, "unchanged": 0}
    sent = sum(sender.count for sender in senders)
    eventually(lambda: sidecar.total("sidecar_messages_received_total") == sent)
    eventually(lambda: sidecar.total("sidecar_backend_queued_messages") == 0)
    sidecar.check_conservation()
    status, err = sidecar.stop()
    assert status == 0, err
    for sender in senders:
        every = list(range(1, sender.count + 1))
        for name in ("stays", "changes", "renamed"):
            assert numbers(tmp_path / f"{name}.jsonl", sender.source) == every, (name, err)
        some = numbers(tmp_path / "comes.jsonl", sender.source)
        assert some == sorted(set(some)), "in order and nothing twice"
        assert 0 < len(some) < len(every)


def test_a_bad_file_changes_nothing_and_shows(start_sidecar, tmp_path):
    good = document(tmp_path, "a")
    reloaded = Reloaded(start_sidecar, good)
    sidecar = reloaded.sidecar
    begun = reloaded.health()
    assert begun["config"] == "ok" and len(begun["config_sha256"]) == 64
    bad = document(tmp_path, "a", b={"type": "file", "pth": "x"}, c={"type": "nul"})
    reloaded.write(bad)
    assert reloaded.hup()["failed"] == 1
    stale = reloaded.health()
    assert stale["config"] == "stale" and stale["config_sha256"] == begun["config_sha256"]
    assert "backends.b.pth: unknown key" in stale["config_fault"] and "backends.c.type" in stale["config_fault"]
    assert list(stale["backends"]) == ["a"]
    sidecar.send(frame(1))
    eventually(lambda: lines(tmp_path / "a.jsonl") == frames(1))
    reloaded.path.unlink()
    reloaded.hup()
    missing = reloaded.health()
    assert "No such file" in missing["config_fault"]
    assert missing["config_stale_since_ms"] == stale["config_stale_since_ms"]
    reloaded.write(good)
    assert reloaded.hup() == {"ok": 0, "failed": 2, "unchanged": 1}
    mended = reloaded.health()
    assert {k: v for k, v in mended.items() if "config" in k} == {
        k: v for k, v in begun.items() if "config" in k}
    reloaded.write({**good, "sidecar": {**good["sidecar"], "data_dir": "/x"}})
    reloaded.hup()
    assert reloaded.health()["config_fault"].startswith("sidecar.data_dir: needs a restart")
    status, err = sidecar.stop()
    assert status == 0 and err.count("backends.b.pth: unknown key") == 1


def test_a_changed_file_is_taken_up_without_a_signal(start_sidecar, tmp_path):
    """By a link to another folder, as a mounted ConfigMap changes."""
    poll = {"reload": {"poll": "50ms"}}
    for name in ("one", "two", "bad"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "c.json").write_text(json.dumps(document(tmp_path, "a", sidecar=poll)))
    (tmp_path / "two" / "c.json").write_text(json.dumps(document(tmp_path, "a", "b", sidecar=poll)))
    (tmp_path / "bad" / "c.json").write_text("{")
    (tmp_path / "now").symlink_to(tmp_path / "one")
    config = str(tmp_path / "now" / "c.json")
    sidecar = start_sidecar("--config", config)  # the last --config counts

    def swap(name):
        (tmp_path / "new").symlink_to(tmp_path / name)
        os.replace(tmp_path / "new", tmp_path / "now")

    def health(key):
        return json.loads(sidecar.get("/health"))[key]

    data = sidecar.get("/health")
    assert list(json.loads(data)["backends"]) == ["a"]
    swap("two")
    eventually(lambda: sorted(health("backends")) == ["a", "b"])
    swap("bad")
    eventually(lambda: health("config") == "stale")
    assert sorted(health("backends")) == ["a", "b"]
    swap("nowhere")
    eventually(lambda: "No such file" in (health("config") == "stale" and health("config_fault")))
    swap("two")
    eventually(lambda: health("config") == "ok")
    assert sidecar.total("sidecar_config_reloads_total", result="unchanged") == 1


def test_a_storm_of_signals(start_sidecar, tmp_path):
    reloaded = Reloaded(start_sidecar, document(tmp_path, "a"))
    for number in range(200):
        if number == 100:
            reloaded.write(document(tmp_path, "a", "b"))
        reloaded.sidecar.process.send_signal(signal.SIGHUP)
    eventually(lambda: sorted(reloaded.health()["backends"]) == ["a", "b"])
    reloaded.sidecar.send(frame(1))
    eventually(lambda: lines(tmp_path / "b.jsonl") == frames(1))
    assert reloaded.results()["failed"] == 0
    for _ in range(50):
        reloaded.sidecar.process.send_signal(signal.SIGHUP)
    status, err = reloaded.sidecar.stop()
    assert status == 0 and "a second signal" not in err


#: `wafermon` that sends itself a signal at each import but those that holding signals takes.
HURRIED = """
import os, runpy, sys

number = int(sys.argv.pop(1))
sent = []

class Meanwhile:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("wafermon.") and name not in ("wafermon.__main__", "wafermon.cli", "wafermon.cli.signals"):
            sent.append(name)
            os.kill(os.getpid(), number)

sys.meta_path.insert(0, Meanwhile())
try:
    runpy.run_module("wafermon", run_name="__main__", alter_sys=True)
finally:
    assert len(sent) > 50, sent
"""


@pytest.fixture
def hurried(tmp_path):
    """Start one that sends itself a signal; the process, and its ready file."""
    started = []

    def start(number):
        ready = tmp_path / "ready.json"
        command = [sys.executable, "-c", HURRIED, str(int(number)), "run", "--data", str(tmp_path / "data"),
                   "--tcp", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--ready-file", str(ready)]
        started.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True))
        return started[0], ready

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_hangups_from_the_first_line_to_the_last(hurried):
    """None ends it, all before it is ready make one reload, and none drowns the SIGTERM."""
    process, ready = hurried(signal.SIGHUP)
    eventually(lambda: ready.exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    admin = json.loads(ready.read_text())["admin"]

    def reloads():
        with urllib.request.urlopen(f"http://{admin}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return sum(map(int, re.findall(r"^sidecar_config_reloads_total\S* (\d+)$", text, re.M)))

    assert eventually(reloads) == 1
    for _ in range(5000):
        process.send_signal(signal.SIGHUP)
    process.terminate()
    eventually(lambda: [process.send_signal(signal.SIGHUP) for _ in range(1000)] and process.poll() is not None)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "SIGTERM, stopping" in err and "a second signal" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_it_is_ready(hurried, number):
    process, ready = hurried(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert f"{number.name}, stopping" in err and "a second signal" not in err
    assert not ready.exists()


def test_options_stay_on_top(start_sidecar, tmp_path):
    config = document(tmp_path, "a", sidecar={"tcp": {"port": 1}, "health": {"metrics_port": 1}})
    reloaded = Reloaded(
        lambda **more: start_sidecar("--tcp", "127.0.0.1:0", "--admin", "127.0.0.1:0", **more), config
    )
    before = reloaded.sidecar.ready
    reloaded.write({**config, "backends": document(tmp_path, "b")["backends"]})
    assert reloaded.hup()["ok"] == 1
    assert list(reloaded.health()["backends"]) == ["b"]
    assert json.loads(reloaded.sidecar.ready_file.read_text()) == before


def test_the_ready_file_follows_a_listener(start_sidecar, tmp_path):
    reloaded = Reloaded(start_sidecar, document(tmp_path, "a"))
    new = str(tmp_path / "other.sock")
    reloaded.write(document(tmp_path, "a", sidecar={"unix": {"path": new}}))
    assert reloaded.hup()["ok"] == 1
    assert eventually(lambda: json.loads(reloaded.sidecar.ready_file.read_text())["unix"] == new)
    assert os.path.exists(new) and not os.path.exists(tmp_path / "data" / "sidecar.sock")
