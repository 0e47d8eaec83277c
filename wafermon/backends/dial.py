"""The way to another host: addresses, TLS and secrets of the backends that connect to something."""

from __future__ import annotations

import errno
import re
import select
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any, Optional, cast

_HOST_AND_PORT = re.compile(r"(?:\[([^\[\]\s]+)\]|([^:/\s\[\]]+)):([0-9]{1,5})")
_MAX_SECRET_CHARS = 4096
_MAX_TEXT = 300
#: An idle connection dies unnoticed behind a firewall: the kernel asks after a minute.
_KEEPALIVE_IDLE_SECONDS = 60


@dataclass(frozen=True)
class ClientTls:
    """How to be sure of a server, and how to prove who calls. TLS 1.2 at the least.

    The files are read at each connection, so a renewed certificate counts from the next one.

    Args:
        ca: file of the authorities to trust, in place of those of the system.
        cert: file of the certificate to show, with its chain.
        key: file of its key, without a passphrase, where it is not in `cert`.
        server_name: the name that the server's certificate must have; that of the address when
            not given.

    Raises:
        ValueError: a key without a certificate.

    Thread: any.

    >>> ClientTls(ca="/etc/wafermon/ca.pem").server_name is None
    True
    """

    ca: Optional[str] = None
    cert: Optional[str] = None
    key: Optional[str] = None
    server_name: Optional[str] = None

    def __post_init__(self) -> None:
        """Refuse what can never work."""
        if self.key and not self.cert:
            raise ValueError("tls.key: a key without tls.cert")

    def context(self) -> ssl.SSLContext:
        """The context of one connection.

        Raises:
            OSError: a file that cannot be read or used; the text names it.
        """
        for path in (self.ca, self.cert, self.key):
            if path:
                with open(path, "rb"):
                    pass  # whose error names the path, which those of ssl do not
        context = ssl.create_default_context(cafile=self.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sslsocket_class = _TimedTlsSocket
        if self.cert:
            # A passphrase would be asked for on the terminal; an empty one is an error.
            context.load_cert_chain(self.cert, self.key, password="")
        return context


class TimedSocket(socket.socket):
    """A socket whose calls all together end by one deadline.

    The timeout of any other begins anew with each call, so a peer that sends a byte now and then
    would hold a reader of lines for ever.

    Thread: its owner's.

    >>> with TimedSocket() as sock:
    ...     sock.deadline = time.monotonic()
    ...     try:
    ...         sock.recv(1)
    ...     except socket.timeout as error:
    ...         print(error)
    timed out
    """

    #: Monotonic seconds; None: as `settimeout` says.
    deadline: Optional[float] = None

    def _hurry(self, share: int = 1) -> None:
        """Give the next call what is left of the time, or a share of it."""
        if self.deadline is not None:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise socket.timeout("timed out")
            self.settimeout(left / share)

    def recv(self, *args: Any) -> bytes:
        """As that of any socket."""
        self._hurry()
        return super().recv(*args)

    def recv_into(self, *args: Any) -> int:
        """As that of any socket; who reads a `makefile` comes by here."""
        self._hurry()
        return super().recv_into(*args)

    def sendall(self, *args: Any) -> None:
        """As that of any socket."""
        self._hurry()
        super().sendall(*args)


class _TimedTlsSocket(TimedSocket, ssl.SSLSocket):
    """The same inside TLS."""


class Address:
    """Where a stream server is: `host:port`, `[::1]:port`, or the path of a Unix socket.

    Raises:
        ValueError: none of these.

    Thread: any.

    >>> Address("collector:17000").host, Address("/run/wafermon/sidecar.sock").host
    ('collector', None)
    """

    def __init__(self, text: str) -> None:
        match = _HOST_AND_PORT.fullmatch(text)
        self._text = text
        self.host: Optional[str] = None
        self.port = 0
        if match is not None and 0 < int(match[3]) < 65_536:
            self.host, self.port = match[1] or match[2], int(match[3])
        elif "/" not in text:
            raise ValueError(f"expected host:port or the path of a socket, got {text!r}")

    def __str__(self) -> str:
        return self._text

    def connect(self, deadline: float, tls: Optional[ClientTls] = None) -> TimedSocket:
        """Connect, and shake hands where that is asked for. Looking up a name has no time limit.

        Args:
            deadline: monotonic seconds; it holds for the socket until that is given another one.
            tls: None for a plain connection.

        Raises:
            OSError: not reachable, or not to be trusted; `explain` makes a text of it.
        """
        context = tls.context() if tls is not None else None
        sock = self._connected(deadline)
        if context is None or tls is None:
            return sock
        try:
            sock._hurry()
            name = tls.server_name or self.host
            secure = cast(TimedSocket, context.wrap_socket(sock, server_hostname=name))
        except BaseException:
            sock.close()
            raise
        secure.deadline = deadline
        return secure

    def _connected(self, deadline: float) -> TimedSocket:
        """A connection to the first of its addresses that answers; each has its share of the time,
        so that one that swallows everything does not keep the next one from being tried."""
        if self.host is None:
            return _connect(socket.AF_UNIX, self._text, deadline, 1)
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for left, (family, _, _, _, place) in zip(range(len(found), 0, -1), found):
            try:
                sock = _connect(family, place, deadline, left)
            except OSError:
                if left == 1:
                    raise
            else:
                _tune(sock)
                return sock
        raise AssertionError("a name that is found has an address")


def _connect(family: int, place: Any, deadline: float, share: int) -> TimedSocket:
    sock = TimedSocket(family, socket.SOCK_STREAM)
    sock.deadline = deadline
    try:
        sock._hurry(share)
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_SECONDS)


def has_ended(sock: socket.socket) -> bool:
    """Tell whether an idle connection that is owed nothing was closed, or gone mad, meanwhile.

    Where nothing is due, anything to read is the end of it: 2 us that spare an error later.
    """
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def read_secret(path: str) -> str:
    """Read a file that holds one line, a secret or a token; the line end does not count.

    Called at each use, 20 us, so that a new secret counts at once.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no such line; the text names the path and shows nothing of it.
    """
    with open(path, "rb") as file:
        raw = file.read(4 * _MAX_SECRET_CHARS + 2)
    try:
        secret = re.sub(r"\r?\n\Z", "", raw.decode("utf-8"))
    except UnicodeDecodeError:
        secret = ""
    if not 0 < len(secret) <= _MAX_SECRET_CHARS or "\n" in secret:
        raise ValueError(f"{path}: expected one line of text in UTF-8")
    return secret


def explain(error: Exception) -> str:
    """One short line about what went wrong, fit for a log whatever the peer said."""
    if not isinstance(error, OSError):
        return shown(str(error))
    if isinstance(error, socket.timeout):  # on Python 3.9 not yet the same as TimeoutError
        return "timed out"
    name = errno.errorcode.get(error.errno or 0)
    code = f" ({name})" if name and not isinstance(error, (ssl.SSLError, socket.gaierror)) else ""
    place = f"{error.filename}: " if error.filename else ""
    return shown(f"{place}{error.strerror or error}{code}")


def shown(text: str, limit: int = _MAX_TEXT) -> str:
    """Text of a peer on one line, without control characters, and not too much of it."""
    text = " ".join(text.split())
    text = text if len(text) <= limit else text[:limit] + "..."
    return text.encode("unicode_escape").decode("ascii")
