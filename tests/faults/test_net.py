"""Peers that vanish without a word: a real network between two hosts, and its cable is cut."""

import json
import socket
import struct

import pytest
from certificates import authority
from namespaces import Peer
from net_host import Outlet
from raw import RawSession, file_config, number_of
from support import SidecarProcess, eventually

from wafermon.net import Listen, Server, TcpAddress, door
from wafermon.testing import frame

pytestmark = pytest.mark.slow

SECRET = "what both ends of a cable know"
GUARDED = pytest.mark.parametrize("guarded", [True, False], ids=["tls and secret", "insecure"])


@pytest.fixture
def peer():
    peer = Peer()
    yield peer
    peer.close()


def listener(folder, host, guarded, **tcp):
    """The section of a listener that others can reach."""
    if not guarded:
        return {"host": host, "port": 0, "insecure": True, **tcp}
    (folder / "secret").write_text(SECRET)
    (folder / "secret").chmod(0o600)
    cert, key = authority().issue()
    return {"host": host, "port": 0, "tls": {"cert": cert, "key": key},
            "auth": {"secret_file": str(folder / "secret")}, **tcp}


class Remote(RawSession):
    """A session client on the other host, which is not patient.

    What it gives up it leaves open, as if something between the two had: its kernel goes on sending
    what it holds, and answers. Or it is `gone` without a word.
    """

    def __init__(self, peer, sidecar, guarded, gone=False):
        super().__init__(None, "s", src="remote")
        self._peer, self._to, self._guarded, self._gone = peer, sidecar.tcp, guarded, gone
        self._left = []

    def dial(self):
        sock = self._peer.inside(socket.create_connection, self._to, 1)
        self._left.append(sock)
        if self._guarded:
            sock = self._left[-1] = authority().client().wrap_socket(sock, server_hostname="localhost")
        return sock

    def close(self):
        if self._gone and self._sock is not None:
            # A close that says nothing later, when the cable is whole again.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._sock.close()
        self._sock = None

    def end(self):
        """Close all that was ever opened."""
        self._sock = None
        for sock in self._left:
            sock.close()

    def hello(self):
        line = super().hello()
        return line.replace(b'"data":{', b'"data":{"secret":"%s",' % SECRET.encode()) if self._guarded else line

    def pump_until(self, condition, *arguments):
        def pumped():
            self.pump()
            return condition(*arguments)

        eventually(pumped)


def taken(folder):
    path = folder / "out.jsonl"
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]  # behind it a write may be under way
    return [number_of(line) for line in whole.splitlines()]


@pytest.fixture
def remote(peer):
    """Make clients, which end with the test."""
    made = []

    def make(*arguments):
        made.append(Remote(peer, *arguments))
        return made[-1]

    yield make
    for client in made:
        client.end()


@pytest.mark.parametrize("guarded, gone", [(True, False), (False, False), (False, True)])
def test_a_client_takes_over_from_its_own_half_open_connection(
    start_sidecar, tmp_path, peer, remote, guarded, gone
):
    """Cut in the midst of traffic: the sidecar knows of nothing when it comes back."""
    sidecar = start_sidecar(config=file_config(tmp_path, tcp=listener(tmp_path, peer.here, guarded)))
    client = remote(sidecar, guarded, gone)

    def ended(reason):
        return sidecar.total("sidecar_connections_ended_total", reason=reason)

    for times in (1, 2):
        client.pump_until(lambda n: client.acked >= 1000 * n, times)
        peer.cut()
        client.pump_until(lambda n: client._sock is None, times)  # its patience is at an end
        assert sidecar.total("sidecar_active_connections") == 1, "half a connection"
        peer.mend()
        client.pump_until(lambda n: client.connects > n, times)
    # Where nobody has the old ones any more, the peer's kernel may say so first.
    eventually(lambda: ended("superseded") + gone * ended("reset") == 2)
    client.drain()
    assert sidecar.total("sidecar_active_connections") == 1
    client.end()
    eventually(lambda: taken(tmp_path) == list(range(1, client.sent + 1)), "each once, in order")
    assert client.levels.keys() == {"disk"}


