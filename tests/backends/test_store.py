"""The store: what goes in comes out, whatever is killed, full, damaged or too old."""

import contextlib
import json
import logging
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wafermon.backends import store as store_module
from wafermon.backends import store_schema
from wafermon.backends.store import StoreBackend
from wafermon.backends.store_query import Store
from wafermon.backends.store_schema import StoreError, connect_reader, unpack
from wafermon.errors import PermanentError, RetryableError
from wafermon.flow.selection import Selection
from wafermon.message import LEVELS, ROUTED_TYPES, Batch
from wafermon.testing import BackendContract, FakeClock, batch, frame, frames

NOW_MS = 1_700_000_000_000


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "store.db")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def store(path, clock):
    backend = StoreBackend(path, max_age=3600, max_bytes=1_000_000, clock=clock)
    yield backend
    backend.close()


def stored(path):
    """All lines in order of arrival, past the reader."""
    with contextlib.closing(connect_reader(path)) as db:
        rows = db.execute("SELECT packed, lines FROM batches ORDER BY id").fetchall()
    return [line for row in rows for line in unpack(*row).split(b"\n")[:-1]]


def lines(path, **selection):
    return [line + b"\n" for _, line, _ in Store(path).query(Selection(**selection))]


def noise(count, first=1):
    """A batch that no compression makes small."""
    return batch([frame(first + n, data={"x": os.urandom(200).hex()}) for n in range(count)])


class TestContract(BackendContract):
    def make(self, tmp_path):
        return StoreBackend(str(tmp_path / "folder" / "store.db"))

    def read(self, tmp_path):
        return stored(str(tmp_path / "folder" / "store.db"))

    def break_it(self, tmp_path):
        """No file may grow, as on a full disk; not even the checkpoint of a close succeeds."""
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (33_000, self.limits[1]))

    def mend_it(self, tmp_path):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


# -- queries -----------------------------------------------------------------------------------

names = st.sampled_from(["db", "db-1", "db-2", "Job[3]", "job[3]", "工程", "a*", "x y"])
patterns = names | st.sampled_from(["db*", "*", "?b", "job[3]*", "*[*", "工?", "db-?", "none"])
words = st.sampled_from(["Timeout", "timeout é", "É", 'say "hi"', "C:\\x", "ok", "straße"])
moments = st.integers(0, 12) | st.just(2**53 - 1)
tids = st.sampled_from(["t1", "t2", "t3"])


@st.composite
def messages(draw):
    kind = draw(st.sampled_from(sorted(ROUTED_TYPES)))
    level = draw(st.sampled_from((*LEVELS, "odd", None, 3)) | st.just(["warn"]))
    message = {"v": 1, "src": draw(names), "ts": draw(moments), "type": kind}
    message["data"] = {"level": level, "msg": draw(words)}
    if kind == "span" or draw(st.booleans()):
        message.update(tid=draw(tids), sid="s")
    return json.dumps(message, ensure_ascii=draw(st.booleans())).encode() + b"\n"


selections = st.builds(
    Selection,
    src=st.lists(patterns, max_size=2).map(tuple),
    types=st.lists(st.sampled_from(sorted(ROUTED_TYPES)), max_size=2).map(tuple),
    level=st.none() | st.sampled_from(LEVELS),
    tid=st.none() | tids | st.just("none"),
    since_ms=st.none() | moments,
    until_ms=st.none() | moments,
    text=st.none() | st.sampled_from(["time", "TIMEOUT É", "é", '"hi"', "c:\\", "\\u00e9", "ss"]),
    limit=st.integers(0, 5),
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.lists(messages(), min_size=1, max_size=5), max_size=8),
    st.lists(selections, min_size=1, max_size=6),
    st.sampled_from([1, 4, 1000]),
)
def test_a_query_finds_what_the_selection_matches(batches, wanted, segment):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "_SEGMENT_MESSAGES", segment)
        path = os.path.join(folder, "store.db")
        backend = StoreBackend(path)
        for content in batches:
            backend.write(batch(content))
        backend.open()
        everything = [line[:-1] for content in batches for line in content]
        decoded = [(json.loads(line), line) for line in everything]
        for selection in wanted:
            matching = [pair for pair in decoded if selection.matches(*pair)]
            matching.sort(key=lambda pair: pair[0]["ts"])  # stable: by arrival where equal
            found = [(m, line) for _, line, m in Store(path).query(selection)]
            assert found == matching[-selection.limit :]
        counts = {}
        for message, _ in decoded:
            key = message["src"], message["type"]
            counts[key] = counts.get(key, 0) + 1
        assert Store(path).counts() == counts
        backend.close()


