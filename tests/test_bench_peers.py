"""The comparison with other programs: how one is found, started and judged, and the tables.

Only counts and correctness are asserted, never a time.
"""

import os
import pathlib
import shutil
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import BenchError
from bench.loadgen import FRAME_BYTES, LoadGenerator
from bench.peers import compare, loss
from bench.peers.contender import ALL, FLAT, LATENCY, LOSS, PACED, WAYS, Peer
from bench.peers.sidecar import CONFIGURATIONS, Sidecar
from bench.receiver import running

pytestmark = [
    pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs Linux"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]

STUB = f"""#!{sys.executable}
import os, selectors, socket, sys
if sys.argv[1:] == ["--version"]:
    sys.exit("stub 1.2.3")
port, output, every = open(sys.argv[1]).read().split()
listener = socket.create_server(("127.0.0.1", int(port)))
selector = selectors.DefaultSelector()
selector.register(listener, selectors.EVENT_READ)
file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
rests, count = {{}}, 0
while True:
    for key, _ in selector.select():
        if key.fileobj is listener:
            selector.register(listener.accept()[0], selectors.EVENT_READ)
            continue
        data = key.fileobj.recv(65536)
        if not data:
            selector.unregister(key.fileobj)
            key.fileobj.close()
        *lines, rests[key.fd] = (rests.get(key.fd, b"") + data).split(b"\\n")
        for line in lines:
            count += 1
            if count % int(every):
                os.write(file, line + b"\\n")
            else:
                os.write(file, line[:-1] + b"x\\n")
"""


class Stub(Peer):
    """Writes what comes; with `every`, not every line as it was."""

    title, executable, variable = "Stub", "no-such-program-here", "STUB_PROGRAM"

    def __init__(self, how="pass-through", cases=ALL, every=10**9):
        super().__init__(how, cases)
        self._every = every

    def config(self, folder, address):
        return f"{address.rpartition(':')[2]} {folder}/out.jsonl {self._every}"

    def arguments(self, folder, path):
        return [path]


@pytest.fixture
def stub(tmp_path, monkeypatch):
    path = tmp_path / "stub"
    path.write_text(STUB)
    path.chmod(0o700)
    monkeypatch.setenv(Stub.variable, str(path))
    return Stub


@pytest.fixture(autouse=True)
def no_long_wait(monkeypatch):
    monkeypatch.setattr(loss, "QUIET_SECONDS", 0.3)  # none of these flushes once a second


@pytest.fixture
def sender(tmp_path):
    return LoadGenerator(str(tmp_path))


def some(rows, **more):
    arguments = {"frames": 400, "rate": 2000, "seconds": 0.1, "loss_frames": 400, **more}
    return lambda sender: compare.Comparison(rows, sender, **arguments)


class TestPeer:
    def test_absent(self):
        assert "no-such-program-here" in Stub().absent()
        assert "STUB_PROGRAM" in Stub().absent()

    def test_named_by_the_environment(self, stub):
        assert stub().absent() is None

    def test_version(self, stub, tmp_path):
        assert stub().version() == "Stub (unknown version)"  # it says so on the other stream
        (tmp_path / "stub").write_text("#!/bin/sh\necho stub v4.5.6-rc1\n")
        assert stub().version() == "Stub 4.5.6"

    def test_all_arrives(self, stub, sender):
        assert compare.throughput(stub(), sender, 400)["Peak MB"] > 0

    def test_a_changed_line_is_noticed(self, stub, sender):
        with pytest.raises(BenchError, match="never sent"):
            compare.throughput(stub(every=100), sender, 400)

    def test_one_that_does_not_start(self, stub, sender, tmp_path):
        (tmp_path / "stub").write_text("#!/bin/sh\necho cannot read the configuration; exit 1\n")
        with pytest.raises(BenchError, match="cannot read the configuration"):
            compare.throughput(stub(), sender, 400)

    def test_it_is_started_again_on_its_address(self, stub, tmp_path):
        program = stub().program(str(tmp_path), "tcp")
        addresses = set()
        for _ in range(2):
            with running(program, str(tmp_path)) as target:
                addresses.add(target.address("tcp"))
        assert len(addresses) == 1


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["tcp", "unix"])
@pytest.mark.parametrize(
    "row", [row for row in compare.contenders() if WAYS in row.cases], ids=lambda row: row.name
)
def test_each_that_is_here_delivers_all(row, transport, sender):
    if row.absent():
        pytest.skip(row.absent())
    assert compare.throughput(row, sender, 400, transport=transport)["Peak MB"] > 0


