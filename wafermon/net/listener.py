"""Listening sockets: where they are bound and how a stale Unix socket gives way."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
from typing import Any, Optional, Protocol, Union

#: Connections that the kernel accepts for us while the loop is busy.
BACKLOG = 1024
#: `sun_path` holds 107 bytes and a NUL on Linux; a socket is bound under a longer name first.
MAX_SOCKET_PATH_BYTES = 107 - len(".17000")


class Address(Protocol):
    """Somewhere to listen; two are equal where one socket serves both."""

    #: Whether the listening socket goes on without this process.
    outlives: bool

    def bind(self) -> socket.socket:
        """A listening, non-blocking socket.

        Raises:
            OSError: the address cannot be had; the text names it.
        """

    def name(self, sock: socket.socket) -> str:
        """Where a socket of this address listens, with the port that the system chose."""

    def adopt(self, before: Any) -> None:
        """Take over what an equal address has bound, and make it as this one asks for.

        Raises:
            OSError: not permitted; the text names it.
        """

    def is_gone(self) -> bool:
        """Whether nobody can connect any more, though the socket is open."""

    def unbind(self, sock: socket.socket) -> None:
        """Close what `bind` gave."""


class TcpAddress:
    """A TCP address to listen on; port 0 lets the system choose.

    >>> str(TcpAddress("127.0.0.1", 17000))
    '127.0.0.1:17000'
    """

    outlives = False

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TcpAddress) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def name(self, sock: socket.socket) -> str:
        """Where the socket listens, with the port that the system chose."""
        return str(TcpAddress(self.host, sock.getsockname()[1]))

    def resolve(self) -> list[tuple[socket.AddressFamily, Any]]:
        """The families and addresses that the host's name stands for."""
        # As bytes where that is the same: of a str, getaddrinfo imports the idna codec, 0.4 MB.
        host = self.host.encode("ascii") if self.host.isascii() else self.host
        found = socket.getaddrinfo(
            host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return [(family, address) for family, _, _, _, address in found]

    def bind(self) -> socket.socket:
        """A listening, non-blocking socket.

        Raises:
            OSError: taken, or no address of this host; the text names it.
        """
        try:
            family, address = self.resolve()[0]
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise _explained(error, str(self)) from error
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            raise _explained(error, str(self)) from error
        return sock

    def adopt(self, before: TcpAddress) -> None:
        """There is nothing to take over."""

    def is_gone(self) -> bool:
        """A TCP address stays as long as its socket."""
        return False

    def unbind(self, sock: socket.socket) -> None:
        """Close what `bind` gave."""
        sock.close()


class UnixAddress:
    """A Unix socket path to listen on.

    A socket file on which nobody listens is replaced; one in use, and any file that is no socket,
    never is.

    Args:
        path: at most 101 bytes.
        mode: permission bits of the socket file.
        owner: user name or id, where it is to be changed.
        group: group name or id, where it is to be changed.
    """

    outlives = False

    def __init__(
        self,
        path: str,
        *,
        mode: int = 0o660,
        owner: Union[str, int, None] = None,
        group: Union[str, int, None] = None,
    ) -> None:
        self.path = os.path.abspath(path)
        self._mode = mode
        self._owner = owner
        self._group = group
        self._inode: Optional[int] = None

    def __str__(self) -> str:
        return self.path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnixAddress) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    def name(self, sock: socket.socket) -> str:
        """Its path."""
        return self.path

    def bind(self) -> socket.socket:
        """A listening, non-blocking socket.

        It is bound under another name, given its mode and owner, and then renamed into place: so
        nobody ever connects to a socket with the wrong permissions.

        Raises:
            OSError: the path is taken, too long or not writable; the text names it.
        """
        if len(os.fsencode(self.path)) > MAX_SOCKET_PATH_BYTES:
            raise OSError(
                errno.ENAMETOOLONG,
                f"cannot listen on {self.path}: a Unix socket path has at most "
                f"{MAX_SOCKET_PATH_BYTES} bytes here, choose a shorter one",
            )
        self._refuse_if_taken()
        temporary = f"{self.path}.{os.getpid() % 100_000}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_socket(temporary)
            sock.bind(temporary)
            self._permit(temporary)
            sock.listen(BACKLOG)
            sock.setblocking(False)
            os.rename(temporary, self.path)
            self._inode = os.stat(self.path).st_ino
        except (OSError, LookupError) as error:
            sock.close()
            _remove_socket(temporary)
            raise _explained(error, self.path) from error
        return sock

    def _permit(self, path: str) -> None:
        os.chmod(path, self._mode)
        if self._owner is not None:
            shutil.chown(path, user=self._owner)
        if self._group is not None:
            shutil.chown(path, group=self._group)

    def adopt(self, before: UnixAddress) -> None:
        """Take over the socket file that an equal address has made, with permissions of our own.

        Raises:
            OSError: not permitted; the text names the path.
        """
        wanted = (self._mode, self._owner, self._group)
        self._inode = before._inode
        try:
            if wanted != (before._mode, before._owner, before._group) and not self.is_gone():
                self._permit(self.path)
        except (OSError, LookupError) as error:
            raise _explained(error, self.path) from error

    def _refuse_if_taken(self) -> None:
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _explained(error, self.path) from error
        if not stat.S_ISSOCK(found.st_mode):
            raise FileExistsError(
                errno.EEXIST,
                f"cannot listen on {self.path}: a file that is no socket is in the way, "
                "move it or choose another path",
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # a full backlog is somebody who listens, too
            outcome = probe.connect_ex(self.path)
        if outcome not in (errno.ECONNREFUSED, errno.ENOENT):
            raise OSError(
                errno.EADDRINUSE,
                f"cannot listen on {self.path}: another process listens there",
            )

    def is_gone(self) -> bool:
        """Whether somebody deleted the socket file: who connects finds nobody any more."""
        return not os.path.lexists(self.path)

    def unbind(self, sock: socket.socket) -> None:
        """Close what `bind` gave, and remove its file unless somebody replaced it."""
        sock.close()
        try:
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        except OSError:
            pass  # already gone, or not ours to remove: either way nothing is left to do


def _remove_socket(path: str) -> None:
    """Of a file that is no socket, `bind` then says that it is in the way."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)


def _explained(error: Exception, where: str) -> OSError:
    code = error.errno if isinstance(error, OSError) else None
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    hint = ", is another sidecar running?" if code == errno.EADDRINUSE else ""
    return OSError(code or 0, f"cannot listen on {where}: {reason}{hint}")
