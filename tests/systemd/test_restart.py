"""Sockets that somebody else holds: a restart under load refuses nobody and loses nothing."""

import json
import os
import socket
import subprocess
import sys
import threading

import pytest
from support import DEADLINE_SECONDS, ROOT, eventually

from wafermon.client import Client
from wafermon.testing import frame

pytestmark = pytest.mark.slow

RESTARTS = 3
#: As systemd starts a service: descriptors from 3 on, and the number of the process itself.
LAUNCH = """
import fcntl, os, sys
passed = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
for number, fd in enumerate(passed, start=3):
    os.dup2(fd, number)
os.environ.update(LISTEN_FDS="2", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "wafermon", "run", *sys.argv[3:]])
"""


class Service:
    """What systemd does with a service and its sockets."""

    def __init__(self, folder):
        self.folder = folder
        self.output = folder / "out.jsonl"
        self.tcp = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(str(folder / "sidecar.sock"))
        self.unix.listen(1024)
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.settimeout(DEADLINE_SECONDS)
        self.manager.bind(str(folder / "notify"))
        self.config = folder / "config.json"
        self.config.write_text(json.dumps({
            "sidecar": {
                "data_dir": str(folder / "data"),
                "tcp": {"port": self.tcp.getsockname()[1]},
                "unix": {"path": self.unix.getsockname()},
                "health": {"metrics_port": 0},
            },
            "routing": {"*": [{"backend": "file"}]},
            "backends": {"file": {"type": "file", "path": str(self.output)}},
        }))

    def start(self):
        fds = (self.tcp.fileno(), self.unix.fileno())
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *map(str, fds), "--config", str(self.config)],
            pass_fds=fds, cwd=ROOT, stderr=subprocess.PIPE,
            env={**os.environ, "NOTIFY_SOCKET": self.manager.getsockname()},
        )
        while b"READY=1" not in self.manager.recv(4096):
            pass

    def stop(self):
        self.process.terminate()
        _, err = self.process.communicate(timeout=DEADLINE_SECONDS)
        assert (self.process.returncode, b"passed for" in err) == (0, False), err.decode()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        for sock in (self.tcp, self.unix, self.manager):
            sock.close()


@pytest.fixture
def service(tmp_path):
    made = Service(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.close()


class Visitor(threading.Thread):
    """Connect, send one message, see it acknowledged, again and again: as short scripts do."""

    def __init__(self, sock, source):
        super().__init__()
        self.family, self.address, self.source = sock.family, sock.getsockname(), source
        self.ended = threading.Event()
        self.acknowledged, self.refusals = 0, []

    def run(self):
        while not self.ended.is_set() and not self.refusals:
            if self.visit(frame(self.acknowledged, src=self.source, q=1)):
                self.acknowledged += 1

    def visit(self, line):
        """Whether a receipt came; without one it is sent again."""
        with socket.socket(self.family) as sock:
            sock.settimeout(DEADLINE_SECONDS)
            try:
                sock.connect(self.address)
            except OSError as error:
                self.refusals.append(repr(error))
                return False
            try:
                sock.sendall(line)
                sock.shutdown(socket.SHUT_WR)
                return b'"q":1' in sock.recv(1000)
            except ConnectionError:  # it had been let in by the one that was about to end
                return False


def arrived(service, source):
    """What each message of a source said."""
    messages = map(json.loads, service.output.read_bytes().splitlines())
    return [m["data"]["msg"] for m in messages if m["src"] == source and m["type"] == "event"]


def test_a_restart_under_load(service):
    """Visitors wait in the backlog; who is connected all the time comes back with its session."""
    visitors = [Visitor(service.tcp, "visitor-tcp"), Visitor(service.unix, "visitor-unix")]
    clients = [
        Client("resident-tcp", port=service.tcp.getsockname()[1]),
        Client("resident-unix", unix=service.unix.getsockname()),
    ]
    logged = 0
    for visitor in visitors:
        visitor.start()
    try:
        for _ in range(RESTARTS):
            before = [visitor.acknowledged for visitor in visitors]
            for _ in range(500):
                for client in clients:
                    client.log_event("info", str(logged))
                logged += 1
            service.stop()
            service.start()
            eventually(
                lambda before=before: all(
                    v.acknowledged > n or v.refusals for v, n in zip(visitors, before)
                ),
                "a visit to the one that was started",
            )
    finally:
        for visitor in visitors:
            visitor.ended.set()
            visitor.join(DEADLINE_SECONDS)
        unsent = [client.close(timeout=DEADLINE_SECONDS) for client in clients]
    service.stop()
    assert [visitor.refusals for visitor in visitors] == [[], []]
    assert unsent == [0, 0]
    for source in ("resident-tcp", "resident-unix"):
        assert sorted(map(int, arrived(service, source))) == list(range(logged))
    for visitor in visitors:
        assert visitor.acknowledged > RESTARTS
        expected = set(map(str, range(visitor.acknowledged)))
        assert expected <= set(arrived(service, visitor.source))