def test_a_found_message_says_when_it_was_received(store, path, clock):
    store.write(Batch(frame(1), received_ms=5))
    store.write(Batch(frame(2)))  # not stamped: now
    found = list(Store(path).query(Selection()))
    assert [(received, line + b"\n") for received, line, _ in found] == [
        (5, frame(1)),
        (int(clock() * 1000), frame(2)),
    ]
    assert found[0][2] == json.loads(frame(1))


def test_an_open_query_holds_no_snapshot(store, path):
    for number in range(50):
        store.write(batch(frames(10, first=10 * number)))
    query = Store(path).query(Selection())
    next(query)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    store.write(batch(frames(10, first=500)))
    assert len(list(query)) >= 499


def test_what_retention_removes_under_a_query_is_left_out(store, path, clock):
    for number in range(50):
        store.write(batch(frames(10, first=10 * number)))
    query = Store(path).query(Selection())
    next(query)
    clock.advance(7200)
    store.idle()
    assert len(list(query)) == 9


def test_a_blob_that_is_damaged_is_left_out(store, path, caplog):
    for number in range(3):
        store.write(batch(frames(10, first=10 * number)))
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE batches SET lines = x'00' WHERE id = 2")
    assert lines(path) == frames(10, first=0) + frames(10, first=20)
    assert "batch 2 is damaged" in caplog.text


# -- retention ---------------------------------------------------------------------------------


def settle(backend):
    """Call `idle` until it has no more to do."""
    for _ in range(10_000):
        if backend.idle() >= 1:
            return
    raise AssertionError("idle never comes to rest")


@pytest.mark.parametrize("segment", [1, 25, 65_536])
def test_what_is_too_old_goes(store, path, clock, segment, monkeypatch):
    monkeypatch.setattr(store_module, "_SEGMENT_MESSAGES", segment)
    for number in range(60):
        store.write(batch(frames(10, first=10 * number, tid="t")))
        clock.advance(60)
    settle(store)
    assert store.removed == {"age": 0, "bytes": 0}
    clock.advance(1799)
    settle(store)
    assert store.removed == {"age": 300, "bytes": 0}
    assert lines(path) == lines(path, tid="t") == lines(path, src=("t*",)) == stored_lines(path)
    assert lines(path) == frames(300, first=300, tid="t")
    assert Store(path).counts() == {("test", "event"): 300}
    clock.advance(7200)
    settle(store)
    assert store.removed == {"age": 600, "bytes": 0}
    assert lines(path) == []
    assert Store(path).counts() == {}
    store.write(batch(frames(2, tid="t")))
    assert lines(path, tid="t") == frames(2, tid="t")
    with contextlib.closing(connect_reader(path)) as db:
        for table in ("batches", "segments", "facets", "traces"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)


def stored_lines(path):
    return [line + b"\n" for line in stored(path)]


@pytest.mark.parametrize("size", [1, 40])
def test_the_file_stays_within_its_bytes(store, path, size):
    written = 0
    while written < 12_000:
        store.write(noise(size, first=written))
        written += size
    assert os.path.getsize(path) <= 1_000_000 + store_module._LOOK_EVERY_BYTES + (1 << 18)
    settle(store)
    kept = lines(path)
    assert store.removed["bytes"] == written - len(kept) > 0
    assert store.removed["age"] == 0
    assert len(kept) > 500
    assert [json.loads(line)["ts"] for line in kept] == [
        NOW_MS + n for n in range(written - len(kept), written)
    ]


def test_space_goes_back_to_the_disk_after_a_burst(path, clock):
    backend = StoreBackend(path, max_age=3600, clock=clock)
    for number in range(800):
        backend.write(noise(40, first=number))
    settle(backend)
    assert os.path.getsize(path) > 6_000_000
    clock.advance(7200)
    settle(backend)
    backend.close()
    assert os.path.getsize(path) < 2_500_000
    assert backend.removed["age"] == 32_000


def test_a_write_deletes_no_more_than_a_step(path, clock):
    backend = StoreBackend(path, max_age=3600, clock=clock)
    for number in range(400):
        backend.write(noise(40, first=number))
    clock.advance(7200)
    before = backend.removed["age"]
    while backend.removed["age"] == before:
        backend.write(noise(40))
    assert backend.removed["age"] - before < 16_000 / 3
    backend.close()


# -- failures ----------------------------------------------------------------------------------


