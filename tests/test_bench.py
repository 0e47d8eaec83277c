"""The measuring tool: a tiny run of each measure, and that its checks catch what they are for.

Only counts and correctness are asserted, never a time.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import BenchError, badinput, latency, loadgen, report, sdk, throughput
from bench import __main__ as main
from bench.receiver import receiver

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs Linux")
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def frame(connection: int, number: int) -> bytes:
    head = (
        f'{{"v":1,"src":"bench-{connection}-0","ts":1700000000000,"type":"event","data":{{"level":'
        f'"info","msg":"wafer loaded","ctx":{{"n":{number},"lot":"L1234567","tool":"EQP07",'
        f'"yield":0.9731,"rows":1200,"p":"'
    ).encode()
    return head + b"x" * (loadgen.FRAME_BYTES - 5 - len(head)) + b'"}}}\n'


def lines() -> list:
    return [frame(connection, number) for number in range(5) for connection in range(4)]


class TestCheck:
    def run(self, tmp_path: pathlib.Path, sent: list) -> None:
        path = tmp_path / "out.jsonl"
        path.write_bytes(b"".join(sent))
        loadgen.check(str(path), 20)

    def test_what_is_whole_passes(self, tmp_path: pathlib.Path) -> None:
        self.run(tmp_path, lines())

    def test_lost(self, tmp_path: pathlib.Path) -> None:
        sent = lines()
        del sent[6]
        with pytest.raises(BenchError, match="connection 2: frame 2 stands where 1 should"):
            self.run(tmp_path, sent)

    def test_lost_at_the_end(self, tmp_path: pathlib.Path) -> None:
        with pytest.raises(BenchError, match="frames arrived"):
            self.run(tmp_path, lines()[:-1])

    def test_a_connection_that_is_not_there(self, tmp_path: pathlib.Path) -> None:
        with pytest.raises(BenchError, match="frames arrived"):
            self.run(tmp_path, [line for line in lines() if b"bench-3" not in line])

    def test_twice(self, tmp_path: pathlib.Path) -> None:
        sent = lines()
        with pytest.raises(BenchError, match="frame 4 stands where 5 should"):
            self.run(tmp_path, [*sent, sent[-1]])

    def test_out_of_order(self, tmp_path: pathlib.Path) -> None:
        sent = lines()
        sent[0], sent[4] = sent[4], sent[0]
        with pytest.raises(BenchError, match="frame 1 stands where 0 should"):
            self.run(tmp_path, sent)

    @pytest.mark.parametrize("length", [1, 100, 213])
    def test_torn(self, tmp_path: pathlib.Path, length: int) -> None:
        sent = lines()
        sent[7] = sent[7][:length]
        with pytest.raises(BenchError, match="never sent"):
            self.run(tmp_path, sent)

    def test_any_order_is_fine_where_it_may_be(self, tmp_path: pathlib.Path) -> None:
        sent = lines()
        path = tmp_path / "out.jsonl"
        path.write_bytes(b"".join(sent[::-1]))
        loadgen.check(str(path), 20, in_order=False)
        for wrong in (sent[1:], [*sent, sent[0]], [sent[0][:50], *sent[1:]]):
            path.write_bytes(b"".join(wrong))
            with pytest.raises(BenchError, match="not every frame"):
                loadgen.check(str(path), 20, in_order=False)

    def test_tally(self, tmp_path: pathlib.Path) -> None:
        sent = lines()
        path = tmp_path / "out.jsonl"
        # 0 is torn at its end, 1 is there twice, 2 is glued to a torn one, the last is cut off.
        path.write_bytes(
            sent[0][:100] + b"\n" + sent[1] * 2 + sent[2][:20] + b"".join(sent[2:-1]) + sent[-1][:9]
        )
        assert loadgen.tally(str(path), 20) == (3, 1, 3)

    def test_changed(self, tmp_path: pathlib.Path) -> None:
        sent = lines()
        sent[7] = sent[7].replace(b"EQP07", b"EQP08")
        with pytest.raises(BenchError, match="never sent"):
            self.run(tmp_path, sent)


@needs_cc
class TestThroughput:
    @pytest.fixture
    def sender(self, tmp_path: pathlib.Path) -> loadgen.LoadGenerator:
        return loadgen.LoadGenerator(str(tmp_path))

    @pytest.mark.parametrize("case", throughput.cases(), ids=str)
    def test_every_case_delivers_all(
        self, sender: loadgen.LoadGenerator, case: throughput.Case
    ) -> None:
        assert throughput.run_case(sender, case, 400)["Peak MB"] > 0

    def test_paced(self, sender: loadgen.LoadGenerator) -> None:
        case = throughput.Case("sidecar", 0, "tcp", False, rate=2000)
        assert throughput.run_case(sender, case, 400)["CPU s"] > 0

    def test_no_compiler(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CC", "no-such-compiler")
        with pytest.raises(BenchError, match="no C compiler"):
            loadgen.LoadGenerator(str(tmp_path))


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_latency_sees_every_message(transport: str) -> None:
    passed, _ = latency.run_case(transport, False, 50, 500)
    assert len(passed) == 50
    assert passed[0] > 0


@pytest.mark.parametrize("number", [0, 9_999_999])
def test_latency_frames_have_one_size(number: int) -> None:
    assert len(latency.frame(number, 10**12)) == len(latency.frame(0, 1)) == 214


@pytest.mark.parametrize("row", sdk.programs())
def test_sdk_calls_all_arrive(row: str) -> None:
    with receiver() as target:
        sdk.run_program(target, sdk.programs()[row], sdk.BURST)


class TestBadInput:
    @pytest.mark.parametrize(
        "make", [badinput.nested, badinput.long_numbers, lambda: badinput.endless(1)]
    )
    def test_all_is_counted(self, make: object) -> None:
        with receiver() as target:
            feed = badinput.Feed(target)
            feed.send_good()
            figures = feed.send_bad(make())
            feed.close()
        assert figures["Rejected"] + figures["Accepted"] == figures["Bad frames"]

    def test_a_wrong_account_is_noticed(self) -> None:
        with receiver() as target:
            feed = badinput.Feed(target)
            feed.send_good()
            with pytest.raises(BenchError, match="of 2 bad frames"):
                feed.send_bad(badinput.Rubbish([b"rubbish\n"], 2, ["invalid_json"]))
            feed.close()


class TestPage:
    def test_only_what_was_measured_changes(self, tmp_path: pathlib.Path) -> None:
        page = tmp_path / "page.md"
        page.write_text("a\n<!-- x: begin -->old<!-- x: end -->\n<!-- y: begin -->y<!-- y: end -->")
        for _ in range(2):
            report.write_page({"x": r"new \1"}, str(page))
            assert page.read_text() == (
                "a\n<!-- x: begin -->\n\nnew \\1\n\n<!-- x: end -->\n"
                "<!-- y: begin -->y<!-- y: end -->"
            )

    def test_no_place(self, tmp_path: pathlib.Path) -> None:
        page = tmp_path / "page.md"
        page.write_text("nothing")
        with pytest.raises(BenchError, match="no place for x"):
            report.write_page({"x": ""}, str(page))

    def test_the_page_has_a_place_for_each_measure(self) -> None:
        text = pathlib.Path(report.PAGE).read_text(encoding="utf-8")
        for name in main.measures(main.arguments().parse_args([])):
            assert text.count(f"<!-- {name}: begin -->") == text.count(f"<!-- {name}: end -->") == 1


def test_percentile() -> None:
    values = list(range(1, 101))
    assert [report.percentile(values, p) for p in (0.5, 0.99, 1)] == [50, 99, 100]


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )


def test_command() -> None:
    done = command("idle", "--rounds", "1", "--idle-seconds", "0.1")
    assert done.returncode == 0, done.stderr
    assert "| no connection |" in done.stdout


def test_command_with_a_wrong_name() -> None:
    done = command("speed")
    assert done.returncode == 2
    assert "no such measure: speed" in done.stderr


def test_calls_tell_what_they_sent() -> None:
    with receiver() as target:
        done = subprocess.run(
            [sys.executable, "-m", "bench.calls", "sdk", str(target.tcp[1]), "10", "10"],
            cwd=ROOT, capture_output=True, check=True,
        )
    told = json.loads(done.stdout)
    assert (len(told["us"]), told["sent"], told["dropped"]) == (10, 10, 0)
