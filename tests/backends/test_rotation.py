"""Rotation: when, names, order, what is kept, compression, and what a crash leaves."""

import errno
import gzip
import os
import shutil
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafermon.backends.file import FileBackend
from wafermon.backends.rotation import Rotation
from wafermon.errors import RetryableError
from wafermon.testing import FakeClock, batch, frame, frames

NOON = time.mktime((2026, 11, 23, 12, 0, 0, 0, 0, -1))
ONE = len(frame(1))


def names(folder):
    return sorted(os.listdir(folder))


def text(path):
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


@pytest.fixture
def zone(monkeypatch):
    """A zone with summer time, whatever the host has."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# -- when --------------------------------------------------------------------------------------


def test_by_size(tmp_path):
    clock = FakeClock(NOON)
    sink = FileBackend(tmp_path / "x.jsonl", rotate_bytes=3 * ONE, clock=clock)
    for number in range(1, 8):
        sink.write(batch(frames(1, first=number)))
        clock.advance(1)
    sink.close()
    assert names(tmp_path) == ["x.jsonl", "x@20261123T120002.jsonl", "x@20261123T120005.jsonl"]
    assert [text(tmp_path / name) for name in names(tmp_path)] == [
        b"".join(frames(1, first=7)), b"".join(frames(3)), b"".join(frames(3, first=4)),
    ]  # fmt: skip
    assert sink.rotations == 2


def test_a_batch_above_the_size_goes_into_an_empty_file(tmp_path):
    sink = FileBackend(tmp_path / "x.jsonl", rotate_bytes=10, clock=lambda: NOON)
    sink.open()
    sink.write(batch(frames(5)))
    assert names(tmp_path) == ["x.jsonl"]
    sink.write(batch(frames(5)))
    sink.close()
    assert names(tmp_path) == ["x.jsonl", "x@20261123T120000.jsonl"]


@pytest.mark.parametrize(
    ("every", "steps", "rotations"),
    [("hour", [1800, 1799, 1, 3600, 10_000], 3), ("day", [11 * 3600, 3600, 3600, 86_400], 2)],
)
def test_by_date(tmp_path, every, steps, rotations):
    clock = FakeClock(NOON)
    sink = FileBackend(tmp_path / "x.jsonl", rotate_every=every, clock=clock)
    sink.write(batch(frames(1)))
    for step in steps:
        clock.advance(step)
        sink.write(batch(frames(1)))
    sink.close()
    assert sink.rotations == rotations == len(names(tmp_path)) - 1


def test_the_date_outlives_a_restart_and_a_pause(tmp_path):
    path, clock, timer = tmp_path / "x.jsonl", FakeClock(NOON), FakeClock()
    options = {"rotate_every": "day", "clock": clock, "monotonic": timer}
    sink = FileBackend(path, **options)
    sink.write(batch(frames(1)))
    os.utime(path, (NOON, NOON))  # the real clock stamps files
    timer.advance(100)
    assert sink.idle() is None
    sink.write(batch(frames(1, first=2)))
    sink.close()
    os.utime(path, (NOON, NOON))
    assert names(tmp_path) == ["x.jsonl"]
    clock.advance(86_400)
    sink = FileBackend(path, **options)
    sink.write(batch(frames(1, first=3)))
    sink.close()
    assert text(tmp_path / "x@20261123T120000.jsonl") == b"".join(frames(2))
    assert text(path) == frame(3)


def test_a_file_server_with_another_clock_does_not_make_it_rotate_twice(tmp_path):
    path, clock = tmp_path / "x.jsonl", FakeClock(NOON)
    sink = FileBackend(path, rotate_every="hour", clock=clock)
    for _ in range(5):
        sink.write(batch(frames(1)))
        os.utime(path, (NOON - 10, NOON - 10))
        clock.advance(0.1)
    sink.close()
    assert names(tmp_path) == ["x.jsonl"]


# -- names and order ---------------------------------------------------------------------------


def test_many_within_a_second_and_across_restarts_keep_their_order(tmp_path):
    for number in range(1, 14):
        sink = FileBackend(tmp_path / "x.jsonl", rotate_bytes=1, keep=3, clock=lambda: NOON)
        sink.write(batch(frames(1, first=number)))
        sink.close()
        os.utime(tmp_path / "x.jsonl", (NOON, NOON))
    stem = "x@20261123T120000"
    assert names(tmp_path) == ["x.jsonl", f"{stem}_10.jsonl", f"{stem}_11.jsonl", f"{stem}_9.jsonl"]
    assert text(tmp_path / f"{stem}_11.jsonl") == frame(12)


def test_a_clock_set_back_does_not_cost_the_newest_lines(tmp_path):
    clock = FakeClock(NOON)
    sink = FileBackend(tmp_path / "x.jsonl", rotate_bytes=1, keep=2, clock=clock)
    for number in range(1, 7):
        sink.write(batch(frames(1, first=number)))
        clock.advance(-3600)
    sink.close()
    assert names(tmp_path) == ["x.jsonl", "x@20261123T120000_3.jsonl", "x@20261123T120000_4.jsonl"]
    assert text(tmp_path / "x@20261123T120000_4.jsonl") == frame(5)


def test_the_hour_that_comes_twice(tmp_path, zone):
    clock = FakeClock(time.mktime((2026, 10, 25, 2, 30, 0, 0, 0, 1)))
    sink = FileBackend(tmp_path / "x.jsonl", rotate_bytes=1, keep=9, clock=clock)
    for number in range(1, 4):
        sink.write(batch(frames(1, first=number)))
        clock.advance(2400)
    sink.close()
    assert names(tmp_path) == ["x.jsonl", "x@20261025T023000.jsonl", "x@20261025T023000_1.jsonl"]
    assert text(tmp_path / "x@20261025T023000_1.jsonl") == frame(2)


@pytest.mark.parametrize("gz", ["none", "gzip"])
@pytest.mark.parametrize("extension", ["", ".jsonl", ".5", ".gz", ".tmp"])
def test_no_source_passes_for_a_rotated_file_of_another(tmp_path, extension, gz):
    template = str(tmp_path / "{src}") + extension
    sources = [
        "a", "a.5", "a_1", "a.gz", "a.tmp", "a.gz.tmp", "a@20261123T120000", "a@20261123T120000.gz",
    ]  # fmt: skip
    clock = FakeClock(NOON)
    sink = FileBackend(template, rotate_bytes=1, keep=2, compress=gz, clock=clock)
    for number in range(6):
        sink.write(batch([frame(number, src=source) for source in sources]))
    sink.close()
    assert sink.rotation_errors == 0
    assert len(names(tmp_path)) == 3 * len(sources)
    kept = b"".join(text(path) if "@" in path.name else path.read_bytes() for path in
                    sorted(tmp_path.iterdir()))  # fmt: skip
    wanted = [frame(number, src=source) for source in sources for number in (3, 4, 5)]
    assert sorted(kept.splitlines(keepends=True)) == sorted(wanted)


def test_foreign_files_stay(tmp_path):
    foreign = [
        "x.jsonl.1",
        "x@yesterday.jsonl",
        "xx@20261123T120000.jsonl",
        "x@20261123T120000.csv",
    ]
    for name in foreign:
        (tmp_path / name).write_bytes(b"")
    sink = FileBackend(tmp_path / "x.jsonl", rotate_bytes=1, keep=1, clock=lambda: NOON)
    for _ in range(5):
        sink.write(batch(frames(1)))
    sink.close()
    assert set(foreign) < set(names(tmp_path)) and len(names(tmp_path)) == len(foreign) + 2


def test_behind_a_symbolic_link_the_file_itself_is_rotated(tmp_path):
    (tmp_path / "data").mkdir()
    link = tmp_path / "x.jsonl"
    link.symlink_to(tmp_path / "data" / "real.jsonl")
    sink = FileBackend(link, rotate_bytes=1, compress="gzip", clock=lambda: NOON)
    for number in (1, 2):
        sink.write(batch(frames(1, first=number)))
    sink.close()
    assert link.is_symlink() and text(link) == frame(2)
    assert names(tmp_path / "data") == ["real.jsonl", "real@20261123T120000.jsonl.gz"]


def test_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sink = FileBackend("x.jsonl", rotate_bytes=1, compress="gzip", fsync="batch", keep=1)
    for _ in range(4):
        sink.write(batch(frames(1)))
    sink.close()
    assert sink.rotation_errors == 0 and len(names(tmp_path)) == 2


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 9), max_size=25),
    limit=st.integers(1, 15),
    steps=st.lists(st.integers(-4000, 4000), min_size=25, max_size=25),
    compress=st.sampled_from(["none", "gzip"]),
)
def test_rotated_files_in_order_are_all_that_was_written(
    tmp_path_factory, sizes, limit, steps, compress
):
    folder, clock, number = tmp_path_factory.mktemp("r"), FakeClock(NOON), 0
    limit *= len(frame(10))
    sink = FileBackend(
        folder / "x.jsonl", rotate_bytes=limit, rotate_every="hour", keep=99, compress=compress,
        clock=clock,
    )  # fmt: skip
    for size, step in zip(sizes, steps):
        sink.write(batch(frames(size, first=number)))
        number += size
        clock.advance(step)
    sink.close()

    def place(path):
        stamp, _, count = path.name.split(".")[0].partition("_")
        return path.name != "x.jsonl", stamp, int(count or 0)

    live, *old = sorted(folder.iterdir(), key=place) or [folder / "x.jsonl"]
    parts = [text(path) for path in old]
    parts += [live.read_bytes()] if sizes else []
    assert b"".join(parts) == b"".join(frames(number, first=0))
    largest = max(sizes, default=0) * len(frame(100))
    assert all(0 < len(part) <= max(limit, largest) for part in parts)
    shutil.rmtree(folder)


# -- compression and crashes -------------------------------------------------------------------


def rotate_once(folder, number, **options):
    options = {"rotate_bytes": 1, "compress": "gzip", "clock": lambda: NOON + number, **options}
    sink = FileBackend(folder / "x.jsonl", **options)
    sink.write(batch(frames(1, first=number)))
    sink.close()
    os.utime(folder / "x.jsonl", (NOON + number, NOON + number))
    return sink


def test_gzip_keeps_bytes_mode_and_time(tmp_path):
    rotate_once(tmp_path, 1)
    os.chmod(tmp_path / "x.jsonl", 0o604)
    rotate_once(tmp_path, 2)
    packed = tmp_path / "x@20261123T120001.jsonl.gz"
    assert names(tmp_path) == ["x.jsonl", packed.name]
    assert text(packed) == frame(1)
    assert packed.stat().st_mode & 0o777 == 0o604 and packed.stat().st_mtime == NOON + 1


@pytest.mark.parametrize("state", ["renamed", "unfinished", "packed"])
def test_what_a_crash_left_is_finished_at_the_next_rotation(tmp_path, state):
    rotate_once(tmp_path, 1)
    old = tmp_path / "x@20261123T120001.jsonl"
    (tmp_path / "x.jsonl").rename(old)
    if state == "unfinished":
        (tmp_path / (old.name + ".gz.tmp")).write_bytes(b"\x1f\x8b half of it")
    elif state == "packed":
        (tmp_path / (old.name + ".gz")).write_bytes(gzip.compress(old.read_bytes()))
    rotate_once(tmp_path, 2)
    assert rotate_once(tmp_path, 3).rotation_errors == 0
    assert names(tmp_path) == [
        "x.jsonl", "x@20261123T120001.jsonl.gz", "x@20261123T120002.jsonl.gz",
    ]  # fmt: skip
    assert text(tmp_path / "x@20261123T120001.jsonl.gz") == frame(1)


CRASH = """
import os, pathlib, sys, signal
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import wafermon.backends.rotation as rotation
step, calls = int(sys.argv[4]), 0
def counted(call):
    def wrapper(*arguments, **named):
        global calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return wrapper
