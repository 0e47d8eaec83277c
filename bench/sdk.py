"""What a call of an SDK costs the script that makes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

from bench import BenchError, process
from bench.receiver import ROOT, Receiver, receiver
from bench.report import Table, percentile

#: The first call of a burst finds everything asleep; it must be rarer than what p99 leaves out.
BURST = 250
_COLUMNS = {"p50 us": "{:.1f}", "p99 us": "{:.1f}", "Cores taken by others": "{:.2f}"}
_PERL_SCRIPT = os.path.join(ROOT, "bench", "calls.pl")


def programs() -> dict[str, list[str]]:
    """Row of the table -> the command that makes the calls; without what is not installed."""
    python = [sys.executable, "-m", "bench.calls"]
    made = {
        "Python, `log_event`": [*python, "sdk"],
        "Python, by hand: json.dumps and a write": [*python, "bare"],
    }
    perl = shutil.which("perl")
    if perl is None:
        print("no perl here: the Perl SDK is left out", file=sys.stderr)
        return made
    made["Perl, `log_event`"] = [perl, _PERL_SCRIPT, "sdk"]
    found = subprocess.run([perl, "-MJSON::XS", "-e1"], stderr=subprocess.DEVNULL, check=False)
    if found.returncode:
        print("no JSON::XS here: Perl by hand is left out", file=sys.stderr)
    else:
        made["Perl, by hand: JSON::XS and a write"] = [perl, _PERL_SCRIPT, "bare"]
    return made


def run_program(target: Receiver, command: list[str], calls: int) -> dict[str, float]:
    """Make the calls, and check that each message arrived."""
    bystanders = process.Bystanders(target.pid)
    done = subprocess.run(
        [*command, str(target.tcp[1]), str(calls), str(BURST)],
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise BenchError(f"{command}: {done.stderr.decode(errors='replace')}")
    others = bystanders.cores()
    told = json.loads(done.stdout)
    passed = sorted(told["us"])
    if told["dropped"] or told["sent"] != len(passed):
        raise BenchError(f"{len(passed)} calls, {told['sent']} sent, {told['dropped']} dropped")
    target.end()
    with open(target.output, encoding="utf-8") as file:
        arrived = sum(json.loads(line)["type"] == "event" for line in file)
    if arrived != len(passed):
        raise BenchError(f"{arrived} of {len(passed)} messages arrived")
    return dict(zip(_COLUMNS, (percentile(passed, 0.5), percentile(passed, 0.99), others)))


def measure(rounds: int, calls: int) -> Iterator[str]:
    """One event with four values, by each SDK and by hand, against a live sidecar.

    Args:
        rounds: how often.
        calls: of each program, rounded up to whole bursts.
    """
    table = Table("Caller", _COLUMNS)
    for _ in range(rounds):
        for row, command in programs().items():
            with receiver() as target:
                table.add(row, run_program(target, command, calls))
    yield (
        f"{calls:,} calls in bursts of {BURST}, an event with a `ctx` of four values, over TCP; "
        f"every message arrived.\n\n{table.text()}"
    )
