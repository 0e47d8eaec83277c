"""Addresses as text: `HOST:PORT`, or the path of a Unix socket."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def split(address: str) -> tuple[str, int]:
    """Host and port."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def dial(address: str) -> socket.socket:
    """Connect.

    Raises:
        OSError: nobody listens.
    """
    if not address.startswith("/"):
        sock = socket.create_connection(split(address))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def answers(address: str) -> bool:
    """Whether somebody listens."""
    try:
        dial(address).close()
    except OSError:
        return False
    return True