@GUARDED
def test_a_client_that_never_comes_back(start_sidecar, tmp_path, peer, remote, guarded):
    """Its connection ends by `idle_timeout`; what was acknowledged is there, its session too."""
    tcp = listener(tmp_path, peer.here, guarded, idle_timeout=1)
    sidecar = start_sidecar(config=file_config(tmp_path, tcp=tcp))
    client = remote(sidecar, guarded)
    client.pump_until(lambda: client.acked >= 1000)
    peer.cut()
    eventually(lambda: sidecar.total("sidecar_connections_ended_total", reason="idle_timeout") == 1)
    assert sidecar.total("sidecar_active_connections") == 0
    client.end()
    peer.mend()
    client.drain()  # somebody else, with what the first one knew
    client.end()
    eventually(lambda: taken(tmp_path) == list(range(1, client.sent + 1)))


class Late(Outlet):
    """Says nothing until it is told to."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def expect(self, feeder, q):
        self.asked.append((feeder, q))


@pytest.mark.parametrize("owed", [False, True], ids=["silent", "owed a receipt"])
def test_keepalive(peer, monkeypatch, owed):
    """The kernel finds out; also where it waits for a receipt to be acknowledged, when it would not
    ask by itself. Seconds stand for minutes here."""
    monkeypatch.setattr(door, "KEEPALIVE", {
        "TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": 3000})
    outlet = Late()
    with Server([Listen(TcpAddress(peer.here, 0))], outlet) as server:
        port = int(server.addresses[0].rpartition(":")[2])
        with peer.inside(socket.create_connection, (peer.here, port), 30) as sock:
            sock.sendall(frame(1, q=1))
            eventually(lambda: outlet.asked)
            peer.cut()
            if owed:
                (feeder, q), = outlet.asked
                server.loop.call_soon(lambda: feeder.safe(q, "disk", 1))
            eventually(lambda: server.ended["reset"] == 1, "the end of the connection")
        assert server.connections == 0


def test_the_times_of_keepalive():
    """What is shortened above: two minutes, either way."""
    with Server([Listen(TcpAddress("127.0.0.1", 0))], Outlet()) as server:
        host, _, port = server.addresses[0].rpartition(":")
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(frame(1))
            feeder, = eventually(lambda: server.outlet.feeders)
            got = {name: feeder.sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                   for name in door.KEEPALIVE}
    assert got == door.KEEPALIVE
    seconds = got["TCP_KEEPIDLE"] + got["TCP_KEEPINTVL"] * got["TCP_KEEPCNT"]
    assert got["TCP_USER_TIMEOUT"] == 1000 * seconds == 120_000


@GUARDED
def test_forward_over_a_cable_that_is_cut(start_sidecar, tmp_path, peer, guarded):
    """Now and then, and for longer than its timeout: it tells, tries again, and all come once."""
    collector = start_sidecar(config=file_config(tmp_path, tcp=listener(tmp_path, peer.here, guarded)))
    backend = {"type": "forward", "address": collector.ready["tcp"], "timeout": 0.5,
               "retry": {"initial": 0.05, "max": 0.2}}
    if guarded:
        backend.update(secret_file=str(tmp_path / "secret"),
                       tls={"ca": authority().path, "server_name": "localhost"})
    (tmp_path / "sender").mkdir()
    sender = peer.inside(SidecarProcess, tmp_path / "sender", config={
        "sidecar": {"data_dir": str(tmp_path / "sender" / "data"), "tcp": {"port": 0},
                    "health": {"metrics_port": 0}},
        "backends": {"on": backend}})
    try:
        client = RawSession(sender.ready["unix"], "s")
        for _ in range(2):
            goal = client.acked + 2000
            while client.acked < goal:
                client.pump()
            peer.cut()
            goal = client.acked + 1000
            while client.acked < goal:
                client.pump()
            eventually(lambda: json.loads(peer.inside(sender.get, "/health"))["backends"]["on"]["status"] == "down")
            peer.mend()
        client.drain()
        client.close()
        eventually(lambda: taken(tmp_path) == list(range(1, client.sent + 1)), "each once, in order")
        peer.inside(sender.check_conservation)
        assert sender.stop()[0] == 0
    finally:
        sender.process.kill()
        sender.process.communicate()
