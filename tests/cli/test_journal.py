"""`wafermon journal`: what is in there, beside a running sidecar too."""

import json
import os
import shlex
import sqlite3
import subprocess
from contextlib import closing

import pytest
from raw import file_config, number_of, numbered, opened
from support import COMMAND, ROOT, eventually

from wafermon.delivery import Journal
from wafermon.message import Batch
from wafermon.testing import frames


def journal(action, path, *more):
    where = "--file" if path.is_file() else "--data"
    return subprocess.run([*COMMAND, "journal", action, where, str(path), *more],
                          cwd=ROOT, timeout=60, capture_output=True)


@pytest.fixture
def made(tmp_path):
    """A journal of 30 messages in 10 batches, of which one route has 6 and the other none."""
    log = Journal(str(tmp_path / "journal.db"))
    log.open()
    for n in range(10):
        batch = Batch(b"".join(frames(3, first=3 * n)), received_ms=1_700_000_000_000 + n)
        batch.marks = [("a\ns", n)]
        log.append(batch)
    log.positions = lambda: {"archive": 6, "store": 0}
    log.commit()
    log.close()
    return tmp_path


def test_status(made):
    found = json.loads(journal("status", made, "--json").stdout)
    assert found["messages"] == 30 and found["sessions"] == 1
    assert found["bytes"] == len(b"".join(frames(30, first=0)))
    assert found["routes"] == {"archive": {"cursor": 6, "behind": 12}, "store": {"cursor": 0, "behind": 30}}
    assert found["oldest_ms"] == 1_700_000_000_000
    text = journal("status", made).stdout.decode()
    assert "30 in" in text and "archive: 12 messages behind" in text


def test_export(made):
    assert journal("export", made).stdout == b"".join(frames(30, first=0))
    assert journal("export", made, "--route", "archive").stdout == b"".join(frames(12, first=18))
    done = journal("export", made, "--route", "none")
    assert done.returncode == 1 and b"knows no route 'none'" in done.stderr and done.stdout == b""


def test_check(made):
    done = journal("check", made)
    assert (done.returncode, done.stdout) == (0, b"ok: 30 messages\n")
    with closing(sqlite3.connect(made / "journal.db")) as db, db:
        db.execute("UPDATE batches SET raw = replace(raw, '\"v\"', 'v')")
    done = journal("check", made)
    assert done.returncode == 1 and b"batch 10" in done.stderr


def test_what_was_altered_is_told(made):
    with closing(sqlite3.connect(made / "journal.db")) as db, db:
        db.execute("UPDATE batches SET raw = CAST(replace(raw, 'event', 'metric') AS BLOB)")
    done = journal("check", made)
    assert done.returncode == 1 and b"batch 10: not what was written" in done.stderr


