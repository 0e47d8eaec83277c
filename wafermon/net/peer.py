"""Who is at the other end of a connection, in as far as the kernel vouches for it."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Any

#: Whether this system tells the user of a peer on a Unix socket.
KNOWS_USERS = hasattr(socket, "SO_PEERCRED")

_CREDENTIALS = struct.Struct("3i")  # process, user, group


def user(sock: socket.socket) -> int:
    """The user id of the process that connected a Unix socket.

    Raises:
        OSError: the peer is not on this host.

    >>> import os
    >>> here, there = socket.socketpair()
    >>> with here, there:
    ...     user(here) == os.getuid()
    True
    """
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])


def origin(sock: socket.socket, address: Any) -> str:
    """Whom to hold to account: an address, or on a Unix socket a user; empty where nobody knows.

    Of IPv6 it is the network of 64 bits, all of which one host may have.

    Args:
        sock: the connection.
        address: as `accept` gave it.

    >>> with socket.socket() as sock:
    ...     [origin(sock, (host, 1)) for host in ("192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7")]
    ['192.0.2.7', '192.0.2.7', '2001:db8::/64']
    """
    if not isinstance(address, tuple):
        return f"user {user(sock)}" if KNOWS_USERS else ""
    host = ipaddress.ip_address(address[0].partition("%")[0])
    if isinstance(host, ipaddress.IPv4Address):
        return str(host)
    if host.ipv4_mapped is not None:
        return str(host.ipv4_mapped)
    return str(ipaddress.ip_network((int(host) >> 64 << 64, 64)))
