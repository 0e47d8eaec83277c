"""`wafermon demo` as its user meets it: a process in an empty folder, with hardly any environment."""

from __future__ import annotations

import csv
import gzip
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing

import pytest
from support import COMMAND, ROOT

from wafermon.backends.store_query import Store
from wafermon.demo.crew import Crew, CrewError
from wafermon.demo.datalog import PROGRAM, WAFERS, write_lot
from wafermon.flow.selection import Selection

PORTS = ("--tcp", "127.0.0.1:0", "--admin", "127.0.0.1:0")
SERVICES = {"config-service", "file-receiver", "queue-service", "db-loader"}
TIMEOUT = 60

needs_perl = pytest.mark.skipif(shutil.which("perl") is None, reason="there is no perl")


def start(folder, *arguments, path=None):
    env = {"PATH": os.environ["PATH"] if path is None else path, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*COMMAND, "demo", *arguments],
        cwd=folder, env=env, text=True, encoding="utf-8",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )


def finish(process):
    with process:
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, out, err


def once(folder, path=None):
    return finish(start(folder, "--once", "--data", "data", *PORTS, path=path))


def processes_in(folder):
    """Those that work in the folder or below; none where the system does not tell."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            working = os.readlink(entry / "cwd")
        except OSError:
            continue
        if working.startswith(str(folder)):
            found.append(int(entry.name))
    return found


def table(out):
    """The counts as printed: source -> its row."""
    lines = out.split("messages in the store")[1].split("\n\n")[0].splitlines()[1:]
    names = lines[0].split()
    return {src: dict(zip(names, map(int, row))) for src, *row in map(str.split, lines[1:])}


def rows_of(demo):
    """Rows that belong into the database, by what the archive holds."""
    dies, measurements = [], []
    for path in sorted(demo.glob("archive/*/*.csv.gz")):
        with gzip.open(path, "rt", encoding="ascii") as file:
            for kind, *row in csv.reader(file):
                if kind == "MIR":
                    lot = row[0]
                elif kind == "WIR":
                    wafer = row[0]
                elif kind == "PTR":
                    measurements.append((lot, wafer, row[0], float(row[1])))
                elif kind == "PRR":
                    dies.append((lot, wafer, *map(int, row)))
    return dies, measurements


def query(demo, sql):
    with closing(sqlite3.connect(demo / "wafers.db")) as db:
        return db.execute(sql).fetchall()


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """One run that several tests look at: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("once")
    status, out, err = once(folder)
    assert (status, err) == (0, ""), out
    return folder, out


@needs_perl
class TestOnce:
    def test_one_trace_names_all_services_and_has_no_gap(self, ran):
        _, out = ran
        tree = re.search(r"^trace .*?\n\n", out, re.MULTILINE | re.DOTALL).group()
        assert "4 services" in tree
        assert all(src in tree for src in SERVICES)
        assert "parent missing" not in tree
        assert "(open)" not in tree
        assert tree.count("(error)") == 1  # the damaged file

    def test_every_span_of_the_store_is_in_that_trace(self, ran):
        folder, out = ran
        spans = [m for _, _, m in Store(str(folder / "data/store.db")).query(Selection())
                 if m["type"] == "span"]
        assert {m["tid"] for m in spans} == {re.search(r"^trace (\w+)", out, re.MULTILINE).group(1)}
        assert [m["data"]["name"] for m in spans if "pid" not in m] == [
            m["data"]["name"] for m in spans if m["data"]["name"].startswith("receive lot")
        ]
        assert {m["src"] for m in spans} == SERVICES

    def test_the_database_has_what_was_tested(self, ran):
        demo = ran[0] / "data/demo"
        dies, measurements = rows_of(demo)
        assert len(measurements) == len(dies) * len(PROGRAM) > 0
        assert Counter(query(demo, "SELECT lot, wafer, x, y, bin FROM dies")) == Counter(dies)
        assert Counter(query(demo, "SELECT lot, wafer, test, value FROM measurements")) == Counter(
            measurements
        )
        bins = Counter((lot, wafer, bin_) for lot, wafer, _, _, bin_ in dies)
        assert {tuple(row): n for *row, n in query(demo, "SELECT * FROM bins")} == bins
        wafers = query(demo, "SELECT wafer, dies, good FROM wafers ORDER BY wafer")
        assert wafers == [
            (w, sum(d[1] == w for d in dies), sum(d[1] == w and d[4] == 1 for d in dies))
            for w in ("W01", "W02", "W04", "W05")
        ]
        rows = query(demo, "SELECT n, mean, low.value FROM tests t JOIN (SELECT wafer, test,"
                           " avg(value) value FROM measurements GROUP BY 1, 2) low USING (wafer, test)")
        assert len(rows) == 4 * len(PROGRAM)
        assert all(n > 0 and mean == pytest.approx(average, rel=1e-5) for n, mean, average in rows)

    def test_the_damaged_file_is_set_aside(self, ran):
        folder, out = ran
        (aside,) = folder.glob("data/demo/bad/*/*")
        assert aside.name.endswith("_W03.csv")
        assert f"set aside {aside.name}" in out
        assert len(list(folder.glob("data/demo/archive/*/*"))) == WAFERS - 1

    def test_the_store_has_what_the_services_sent(self, ran):
        folder, out = ran
        counts = Store(str(folder / "data/store.db")).counts()
        shown = table(out)
        assert set(shown) == {src for src, _ in counts} == SERVICES
        for src, row in shown.items():
            assert {k: row[k] for k in row if row[k] and k not in ("total", "sent")} == {
                kind: n for (name, kind), n in counts.items() if name == src
            }
            assert row["sent"] == row["total"] - row["goodbye"]
            assert all(row[k] for k in ("event", "metric", "resource", "span", "heartbeat"))
            assert row["goodbye"] == 1
        losses = re.search("^losses: .*", out, re.MULTILINE).group()
        assert set(re.findall(r"\d+", losses)) == {"0"}

    def test_nothing_is_left_behind(self, ran):
        folder, _ = ran
        assert processes_in(folder) == []
        assert [path.name for path in folder.iterdir()] == ["data"]
        assert list(folder.glob("data/demo/inbox/*")) == list(folder.glob("data/demo/queue/*")) == []

    def test_the_commands_it_proposes_work(self, ran):
        folder, out = ran
        command = re.search(r"python3 (?:-m wafermon|\S+\.pyz) (query .*--tid \w+)", out).group(1)
        arguments = [*COMMAND, *command.split(), "--json"]
        lines = subprocess.run(
            arguments, cwd=folder, env={"PYTHONPATH": str(ROOT)}, check=True, capture_output=True
        ).stdout.splitlines()
        assert len(lines) > 30


