"""The manners of the first process in a container: it ends when it is told, and buries orphans."""

import json
import os
import signal
import socket
import sys

import pytest
from pid_namespace import Container, children, state
from support import DEADLINE_SECONDS, eventually

from wafermon.testing import frames

pytestmark = pytest.mark.slow

#: What `docker stop` grants.
GRACE_SECONDS = 10
#: A process that leaves a child behind. The child tells who its parent is, once it has another one.
LEAVES_AN_ORPHAN = """
import os, sys, time
mother = os.getpid()
if not os.fork():
    while os.getppid() == mother:
        time.sleep(0.001)
    with open(sys.argv[1], "w") as file:
        file.write(f"{os.getppid()} {os.getpid()}")
"""


@pytest.fixture
def contained(tmp_path):
    """A sidecar that is number 1."""
    config = {
        "sidecar": {"data_dir": str(tmp_path / "data"), "tcp": {"port": 0},
                    "health": {"metrics_port": 0}, "performance": {"processes": 2}},
        "routing": {"*": [{"backend": "file"}]},
        "backends": {"file": {"type": "file", "path": str(tmp_path / "out.jsonl")}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    ready = tmp_path / "ready"
    with Container(sys.executable, "-m", "wafermon", "run", "--config", str(tmp_path / "config.json"),
                   "--ready-file", str(ready)) as container:
        eventually(lambda: ready.exists() or container.process.poll() is not None)
        container.ready = json.loads(ready.read_text())
        assert container.ready["pid"] == 1
        yield container


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_delivers_what_it_has_and_ends_in_time(contained, number, tmp_path):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_SECONDS)
        client.connect(contained.ready["unix"])
        client.sendall(b"".join(frames(20_000)))
    status, _, err = contained.end(number, timeout=GRACE_SECONDS)
    assert (status, signal.Signals(number).name in err) == (0, True), err
    assert (tmp_path / "out.jsonl").read_bytes().count(b"\n") == 20_000


def test_orphans_are_buried_and_its_own_children_live(contained, tmp_path):
    (nursery,) = children(contained.pid)
    (worker,) = eventually(lambda: children(nursery), "a worker process")
    for number in range(5):
        told = tmp_path / f"orphan-{number}"
        contained.run(sys.executable, "-c", LEAVES_AN_ORPHAN, str(told))
        assert eventually(lambda told=told: told.exists() and told.read_text()).split()[0] == "1"
    eventually(lambda: children(contained.pid) == [nursery], "the end of the last orphan")
    assert "Z" not in (state(nursery), state(worker))
    assert contained.end(signal.SIGTERM)[0] == 0


def test_a_worker_that_loses_its_nursery_is_an_orphan_too(contained):
    (nursery,) = children(contained.pid)
    eventually(lambda: children(nursery), "a worker process")
    os.kill(nursery, signal.SIGKILL)
    eventually(lambda: nursery not in children(contained.pid), "the end of the nursery")
    assert contained.end(signal.SIGTERM)[0] == 0


def test_nobody_is_robbed_of_an_exit_status():
    """A command of another thread stays a zombie until that thread asks for it."""
    code = """
import os, pathlib, signal, subprocess, threading, time
from wafermon.cli.orphans import adopt_orphans
adopt_orphans()
assert os.getpid() == 1

def alert(number, told):
    command = subprocess.Popen(["sh", "-c", f"exit {number}"])
    stat = pathlib.Path(f"/proc/{command.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.001)
    os.kill(1, signal.SIGCHLD)  # and one for the road
    time.sleep(0.05)
    told.append(command.wait())

told = []
threads = [threading.Thread(target=alert, args=(number, told)) for number in (3, 4, 5)]
for thread in threads: thread.start()
if not os.fork(): os._exit(9)  # of the main thread: taken for an orphan
for thread in threads: thread.join()
while os.path.exists("/proc/self/task/1/children") and open("/proc/self/task/1/children").read():
    time.sleep(0.001)
print(sorted(told))
"""
    with Container(sys.executable, "-c", code) as container:
        assert container.end() == (0, "[3, 4, 5]\n", "")
