"""Disks that fail: full, read-only, deleted, hung. Real causes where one can be made."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from raw import file_config, number_of, numbered, opened
from support import ROOT, SidecarProcess, eventually

from wafermon.testing import frame, frames

pytestmark = pytest.mark.slow

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
                      capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)])


def health(sidecar):
    return json.loads(sidecar.get("/health"))


def acked(lines, q):
    """Wait for the receipt of q; the level it says."""
    while True:
        line = lines.next()
        if line["q"] >= q:
            return line["level"]


def fill(path):
    """Take all the room there is."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


@as_root
def test_a_full_disk_under_the_journal(start_sidecar, small_disk, tmp_path):
    """It goes on from memory, every receipt says so, /health says why; with room it recovers by
    itself; a route that could not deliver meanwhile has missed nothing."""
    config = file_config(tmp_path, data_dir=str(small_disk / "data"),
                         buffers={"max_queue_size": 50}, unix={"path": str(tmp_path / "sock")})
    (tmp_path / "blocked").write_text("")
    config["backends"]["lags"] = {"type": "file", "path": str(tmp_path / "blocked" / "x")}
    sidecar = start_sidecar(config=config)
    sock, lines, _ = opened(sidecar, "s")
    q = 1
    sock.sendall(numbered(q))
    assert acked(lines, q) == "disk"
    fill(small_disk / "filler")
    level = "disk"
    while level == "disk":  # what SQLite has taken before lasts for a while
        q += 1
        sock.sendall(numbered(q, pad="x" * 20_000))
        level = acked(lines, q)
        assert q < 1000
    assert level == "memory"
    found = health(sidecar)
    assert found["status"] == "degraded" and found["journal"]["receipts"] == "memory"
    assert "full" in found["journal"]["error"]
    assert sidecar.total("sidecar_journal_up") == 0
    held = q
    for _ in range(100):  # more than what a route that blocks may hold, so that reading pauses
        q += 1
        sock.sendall(numbered(q))
    eventually(lambda: len(lines_of(tmp_path / "out.jsonl")) >= held)
    (small_disk / "filler").unlink()
    eventually(lambda: health(sidecar)["journal"]["status"] == "ok")
    q += 1
    sock.sendall(numbered(q))
    assert acked(lines, q) == "disk"
    sock.close()
    assert health(sidecar)["journal"]["receipts"] == "disk"
    (tmp_path / "blocked").unlink()
    eventually(lambda: len(lines_of(tmp_path / "blocked" / "x")) == q, "all in the route that lagged")
    for path in (tmp_path / "out.jsonl", tmp_path / "blocked" / "x"):
        assert [number_of(line) for line in lines_of(path)] == list(range(1, q + 1))
    sidecar.check_conservation()


@as_root
@pytest.mark.parametrize("fault", ["ENOSPC", "EROFS"])
def test_a_backend_on_a_disk_that_fails(start_sidecar, small_disk, tmp_path, fault):
    """It is down and says why; when the disk is well again, everything is there once."""
    config = file_config(tmp_path)
    out = small_disk / "out.jsonl"
    config["backends"]["out"]["path"] = str(out)
    if fault == "EROFS":
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    sidecar = start_sidecar(config=config)
    sent = frames(2, pad="x" * 30_000)
    if fault == "ENOSPC":
        sidecar.send(sent[0])
        eventually(lambda: lines_of(out) == sent[:1])
        fill(small_disk / "filler")
        sidecar.send(sent[1])
    else:
        sidecar.send(b"".join(sent))
    eventually(lambda: health(sidecar)["backends"]["out"]["status"] == "down")
    assert fault in health(sidecar)["backends"]["out"]["error"]
    if fault == "ENOSPC":
        (small_disk / "filler").unlink()
    else:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    eventually(lambda: lines_of(out) == sent)
    eventually(lambda: health(sidecar)["backends"]["out"]["status"] == "ok")


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

