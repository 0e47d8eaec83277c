"""A session client of the tests' own: raw bytes by protocol section 4, nothing of the SDKs."""

from __future__ import annotations

import collections
import json
import socket
import time

from support import DEADLINE_SECONDS


def hello(session, src="raw"):
    return b'{"v":1,"src":"%s","ts":1,"type":"hello","data":{"session":"%s"}}\n' % (
        src.encode(), session.encode())


def numbered(q, src="raw", pad=""):
    """The frame with the number q; the number is its payload, too."""
    return b'{"v":1,"src":"%s","ts":1,"type":"event","data":{"n":%d,"pad":"%s"},"q":%d}\n' % (
        src.encode(), q, pad.encode(), q)


def number_of(line):
    return json.loads(line)["data"]["n"]


class Lines:
    """What comes back over a socket, line by line."""

    def __init__(self, sock):
        self.sock = sock
        self._rest = b""

    def next(self):
        """The next line as a dict; None at end-of-file."""
        while b"\n" not in self._rest:
            data = self.sock.recv(65536)
            if not data:
                return None
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        return json.loads(line)

    def some(self):
        """All whole lines that are there, at least one; raises at end-of-file."""
        found = [self.next()]
        while b"\n" in self._rest:
            found.append(self.next())
        if None in found:
            raise ConnectionResetError("end-of-file")
        return found


class RawSession:
    """Send numbered frames, as many as may be outstanding, and go on across restarts.

    `acked` is what the sidecar has said it holds, `sent` what was ever given out.
    """

    def __init__(self, unix, session, src="raw", window=200, burst=20):
        self.unix, self.session, self.src = unix, session, src
        self.window, self.burst = window, burst
        self.acked = self.sent = self.connects = 0
        self.levels = collections.Counter()
        self._pending = collections.deque()
        self._sock = self._lines = None

    def dial(self):
        """A new connection."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        try:
            sock.connect(self.unix)
        except BaseException:
            sock.close()
            raise
        return sock

    def hello(self):
        """What opens the session."""
        return hello(self.session, self.src)

    def frame(self, q):
        """What is sent under a number."""
        return numbered(q, self.src)

    def pump(self):
        """Fill the window, and take at least one receipt; reconnect where that is needed."""
        try:
            if self._sock is None:
                self._connect()
            while len(self._pending) < self.window:
                fresh = [(q, self.frame(q)) for q in range(self.sent + 1, self.sent + 1 + self.burst)]
                self.sent += len(fresh)
                self._pending += fresh
                self._sock.sendall(b"".join(frame for _, frame in fresh))
            self._take()
        except OSError:
            self.close()
            time.sleep(0.01)  # nobody listens at the moment

    def drain(self):
        """Go on until all that was given out is acknowledged."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.acked < self.sent:
            assert time.monotonic() < deadline, f"{self.acked} of {self.sent} acknowledged"
            try:
                if self._sock is None:
                    self._connect()
                if self.acked < self.sent:
                    self._take()
            except OSError:
                self.close()
                time.sleep(0.01)

    def _connect(self):
        sock = self.dial()
        try:
            sock.sendall(self.hello())
            self._lines = Lines(sock)
            welcome = self._lines.next()
            if welcome is None:
                raise ConnectionResetError("no welcome")
            assert welcome["type"] == "welcome"
            assert self.acked <= welcome["q"] <= self.sent, "what was acknowledged is held"
            self._covered(welcome)
            sock.sendall(b"".join(frame for _, frame in self._pending))
        except BaseException:
            sock.close()
            raise
        self._sock = sock
        self.connects += 1

    def _take(self):
        for line in self._lines.some():
            assert line["type"] == "ack" and line["q"] <= self.sent
            assert line["q"] > self.acked, "receipts rise"
            self.levels[line["level"]] += 1
            self._covered(line)

    def _covered(self, line):
        self.acked = max(self.acked, line["q"])
        while self._pending and self._pending[0][0] <= self.acked:
            self._pending.popleft()

    def close(self):
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def file_config(folder, **sidecar):
    """One backend, a file that never rotates; ports of the system's choice."""
    return {
        "sidecar": {"data_dir": str(folder / "data"), "tcp": {"port": 0},
                    "health": {"metrics_port": 0}, **sidecar},
        "backends": {"out": {"type": "file", "path": str(folder / "out.jsonl"),
                             "rotate": {"max_bytes": 0}}},
    }


def opened(sidecar, session, src="raw", unix=True):
    """A connection with its session open: socket, lines, and the `welcome`."""
    sock = sidecar.connect(unix)
    sock.sendall(hello(session, src))
    lines = Lines(sock)
    return sock, lines, lines.next()
