"""The journal: group commits, receipts that are true, and every way its file can fail."""

import errno
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest
from support import ROOT, eventually

from wafermon.delivery.journal import DISK, MEMORY, PENDING_BYTES, Journal
from wafermon.delivery.journal_database import SCHEMA_VERSION
from wafermon.delivery.journal_file import Commit, JournalFile
from wafermon.errors import JournalError
from wafermon.message import Batch
from wafermon.testing import FakeClock, frames, open_descriptors
from wafermon.wire.sessions import MAX_SESSIONS, TTL_SECONDS


def batch(count=1, first=1, mark=None, pad=0):
    made = Batch(b"".join(frames(count, first=first, pad="x" * pad)))
    made.marks = [mark] if mark else []
    return made


def raw(journal, after=0):
    """All that can be read back after a number, as lines."""
    lines = []
    while found := journal.read(after):
        assert [entry.seq for entry in found] == sorted({entry.seq for entry in found})
        assert found[0].seq > after
        lines += b"".join(entry.batch.raw for entry in found).splitlines(keepends=True)
        after = found[-1].seq
    return lines


def sql(path, query, *arguments):
    with closing(sqlite3.connect(path)) as db, db:
        return db.execute(query, arguments).fetchall()


class Kit:
    """A journal that is committed by hand, with what it told about it."""

    def __init__(self, folder, **settings):
        self.path = str(folder / "journal.db")
        self.positions = {}
        self.settings = settings
        self.journal = None
        self.open()

    def open(self):
        if self.journal is not None:
            self.journal.close()
        self.told = []
        self.journal = Journal(self.path, **self.settings)
        self.journal.positions = lambda: self.positions
        self.journal.on_committed = lambda seq, level: self.told.append((seq, level))
        self.journal.open()
        return self.journal


@pytest.fixture
def kit(tmp_path):
    kit = Kit(tmp_path)
    yield kit
    kit.journal.close()


def retried_now(journal):
    """Let the next commit try the file again, without the wait between two tries."""
    journal._retry_at = 0.0


# -- what is committed ---------------------------------------------------------------------------


def test_what_waits_is_one_transaction_and_comes_back_batch_by_batch(kit):
    sent = [batch(n, first=10 * n) for n in (1, 3, 2)]
    assert [kit.journal.append(b) for b in sent] == [1, 2, 3]
    assert kit.journal.read(0) == [] and kit.journal.committed == 0, "nothing before the commit"
    kit.journal.commit()
    assert (kit.journal.commits, kit.told) == (1, [(3, DISK)])
    for after in range(4):
        found = kit.journal.read(after)
        assert [(e.seq, e.batch.raw) for e in found] == [(b.seq, b.raw) for b in sent[after:]]
    [(seq, counts)] = sql(kit.path, "SELECT seq, counts FROM batches")
    assert (seq, counts.split()[0]) == (3, "1,3,2")


def test_a_row_is_bounded_and_reading_is_too(kit):
    for n in range(40):
        kit.journal.append(batch(1, first=n, pad=100_000))
    kit.journal.commit()
    assert len(sql(kit.path, "SELECT seq FROM batches")) > 3
    found = kit.journal.read(0, limit_bytes=250_000)
    assert [entry.seq for entry in found] == [1, 2, 3]
    assert len(raw(kit.journal)) == 40


def test_gaps_in_the_numbers_begin_a_row(tmp_path):
    file = JournalFile(str(tmp_path / "journal.db"))
    file.open()
    sent = []
    for seq in (1, 2, 5, 6, 9):
        sent.append(batch(2, first=seq))
        sent[-1].seq = seq
    file.write(Commit(sent, {}, {}, done=0))
    assert [entry.seq for entry in file.read(0)] == [1, 2, 5, 6, 9]
    assert [entry.seq for entry in file.read(5)] == [6, 9]
    assert [entry.batch.raw for entry in file.read(0)] == [b.raw for b in sent]
    file.close()


def test_a_mark_is_in_the_transaction_of_its_frames(kit):
    """Whatever a reader sees, it sees both or neither."""
    stop = threading.Event()
    seen = []

    def look():
        with closing(sqlite3.connect(kit.path, timeout=10)) as db:
            while not stop.is_set():
                db.execute("BEGIN")
                rows = db.execute("SELECT coalesce(sum(length(counts) - length(replace(counts, ',', ''))"
                                  " + 1), 0) FROM batches").fetchone()[0]
                marks = dict(db.execute("SELECT key, q FROM sessions"))
                db.execute("COMMIT")
                seen.append((rows, marks.get("s", 0)))

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for q in range(1, 200):
            kit.journal.append(batch(1, first=q, mark=("s", q)))
            kit.journal.commit()
    finally:
        stop.set()
        reader.join()
    assert all(rows == q for rows, q in seen), "a mark without its frames, or the other way round"
    assert kit.open().marks["s"][0] == 199