def test_over_tls(sender):
    if shutil.which("openssl") is None:
        assert os.environ.get("CI") != "true", "the openssl command is needed here"
        pytest.skip("needs the openssl command")
    row = Sidecar("TLS", CONFIGURATIONS["journal off"])
    assert compare.throughput(row, sender, 4000, transport="tls")["Peak MB"] > 0


class TestLoss:
    def test_frames_are_those_of_the_sender_in_c(self, tmp_path):
        path = tmp_path / "out.jsonl"
        path.write_bytes(loss.frame(0, 0, 0) + loss.frame(3, 99_999, 100_000))
        assert path.stat().st_size == 2 * FRAME_BYTES
        assert loss.tally(str(path), 400_000) == (399_998, 0, 0)

    @pytest.mark.slow
    @pytest.mark.parametrize("end", loss.ENDS)
    def test_with_receipts_nothing_is_lost(self, end, tmp_path):
        row = Sidecar("receipts", {}, receipts=True)
        found = loss.run(row, str(tmp_path), loss.ENDS[end], 4000, 8000)
        assert (found.lost, found.torn) == (0, 0)

    @pytest.mark.slow
    def test_without_receipts_the_rest_arrives_all_the_same(self, stub, tmp_path):
        found = loss.run(stub(), str(tmp_path), loss.ENDS["killed with -9"], 4000, 8000)
        assert found.lost < 2000
        assert found.twice == 0


class TestComparison:
    @pytest.mark.slow
    def test_a_round(self, stub, sender):
        rows = [Sidecar("journal off", CONFIGURATIONS["journal off"]), stub(cases=ALL - {WAYS})]
        made = some(rows)(sender)
        made.round()
        text = "\n".join(made.text())
        ours, theirs, ratio = (
            next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
            for name in ("sidecar, journal off", "Stub, pass-through",
                         "sidecar, journal off / Stub, pass-through")
        )
        assert len(ours.split("|")) == len(theirs.split("|")) == len(ratio.split("|")) == 10
        assert "|  |" not in ours + theirs + ratio
        assert "| TLS, 4 connections |" in text
        assert not made.failures

    def test_ratios_are_ours_over_theirs(self, stub):
        ours, theirs = stub("ours"), stub("theirs")
        ours.ours = True
        made = some([ours, theirs])(None)
        seen = {ours.name: {"CPU us/message": 3.0}, theirs.name: {"CPU us/message": 4.0, "p50 ms": 1}}
        for row in (ours, theirs):
            made._add_ratios(row, seen)
        (row,) = made.ratios.text().splitlines()[2:]
        assert row.split(" | ")[:3] == ["| Stub, ours / Stub, theirs", "", "0.75"]

    def test_a_peer_that_fails_is_named_and_has_no_figures(self, stub, sender):
        rows = [stub("bad", (FLAT,), every=50), stub("good", (FLAT,))]
        made = some(rows)(sender)
        made.round()
        assert list(made.failures) == ["Stub, bad: 8 lines that were never sent, or are torn"]
        bad, good = made.figures.text().splitlines()[2:]
        assert bad.replace(" ", "") == "|Stub,bad||||||||"
        assert good.split("|")[2].strip()

    def test_where_we_fail_all_is_over(self, stub, sender):
        row = stub("ours", (FLAT,), every=50)
        row.ours = True
        with pytest.raises(BenchError, match="Stub, ours: 8 lines"):
            some([row])(sender).round()

    def test_what_is_not_here_is_named(self, monkeypatch):
        monkeypatch.setattr(compare, "contenders", lambda: [Stub("one"), Stub("two")])
        head = next(compare.measure(1, 400, 2000, 0.1, 400))
        assert head.count("no no-such-program-here on PATH") == 1

    @pytest.mark.parametrize("case", [FLAT, PACED, LATENCY, LOSS])
    def test_all_cases_have_others_to_compare_with(self, case):
        rows = [row for row in compare.contenders() if case in row.cases]
        assert {row.ours for row in rows} == {True, False}
