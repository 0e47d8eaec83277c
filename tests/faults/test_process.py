"""Peers, descriptors and signals: what happens to the process, not to its disks."""

import os
import resource
import select
import signal
import socket

import pytest
from raw import RawSession, file_config, number_of, numbered, opened
from support import eventually

from wafermon.delivery.journal import Journal
from wafermon.message import Batch
from wafermon.testing import FakeClock, frame, frames
from wafermon.wire import SessionTable
from wafermon.wire.sessions import TTL_SECONDS

pytestmark = pytest.mark.slow


def out_of(tmp_path):
    path = tmp_path / "out.jsonl"
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def acked(lines, q):
    while lines.next()["q"] < q:
        pass


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_no_descriptors_left(start_sidecar, tmp_path):
    """Those who are in are served, those who wait get in when there is room; it does not spin."""
    config = file_config(tmp_path)
    config["sidecar"]["tcp"]["max_connections"] = 1000
    sidecar = start_sidecar(config=config)
    sidecar.send(frame(1))
    eventually(lambda: len(out_of(tmp_path)) == 1)
    first, lines, _ = opened(sidecar, "s", unix=False)
    pid = sidecar.process.pid
    limit = len(os.listdir(f"/proc/{pid}/fd")) + 10
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
    crowd = [sidecar.connect() for _ in range(40)]
    try:
        first.sendall(numbered(1))
        acked(lines, 1)
        before = cpu_seconds(pid)
        select.select([first], [], [], 1.0)  # nothing comes; a second in which it might spin
        assert cpu_seconds(pid) - before < 0.5
        for sock in crowd:
            sock.sendall(frame(2))
    finally:
        for sock in [*crowd, first]:
            sock.close()
    eventually(lambda: len(out_of(tmp_path)) == 42, "all who waited")


def patiently(sidecar):
    """A connection; None while the backlog of a Unix socket is full."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        sock.connect(sidecar.ready["unix"])
    except BlockingIOError:
        sock.close()
        return None
    sock.settimeout(30)
    return sock


def test_ten_thousand_connections(start_sidecar, tmp_path):
    wanted = 10_500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"no more than {hard} descriptors may be open here")
    config = file_config(tmp_path)
    config["sidecar"]["unix"] = {"max_connections": 10_000}
    socks = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        sidecar = start_sidecar(config=config)
        for _ in range(10_000):
            socks.append(eventually(lambda: patiently(sidecar), "a place in the backlog"))
        eventually(lambda: sidecar.total("sidecar_active_connections") == 10_000)
        for sock in socks[::100]:
            sock.sendall(frame(1))
        eventually(lambda: len(out_of(tmp_path)) == 100)
        extra = sidecar.connect(unix=True)  # waits in the backlog
        extra.sendall(frame(2))
        socks.pop().close()
        socks.append(extra)
        eventually(lambda: len(out_of(tmp_path)) == 101)
    finally:
        for sock in socks:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    eventually(lambda: sidecar.total("sidecar_active_connections") == 0)


def test_a_peer_that_dribbles(start_sidecar, tmp_path):
    """One byte now and then and never an end: it is cut off, and only it."""
    config = file_config(tmp_path)
    config["sidecar"]["unix"] = {"read_timeout": 0.5}
    sidecar = start_sidecar(config=config)
    other, lines, _ = opened(sidecar, "s")
    slow = sidecar.connect(unix=True)
    with slow, other:
        for byte in frame(1):
            try:
                slow.sendall(bytes([byte]))
            except OSError:
                break
            if select.select([slow], [], [], 0.05)[0]:
                break
        else:
            pytest.fail("it was never cut off")
        other.sendall(numbered(1))
        acked(lines, 1)
    assert sidecar.total("sidecar_connections_ended_total", reason="read_timeout") == 1
    assert sidecar.total("sidecar_messages_rejected_total", reason="truncated") == 1


def test_a_peer_that_is_only_half_there(start_sidecar, tmp_path):
    """It opened a session and vanished without a word: its successor takes the session over, and
    where silence is bounded its connection goes."""
    config = file_config(tmp_path)
    config["sidecar"]["unix"] = {"idle_timeout": 1}
    sidecar = start_sidecar(config=config)
    gone, lines, _ = opened(sidecar, "a")
    gone.sendall(numbered(1))
    acked(lines, 1)
    eventually(lambda: sidecar.total("sidecar_connections_ended_total", reason="idle_timeout") == 1)
    gone.close()
    sock, lines, welcome = opened(sidecar, "a")
    with sock:
        assert welcome["q"] == 1
        sock.sendall(numbered(2))
        acked(lines, 2)


def test_stopped_and_continued(start_sidecar, tmp_path):
    """SIGSTOP under load, then SIGCONT: the client has waited, nothing is lost, nothing twice."""
    sidecar = start_sidecar(config=file_config(tmp_path))
    client = RawSession(sidecar.ready["unix"], "s")
    for _ in range(3):
        for _ in range(5):
            client.pump()
        sidecar.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, sidecar.process.pid, os.WSTOPPED | os.WNOWAIT)
        sidecar.process.send_signal(signal.SIGCONT)
        goal = client.acked + 1000
        while client.acked < goal:
            client.pump()
    client.drain()
    client.close()
    eventually(lambda: [number_of(line) for line in out_of(tmp_path)] == list(range(1, client.sent + 1)))


def test_killed_clients(start_sidecar, tmp_path):
    """A client that dies in the middle of a line has its whole lines taken, and one truncated."""
    sidecar = start_sidecar(config=file_config(tmp_path))
    sent = frames(1000)
    pid = os.fork()
    if pid == 0:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(sidecar.ready["unix"])
        sock.sendall(b"".join(sent) + frame(1)[:20])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    eventually(lambda: out_of(tmp_path) == sent)
    eventually(lambda: sidecar.total("sidecar_messages_rejected_total", reason="truncated") == 1)


@pytest.mark.parametrize("hours", [-1, 1, -10_000])
def test_the_wall_clock_jumps(tmp_path, hours):
    """Sessions and journal go on; only what is older than a day by the new time is forgotten."""
    clock = FakeClock()
    journal = Journal(str(tmp_path / "journal.db"), clock=clock)
    journal.open()
    table = SessionTable()
    assert table.open("a", clock(), lambda: None) == 0
    for q in range(1, 4):
        batch = Batch(frame(q))
        batch.mark = ("a", q)
        journal.append(batch)
        table.advance("a", q, clock())
        journal.commit()
        clock.advance(hours * 3600)
    assert journal.committed == 3
    journal.close()
    journal = Journal(str(tmp_path / "journal.db"), clock=clock)
    journal.open()
    assert journal.marks["a"][0] == 3 and len(journal.read(0)) == 3
    assert table.open("a", clock(), lambda: None) == 3
    if hours > 0:
        clock.advance(TTL_SECONDS + 1)
        table.open("b", clock(), lambda: None)
        assert len(table) == 2, "one that is open is never forgotten"
    journal.close()