def test_marks_and_cursors_survive_and_numbers_go_on(kit):
    kit.journal.append(batch(mark=("a\nx", 7)))
    kit.journal.append(batch(mark=("a\nx", 9)))
    kit.journal.append(batch(mark=("b\ny", 1)))
    kit.journal.forget("b\ny")
    kit.positions = {"file": 2, "store": 1}
    journal = kit.open()
    assert {key: q for key, (q, _) in journal.marks.items()} == {"a\nx": 9}
    assert journal.cursors == {"file": 2, "store": 1}
    assert journal.append(batch()) == 4
    kit.positions = {"file": 4, "store": 4}
    journal.commit()
    assert kit.open().append(batch()) == 5, "even where nothing is left of those before"


def test_a_mark_alone_is_committed(kit):
    empty = Batch()
    empty.marks = [("s", 5)]
    assert kit.journal.append(empty) == 1, "its receipt waits for the commit"
    kit.journal.commit()
    assert kit.open().marks["s"][0] == 5


def test_what_all_routes_have_is_deleted(kit):
    kit.positions = {"fast": 0, "slow": 0}
    for n in range(1, 6):
        kit.journal.append(batch(first=n))
        kit.journal.commit()
    kit.positions = {"fast": 5, "slow": 3}
    kit.journal.commit()
    assert [entry.seq for entry in kit.journal.read(0)] == [4, 5]
    assert kit.journal.bytes == 2 * len(batch().raw)
    kit.positions = {"fast": 5, "slow": 5}
    kit.journal.commit()
    assert kit.journal.read(0) == [] and kit.journal.bytes == 0
    assert sql(kit.path, "SELECT route, seq FROM cursors ORDER BY route") == [("fast", 5), ("slow", 5)]


def test_a_row_is_kept_while_one_of_its_batches_is_needed(kit):
    for n in range(1, 4):
        kit.journal.append(batch(first=n))
    kit.journal.commit()
    kit.positions = {"a": 2}
    kit.journal.commit()
    assert [entry.seq for entry in kit.journal.read(2)] == [3]
    assert kit.open().cursors == {"a": 2}


def test_nothing_to_do_is_no_commit(kit):
    kit.positions = {"a": 0}
    kit.journal.commit()
    before, told = kit.journal.commits, len(kit.told)
    kit.journal.commit()
    assert (kit.journal.commits, len(kit.told)) == (before, told)


def test_reading_beside_commits(kit):
    """One thread commits, another follows: it sees everything once, in order."""
    kit.journal.start()
    seen = []

    def follow():
        after = 0
        while len(seen) < 2000:
            for entry in kit.journal.read(after, 4096):
                seen.append(entry.batch.raw)
                after = entry.seq

    reader = threading.Thread(target=follow)
    reader.start()
    sent = [batch(first=n).raw for n in range(2000)]
    for line in sent:
        kit.journal.append(Batch(line))
    reader.join(30)
    assert seen == sent


# -- its bounds ----------------------------------------------------------------------------------


