"""Another host, as far as the network goes: a namespace of Linux at the end of a cable."""

import contextlib
import ctypes
import errno
import ipaddress
import itertools
import os
import shutil
import subprocess
import threading

import pytest

_NEWNET = 0x40000000
_numbers = itertools.count()


class Peer:
    """A network namespace, and a cable to it that can be cut.

    It has no name, and nobody but this process and those that it starts there hold it: it ends with
    them, however they end, and the cable with it.

    Attributes:
        here, there: the addresses of the two ends.
    """

    def __init__(self):
        if os.geteuid() != 0 or shutil.which("ip") is None:
            assert os.environ.get("CI") != "true", "root and the ip command are needed here"
            pytest.skip("needs root and the ip command")
        # Of 198.18.0.0/15, which is for such tests, a network for each of those at the same time.
        number = (os.getpid() * 8 + next(_numbers) % 8) % (1 << 15)
        base = ipaddress.ip_address("198.18.0.0") + 4 * number
        self.here, self.there = str(base + 1), str(base + 2)
        self._end = f"wm{os.getpid()}-{next(_numbers)}"[-15:]
        self._namespace = _in_a_thread(_new_namespace)
        try:
            self._plug()
        except BaseException:
            self.close()
            raise

    def _plug(self):
        ip("link", "add", self._end, "type", "veth", "peer", "name", "cable",
           "netns", f"/proc/{os.getpid()}/fd/{self._namespace}")
        ip("address", "add", f"{self.here}/30", "dev", self._end)
        ip("link", "set", self._end, "up")
        self.inside(ip, "address", "add", f"{self.there}/30", "dev", "cable")
        self.inside(ip, "link", "set", "lo", "up")
        self.mend()

    def inside(self, function, *arguments, **named):
        """Call a function there: its sockets, and the processes that it starts, belong there."""
        def call():
            _check(_libc.setns(self._namespace, _NEWNET))
            return function(*arguments, **named)

        return _in_a_thread(call)

    def cut(self):
        """Cut the cable: what is on its way is lost, and nobody is told."""
        self.inside(ip, "link", "set", "cable", "down")

    def mend(self):
        """Connect the two again."""
        self.inside(ip, "link", "set", "cable", "up")

    def close(self):
        """End it; twice is harmless."""
        if self._namespace is not None:
            with contextlib.suppress(AssertionError):  # there may be none
                ip("link", "delete", self._end)  # now: a namespace ends some time after its last user
            os.close(self._namespace)
            self._namespace = None


_libc = ctypes.CDLL(None, use_errno=True)


def _check(result):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _new_namespace():
    try:
        _check(_libc.unshare(_NEWNET))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOSPC):
            raise
        pytest.skip(f"no network namespace can be had here: {error.strerror}")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _in_a_thread(function):
    """A thread of its own has a network of its own."""
    found = []

    def call():
        try:
            found[:] = [function(), None]
        except BaseException as error:
            found[:] = [None, error]

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if found[1] is not None:
        raise found[1]
    return found[0]


def ip(*words):
    """The command of that name."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30)
    if "not supported" in done.stderr:
        pytest.skip(f"no cable can be had here: {done.stderr.strip()}")
    assert done.returncode == 0, (words, done.stderr)
