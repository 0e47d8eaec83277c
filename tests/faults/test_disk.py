"""Disks that fail: full, read-only, broken, frozen, deleted. Real causes where one can be made."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from raw import file_config, number_of, numbered, opened
from support import COMMAND, ROOT, SidecarProcess, eventually

from wafermon.testing import frame, frames

pytestmark = pytest.mark.slow

#: Fault -> how it begins, how it ends.
FAULTS = {
    "full": ("fill", "free"),
    "read-only": ("read_only", "read_write"),
    "broken": ("break_down", "repair"),
}
every_fault = pytest.mark.parametrize("fault", FAULTS)


def begin(volume, fault):
    getattr(volume, FAULTS[fault][0])()


def end(volume, fault):
    getattr(volume, FAULTS[fault][1])()


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def numbers_of(path):
    return [number_of(line) for line in lines_of(path) if line.endswith(b"\n")]


def unnumbered(first, last):
    """What needs no receipt, so that nobody has to read one."""
    return [numbered(n).replace(b',"q":%d' % n, b"") for n in range(first, last + 1)]


def health(sidecar):
    return json.loads(sidecar.get("/health"))


def acked(lines, q):
    """Wait for the receipt of q; the level it says."""
    while True:
        line = lines.next()
        if line["q"] >= q:
            return line["level"]


def dead(folder, name="dead", **settings):
    """A file backend in a folder that a file is in the way of, and what it writes once that goes."""
    (folder / name).write_text("")
    path = folder / name / "out.jsonl"
    return {"type": "file", "path": str(path), "retry": {"initial": 0.01, "max": 0.1},
            "rotate": {"max_bytes": 0}, **settings}, path


def until_memory(sock, lines, q, pad):
    """Send until receipts say memory, as what SQLite has taken before lasts for a while; the last q."""
    level = "disk"
    while level == "disk":
        q += 1
        sock.sendall(numbered(q, pad=pad))
        level = acked(lines, q)
        assert q < 1000
    assert level == "memory"
    return q


# -- at the start --------------------------------------------------------------------------------


@every_fault
def test_a_start_on_a_disk_that_fails(start_sidecar, disk, tmp_path, fault):
    """It runs from memory and says so. Once the disk works, what the journal had from before and
    what has come meanwhile are safe, and every backend gets both."""
    config = file_config(tmp_path, data_dir=str(disk.path / "data"), unix={"path": str(tmp_path / "s")})
    config["backends"]["dead"], out = dead(tmp_path)
    sidecar = start_sidecar(config=config)
    sock, lines, _ = opened(sidecar, "before")
    with sock:
        for q in range(1, 11):
            sock.sendall(numbered(q))
        assert acked(lines, 10) == "disk"
    assert sidecar.stop()[0] == 0
    begin(disk, fault)
    sidecar = start_sidecar(config=config)
    found = health(sidecar)
    assert found["status"] == "degraded" and found["journal"]["receipts"] == "memory"
    assert found["journal"]["error"] and sidecar.total("sidecar_journal_up") == 0
    sock, lines, welcome = opened(sidecar, "after")
    assert (welcome["q"], welcome["level"]) == (0, "memory")
    for q in range(101, 111):
        sock.sendall(numbered(q))
    assert acked(lines, 110) == "memory"
    eventually(lambda: numbers_of(tmp_path / "out.jsonl")[-10:] == list(range(101, 111)))
    end(disk, fault)
    eventually(lambda: health(sidecar)["journal"]["receipts"] == "disk")
    sock.sendall(numbered(111))
    assert acked(lines, 111) == "disk"
    sock.close()
    sock, _, welcome = opened(sidecar, "before")
    sock.close()
    assert welcome["q"] == 10, "what is held of a session is known again"
    assert "quarantined" not in health(sidecar)["journal"]
    sidecar.process.kill()
    sidecar.process.wait()
    (tmp_path / "dead").unlink()
    sidecar = start_sidecar(config=config)
    every = [*range(1, 11), *range(101, 112)]
    eventually(lambda: len(numbers_of(out)) == len(every), "all of it in the backend that was dead")
    assert sorted(numbers_of(out)) == every
    assert sorted(set(numbers_of(tmp_path / "out.jsonl"))) == every
    sidecar.check_conservation()


def test_a_journal_that_is_found_late_is_delivered_at_once(start_sidecar, disk, tmp_path):
    config = file_config(tmp_path, data_dir=str(disk.path / "data"), unix={"path": str(tmp_path / "s")})
    config["backends"]["dead"], out = dead(tmp_path)
    sidecar = start_sidecar(config=config)
    sidecar.send(b"".join(unnumbered(1, 10)))
    eventually(lambda: len(numbers_of(tmp_path / "out.jsonl")) == 10)
    assert sidecar.stop()[0] == 0
    (tmp_path / "dead").unlink()
    disk.read_only()
    sidecar = start_sidecar(config=config)
    sidecar.send(b"".join(unnumbered(11, 11)))
    eventually(lambda: numbers_of(out) == [11], "what is new need not wait for it")
    disk.read_write()
    eventually(lambda: numbers_of(out) == [11, *range(1, 11)])
    sidecar.send(b"".join(unnumbered(12, 12)))
    eventually(lambda: numbers_of(out)[-1] == 12)
    assert numbers_of(tmp_path / "out.jsonl") == list(range(1, 13)), "and nothing twice"
    assert sidecar.stop()[0] == 0
    sidecar = start_sidecar(config=config)
    sidecar.send(b"".join(unnumbered(13, 13)))
    eventually(lambda: numbers_of(out)[-1] == 13)
    assert len(numbers_of(out)) == 13, "nor after another start"


def test_a_first_start_on_a_read_only_disk(start_sidecar, disk, tmp_path):
    """There is no folder yet, so no socket file either; all of it comes when it can."""
    data = disk.path / "data"
    disk.read_only()
    config = file_config(tmp_path, data_dir=str(data),
                         health={"metrics_port": 0, "health_check_interval": 0.1})
    sidecar = start_sidecar(config=config)
    sock, lines, welcome = opened(sidecar, "s", unix=False)
    with sock:
        assert welcome["level"] == "memory"
        sock.sendall(numbered(1))
        assert acked(lines, 1) == "memory"
        assert "Read-only file system" in health(sidecar)["journal"]["error"]
        assert not data.exists()
        disk.read_write()
        eventually(lambda: (data / "sidecar.sock").exists())
        eventually(lambda: health(sidecar)["journal"]["receipts"] == "disk")
        sock.sendall(numbered(2))
        assert acked(lines, 2) == "disk"
    sidecar.send(frame(3), unix=True)
    (tmp_path / "second").mkdir()
    with pytest.raises(AssertionError, match="another sidecar uses it"):
        SidecarProcess(tmp_path / "second", config=config)


def test_a_folder_that_can_never_be_made_is_a_fault(tmp_path):
    with pytest.raises(AssertionError, match=r"cannot use the data folder /proc/none: No such file"):
        SidecarProcess(tmp_path, config=file_config(tmp_path, data_dir="/proc/none"))


# -- under the journal ---------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["full", "broken"])
def test_a_disk_that_fails_under_the_journal(start_sidecar, disk, tmp_path, fault):
    """It goes on from memory, every receipt says so, /health says why; it recovers by itself; a route
    that could not deliver meanwhile has missed nothing."""
    config = file_config(tmp_path, data_dir=str(disk.path / "data"),
                         buffers={"max_queue_size": 50}, unix={"path": str(tmp_path / "sock")})
    config["backends"]["lags"], out = dead(tmp_path)
    sidecar = start_sidecar(config=config)
    sock, lines, _ = opened(sidecar, "s")
    with sock:
        sock.sendall(numbered(1))
        assert acked(lines, 1) == "disk"
        begin(disk, fault)
        held = q = until_memory(sock, lines, 1, pad="x" * 20_000)
        found = health(sidecar)
        assert found["status"] == "degraded" and found["journal"]["receipts"] == "memory"
        assert found["journal"]["error"] and sidecar.total("sidecar_journal_up") == 0
        for _ in range(100):  # more than what a route that blocks may hold, so that reading pauses
            q += 1
            sock.sendall(numbered(q))
        eventually(lambda: len(lines_of(tmp_path / "out.jsonl")) >= held)
        end(disk, fault)
        eventually(lambda: health(sidecar)["journal"]["status"] == "ok")
        q += 1
        sock.sendall(numbered(q))
        assert acked(lines, q) == "disk"
    sidecar.process.kill()
    sidecar.process.wait()
    (tmp_path / "dead").unlink()
    sidecar = start_sidecar(config=config)
    eventually(lambda: len(lines_of(out)) == q, "all in the route that lagged")
    assert numbers_of(out) == list(range(1, q + 1))
    assert list(dict.fromkeys(numbers_of(tmp_path / "out.jsonl"))) == list(range(1, q + 1))
    assert "quarantined" not in health(sidecar)["journal"]


def test_a_disk_that_falls_read_only_under_the_journal(start_sidecar, disk, tmp_path):
    """Such a disk does not come back before it is mounted anew; until then nothing is held up."""
    config = file_config(tmp_path, data_dir=str(disk.path / "data"), unix={"path": str(tmp_path / "s")})
    sidecar = start_sidecar(config=config)
    sock, lines, _ = opened(sidecar, "s")
    with sock:
        sock.sendall(numbered(1))
        assert acked(lines, 1) == "disk"
        disk.fall_read_only()
        q = until_memory(sock, lines, 1, pad="")
    assert health(sidecar)["journal"]["receipts"] == "memory"
    eventually(lambda: numbers_of(tmp_path / "out.jsonl") == list(range(1, q + 1)))
    assert sidecar.stop()[0] == 0, "all is delivered"


def test_a_disk_that_hangs_under_the_journal(start_sidecar, disk, tmp_path):
    """No receipt says disk, and nobody waits for ever; when it works again so does the journal."""
    config = file_config(tmp_path, data_dir=str(disk.path / "data"), unix={"path": str(tmp_path / "s")})
    sidecar = start_sidecar(config=config)
    sock, lines, _ = opened(sidecar, "s")
    with sock:
        sock.sendall(numbered(1))
        assert acked(lines, 1) == "disk"
        disk.freeze()
        sock.sendall(numbered(2))
        assert acked(lines, 2) == "memory"
        assert health(sidecar)["journal"]["error"] == "a commit hangs"
        sidecar.send(b"".join(frames(1000, pad="x" * 30_000)))  # more than may wait for a commit
        eventually(lambda: len(lines_of(tmp_path / "out.jsonl")) == 1002)
        disk.thaw()
        eventually(lambda: health(sidecar)["journal"]["receipts"] == "disk")
        sock.sendall(numbered(3))
        assert acked(lines, 3) == "disk"
    assert sidecar.stop()[0] == 0
    assert lines_of(tmp_path / "out.jsonl")[2:-1] == frames(1000, pad="x" * 30_000)


def test_a_stop_while_the_disk_under_the_journal_hangs(start_sidecar, disk, tmp_path):
    """It waits no longer than a commit may take. (The process itself cannot end before the thaw.)"""
    config = file_config(tmp_path, data_dir=str(disk.path / "data"), unix={"path": str(tmp_path / "s")})
    sidecar = start_sidecar(config=config)
    sidecar.send(frame(1))
    eventually(lambda: len(lines_of(tmp_path / "out.jsonl")) == 1)
    disk.freeze()
    sidecar.send(frame(2))
    sidecar.process.terminate()
    eventually(lambda: not sidecar.ready_file.exists(), "the end of the sidecar")
    assert lines_of(tmp_path / "out.jsonl") == frames(2)
    disk.thaw()
    assert sidecar.stop()[0] == 0


@pytest.mark.parametrize("first", ["disk", "backend"])
def test_a_dead_backend_while_the_journal_fails(start_sidecar, disk, tmp_path, first):
    """Only those who feed it pause, and what is held for it in memory is bounded: other sources and
    other backends go on for as long as it lasts. It recovers in whatever order the two come back."""
    config = file_config(tmp_path, data_dir=str(disk.path / "data"),
                         unix={"path": str(tmp_path / "sock")})
    config["backends"]["dead"], out = dead(tmp_path, buffer={"max_messages": 200})
    config["routing"] = {"quiet": [{"backend": "out"}], "*": [{"backend": "dead"}]}
    sidecar = start_sidecar(config=config)
    sock, lines, _ = opened(sidecar, "s")
    quiet, quiet_lines, _ = opened(sidecar, "q", src="quiet")
    with sock, quiet:
        disk.fill()
        q = until_memory(sock, lines, 0, pad="x" * 20_000)
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError if sys.version_info >= (3, 10) else OSError):
            while True:
                sock.sendall(numbered(q + 1, pad="x" * 20_000))
                q += 1
        paused = q
        before = memory_kib(sidecar)
        for n in range(1, 2001):  # 60 MB, several times what may wait for a commit
            quiet.sendall(numbered(n, src="quiet", pad="x" * 30_000))
        assert acked(quiet_lines, 2000) == "memory"
        eventually(lambda: numbers_of(tmp_path / "out.jsonl")[-1:] == [2000])
        assert memory_kib(sidecar) - before < 40_000
        assert health(sidecar)["backends"]["out"]["status"] == "ok"
        for what in ("disk", "backend") if first == "disk" else ("backend", "disk"):
            if what == "disk":
                disk.free()
                eventually(lambda: health(sidecar)["journal"]["receipts"] == "disk")
            else:
                (tmp_path / "dead").unlink()
                eventually(lambda: len(lines_of(out)) >= paused - 1)
    eventually(lambda: len(lines_of(out)) == paused)
    assert numbers_of(out) == list(range(1, paused + 1))
    assert numbers_of(tmp_path / "out.jsonl") == list(range(1, 2001))
    sidecar.check_conservation()


def memory_kib(sidecar):
    with open(f"/proc/{sidecar.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


# -- under a backend -----------------------------------------------------------------------------


@every_fault
@pytest.mark.parametrize("kind", ["file", "store"])
def test_a_disk_that_fails_under_a_backend(start_sidecar, disk, tmp_path, fault, kind):
    """It is down and says why; when the disk is well again, everything is there once."""
    config = file_config(tmp_path)
    path = disk.path / "out"
    config["backends"]["out"] = {"type": kind, "path": str(path), "retry": {"max": 0.1},
                                 **({"fsync": "batch"} if kind == "file" else {})}
    sent = frames(100, pad="x" * 30_000)
    if fault == "read-only":  # which nobody can make it who has a file open there
        begin(disk, fault)
        sidecar = start_sidecar(config=config)
        sidecar.send(sent[0])
    else:
        sidecar = start_sidecar(config=config)
        sidecar.send(sent[0])
        eventually(lambda: held(path, kind) == sent[:1])
        begin(disk, fault)
    sidecar.send(b"".join(sent[1:]))
    state = eventually(lambda: (s := health(sidecar)["backends"]["out"])["status"] == "down" and s)
    assert state["error"] and sidecar.total("sidecar_backend_up", backend="out") == 0
    end(disk, fault)
    eventually(lambda: health(sidecar)["backends"]["out"]["status"] == "ok")
    eventually(lambda: sidecar.total("sidecar_backend_messages_total", outcome="delivered") == 100)
    assert sidecar.stop()[0] == 0
    assert held(path, kind) == sent


def held(path, kind):
    """What a backend has, as lines, oldest first."""
    if kind == "file":
        return lines_of(path)
    done = subprocess.run([*COMMAND, "query", "--store", str(path), "--json"],
                          cwd=ROOT, capture_output=True)
    return done.stdout.splitlines(keepends=True)


def test_a_full_disk_under_the_dead_letters(start_sidecar, small_disk, tmp_path):
    """They wait as long as there is room in memory; nothing else is held up."""
    config = file_config(tmp_path, data_dir=str(small_disk.path / "data"), journal={"enabled": False},
                         unix={"path": str(tmp_path / "sock")})
    sidecar = start_sidecar(config=config)
    small_disk.fill()
    sidecar.send(b"rubbish\n" * 10 + frame(1))
    eventually(lambda: lines_of(tmp_path / "out.jsonl") == [frame(1)])
    assert sidecar.total("sidecar_messages_rejected_total") == 10
    small_disk.free()
    letters = small_disk.path / "data" / "dead-letters.jsonl"
    eventually(lambda: len(lines_of(letters)) == 10)
    assert sidecar.total("sidecar_dead_letters_total", outcome="written") == 10


def test_a_disk_that_hangs_under_a_backend(start_sidecar, disk, tmp_path):
    """Nobody else waits for it; when it works again all lines are there, once and whole."""
    config = file_config(tmp_path, shutdown_timeout=1)
    out = disk.path / "out.jsonl"
    config["backends"]["hangs"] = {"type": "file", "path": str(out), "timeout": 0.2,
                                   "rotate": {"max_bytes": 0}}
    sidecar = start_sidecar(config=config)
    sock, lines, _ = opened(sidecar, "s")
    with sock:
        sock.sendall(numbered(1))
        eventually(lambda: numbers_of(out) == [1])
        disk.freeze()
        for q in range(2, 301):
            sock.sendall(numbered(q))
            if q % 50 == 0:
                assert acked(lines, q) == "disk"
        eventually(lambda: len(lines_of(tmp_path / "out.jsonl")) == 300)
        assert eventually(lambda: health(sidecar)["backends"]["hangs"].get("hanging_for_s"))
        disk.thaw()
        eventually(lambda: len(lines_of(out)) == 300)
        assert health(sidecar)["backends"]["hangs"]["status"] == "ok"
    for path in (out, tmp_path / "out.jsonl"):
        assert numbers_of(path) == list(range(1, 301))


def test_a_stop_while_the_disk_under_a_backend_hangs(start_sidecar, disk, tmp_path):
    """It keeps to its deadline. (The process itself cannot end before the thaw, nor can the write
    that hangs be taken back, so this one batch may come again.)"""
    config = file_config(tmp_path, shutdown_timeout=1)
    out = disk.path / "out.jsonl"
    config["backends"]["hangs"] = {"type": "file", "path": str(out), "rotate": {"max_bytes": 0}}
    sidecar = start_sidecar(config=config)
    sidecar.send(b"".join(unnumbered(1, 1)))
    eventually(lambda: numbers_of(out) == [1])
    disk.freeze()
    sidecar.send(b"".join(unnumbered(2, 300)))
    eventually(lambda: len(lines_of(tmp_path / "out.jsonl")) == 300)
    sidecar.process.terminate()
    eventually(lambda: not sidecar.ready_file.exists(), "the end of the sidecar")
    disk.thaw()
    assert sidecar.stop()[0] == 0
    start_sidecar(config=config)
    eventually(lambda: len(set(numbers_of(out))) == 300, "what had hung")
    assert list(dict.fromkeys(numbers_of(out))) == list(range(1, 301))
    assert numbers_of(tmp_path / "out.jsonl") == list(range(1, 301)), "and nothing twice"


# -- deleted, replaced ---------------------------------------------------------------------------


def test_a_deleted_data_folder(start_sidecar, tmp_path):
    """The journal is written again where it was, so that a crash right after loses nothing."""
    config = file_config(tmp_path, unix={"path": str(tmp_path / "sock")})
    config["backends"]["out"]["path"] = str(tmp_path / "blocked" / "out.jsonl")
    (tmp_path / "blocked").write_text("")
    sidecar = start_sidecar(config=config)
    sock, lines, _ = opened(sidecar, "s")
    with sock:
        sock.sendall(numbered(1))
        assert acked(lines, 1) == "disk"
        shutil.rmtree(tmp_path / "data")
        for q in range(2, 5):
            sock.sendall(numbered(q))
            assert acked(lines, q) == "disk"
        (tmp_path / "second").mkdir()
        with pytest.raises(AssertionError, match="another sidecar uses it"):
            SidecarProcess(tmp_path / "second", config=config)
        sidecar.process.kill()
        sidecar.process.wait()
    (tmp_path / "blocked").unlink()
    start_sidecar(config=config)
    out = tmp_path / "blocked" / "out.jsonl"
    eventually(lambda: len(lines_of(out)) == 4)
    assert [number_of(line) for line in lines_of(out)] == [1, 2, 3, 4]


def test_a_deleted_folder_of_a_backend(start_sidecar, tmp_path):
    config = file_config(tmp_path)
    config["backends"]["out"]["path"] = str(tmp_path / "gone" / "out.jsonl")
    sidecar = start_sidecar(config=config)
    sidecar.send(frame(1))
    eventually(lambda: len(lines_of(tmp_path / "gone" / "out.jsonl")) == 1)
    shutil.rmtree(tmp_path / "gone")
    sidecar.send(frame(2))

    def seen():
        sidecar.send(frame(3))
        return frame(3) in lines_of(tmp_path / "gone" / "out.jsonl")

    eventually(seen, "a file in a folder that was made again")


def test_a_disk_that_hangs_delays_no_other_backend_and_no_stop(start_sidecar, tmp_path):
    """Opening a FIFO that nobody reads hangs as a NAS does. What it has not is in the journal."""
    os.mkfifo(tmp_path / "hangs")
    config = file_config(tmp_path, shutdown_timeout=1)
    config["backends"]["hangs"] = {"type": "file", "path": str(tmp_path / "hangs")}
    sidecar = start_sidecar(config=config)
    sock, lines, _ = opened(sidecar, "s")
    with sock:
        for q in range(1, 301):
            sock.sendall(numbered(q))
        assert acked(lines, 300) == "disk"
    eventually(lambda: len(lines_of(tmp_path / "out.jsonl")) == 300)
    assert sidecar.stop()[0] == 0
    (tmp_path / "hangs").unlink()
    sidecar = start_sidecar(config=config)
    eventually(lambda: len(lines_of(tmp_path / "hangs")) == 300, "what had hung")
    assert len(lines_of(tmp_path / "out.jsonl")) == 300, "and nothing twice"


def test_two_sidecars_on_one_folder(start_sidecar, tmp_path):
    config = file_config(tmp_path)
    sidecar = start_sidecar(config=config)
    (tmp_path / "second").mkdir()
    with pytest.raises(AssertionError, match="another sidecar uses it"):
        SidecarProcess(tmp_path / "second", config=config)
    sock, lines, _ = opened(sidecar, "s")
    with sock:
        sock.sendall(numbered(1))
        assert acked(lines, 1) == "disk"


def test_a_journal_that_cannot_be_read_at_the_start(start_sidecar, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "journal.db").write_bytes(os.urandom(100_000))
    sidecar = start_sidecar(config=file_config(tmp_path))
    assert pathlib.Path(health(sidecar)["journal"]["quarantined"]).stat().st_size == 100_000
    sock, lines, welcome = opened(sidecar, "s")
    with sock:
        assert welcome["level"] == "disk"
        sock.sendall(numbered(1))
        assert acked(lines, 1) == "disk"


def test_the_package_replaced_while_it_runs(tmp_path):
    """An upgrade overwrites its files: a traceback shows what it can, and nothing ends."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "wafermon", copy / "wafermon", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "run").mkdir()
    config = file_config(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    ready = tmp_path / "ready.json"
    process = subprocess.Popen(
        [sys.executable, "-c", _FAILING, "run", "--config", str(path), "--ready-file", str(ready)],
        cwd=copy, env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        stderr=subprocess.PIPE)
    try:
        eventually(lambda: ready.exists() or process.poll() is not None, "readiness")
        for file in copy.rglob("*.py"):
            file.write_text("this is of another version (\n" * 3)
        sidecar = Addressed(json.loads(ready.read_text()))
        sidecar.send(frame(1))
        eventually(lambda: len(lines_of(tmp_path / "out.jsonl")) == 1)
        assert json.loads(sidecar.get("/health"))["status"] in ("ok", "degraded")
        sock, lines, _ = opened(sidecar, "s")
        with sock:
            sock.sendall(numbered(1))
            assert acked(lines, 1) == "disk"
    finally:
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err.decode()
    assert b"ZeroDivisionError" in err and b"Traceback" in err


class Addressed(SidecarProcess):
    """One that somebody else has started."""

    def __init__(self, ready):
        self.ready = ready
        host, _, port = ready["tcp"].rpartition(":")
        self.tcp = (host, int(port))


#: `wafermon run` whose backend fails once in a way that nobody has foreseen.
_FAILING = """
import sys
from wafermon.backends import FileBackend
from wafermon.cli import main
write, failures = FileBackend.write, [0]
def failing(self, batch):
    failures[0] += 1
    if failures[0] == 1:
        1 / 0
    write(self, batch)
FileBackend.write = failing
sys.exit(main(sys.argv[1:]))
"""

