"""Sockets that somebody else has bound: which listener gets which, and that they stay as they are."""

import os
import socket
import subprocess
import sys

import pytest
from net_host import Outlet
from support import ROOT, eventually

from wafermon.net import Inherited, Listen, Server, TcpAddress, UnixAddress
from wafermon.testing import frames


@pytest.fixture
def passed(tmp_path):
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "s.sock"))
    unix.listen()
    with socket.create_server(("127.0.0.1", 0)) as tcp, unix:
        yield tcp, unix


def test_they_are_found_by_address(passed, tmp_path, caplog):
    tcp, unix = passed
    inherited = Inherited([tcp, unix])
    inherited.warn_of_unused()
    assert len(caplog.records) == 2
    port = tcp.getsockname()[1]
    (tmp_path / "link").symlink_to(tmp_path)
    for address in (TcpAddress("localhost", port), TcpAddress("127.0.0.1", port),
                    UnixAddress(str(tmp_path / "link" / "s.sock"))):
        assert inherited.use(address) is not address, address
    for address in (TcpAddress("127.0.0.1", 0), UnixAddress(str(tmp_path / "other"))):
        assert inherited.use(address) is address
    caplog.clear()
    inherited.warn_of_unused()
    assert not caplog.records


def test_a_stop_leaves_them_and_what_waits_there_to_the_next_one(passed):
    tcp, unix = passed
    inherited = Inherited([tcp, unix])
    path = unix.getsockname()
    inode = os.stat(path).st_ino
    outlet = Outlet()

    def server():
        tcp_address = TcpAddress("127.0.0.1", tcp.getsockname()[1])
        return Server([
            Listen(inherited.use(tcp_address)), Listen(inherited.use(UnixAddress(path)))
        ], outlet)

    for turn in range(3):
        with socket.create_connection(tcp.getsockname()) as early:
            early.sendall(frames(1)[0])
        with server() as running, socket.socket(socket.AF_UNIX) as late:
            assert running.addresses[1] == path
            late.connect(path)
            late.sendall(frames(1)[0])
            eventually(lambda n=2 * turn + 2: len(outlet.all.splitlines()) == n)
        assert os.stat(path).st_ino == inode


def test_an_update_gives_one_up_and_takes_it_again(passed):
    tcp, unix = passed
    inherited = Inherited([tcp, unix])
    both = [
        Listen(inherited.use(TcpAddress("127.0.0.1", tcp.getsockname()[1]))),
        Listen(inherited.use(UnixAddress(unix.getsockname()))),
    ]
    outlet = Outlet()
    with Server(both, outlet) as server:
        server.update(both[:1])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(unix.getsockname())  # waits
            client.sendall(frames(1)[0])
            server.update(both)
            eventually(lambda: outlet.all)


def test_only_what_is_meant_for_this_process_is_taken():
    for environ in ({}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
                    {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}):
        assert Inherited.from_environ(environ, os.getpid())._sockets == {}


@pytest.mark.parametrize(
    "make, words",
    [
        ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "is no stream socket that listens"),
        ("socket.socket()", "is no stream socket that listens"),
        ("open('/dev/null')", "descriptor 3: "),
        ("None", "descriptor 3: Bad file descriptor"),
    ],
)
def test_what_is_no_listening_socket_is_refused(make, words):
    code = f"""
import os, socket
from wafermon.net import Inherited
made = {make}
if made: os.dup2(made.fileno(), 3)
else: os.closerange(3, 4)
try: Inherited.from_environ({{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}}, os.getpid())
except OSError as error: print(error.strerror)
os._exit(print(flush=True) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, cwd=ROOT)
    assert words in done.stdout.decode(), done.stderr.decode()