def test_full_blocks_until_a_route_has_come_on(tmp_path):
    kit = Kit(tmp_path, max_bytes=10_000)
    kit.positions = {"a": 0}
    while not kit.journal.is_full:
        kit.journal.append(batch(10))
        kit.journal.commit()
    assert 10_000 < kit.journal.bytes < 12_000 and not kit.journal.is_low
    kit.positions = {"a": kit.journal.assigned // 2}
    kit.journal.commit()
    assert kit.journal.is_low and not kit.journal.is_full
    assert kit.journal.dropped_messages == 0
    kit.journal.close()


def test_drop_oldest_drops_and_counts(tmp_path):
    kit = Kit(tmp_path, max_bytes=10_000, drop_oldest=True)
    kit.positions = {"a": 0}
    for n in range(100):
        kit.journal.append(batch(10, first=10 * n))
        kit.journal.commit()
        assert not kit.journal.is_full and kit.journal.is_low
        assert kit.journal.bytes <= 10_000
    left = raw(kit.journal)
    assert left == frames(1000, first=0, pad="")[-len(left):], "the newest stay, in order"
    assert len(left) + kit.journal.dropped_messages == 1000
    kit.journal.close()


def test_what_waits_for_a_commit_is_bounded(kit):
    while not kit.journal.is_full:
        kit.journal.append(batch(1, pad=1_000_000))
    assert kit.journal.assigned <= PENDING_BYTES // 1_000_000 + 2
    kit.journal.commit()
    assert kit.journal.is_low


def test_sessions_are_bounded_at_open(tmp_path):
    clock = FakeClock()
    kit = Kit(tmp_path, clock=clock)
    kit.journal.append(batch(mark=("old", 1)))
    kit.journal.commit()
    clock.advance(TTL_SECONDS)
    for n in range(MAX_SESSIONS + 5):
        empty = Batch()
        empty.marks = [(f"s{n}", n)]
        clock.advance(0.001)
        kit.journal.append(empty)
        if n % 1000 == 0 or n < 10:
            kit.journal.commit()
    clock.advance(1)
    journal = kit.open()
    assert len(journal.marks) == MAX_SESSIONS and "old" not in journal.marks
    assert "s0" not in journal.marks and f"s{MAX_SESSIONS + 4}" in journal.marks
    journal.commit()
    assert sql(kit.path, "SELECT count(*) FROM sessions") == [(MAX_SESSIONS,)]
    kit.journal.close()


# -- files that cannot be used -------------------------------------------------------------------


def journal_of(path, messages=200):
    journal = Journal(str(path))
    journal.open()
    for n in range(messages):
        journal.append(batch(first=n, pad=1000))
        journal.commit()
    journal.close()
    assert not os.path.exists(f"{path}-wal")


def truncated(path):
    journal_of(path)
    os.truncate(path, 50_000)


def torn_in_the_first_page(path):
    journal_of(path)
    os.truncate(path, 700)


def of_zeros(path):
    journal_of(path)
    path.write_bytes(bytes(path.stat().st_size))


def of_a_newer_version(path):
    journal_of(path)
    sql(path, f"PRAGMA user_version={SCHEMA_VERSION + 1}")


def of_another_program(path):
    sql(path, "CREATE TABLE batches(something TEXT)")


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.write_bytes(b"garbage" * 5000), truncated, torn_in_the_first_page, of_zeros,
     of_a_newer_version, of_another_program],
    ids=["garbage", "truncated", "first page", "zeros", "newer", "other"],
)
def test_a_file_that_cannot_be_used_is_set_aside(tmp_path, spoil, caplog):
    path = tmp_path / "journal.db"
    spoil(path)
    before = path.read_bytes()
    kit = Kit(tmp_path)
    kept = pathlib.Path(kit.journal.quarantined)
    assert kept.parent == tmp_path / "quarantine"
    assert kept.read_bytes()[100:] == before[100:] or spoil is of_another_program
    assert str(kept) in caplog.text and str(path) in caplog.text
    kit.journal.append(batch())
    kit.journal.commit()
    assert kit.told == [(1, DISK)] and len(raw(kit.open())) == 1
    assert kit.journal.quarantined is None
    kit.journal.close()


def test_two_in_a_row_are_both_kept(tmp_path):
    clock = FakeClock()
    for _ in range(2):
        (tmp_path / "journal.db").write_bytes(b"garbage" * 5000)
        Kit(tmp_path, clock=clock).journal.close()
    assert len(list((tmp_path / "quarantine").iterdir())) == 2


def test_a_damage_that_shows_later_is_set_aside_then(kit, tmp_path):
    """A page in the middle is lost while it runs: what comes is safe again after one retry."""
    kit.positions = {"a": 0}
    for n in range(300):
        kit.journal.append(batch(first=n, pad=1000))
        kit.journal.commit()
    kit.open()
    with open(kit.path, "r+b") as file:
        size = os.stat(kit.path).st_size
        for at in range(16384, size, 16384):
            file.seek(at)
            file.write(b"\xff" * 4096)
    kit.journal._file._db.execute("PRAGMA shrink_memory")  # it has the pages in memory, too
    kit.positions = {"a": 250}
    kit.journal.append(batch(first=1000))
    kit.journal.commit()
    assert kit.told[-1][1] == MEMORY and kit.journal.error
    retried_now(kit.journal)
    kit.journal.append(batch(first=1001))
    kit.journal.commit()
    assert kit.told[-1][1] == DISK and kit.journal.quarantined and kit.journal.error is None
    assert raw(kit.journal) == [batch(first=n).raw for n in (1000, 1001)]
    assert kit.open().cursors == {"a": 250}


