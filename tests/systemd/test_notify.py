"""What the service manager is told, read from the socket that it would have."""

import json
import os
import signal
import socket
import threading
import time

import pytest
from support import DEADLINE_SECONDS

from wafermon.cli.notify import Notify
from wafermon.sidecar import Sidecar, parse
from wafermon.testing import frame

BEAT_SECONDS = 0.05


class Manager:
    """The end of systemd: a socket with a path, or an abstract one."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.settimeout(DEADLINE_SECONDS)
        self.sock.bind("" if path is None else str(path))
        name = self.sock.getsockname()
        self.name = name if isinstance(name, str) else "@" + name[1:].decode()

    def told(self):
        """The next message, as a dictionary."""
        return dict(line.split("=", 1) for line in self.sock.recv(65_536).decode().split("\n"))

    def is_silent_for(self, seconds):
        self.drain()
        self.sock.settimeout(seconds)
        try:
            self.sock.recv(65_536)
        except socket.timeout:
            return True
        finally:
            self.sock.settimeout(DEADLINE_SECONDS)
        return False

    def drain(self):
        self.sock.setblocking(False)
        try:
            while self.sock.recv(65_536):
                pass
        except BlockingIOError:
            pass
        self.sock.settimeout(DEADLINE_SECONDS)


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    made = Manager(tmp_path / "notify" if request.param == "path" else None)
    with made.sock:
        yield made


def test_a_life_in_messages(manager, start_sidecar, tmp_path):
    config = {"sidecar": {"data_dir": str(tmp_path / "data"), "tcp": {"port": 0},
                          "health": {"metrics_port": 0}, "reload": {"poll": 0}}}
    sidecar = start_sidecar(config=config, env={"NOTIFY_SOCKET": manager.name})
    ready = manager.told()
    assert ready.pop("READY") == "1"
    assert list(ready) == ["STATUS"]
    assert sidecar.ready["tcp"] in ready["STATUS"] and sidecar.ready["unix"] in ready["STATUS"]

    path = sidecar.folder / "config.json"
    changed = {**config, "sidecar": {**config["sidecar"], "unix": {"path": str(tmp_path / "s")}}}
    for text, statuses in ((json.dumps(changed), 1), ("{", 0), (json.dumps(changed), 0)):
        path.write_text(text)
        asked = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        sidecar.process.send_signal(signal.SIGHUP)
        begun = manager.told()
        assert begun.pop("RELOADING") == "1" and int(begun.pop("MONOTONIC_USEC")) >= asked
        assert not begun
        for _ in range(statuses):
            assert str(tmp_path / "s") in manager.told()["STATUS"]
        assert manager.told() == {"READY": "1"}, text

    sidecar.send(frame(1))
    assert sidecar.stop()[0] == 0
    end = manager.told()
    assert end.pop("STOPPING") == "1" and list(end) == ["STATUS"]
    assert manager.is_silent_for(0.01)


def test_signs_of_life_come_from_a_sidecar_that_is_watched(manager, start_sidecar):
    start_sidecar(env={"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "100000"})
    assert "READY" in manager.told()
    for _ in range(5):
        assert manager.told() == {"WATCHDOG": "1"}


def test_whom_the_environment_means():
    def watched(**environ):
        return Notify.from_environ(environ, 7)._watchdog_seconds

    assert watched(WATCHDOG_USEC="3000000", WATCHDOG_PID="7") == 3
    assert watched(WATCHDOG_USEC="3000000") == 3
    assert watched(WATCHDOG_USEC="3000000", WATCHDOG_PID="8") == 0
    assert watched() == watched(WATCHDOG_USEC="often") == watched(WATCHDOG_USEC="²") == 0
    assert Notify.from_environ({"NOTIFY_SOCKET": ""}, 7)._address is None


@pytest.fixture
def watched(manager, tmp_path):
    """A sidecar in this process, whose loop gives signs of life."""
    config = parse({"sidecar": {"data_dir": str(tmp_path / "data"), "tcp": {"port": 0},
                                "health": {"metrics_port": 0}}})
    with Sidecar(config) as sidecar:
        Notify(manager.name, 2 * BEAT_SECONDS).watch(sidecar.loop, lambda: sidecar.progresses)
        assert manager.told() == {"WATCHDOG": "1"}
        yield sidecar


def test_a_loop_that_is_stuck_gives_no_sign_of_life(manager, watched):
    stuck, release = threading.Event(), threading.Event()
    try:
        watched.loop.call_soon(lambda: (stuck.set(), release.wait(DEADLINE_SECONDS)))
        assert stuck.wait(DEADLINE_SECONDS)
        assert manager.is_silent_for(6 * BEAT_SECONDS)
    finally:
        release.set()
    assert manager.told() == {"WATCHDOG": "1"}


def test_a_journal_that_hangs_gives_no_sign_of_life(manager, watched, monkeypatch):
    monkeypatch.setattr("wafermon.delivery.journal.SLOW_SECONDS", BEAT_SECONDS / 10)
    write, hangs, release = watched.journal._file.write, threading.Event(), threading.Event()

    def hanging(commit):
        hangs.set()
        assert release.wait(DEADLINE_SECONDS)
        return write(commit)

    monkeypatch.setattr(watched.journal._file, "write", hanging)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(watched.addresses()["unix"])
            client.sendall(frame(1))
            assert hangs.wait(DEADLINE_SECONDS)
        manager.is_silent_for(BEAT_SECONDS)  # or one was on its way
        assert manager.is_silent_for(6 * BEAT_SECONDS)
    finally:
        release.set()
    assert manager.told() == {"WATCHDOG": "1"}


def test_no_manager_no_message_and_no_harm(tmp_path, caplog):
    Notify().ready("nobody listens")
    assert not caplog.records
    for address in (str(tmp_path / "gone"), "vsock:2:1", "@nobody" + "x" * 200):
        caplog.clear()
        notify = Notify(address)
        notify.ready("x")
        notify.stopping("x")
        assert caplog.records, address


def test_the_loop_waits_for_no_manager_and_no_line_is_smuggled_in(tmp_path, caplog):
    with Manager(tmp_path / "notify").sock as sock:
        notify = Notify(str(tmp_path / "notify"), 1.0)
        notify.status("a\nREADY=1\r\nb")
        assert sock.recv(100) == b"STATUS=a READY=1 b"
        for _ in range(10_000):
            notify._send("WATCHDOG=1", 0.0)
            if caplog.records:
                break
        assert "WATCHDOG=1" in caplog.text, "the socket is full"


def test_a_reload_that_ends_after_the_stop_says_nothing(tmp_path):
    manager = Manager(tmp_path / "notify")
    with manager.sock:
        notify = Notify(manager.name)
        with notify.reloading():
            notify.stopping("over")
        assert "RELOADING" in manager.told() and "STOPPING" in manager.told()
        assert manager.is_silent_for(0.01)


def test_a_message_comes_from_the_process_itself(manager):
    """systemd asks the kernel for the sender, and hears the main process alone."""
    manager.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    Notify(manager.name).ready("x")
    data, ancillary, _, _ = manager.sock.recvmsg(1000, 1000)
    assert data == b"READY=1\nSTATUS=x"
    assert int.from_bytes(ancillary[0][2][:4], "little") == os.getpid()