@pytest.fixture
def quarantined(tmp_path):
    """A file in quarantine that has lost some pages, and its messages."""
    log = Journal(str(tmp_path / "journal.db"))
    log.open()
    for n in range(400):
        log.append(Batch(frames(1, first=n, pad="x" * 1000)[0]))
        log.commit()
    log.close()
    with open(tmp_path / "journal.db", "r+b") as file:
        file.seek(os.stat(file.name).st_size // 2 // 16384 * 16384)
        file.write(bytes(5 * 16384))
    log = Journal(str(tmp_path / "journal.db"))
    log.open()
    log.close()
    [path] = (tmp_path / "quarantine").iterdir()
    return path, frames(400, first=0, pad="x" * 1000)


def test_a_file_in_quarantine_can_be_looked_into(quarantined, tmp_path):
    path, sent = quarantined
    done = journal("export", path)
    got = done.stdout.splitlines(keepends=True)
    lost = [line for line in sent if line not in set(got)]
    assert 5 < len(lost) < 200 and got == [line for line in sent if line not in set(lost)]
    told = b"at least %d messages cannot be read" % len(lost)
    assert done.returncode == 1 and told in done.stderr
    done = journal("check", path)
    assert done.returncode == 1 and told in done.stderr
    done = journal("status", path, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and (found["messages"], found["lost"]) == (len(got), len(lost))
    assert b"%d in" % len(got) in journal("status", path).stdout
    assert journal("export", tmp_path).stdout.splitlines(keepends=True) == got, "and it went on"
    assert os.listdir(path.parent) == [path.name], "looking leaves nothing behind"
    assert journal("compact", path).returncode == 1


def test_an_export_that_nobody_reads_holds_no_snapshot(tmp_path):
    """The WAL is used again and again, as it is without."""
    log = Journal(str(tmp_path / "journal.db"))
    log.open()
    line = frames(1, pad="x" * 100_000)[0]
    for _ in range(40):
        log.append(Batch(line))
        log.commit()
    log.positions = lambda: {"a": max(0, log.assigned - 40)}
    export = subprocess.Popen([*COMMAND, "journal", "export", "--data", str(tmp_path)],
                              cwd=ROOT, stdout=subprocess.PIPE)
    with export:
        assert export.stdout.read(1)
        for _ in range(400):
            log.append(Batch(line))
            log.commit()
        assert os.stat(tmp_path / "journal.db-wal").st_size < 20_000_000
        assert set((export.stdout.read()).splitlines()) <= {line[1:-1], line[:-1]}
    assert export.returncode == 0
    log.close()


def test_compact_gives_space_back(made):
    path = made / "journal.db"
    log = Journal(str(path))
    log.open()
    log.append(Batch(b"".join(frames(1, pad="x" * 5_000_000))))
    log.commit()
    log.positions = lambda: {"store": log.assigned}
    log.close()
    before = path.stat().st_size
    assert journal("compact", made).returncode == 0
    assert path.stat().st_size < before / 10


@pytest.mark.parametrize("action", ["status", "export", "check", "compact"])
def test_where_there_is_none(tmp_path, action):
    done = journal(action, tmp_path)
    assert done.returncode == 1 and b"No such file" in done.stderr and done.stderr.count(b"\n") == 1
    (tmp_path / "journal.db").write_bytes(os.urandom(50_000))
    done = journal(action, tmp_path)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1


def test_export_into_a_pipe_that_ends(made):
    done = subprocess.run(f"{shlex.join(COMMAND)} journal export --data {made} | head -1", shell=True,
                          cwd=ROOT, capture_output=True, timeout=60)
    assert done.stdout == frames(1, first=0)[0] and done.stderr == b""


def test_beside_a_running_sidecar(start_sidecar, tmp_path):
    """Looking changes nothing, whatever is asked, and compacting is refused."""
    config = file_config(tmp_path, shutdown_timeout=0.5)
    (tmp_path / "blocked").write_text("")
    config["backends"]["out"]["path"] = str(tmp_path / "blocked" / "out.jsonl")
    sidecar = start_sidecar(config=config)
    data = tmp_path / "data"
    sock, lines, _ = opened(sidecar, "s")
    with sock:
        for q in range(1, 31):
            sock.sendall(numbered(q))
            while lines.next()["q"] < q:
                pass
            if q % 10 == 0:
                found = json.loads(journal("status", data, "--json").stdout)
                assert found["messages"] == q
                exported = journal("export", data, "--route", "out").stdout.splitlines()
                assert [number_of(line) for line in exported] == list(range(1, q + 1))
                assert journal("check", data).stdout == b"ok: %d messages\n" % q
        done = journal("compact", data)
        assert done.returncode == 1 and b"another sidecar uses it" in done.stderr
    sidecar.stop()
    assert journal("compact", data).returncode == 0
    (tmp_path / "blocked").unlink()
    sidecar = start_sidecar(config=config)
    out = tmp_path / "blocked" / "out.jsonl"
    eventually(lambda: out.exists() and len(out.read_bytes().splitlines()) == 30)