def open_error(backend):
    with pytest.raises(RetryableError) as caught:
        backend.open()
    assert backend.path in str(caught.value) or os.path.dirname(backend.path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("where", ["file/store.db", "file/deeper/store.db", ".", "/proc/x/y.db"])
def test_a_path_on_which_nothing_can_be_created(tmp_path, where):
    (tmp_path / "file").write_text("")
    open_error(StoreBackend(os.path.join(str(tmp_path), where)))


def test_a_file_in_the_way_that_goes_away(tmp_path):
    (tmp_path / "file").write_text("")
    backend = StoreBackend(str(tmp_path / "file" / "store.db"))
    with pytest.raises(RetryableError):
        backend.write(batch(frames(1)))
    (tmp_path / "file").unlink()
    backend.write(batch(frames(1)))
    backend.close()
    assert lines(backend.path) == frames(1)


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
def test_a_store_that_somebody_else_has_locked(store, path, monkeypatch, ending):
    monkeypatch.setattr(store_schema, "_BUSY_TIMEOUT_S", 0.01)
    store.write(batch(frames(1)))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RetryableError, match=r"store\.db: database is locked"):
            store.write(batch(frames(1, first=2)))
        other.execute(ending)
        store.open()
        store.write(batch(frames(1, first=2)))
    assert lines(path) == frames(2)


def test_a_full_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no mounting here")
    backend = StoreBackend(str(disk / "store.db"))
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(700_000))
        sent = []
        with pytest.raises(RetryableError, match="full|disk I/O"):
            while True:
                following = noise(40, first=40 * len(sent))
                backend.write(following)
                sent.append(following)
        for _ in range(3):
            with pytest.raises(RetryableError):
                backend.write(following)
        assert stored_lines(backend.path) == b"".join(b.raw for b in sent).splitlines(True)
        ballast.unlink()
        backend.open()
        backend.write(following)
        sent.append(following)
        backend.close()
        assert stored_lines(backend.path) == b"".join(b.raw for b in sent).splitlines(True)
    finally:
        backend.close()
        subprocess.run(["umount", str(disk)], check=True)


def spoil(path, how):
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        if how == "garbage":
            file.write(b"no database at all" * 1000)
        elif how == "cut off":
            file.truncate(size // 2)
        elif how == "first page":
            file.seek(100)
            file.write(b"\xff" * 8000)
        else:
            file.seek(8192)
            file.write(b"\xff" * (size - 8192))


@pytest.mark.parametrize("how", ["garbage", "cut off", "first page", "all but the first page"])
def test_a_damaged_file_is_moved_aside(path, how, caplog, clock):
    backend = StoreBackend(path, clock=clock)
    for number in range(20):
        backend.write(noise(40, first=number))
    backend.close()
    spoil(path, how)
    with open(path, "rb") as file:
        damaged = file.read()
    try:
        backend.write(batch(frames(3)))
    except RetryableError:  # damage that shows only now; a worker tries again
        backend.open()
        backend.write(batch(frames(3)))
    backend.close()
    assert lines(path) == frames(3)
    assert backend.set_aside == [f"{path}.corrupt-20231114T221320Z"]
    with open(backend.set_aside[0], "rb") as file:
        assert len(file.read()) == len(damaged)
    said = [r for r in caplog.records if r.name == "wafermon.store" and r.levelno == logging.ERROR]
    assert [backend.set_aside[0] in record.getMessage() for record in said] == [True]


def test_damage_at_the_same_second_overwrites_nothing(path, clock):
    backend = StoreBackend(path, clock=clock)
    for _ in range(3):
        with open(path, "wb") as file:
            file.write(b"garbage" * 5000)
        backend.open()
        backend.close()
    assert len(set(backend.set_aside)) == 3
    assert all(os.path.getsize(aside) == 35_000 for aside in backend.set_aside)


def test_a_store_of_a_newer_version(store, path):
    store.write(batch(frames(1)))
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")
    with open(path, "rb") as file:
        before = file.read()
    assert "written by a newer wafermon (schema 99" in open_error(store)
    with pytest.raises(StoreError, match="upgrade"):
        lines(path)
    with open(path, "rb") as file:
        assert file.read() == before


def test_a_database_of_another_program(store, path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs(x)")
    assert "another program" in open_error(store)
    with pytest.raises(StoreError, match="another program"):
        Store(path).counts()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


@pytest.mark.parametrize("suffixes", [("", "-wal", "-shm"), ("",)], ids=["whole", "without its log"])
def test_a_file_deleted_under_the_writer(store, path, caplog, suffixes):
    """The very next batch goes to a new one, of which the old log is no part."""
    store.write(batch(frames(3)))
    for suffix in suffixes:
        os.unlink(path + suffix)
    store.write(batch(frames(2)))
    assert "deleted or replaced" in caplog.text
    assert lines(path) == frames(2)
    store.close()
    assert lines(path) == frames(2)


@pytest.mark.parametrize(
    "message",
    [
        {"src": "a", "ts": 2**70, "type": "heartbeat"},
        {"src": "a\ud800", "ts": 1, "type": "heartbeat"},
        {"src": ("a",), "ts": 1, "type": "heartbeat"},
        {"src": "a", "ts": 1, "type": "heartbeat", "tid": "\ud800"},
        {"src": "a", "ts": 1, "type": "heartbeat", "tid": 7},
        {"src": "a", "type": "heartbeat"},
        {"src": "a", "ts": 1, "type": "event"},
        {"src": ["a"], "ts": 1, "type": "event", "data": {}},
    ],
)
def test_a_line_that_cannot_be_stored_is_refused_for_good(store, path, message):
    good = json.loads(frame(1))
    for _ in range(2):
        with pytest.raises(PermanentError):
            store.write(Batch(frame(1) + b"{}\n", [good, message]))
    store.write(Batch(frame(1), [good]))
    assert lines(path) == frames(1)


def test_a_line_that_is_no_json_is_refused_for_good(store):
    for raw in (b"{\n", b'"text"\n', b"[" * 100_000 + b"]" * 100_000 + b"\n"):
        with pytest.raises(PermanentError):
            store.write(Batch(raw))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"path": ""}, "path"),
        ({"path": "x", "max_age": 0}, "max_age"),
        ({"path": "x", "max_age": float("nan")}, "max_age"),
        ({"path": "x", "max_bytes": 999_999}, "max_bytes"),
    ],
)
def test_arguments_that_can_never_work(arguments, words):
    with pytest.raises(ValueError, match=words):
        StoreBackend(**arguments)


