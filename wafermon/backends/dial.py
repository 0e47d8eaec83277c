"""The way to another host: addresses, TLS and secrets of the backends that connect to something."""

from __future__ import annotations

import errno
import re
import select
import socket
import ssl
from dataclasses import dataclass
from typing import Optional

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
        if self.cert:
            # A passphrase would be asked for on the terminal; an empty one is an error.
            context.load_cert_chain(self.cert, self.key, password="")
        return context


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

    def connect(self, timeout: float, tls: Optional[ClientTls] = None) -> socket.socket:
        """Connect, and shake hands where that is asked for. Looking up a name has no time limit.

        Args:
            timeout: seconds for each step, and for each later call of the socket.
            tls: None for a plain connection.

        Raises:
            OSError: not reachable, or not to be trusted; `explain` makes a text of it.
        """
        context = tls.context() if tls is not None else None
        if self.host is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            sock = socket.create_connection((self.host, self.port), timeout)
        try:
            sock.settimeout(timeout)
            if self.host is None:
                sock.connect(self._text)
            else:
                _tune(sock)
            if context is not None and tls is not None:
                sock = context.wrap_socket(sock, server_hostname=tls.server_name or self.host)
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