def zeroed(path, pages):
    """Lose some pages in the middle of a file."""
    with open(path, "r+b") as file:
        file.seek(os.stat(path).st_size // 2 // 16384 * 16384)
        file.write(bytes(16384 * pages))


def test_a_damage_that_a_reader_finds_is_set_aside_and_the_rest_goes_on(kit, caplog):
    """Rows around the lost pages, marks and cursors stay; what is lost is counted and told."""
    kit.positions = {"a": 2}
    for n in range(1, 301):
        kit.journal.append(batch(2, first=2 * n, mark=("s", n), pad=1000))
        kit.journal.commit()
    kit.open()
    before = raw(kit.journal)
    zeroed(kit.path, 3)
    kit.journal._file._reader.execute("PRAGMA shrink_memory")
    good = kit.journal.read(0, 1)
    assert good[0].seq == 3, "what comes before is read"
    with pytest.raises(JournalError, match="malformed"):
        raw(kit.journal)
    kit.journal.append(batch(first=1000))
    kit.journal.commit()
    assert kit.told[-1] == (301, DISK) and kit.journal.error is None, "at once"
    left = raw(kit.journal)
    lost = [line for line in before if line not in set(left)]
    assert 10 < len(lost) < 100 and lost == before[before.index(lost[0]) :][: len(lost)]
    assert left[-1] == batch(first=1000).raw
    assert len(lost) // 2 <= kit.journal.lost_messages <= len(lost), "a batch is one at the least"
    assert kit.journal.quarantined in caplog.text and kit.journal.damaged_to == 301
    again = kit.open()
    assert again.cursors == {"a": 2} and again.marks["s"][0] == 300 and raw(again) == left


def test_lost_cursors_are_no_reason_to_lose_messages(kit):
    """Rather again than never; of sessions the last number is known on."""
    kit.positions = {"a": 5}
    for n in range(1, 11):
        kit.journal.append(batch(first=n, mark=("s", n)))
        kit.journal.commit()
    kit.journal.close()
    root = sql(kit.path, "SELECT rootpage FROM sqlite_master WHERE name = 'cursors'")[0][0]
    with open(kit.path, "r+b") as file:
        file.seek((root - 1) * 16384)
        file.write(bytes(16384))
    journal = kit.open()
    assert journal.quarantined and journal.cursors == {} and journal.cursor("a", 10) == 0
    assert len(raw(journal)) == 5 and journal.marks["s"][0] == 10 and journal.lost_messages == 0
    journal.commit()
    assert kit.open().cursor("new", 10) == 10


@pytest.mark.parametrize("alter, seqs", [
    ("raw = CAST(replace(CAST(raw AS TEXT), '\"7\"', '\"8\"') AS BLOB)", [1, 2]),
    ("raw = CAST(replace(CAST(raw AS TEXT), '}' || char(10), '}}') AS BLOB)", [2]),
    ("counts = replace(counts, '1,2', '2,1')", [1, 2]),
    ("counts = replace(counts, '1,2', '1,x')", [2]),
    ("counts = x'ff'", [2]),
    ("raw = 'text'", [2]),
    ("received_ms = 'text', raw = ''", [2]),
])
def test_a_row_that_was_altered_is_not_trusted(kit, alter, seqs):
    kit.journal.append(batch(first=7))
    kit.journal.append(batch(2, first=8))
    kit.journal.commit()
    assert [entry.is_sure for entry in kit.journal.read(0)] == [True, True]
    sql(kit.path, f"UPDATE batches SET {alter}")
    found = kit.journal.read(0)
    assert [(entry.seq, entry.is_sure) for entry in found] == [(seq, False) for seq in seqs]
    assert all(entry.batch.raw.endswith(b"\n") for entry in found)


def test_a_journal_of_the_first_version_goes_on(kit):
    """Its rows have no checksum, which is no damage."""
    kit.journal.append(batch(3))
    kit.journal.commit()
    kit.journal.close()
    sql(kit.path, "UPDATE batches SET counts = '3'")
    sql(kit.path, "PRAGMA user_version=1")
    journal = kit.open()
    assert journal.quarantined is None and sql(kit.path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert [(e.is_sure, e.batch.raw) for e in journal.read(0)] == [(False, batch(3).raw)]


def test_a_lock_that_somebody_else_has_by_now_keeps_it_off(tmp_path):
    """Two write to one file never, even where the lock was deleted."""
    disk = Faulty()
    disk.error = None
    kit = Kit(tmp_path, prepare=disk)
    kit.journal.append(batch(first=1))
    kit.journal.commit()
    disk.error = OSError(errno.EAGAIN, "another sidecar uses it")
    kit.journal.append(batch(first=2))
    kit.journal.commit()
    assert kit.told[-1] == (2, MEMORY) and kit.journal.error == "another sidecar uses it"
    assert sql(kit.path, "SELECT seq FROM batches") == [(1,)]
    disk.error = None
    kit.journal.close()


def test_a_folder_that_is_not_there_is_made(tmp_path):
    journal = Journal(str(tmp_path / "none" / "deep" / "journal.db"))
    journal.open()
    assert journal.error is None and (tmp_path / "none" / "deep" / "journal.db").exists()
    journal.close()


class Faulty:
    """A disk on which nothing can be opened, until it is mended."""

    def __init__(self):
        self.error = OSError(errno.EIO, "Input/output error")

    def __call__(self):
        if self.error is not None:
            raise self.error


def test_a_disk_at_fault_at_the_start_is_no_reason_to_refuse(tmp_path, caplog):
    """It begins in memory and opens by itself; the file keeps what it had, and its numbers."""
    journal_of(tmp_path / "journal.db", 3)
    disk = Faulty()
    kit = Kit(tmp_path, prepare=disk)
    journal = kit.journal
    assert journal.error == "Input/output error" and journal.failing_since is not None
    found = []
    journal.on_found = lambda: found.append(dict(journal.cursors))
    journal.on_marks = found.append
    kit.positions = {"a": 0}
    first = journal.append(batch(first=10, mark=("s", 1)))
    assert first > 10**15, "above what any file holds"
    journal.commit()
    assert kit.told == [(first, MEMORY)] and raw(journal) == [batch(first=10).raw] and not found
    disk.error = None
    retried_now(journal)
    journal.append(batch(first=11))
    journal.commit()
    assert kit.told[-1] == (first + 1, DISK) and journal.error is None and found == [{}, {}]
    assert raw(journal) == [batch(first=n, pad=1000).raw for n in range(3)] + [
        batch(first=n).raw for n in (10, 11)]
    assert not (tmp_path / "quarantine").exists() and "works again" in caplog.text
    assert len(raw(kit.open())) == 5 and kit.journal.append(batch()) == first + 2
    kit.journal.close()


def test_marks_of_a_file_that_is_found_late_are_neither_lost_nor_lowered(tmp_path):
    kit = Kit(tmp_path)
    for key, q in (("idle", 7), ("back", 9), ("on", 5), ("over", 3)):
        empty = Batch()
        empty.marks = [(key, q)]
        kit.journal.append(empty)
    kit.journal.commit()
    disk = kit.settings["prepare"] = Faulty()
    journal = kit.open()
    told = []
    journal.on_marks = told.append
    for key, q in (("back", 8), ("on", 6), ("over", 4)):  # what had no receipt is sent again
        journal.append(batch(mark=(key, q)))
    journal.forget("over")
    journal.commit()
    disk.error = None
    retried_now(journal)
    journal.commit()
    expected = {"idle": 7, "back": 9, "on": 6}
    assert dict(sql(kit.path, "SELECT key, q FROM sessions")) == expected
    assert told == [journal.marks] and journal.marks["back"][0] == 9 and "over" not in journal.marks
    kit.journal.close()


def test_numbers_ahead_of_the_clock_are_kept_apart(tmp_path):
    """The clock was set back between two starts without a disk: no number is given twice."""
    clock, disk = FakeClock(), Faulty()
    kit = Kit(tmp_path, clock=clock, prepare=disk)
    kit.positions = {"a": 0}
    kit.journal.append(batch(first=1))
    disk.error = None
    kit.journal.close()
    clock.advance(-3600)
    disk.error = OSError(errno.EIO, "Input/output error")
    journal = kit.open()
    journal.append(batch(first=2))
    disk.error = None
    retried_now(journal)
    journal.commit()
    assert kit.told[-1][1] == DISK and raw(journal) == [batch(first=2).raw]
    assert sql(journal.quarantined, "SELECT count(*) FROM batches") == [(1,)]
    journal.close()


@pytest.mark.parametrize("message", ["disk I/O error", "database or disk is full",
                                     "unable to open database file", "database is locked"])
def test_a_disk_at_fault_sets_no_good_journal_aside(tmp_path, monkeypatch, message):
    path = tmp_path / "journal.db"
    journal_of(path, 3)

    def failing(path):
        raise sqlite3.OperationalError(message)

    kit = Kit(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("wafermon.delivery.journal_file.connection", failing)
        kit.open()
        assert kit.journal.error == message
    assert not (tmp_path / "quarantine").exists()
    retried_now(kit.journal)
    kit.journal.commit()
    assert len(raw(kit.journal)) == 3 and kit.journal.error is None
    kit.journal.close()


def test_a_deleted_file_is_written_again(kit, tmp_path):
    kit.positions = {"a": 0}
    kit.journal.append(batch(first=1, mark=("s", 1)))
    kit.journal.commit()
    for name in os.listdir(tmp_path):
        (tmp_path / name).unlink()
    tmp_path.rmdir()
    before = open_descriptors()
    kit.journal.append(batch(first=2, mark=("s", 2)))
    kit.journal.commit()
    assert kit.told[-1] == (2, DISK) and open_descriptors() <= before
    assert raw(kit.journal) == [batch(first=n).raw for n in (1, 2)]
    assert raw(kit.open()) == [batch(first=n).raw for n in (1, 2)]
    assert kit.journal.marks["s"][0] == 2


def test_another_file_in_its_place_is_left_alone(kit, tmp_path):
    kit.journal.append(batch())
    kit.journal.commit()
    os.rename(kit.path, tmp_path / "moved")
    (tmp_path / "journal.db").write_bytes(b"of somebody else")
    kit.journal.append(batch())
    kit.journal.commit()
    assert kit.told[-1] == (2, MEMORY) and "in its place" in kit.journal.error
    assert (tmp_path / "journal.db").read_bytes() == b"of somebody else"
    os.rename(tmp_path / "moved", kit.path)
    retried_now(kit.journal)
    kit.journal.commit()
    assert kit.told[-1] == (2, DISK), kit.journal.error


# -- writing fails -------------------------------------------------------------------------------


def fill(journal):
    """Make SQLite itself say that the disk is full: no page more than there are now."""
    db = journal._file._db
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count={pages}")
    return lambda: db.execute("PRAGMA max_page_count=1000000")


def test_full_disk_goes_on_from_memory_and_recovers_by_itself(kit, caplog):
    kit.positions = {"up": 0, "lags": 0}
    journal = kit.journal
    journal.append(batch(first=1))
    journal.commit()
    free = fill(journal)
    for n in range(2, 12):
        journal.append(batch(first=n, pad=40_000, mark=("s", n)))
        journal.commit()
        kit.positions["up"] = n
    assert kit.told[-10:] == [(n, MEMORY) for n in range(2, 12)]
    assert "full" in journal.error and journal.failing_since is not None
    assert caplog.text.count("cannot write the journal") == 1
    assert len(raw(journal)) == 11, "a lagging route can read what only memory has"
    free()
    retried_now(journal)
    journal.commit()
    assert kit.told[-1] == (11, DISK)
    assert journal.error is None and journal.failing_since is None
    assert "works again" in caplog.text
    assert len(raw(kit.open())) == 11 and kit.journal.marks["s"][0] == 11


def test_it_is_tried_again_every_second_and_not_every_commit(kit, monkeypatch):
    tries = []

    def failing(commit):
        tries.append(commit)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(kit.journal._file, "write", failing)
    for n in range(50):
        kit.journal.append(batch(first=n))
        kit.journal.commit()
    assert len(tries) <= 2 and kit.told[-1] == (50, MEMORY)
    monkeypatch.undo()


def test_memory_keeps_only_what_a_route_still_needs(kit):
    kit.positions = {"a": 0}
    fill(kit.journal)
    for n in range(1, 101):
        kit.journal.append(batch(first=n, pad=100_000))
        kit.journal.commit()
        kit.positions = {"a": n}
    kit.journal.append(batch(first=101))
    kit.journal.commit()
    assert len(raw(kit.journal, 0)) == 1 and not kit.journal.is_full
    kit.positions = {"a": 101}
    kit.journal.commit()
    assert raw(kit.journal) == []


def test_memory_is_bounded_by_what_routes_hold_while_the_disk_is_full(kit):
    """One lags: what it has not got stays, and all that others have got goes."""
    kit.positions = {"lags": 0}
    needed = kit.journal.undelivered = lambda: [range(3, 5), range(7, 8)]
    fill(kit.journal)
    for n in range(1, 60):
        kit.journal.append(batch(first=n, pad=1_000_000))
        kit.journal.commit()
        assert not kit.journal.is_full
    assert sum(len(b.raw) for b in kit.journal._unwritten) < PENDING_BYTES + 4_000_000
    found = [entry.seq for after in (0, 3, 4) for entry in kit.journal.read(after, 1)]
    assert found == [3, 4, 7] == [seq for span in needed() for seq in span]


def test_a_commit_that_hangs_holds_no_receipt_up(kit, monkeypatch, caplog):
    hangs, write = threading.Event(), kit.journal._file.write
    begun = threading.Event()

    def hanging(commit):
        begun.set()
        assert hangs.wait(30)
        return write(commit)

    kit.positions = {"a": 0}
    monkeypatch.setattr(kit.journal._file, "write", hanging)
    monkeypatch.setattr("wafermon.delivery.journal.HANG_SECONDS", 0.05)
    monkeypatch.setattr("wafermon.delivery.journal.SLOW_SECONDS", 0.001)
    assert kit.journal.hanging_seconds == 0
    kit.journal.append(batch(first=1))
    kit.journal.start()
    assert begun.wait(30)
    kit.journal.append(batch(first=2))
    assert eventually(lambda: kit.journal.hanging_seconds)
    assert up(kit.journal) == 0 and kit.journal.error is None, "seen at once, before it is waited out"
    eventually(lambda: kit.journal.watch() or kit.told)
    assert kit.told[0] == (2, MEMORY) and kit.journal.error == "a commit hangs"
    assert raw(kit.journal) == [batch(first=n).raw for n in (1, 2)]
    kit.journal.append(batch(first=3))
    kit.journal.watch()
    assert kit.told[-1] == (3, MEMORY) and caplog.text.count("a commit hangs") == 1
    assert kit.journal.close() == 3, "and the end waits no longer"
    hangs.set()
    kit.journal._thread.join(30)
    assert kit.told[-1] == (3, DISK) and kit.journal.hanging_seconds == 0 and up(kit.journal) == 1
    assert raw(kit.open()) == [batch(first=n).raw for n in (1, 2, 3)]


def up(journal):
    [found] = [f for f in journal.collect() if f.name == "sidecar_journal_up"]
    return found.samples[0].value


def test_the_end_counts_only_what_some_route_needs(kit, monkeypatch):
    """Two routes have it all but for two batches: of a journal that cannot be written that is lost."""
    monkeypatch.setattr(kit.journal._file, "write", failing_write)
    for n in range(1, 11):
        kit.journal.append(batch(50, first=n))
    kit.positions = {"a": 10, "b": 7}
    kit.journal.undelivered = lambda: [range(8, 9), range(10, 11)]
    kit.journal.commit()
    assert kit.journal.close() == 100
    kit.positions = {"a": 10, "b": 10}
    assert kit.journal.close() == 0


def failing_write(commit):
    raise sqlite3.OperationalError("disk I/O error")


def test_a_failure_in_the_middle_leaves_nothing_behind(kit, monkeypatch):
    """Rows are in, then the marks fail: neither rows nor cursors nor counters have moved."""
    kit.positions = {"a": 0}
    kit.journal.append(batch(first=1))
    kit.journal.commit()
    held = kit.journal.bytes

    def failing(self, db, marks):
        raise sqlite3.OperationalError("disk I/O error")

    kit.positions = {"a": 1}
    with monkeypatch.context() as patch:
        patch.setattr(JournalFile, "_write_marks", failing)
        kit.journal.append(batch(first=2, mark=("s", 2)))
        kit.journal.commit()
    assert sql(kit.path, "SELECT seq FROM batches") == [(1,)]
    assert sql(kit.path, "SELECT seq FROM cursors WHERE route = 'a'") == [(0,)]
    assert kit.journal.bytes == held and kit.journal.committed_messages == 1
    retried_now(kit.journal)
    kit.journal.commit()
    assert sql(kit.path, "SELECT seq FROM batches") == [(2,)]
    assert sql(kit.path, "SELECT seq FROM cursors WHERE route = 'a'") == [(1,)]
    assert kit.open().marks["s"][0] == 2


def test_the_end_tells_what_it_could_not_write(tmp_path, monkeypatch):
    kit = Kit(tmp_path)
    kit.positions = {"a": 0}

    def failing(commit):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(kit.journal._file, "write", failing)
    kit.journal.append(batch(7))
    assert kit.journal.close() == 7 and kit.journal.close() == 7


def test_the_end_tries_once_more(tmp_path):
    kit = Kit(tmp_path)
    kit.positions = {"a": 0}
    free = fill(kit.journal)
    kit.journal.append(batch(7, pad=10_000))
    kit.journal.commit()
    assert kit.told[-1][1] == MEMORY
    free()
    assert kit.journal.close() == 0
    assert len(raw(kit.open())) == 7
    kit.journal.close()


def test_what_is_not_open_is_not_empty(kit):
    """A route that reads while the file is exchanged must not take it that nothing is there."""
    kit.journal.append(batch())
    kit.journal.commit()
    kit.journal._file.close()
    with pytest.raises(JournalError, match="not open"):
        kit.journal.read(0)
    kit.journal.append(batch())
    kit.journal.commit()
    assert len(kit.journal.read(0)) == 2


def test_a_failed_read_is_told(kit, monkeypatch):
    kit.journal.append(batch())
    kit.journal.commit()

    class Broken:
        def execute(self, *arguments):
            raise sqlite3.OperationalError("disk I/O error")

    reader = kit.journal._file._reader
    kit.journal._file._reader = Broken()
    with pytest.raises(JournalError, match="disk I/O"):
        kit.journal.read(0)
    assert "disk I/O" in kit.journal.read_error
    kit.journal._file._reader = reader
    assert len(kit.journal.read(0)) == 1 and kit.journal.read_error is None


def test_nothing_ends_its_thread(kit, monkeypatch, caplog):
    calls = []

    def failing(seq, level):
        calls.append(seq)
        raise ZeroDivisionError

    kit.journal.on_committed = failing
    kit.journal.start()
    for n in range(1, 4):
        kit.journal.append(batch(first=n))
        eventually(lambda n=n: kit.journal.committed == n)
    assert "a commit failed" in caplog.text


# -- crashes -------------------------------------------------------------------------------------

_CHILD = """
import sys
from wafermon.delivery import Journal
from wafermon.message import Batch
from wafermon.testing import frame
journal = Journal(sys.argv[1])
journal.open()
first = journal.assigned + 1
for n in range(first, first + 100_000):
    batch = Batch(frame(n, pad="x" * 500))
    batch.marks = [("s", n)]
    journal.append(batch)
    if n % 3 == 0:
        journal.commit()
        print(n, flush=True)
"""


def test_a_killed_process_leaves_what_it_had_committed(tmp_path):
    path = tmp_path / "journal.db"
    for life in range(3):
        child = subprocess.Popen([sys.executable, "-c", _CHILD, str(path)], cwd=ROOT,
                                 stdout=subprocess.PIPE, text=True)
        said = [child.stdout.readline() for _ in range(50 + 13 * life)]
        child.send_signal(signal.SIGKILL)
        said = int((said + child.communicate()[0].splitlines(keepends=True))[-1])
        journal = Journal(str(path))
        journal.open()
        assert journal.quarantined is None
        assert journal.assigned >= said, "what it said is there"
        assert journal.marks["s"][0] == journal.assigned, "a mark as far as its frames"
        lines = raw(journal)
        assert lines == frames(journal.assigned, pad="x" * 500), "all, once, in order"
        journal.close()


def test_a_file_system_without_room(small_disk):
    kit = Kit(small_disk.path)
    kit.positions = {"lags": 0}
    filler = small_disk.path / "filler"
    filler.write_bytes(b"x" * 6_700_000)
    for n in range(1, 40):
        kit.journal.append(batch(first=n, pad=50_000, mark=("s", n)))
        kit.journal.commit()
    assert kit.told[-1] == (39, MEMORY) and "full" in kit.journal.error
    assert len(raw(kit.journal)) == 39
    os.truncate(filler, 0)
    kit.positions = {"lags": 25}
    retried_now(kit.journal)
    kit.journal.commit()
    assert kit.told[-1] == (39, DISK)
    assert len(raw(kit.open(), 25)) == 14 and kit.journal.marks["s"][0] == 39
    kit.journal.close()
