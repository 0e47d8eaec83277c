"""A backend that is dead, stalls or hangs delays no other one, and is named by /health."""

import json
import os
import signal
import socket
import subprocess

import pytest
from support import eventually

from wafermon.testing import frames


def config(folder, backends, **sidecar):
    return {
        "sidecar": {
            "data_dir": str(folder / "data"),
            "tcp": {"port": 0},
            "health": {"metrics_port": 0},
            "shutdown_timeout": 1,
            **sidecar,
        },
        "backends": {"good": {"type": "file", "path": str(folder / "good.jsonl")}, **backends},
    }


def goes_on(sidecar, folder, first):
    """Whether what is sent now reaches the good backend."""
    lines = b"".join(frames(200, first=first, pad="x" * 300))
    sidecar.send(lines)
    out = folder / "good.jsonl"
    last = lines.splitlines()[-1]
    eventually(lambda: out.exists() and last in out.read_bytes())


def backend_of(sidecar, name):
    return json.loads(sidecar.get("/health"))["backends"][name]


@pytest.fixture
def stopped():
    """A process that reads a pipe, and is stopped."""
    reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    reader.send_signal(signal.SIGSTOP)
    yield reader
    reader.kill()
    reader.communicate()


@pytest.mark.parametrize("policy", ["block", "drop_oldest"])
def test_a_stopped_reader(start_sidecar, tmp_path, stopped, policy):
    bad = {"type": "console", "timeout": 0.1, "buffer": {"max_messages": 300, "when_full": policy},
           "breaker": {"failures": 1}, "retry": {"initial": 0.001}}  # fmt: skip
    sidecar = start_sidecar(config=config(tmp_path, {"bad": bad}), stdout=stopped.stdin)
    for round_ in range(10):
        goes_on(sidecar, tmp_path, 1 + 200 * round_)
    state = eventually(lambda: (s := backend_of(sidecar, "bad"))["circuit"] != "closed" and s)
    assert state["status"] == "down" and state["error"] and backend_of(sidecar, "good")["status"] == "ok"
    assert sidecar.total("sidecar_backend_up", backend="bad") == 0
    assert sidecar.total("sidecar_backend_up", backend="good") == 1
    dropped = sidecar.total("sidecar_backend_messages_total", outcome="dropped_queue_full")
    assert bool(dropped) == (policy == "drop_oldest")
    stopped.send_signal(signal.SIGCONT)
    eventually(lambda: backend_of(sidecar, "bad")["queued"] == 0)
    assert backend_of(sidecar, "bad")["circuit"] == "closed"
    delivered = sidecar.total("sidecar_backend_messages_total", backend="bad", outcome="delivered")
    assert delivered + dropped == 2000


def test_a_fifo_that_nobody_reads(start_sidecar, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    bad = {"type": "file", "path": str(fifo)}
    sidecar = start_sidecar(config=config(tmp_path, {"bad": bad}))
    for round_ in range(3):
        goes_on(sidecar, tmp_path, 1 + 200 * round_)
    assert eventually(lambda: backend_of(sidecar, "bad")["status"] == "down")
    status, said = sidecar.stop()
    assert status == 0 and "600 messages are left in the journal" in said


def test_without_a_journal_what_blocks_pauses_its_own_feeders_only(start_sidecar, tmp_path, stopped):
    bad = {"type": "console", "timeout": 0.1, "buffer": {"max_messages": 50}}
    document = config(tmp_path, {"bad": bad}, journal={"enabled": False})
    document["routing"] = {"test": [{"backend": "bad"}], "*": [{"backend": "good"}]}
    sidecar = start_sidecar(config=document, stdout=stopped.stdin)
    feeder = sidecar.connect()
    feeder.settimeout(0.5)
    with feeder, pytest.raises(socket.timeout):  # TimeoutError from Python 3.10 on
        for round_ in range(1000):
            feeder.sendall(b"".join(frames(100, first=100 * round_, pad="x" * 600)))
    lines = b"".join(frames(50, src="other"))
    sidecar.send(lines)
    eventually(lambda: (tmp_path / "good.jsonl").exists()
               and len((tmp_path / "good.jsonl").read_bytes()) == len(lines))  # fmt: skip
    stopped.send_signal(signal.SIGCONT)


def test_a_rate_limit_drops_and_counts_what_is_too_fast(start_sidecar, tmp_path):
    limits = {"rate_limit": {"per_source": 0.001, "burst": 5}}
    sidecar = start_sidecar(config=config(tmp_path, {}, buffers=limits))
    sidecar.send(b"".join(frames(20)))
    eventually(lambda: sidecar.total("sidecar_messages_received_total") == 20)
    assert sidecar.total("sidecar_messages_dropped_total", reason="rate_limited") == 15
    out = tmp_path / "good.jsonl"
    eventually(lambda: out.exists() and len(out.read_bytes().splitlines()) == 5)
