"""Unix sockets: which file gives way, and to whom it belongs."""

import errno
import os
import socket
import stat

import pytest

from wafermon.net import TcpAddress, UnixAddress


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "s.sock")


def bound(address):
    sock = address.bind()
    address.unbind(sock)


def test_a_stale_socket_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    address = UnixAddress(path)
    sock = address.bind()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    address.unbind(sock)
    assert os.listdir(os.path.dirname(path)) == []


def test_a_socket_in_use_never_is(path):
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(path)
        alive.listen(0)
        inode = os.stat(path).st_ino
        fillers = []
        for _ in range(4):  # even with a full backlog somebody listens
            with pytest.raises(OSError, match="another process listens there") as caught:
                UnixAddress(path).bind()
            assert caught.value.errno == errno.EADDRINUSE
            filler = socket.socket(socket.AF_UNIX)
            filler.setblocking(False)
            filler.connect_ex(path)
            fillers.append(filler)
        assert os.stat(path).st_ino == inode
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("make", ["file", "folder", "link"])
def test_a_foreign_file_never_is(path, make, tmp_path):
    if make == "file":
        open(path, "w").close()
    elif make == "folder":
        os.mkdir(path)
    else:
        os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(OSError, match="a file that is no socket is in the way"):
        UnixAddress(path).bind()
    assert os.path.lexists(path)


def test_mode_owner_and_group(path):
    address = UnixAddress(path, mode=0o600, owner=os.getuid(), group=os.getgid())
    sock = address.bind()
    found = os.stat(path)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())
    address.unbind(sock)
    with pytest.raises(OSError, match=r"cannot listen on .*no such (user|group)"):
        UnixAddress(path, group="no-such-group-here").bind()
    assert os.listdir(os.path.dirname(path)) == [], "nothing is left behind"


def test_a_file_that_somebody_put_in_our_place_stays(path):
    address = UnixAddress(path)
    sock = address.bind()
    os.unlink(path)
    open(path, "w").close()
    address.unbind(sock)
    assert os.path.exists(path)


def test_texts_tell_what_to_do(tmp_path):
    with pytest.raises(OSError, match="choose a shorter one"):
        UnixAddress(str(tmp_path / ("x" * 120))).bind()
    with pytest.raises(OSError, match="cannot listen on .*: No such file or directory"):
        UnixAddress(str(tmp_path / "none" / "s")).bind()
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:0: Cannot assign"):
        TcpAddress("192.0.2.1", 0).bind()
    with pytest.raises(OSError, match="cannot listen on no-such-host.invalid:0"):
        TcpAddress("no-such-host.invalid", 0).bind()


def test_longest_path(tmp_path):
    folder = str(tmp_path)
    room = 107 - len(".17000") - len(os.fsencode(folder)) - 1
    if room < 1:
        pytest.skip("the temporary folder's own name is too long")
    bound(UnixAddress(os.path.join(folder, "x" * room)))


def test_addresses_as_text():
    assert str(TcpAddress("::1", 5)) == "[::1]:5"