@needs_perl
def test_a_second_run_counts_its_own_only(tmp_path):
    first, second = once(tmp_path)[1], once(tmp_path)
    assert second[0] == 0
    assert table(first).keys() == table(second[1]).keys()
    sent = table(first)["file-receiver"]["span"]
    assert table(second[1])["file-receiver"]["span"] == sent
    assert "loaded:    1 lot, 4 wafers" in second[1]


def test_without_perl_the_loading_is_skipped_with_a_word(tmp_path):
    status, out, err = once(tmp_path, path=str(tmp_path / "nothing"))
    assert (status, err) == (0, "")
    assert "no perl on PATH" in out
    assert "3 services" in out
    assert "parent missing" not in out
    assert not (tmp_path / "data/demo/wafers.db").exists()


@pytest.mark.parametrize("option", ["--tcp", "--admin"])
def test_a_taken_port_is_one_clear_line(tmp_path, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, out, err = finish(start(tmp_path, "--once", *PORTS, option, address))
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert address in err
    assert "--tcp 127.0.0.1:0 --admin 127.0.0.1:0" in err


@needs_perl
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_endless_mode_with_the_summary(tmp_path, number):
    process = start(tmp_path, *PORTS)
    try:
        shown = iter(process.stdout.readline, "")
        assert any(line.startswith("lot ") for line in shown)
        process.send_signal(number)
        status, out, err = finish(process)
    finally:
        process.kill()
    assert (status, err) == (0, "")
    assert "4 services" in out
    assert re.search("^losses: 0 ", out, re.MULTILINE)
    assert processes_in(tmp_path) == []


@needs_perl
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="there is no way to wait for others")
def test_the_services_end_when_the_demo_is_killed(tmp_path):
    process = start(tmp_path, *PORTS)
    try:
        assert any(line.startswith("lot ") for line in iter(process.stdout.readline, ""))
        pids = set(processes_in(tmp_path / "wafermon-data"))
        assert len(pids) >= 3
        handles = [os.pidfd_open(pid) for pid in pids]
    finally:
        process.kill()
        finish(process)
    for handle in handles:
        assert select.select([handle], [], [], TIMEOUT)[0]
        os.close(handle)


def test_an_end_before_all_are_ready_is_no_fault(tmp_path):
    process = start(tmp_path, *PORTS)
    try:
        assert any(line.startswith("Ctrl-C") for line in iter(process.stdout.readline, ""))
        process.send_signal(signal.SIGINT)
        status, _, err = finish(process)
    finally:
        process.kill()
    assert (status, err) == (0, "")


def test_a_service_that_does_not_start_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    crew = Crew(str(tmp_path), "127.0.0.1:1")
    with pytest.raises(CrewError, match="config-service ended with status 1"):
        crew.start()
    crew.stop()
    crew.stop()


def test_the_same_lot_comes_out_the_same(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (write_lot(str(tmp_path / name), "LOT") for name in ("one", "two"))
    assert one == two
    assert one.files == len(list((tmp_path / "one/LOT").iterdir())) == WAFERS
