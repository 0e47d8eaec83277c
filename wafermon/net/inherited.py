"""Listening sockets that somebody else has bound and passes to one process after the other.

With systemd's socket units nobody is refused while the sidecar restarts: who connects meanwhile
waits in the backlog of a socket that stays open. The protocol is that of sd_listen_fds(3).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

from wafermon.net.listener import Address, TcpAddress, UnixAddress

#: The first descriptor that is passed (SD_LISTEN_FDS_START).
FIRST = 3

log = logging.getLogger("wafermon.net")


class InheritedAddress:
    """An address whose socket is there already, and outlives this process.

    `bind` gives a copy of it, so that closing leaves it as it is; the file of a Unix socket is
    never removed, nor its permissions changed: they are up to who made it.
    """

    outlives = True

    def __init__(self, address: Address, sock: socket.socket) -> None:
        self._address = address
        self._sock = sock

    def __str__(self) -> str:
        return str(self._address)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InheritedAddress) and self._address == other._address

    def __hash__(self) -> int:
        return hash(self._address)

    def name(self, sock: socket.socket) -> str:
        """Where it listens."""
        return str(self)

    def bind(self) -> socket.socket:
        """A copy of the socket, listening and non-blocking."""
        sock = self._sock.dup()
        sock.setblocking(False)
        return sock

    def adopt(self, before: InheritedAddress) -> None:
        """Nothing changes."""

    def is_gone(self) -> bool:
        """It is not up to us to make it anew."""
        return False

    def unbind(self, sock: socket.socket) -> None:
        """Close what `bind` gave."""
        sock.close()


class Inherited:
    """The sockets that were passed, by where they listen.

    Args:
        sockets: bound and listening.

    Thread: any one at a time.

    >>> with socket.create_server(("127.0.0.1", 0)) as passed:
    ...     address = TcpAddress(*passed.getsockname())
    ...     used = Inherited([passed]).use(address)
    ...     with used.bind() as sock:
    ...         sock.getsockname() == passed.getsockname()
    True
    """

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = {_name(sock): sock for sock in sockets}
        self._unused = set(self._sockets)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], pid: int) -> Inherited:
        """Take the descriptors that `LISTEN_FDS` announces to the process `pid`.

        Raises:
            OSError: what was passed is no stream socket that listens; the text says so.
        """
        count = environ.get("LISTEN_FDS", "")
        if environ.get("LISTEN_PID") != str(pid) or not count.isdigit():
            return cls([])
        return cls([_listening(fd) for fd in range(FIRST, FIRST + int(count))])

    def use(self, address: Address) -> Address:
        """The address, with the socket that was passed for it, if there is one."""
        for name in _names(address) if self._sockets else ():
            if name in self._sockets:
                self._unused.discard(name)
                return InheritedAddress(address, self._sockets[name])
        return address

    def warn_of_unused(self) -> None:
        """Say which sockets were passed for nothing: who connects there waits for ever."""
        for name in sorted(self._unused):
            log.warning("a socket was passed for %s, where no listener is configured", name)


def _listening(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise OSError(
            error.errno or 0, f"LISTEN_FDS: descriptor {fd}: {error.strerror or error}"
        ) from error
    if sock.type != socket.SOCK_STREAM or not listens:
        raise OSError(0, f"LISTEN_FDS: descriptor {fd} is no stream socket that listens")
    return sock


def _name(sock: socket.socket) -> str:
    name = sock.getsockname()
    if isinstance(name, tuple):
        return str(TcpAddress(name[0], name[1]))
    return os.path.realpath(os.fsdecode(name))


def _names(address: Address) -> list[str]:
    """What a socket at that address may be called."""
    if isinstance(address, UnixAddress):
        return [os.path.realpath(address.path)]
    if isinstance(address, TcpAddress):
        return [str(TcpAddress(name[0], name[1])) for _, name in address.resolve()]
    return []
