"""Reload: all of a new configuration or nothing, no message lost or doubled, a fault that shows."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

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
    assert sidecar.pipeline.orphaned == {"kept": 10, "lost": 0}
    (tmp_path / "blocked").unlink()
    sidecar.stop(10)
    sidecar = running(document(tmp_path, "good", sidecar=on))
    submit(sidecar, *frames(10, first=11))
    eventually(lambda: len(lines(tmp_path / "good.jsonl")) == 20)
    sidecar.reload(parse(document(tmp_path, "good", sidecar=on, dead=dead)))
    eventually(lambda: lines(tmp_path / "blocked" / "x.jsonl")[:10] == frames(10))
    assert not sidecar.journal.cursors, "it is nobody's any more"


def test_without_a_journal_the_rest_is_lost_and_counted(running, tmp_path, caplog):
    on = {"journal": {"enabled": False}, "shutdown_timeout": 0.1}
    sidecar = running(document(tmp_path, "good", sidecar=on, dead=blocked(tmp_path)))
    submit(sidecar, *frames(10))
    sidecar.reload(parse(document(tmp_path, "good", sidecar=on)))
    eventually(lambda: not sidecar.pipeline.retired)
    assert sidecar.pipeline.orphaned == {"kept": 0, "lost": 10}
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
    assert sidecar.pipeline.orphaned == {"kept": 0, "lost": 0}


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


def test_a_hangup_before_it_is_ready(tmp_path):
    """It is noted from the moment that it is caught, and does not end the process."""
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "wafermon", "run", "--data", str(tmp_path / "data"),
               "--tcp", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--ready-file", str(ready)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)

    def catches():
        with open(f"/proc/{process.pid}/status") as status:
            mask = next(line.split()[1] for line in status if line.startswith("SigCgt"))
        return int(mask, 16) >> (signal.SIGHUP - 1) & 1

    try:
        eventually(catches)
        for _ in range(20):
            process.send_signal(signal.SIGHUP)
        eventually(ready.exists)
        process.terminate()
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err


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
