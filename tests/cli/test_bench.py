"""An operator's load test: short, against real sidecars, and its judgement of what it saw."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from certificates import authority
from support import DEADLINE_SECONDS, ROOT, SidecarProcess

from wafermon.cli import bench, main
from wafermon.cli.bench_load import FIRST_NUMBER, Plan, Sender, Sent, Way, line, send
from wafermon.cli.bench_target import Counters
from wafermon.message import check

COMMAND = [sys.executable, "-m", "wafermon", "bench"]
SENT = Sent(1000, 500, 500, 1.0, 0.0, [0.01] * 100, "")
BEFORE = Counters(0, 0, 0, 0, 1.0, 5e7)
AFTER = Counters(1000, 0, 0, 0, 1.5, 6e7)


def command(*arguments, **more):
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=100, cwd=ROOT, **more
    )


@pytest.mark.parametrize("numbered", [True, False])
def test_its_frames_are_messages(numbered):
    raw = line(numbered)
    message = json.loads(raw % FIRST_NUMBER if numbered else raw)
    assert check(message) is None and ("q" in message) == numbered


@pytest.mark.slow
def test_a_throw_away_sidecar(tmp_path):
    done = command("--seconds", "3", env={**os.environ, "TMPDIR": str(tmp_path)})
    first, *steps, blank, verdict = done.stdout.splitlines()
    assert "throw-away" in first and str(tmp_path) in first and blank == ""
    assert steps[0].split()[0] == "10,000/s" and len(steps) > 1
    assert verdict.startswith("this host ") and verdict.endswith("Nothing was lost.")
    assert done.returncode == int("does not hold" in verdict), done.stderr
    assert list(tmp_path.iterdir()) == [], "and nothing is left of it"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_a_named_sidecar_at_one_rate(start_sidecar, way):
    sidecar = start_sidecar()
    done = command(f"--{way}", sidecar.ready[way], "--admin", sidecar.ready["admin"],
                   "--rate", "1000", "--seconds", "1", "--json")
    told = json.loads(done.stdout)
    assert [step["rate"] for step in told["steps"]] == [1000] * bench.STEPS
    sent = sum(step["sent"] for step in told["steps"])
    assert sent == sidecar.total("sidecar_messages_received_total", source="wafermon-bench") == 1000
    assert told["lost"] == 0 and all(step["receipt_p50_ms"] > 0 for step in told["steps"])
    assert "1,000/s" in done.stderr and told["verdict"].startswith("this host")
    assert done.returncode == int(told["held_messages_per_s"] == 0)


def test_nobody_there(tmp_path, capsys, sidecar, monkeypatch):
    monkeypatch.setattr("wafermon.cli.bench_target.ASK_SECONDS", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        assert main(["bench", "--tcp", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{port}"]) == 1
        assert "--admin HOST:PORT" in capsys.readouterr().err
        assert main(["bench", "--unix", str(tmp_path / "no"), "--admin", sidecar.ready["admin"]]) == 1
        err = capsys.readouterr().err
        assert f"cannot send to {tmp_path}/no: No such file" in err and "is it running?" in err
    assert main(["bench", "--tcp", sidecar.ready["tcp"], "--admin", sidecar.ready["tcp"]]) == 1
    assert "wafermon bench: " in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--seconds", "0"], ["--seconds", "nan"], ["--rate", "0"],
                                   ["--rate", "many"], ["--tcp", "a:1", "--unix", "b"]])
def test_wrong_words(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", *words])
    assert ended.value.code == 2


@pytest.fixture
def guarded(tmp_path):
    """A sidecar that asks for everything it can ask for, and what to answer."""
    cert, key = authority().issue()
    for name in ("secret", "token"):
        (tmp_path / name).write_text(f"{name} of the fab alone, 2026\n")
    auth = {"secret_file": str(tmp_path / "secret")}
    sidecar = SidecarProcess(tmp_path, config={"sidecar": {
        "data_dir": str(tmp_path / "data"), "unix": {"auth": auth},
        "tcp": {"port": 0, "auth": auth, "tls": {"cert": cert, "key": key}},
        "health": {"metrics_port": 0, "token_file": str(tmp_path / "token")},
    }})
    try:
        yield {
            "--unix": sidecar.ready["unix"], "--tcp": sidecar.ready["tcp"],
            "--admin": sidecar.ready["admin"], "--tls-ca": authority().path,
            "--secret-file": str(tmp_path / "secret"), "--token-file": str(tmp_path / "token"),
        }
    finally:
        status, err = sidecar.stop()
    assert status == 0, err


def bench_with(options, *names):
    words = [word for name in ("--admin", *names) for word in (name, options[name])]
    return command(*words, "--rate", "1000", "--seconds", "0.5", "--json")


@pytest.mark.slow
@pytest.mark.parametrize("names", [("--tcp", "--tls-ca"), ("--unix",)])
def test_a_sidecar_that_is_guarded_is_loaded_by_who_knows_the_secret(guarded, names):
    done = bench_with(guarded, *names, "--secret-file", "--token-file")
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    assert (told["lost"], [step["sent"] for step in told["steps"]]) == (0, [48] * bench.STEPS)
    assert all(step["receipt_p50_ms"] > 0 for step in told["steps"])
    assert {step["fault"] for step in told["steps"]} <= {"", "receipts came late"}


@pytest.mark.slow
def test_who_does_not_know_is_told_what_to_say(guarded, tmp_path):
    done = bench_with(guarded, "--unix", "--secret-file")
    assert (done.returncode, "--token-file FILE" in done.stderr) == (1, True)
    (tmp_path / "wrong").write_text("something else entirely\n")
    done = bench_with({**guarded, "--secret-file": str(tmp_path / "wrong")}, "--unix", "--secret-file", "--token-file")
    assert done.returncode == 1 and "refuses the secret\n" in done.stderr
    other = tmp_path / "other.pem"
    other.write_text("none\n")
    done = bench_with({**guarded, "--tls-ca": str(other)}, "--tcp", "--tls-ca", "--token-file")
    assert done.returncode == 2 and f"--tls-ca {other}: " in done.stderr
    done = bench_with({**guarded, "--tcp": guarded["--tcp"].replace("127.0.0.1", "127.0.0.2")},
                      "--tcp", "--tls-ca", "--token-file")  # fmt: skip
    assert done.returncode == 1 and "cannot send to 127.0.0.2:" in done.stderr
    done = bench_with(guarded, "--unix", "--token-file")
    assert (done.returncode, done.stdout) == (1, "")
    assert "does it ask for --secret-file" in done.stderr and done.stderr.count("1,000/s") == 1


@pytest.mark.parametrize("words", [["--tls-ca", "x", "--unix", "y"], ["--secret-file", "x"],
                                   ["--tcp", ":1", "--secret-file", "/proc/none"]])
def test_words_that_do_not_go_together(words, capsys):
    assert main(["bench", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_an_interrupt_ends_it_and_all_that_it_started(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "--seconds", "60", "--rate", "2000"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    process.stdout.readline()
    assert process.stdout.read(10).strip()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert (process.returncode, "no verdict" in err) == (130, True), err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def peer():
    ours, theirs = socket.socketpair()
    with theirs:
        yield ours, theirs


def test_a_sender_keeps_its_rate_and_times_receipts_from_when_they_were_due(peer):
    ours, theirs = peer

    def sidecar():
        numbers, taken = [], b""
        while taken.count(b"\n") < 300:
            taken += theirs.recv(65_536)
        for frame in taken.splitlines():
            numbers.append(json.loads(frame)["q"])
        theirs.sendall(b'{"v":1,"type":"ack","q":%d,"level":"disk"}\n' % numbers[-1])
        assert theirs.recv(1) == b"", "the end comes once all is acknowledged"
        theirs.shutdown(socket.SHUT_WR)
        assert numbers == list(range(FIRST_NUMBER, FIRST_NUMBER + 300))

    thread = threading.Thread(target=sidecar)
    thread.start()
    sent = Sender(ours, Plan(3000, 0.1, True)).run()
    thread.join()
    assert (sent.frames, sent.numbered, sent.acknowledged, sent.fault) == (300, 300, 300, "")
    assert len(sent.receipt_seconds) == 20 and max(sent.receipt_seconds) >= 0.09


def test_a_peer_that_does_not_read_holds_the_sender_back(peer, monkeypatch):
    monkeypatch.setattr("wafermon.cli.bench_load.LATE_SECONDS", 0.1)
    monkeypatch.setattr("wafermon.cli.bench_load.DRAIN_SECONDS", 0.1)
    sent = Sender(peer[0], Plan(1_000_000, 1.0, False)).run()
    assert 0 < sent.frames < 1_000_000 and sent.late_seconds >= 0.1
    assert "did not take the rest" in sent.fault


def test_a_peer_that_hangs_up(peer):
    peer[1].close()
    sent = Sender(peer[0], Plan(1000, 0.1, True)).run()
    assert sent.fault and sent.acknowledged == 0


def test_senders_that_die_are_told_of(monkeypatch, sidecar):
    monkeypatch.setattr(Sender, "run", lambda self: os._exit(1))
    with pytest.raises(ChildProcessError):
        send(Way(sidecar.ready["unix"]), 100, 0.1)


@pytest.mark.parametrize(
    "sent, after, fault, lost",
    [
        ({}, {}, "", 0),
        ({"late_seconds": 0.3}, {}, "it took 1,000/s", 0),
        ({"receipt_seconds": [0.01] * 98 + [1.5] * 2}, {}, "receipts came late", 0),
        ({"receipt_seconds": []}, {}, "receipts came late", 0),
        ({}, {"queued": 1001}, "backends fell 1,001 messages behind", 0),
        ({"fault": "Broken pipe"}, {}, "Broken pipe", 0),
        ({}, {"received": 990}, "", 10),
        ({"acknowledged": 480}, {}, "", 20),
        ({}, {"dropped": 3, "rejected": 4}, "", 7),
    ],
)
def test_the_judgement(sent, after, fault, lost):
    step = bench.judged(1000, SENT._replace(**sent), BEFORE, AFTER._replace(**after), 1.0)
    assert (step.fault, step.lost) == (fault, lost)
    assert (step.cpu_cores, step.memory_mb) == (0.5, 60.0)


class Host(bench.Bench):
    """A host that holds so much."""

    def __init__(self, holds):
        self.holds = holds

    def _step(self, rate):
        return bench.Step(rate, rate, "" if rate <= self.holds else "it took less", 1, 2, 0.5, 40, 0)


@pytest.mark.parametrize("holds", [0, 1_300, 9_999, 10_000, 37_000, 180_000, 999_000])
def test_the_search_comes_close_from_below(holds):
    steps = Host(holds).run(None)
    found = bench.summary(steps, fixed=False)["held_messages_per_s"]
    assert found <= holds and (found > 0.85 * holds or holds < bench.LOWEST_RATE)
    assert len(steps) <= 14 and len({step.rate for step in steps}) == len(steps)


def test_the_verdict_in_words():
    assert bench.summary(Host(180_000).run(None), fixed=False)["verdict"] == (
        "this host holds 180,000 messages a second, 99 % of the receipts within 2 ms, with 0.50 "
        "cores and 40 MB for the sidecar. Nothing was lost."
    )
    assert "at least 1,280,000 " in bench.summary(Host(1e9).run(None), fixed=False)["verdict"]
    none = bench.summary(Host(0).run(None), fixed=False)
    assert none["verdict"].startswith("this host does not hold 10,000 messages a second: it took")
    half = [Host(1e9)._step(500)._replace(lost=3), Host(0)._step(500)]
    told = bench.summary(half, fixed=True)
    assert told["held_messages_per_s"] == 0 and told["verdict"].endswith("3 of 1,000 were lost.")
    unknown = [Host(1e9)._step(500)._replace(cpu_cores=None, memory_mb=None)]
    assert "2 ms. Nothing" in bench.summary(unknown, fixed=True)["verdict"]