# -- reading without, beside and after a writer ------------------------------------------------

WRITER = """
import sys
from wafermon.backends.store import StoreBackend
from wafermon.testing import batch, frames
backend = StoreBackend(sys.argv[1])
for number in range(int(sys.argv[2])):
    backend.write(batch(frames(10, first=10 * number, tid=f"t{number}")))
    print(number, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def writer(path, batches):
    """A process that writes batches of ten, says the number of each, and waits."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", WRITER, path, str(batches)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_nothing_is_lost_by_a_kill(path):
    with writer(path, 10**9) as process:
        for _ in range(300):
            said = process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        said = ([said, *process.stdout.readlines()])[-1]
    found = lines(path)
    assert int(said) >= 299
    assert os.path.getsize(path + "-wal") > 0
    assert len(found) >= 10 * (int(said) + 1)
    assert len(found) % 10 == 0
    assert found == [frame(n, tid=f"t{n // 10}") for n in range(len(found))]
    backend = StoreBackend(path, max_age=10**10)
    backend.write(batch(frames(10, first=len(found), tid="after")))
    backend.close()
    assert lines(path)[:-10] == found
    assert len(lines(path, tid="after")) == 10
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_reading_beside_a_writer(path):
    with writer(path, 500) as process:
        process.stdout.readline()
        seen = [0]
        while seen[-1] < 5000:
            seen.append(len(lines(path)))
            assert lines(path, tid="t0") == [frame(n, tid="t0") for n in range(10)]
            assert len(lines(path, limit=7)) == 7
        assert all(count % 10 == 0 for count in seen)
        assert seen == sorted(seen)
        assert sum(Store(path).counts().values()) == 5000


def test_no_store_yet(path):
    with pytest.raises(StoreError, match=r"no store there.*--data"):
        lines(path)
    assert not os.path.exists(path)


def test_an_empty_file_is_no_store_yet(path):
    with open(path, "wb"):
        pass
    with pytest.raises(StoreError, match="is empty; start the sidecar"):
        lines(path)


def test_garbage_is_no_store(path):
    with open(path, "wb") as file:
        file.write(b"garbage" * 1000)
    with pytest.raises(StoreError, match=r"store\.db: file is not a database"):
        lines(path)


def test_a_name_full_of_marks(tmp_path):
    path = str(tmp_path / "a b%20c?mode=rw#é")
    backend = StoreBackend(path)
    backend.write(batch(frames(1)))
    assert lines(path) == frames(1)
    backend.close()
    assert lines(path) == frames(1)


def test_a_reader_that_may_not_write_the_folder(path):
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "store.db")
        backend = StoreBackend(path)
        backend.write(batch(frames(3)))
        backend.close()
        os.chmod(folder, 0o755)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setuid(65_534)
                status = 0 if lines(path) == frames(3) else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert os.listdir(folder) == ["store.db"]