from test_rotation import rotate_once
for name in ("rename", "unlink", "fsync", "utime", "fchmod"):
    setattr(os, name, counted(getattr(os, name)))
rotate_once(pathlib.Path(sys.argv[3]), 2, fsync="batch")
"""


@pytest.mark.parametrize("step", range(1, 11))
def test_kill_9_before_any_step_of_a_rotation(tmp_path, step):
    rotate_once(tmp_path, 1)
    here = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(os.path.dirname(here))
    command = [sys.executable, "-c", CRASH, root, here, str(tmp_path), str(step)]
    status = subprocess.run(command, check=False).returncode
    assert status == (-9 if step < 10 else 0)
    for number in (3, 4):
        assert rotate_once(tmp_path, number).rotation_errors == 0
    found = b"".join(text(tmp_path / name) for name in names(tmp_path))
    # The second was never reported as delivered where it is missing.
    assert sorted(found.splitlines(True)) in (
        [frame(1), frame(2), frame(3), frame(4)], [frame(1), frame(3), frame(4)],
    )  # fmt: skip
    assert all(name.endswith((".jsonl.gz", "x.jsonl")) for name in names(tmp_path))


def test_keep_counts_plain_and_packed_as_one(tmp_path):
    for number in (1, 2, 3):
        rotate_once(tmp_path, number, compress="none")
    rotate_once(tmp_path, 4, keep=2)
    assert names(tmp_path) == [
        "x.jsonl", "x@20261123T120002.jsonl.gz", "x@20261123T120003.jsonl.gz",
    ]  # fmt: skip


# -- trouble -----------------------------------------------------------------------------------


def failing(call, code, times):
    left = [times]

    def wrapper(*arguments, **named):
        if left[0]:
            left[0] -= 1
            raise OSError(code, os.strerror(code))
        return call(*arguments, **named)

    return wrapper


def test_a_file_that_cannot_be_renamed_is_appended_to(tmp_path, monkeypatch):
    timer = FakeClock()
    sink = FileBackend(tmp_path / "x.jsonl", rotate_bytes=1, clock=lambda: NOON, monotonic=timer)
    sink.write(batch(frames(1)))
    monkeypatch.setattr(os, "rename", failing(os.rename, errno.EACCES, 1))
    for number in (2, 3):
        sink.write(batch(frames(1, first=number)))
    assert sink.rotation_errors == 1 and "EACCES" in sink.last_error
    assert text(tmp_path / "x.jsonl") == b"".join(frames(3))
    timer.advance(61)
    sink.write(batch(frames(1, first=4)))
    sink.close()
    assert names(tmp_path) == ["x.jsonl", "x@20261123T120000.jsonl"]


def test_a_folder_that_is_closed_to_us_is_appended_in(tmp_path):
    """The same by a real cause."""
    (tmp_path / "in").mkdir(mode=0o777)
    os.chmod(tmp_path, 0o755)
    there = os.getcwd()
    os.chdir(tmp_path)
    sink = FileBackend("in/x.jsonl", rotate_bytes=1)
    root = os.geteuid() == 0
    try:
        sink.write(batch(frames(1)))
        os.chmod("in/x.jsonl", 0o666)
        os.chmod("in", 0o555)
        if root:
            os.seteuid(65534)
        sink.write(batch(frames(1, first=2)))
        sink.close()
    finally:
        if root:
            os.seteuid(0)
        os.chmod("in", 0o755)
        os.chdir(there)
    assert sink.rotation_errors == 1
    assert text(tmp_path / "in" / "x.jsonl") == b"".join(frames(2))


@pytest.mark.parametrize("call", ["fchmod", "utime", "fsync"])
def test_a_compression_that_fails_loses_nothing(tmp_path, monkeypatch, call):
    rotate_once(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(getattr(os, call), errno.ENOSPC, 1))
        sink = rotate_once(tmp_path, 2)
    assert sink.rotation_errors == 1 and "ENOSPC" in sink.last_error
    assert names(tmp_path) == ["x.jsonl", "x@20261123T120001.jsonl"]
    rotate_once(tmp_path, 3)
    assert names(tmp_path) == [
        "x.jsonl", "x@20261123T120001.jsonl.gz", "x@20261123T120002.jsonl.gz",
    ]  # fmt: skip


def test_no_new_file_after_the_rename_is_retryable_and_nothing_doubles(tmp_path, monkeypatch):
    sink = FileBackend(tmp_path / "x.jsonl", rotate_bytes=1, clock=lambda: NOON)
    sink.write(batch(frames(1)))
    second = batch(frames(1, first=2))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(os.open, errno.EMFILE, 1))
        with pytest.raises(RetryableError, match="EMFILE"):
            sink.write(second)
    sink.write(second)
    sink.close()
    assert text(tmp_path / "x.jsonl") == frame(2)
    assert text(tmp_path / "x@20261123T120000.jsonl") == frame(1)


def test_sizes_and_times_that_are_due(zone):
    rotation = Rotation(max_bytes=100)
    assert not rotation.due(size=0, length=500, wrote=0, now=0)
    assert not rotation.due(size=60, length=40, wrote=0, now=1e9)
    assert rotation.due(size=60, length=41, wrote=0, now=0)
    midnight = time.mktime((2026, 11, 23, 0, 0, 0, 0, 0, -1))
    daily = Rotation(every="day")
    assert daily.due(1, 1, wrote=midnight - 1, now=midnight)
    assert not daily.due(1, 1, wrote=midnight, now=midnight + 86_399)
