"""The data folder: made, locked against a second sidecar, and told apart from network mounts."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Optional

#: File systems on which SQLite's WAL does not work, or locks may hang.
NETWORK_TYPES = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs",
     "fuse.sshfs", "fuse.glusterfs", "ncpfs", "beegfs")
)  # fmt: skip

#: Why a folder cannot be used at the moment: the disk is full, read-only, gone, or fails.
DISK_FAULTS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV)
)


class DataDir:
    """The folder of one sidecar.

    Args:
        path: is made where it is missing.

    Thread: the owner's.

    >>> folder = DataDir(tmp)
    >>> folder.take()
    >>> try:
    ...     DataDir(tmp).take()
    ... except OSError as error:
    ...     print(error.strerror.rpartition(": ")[2])
    another sidecar uses it
    >>> folder.release()
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock: Optional[int] = None

    def take(self) -> None:
        """Make and lock the folder, again where it was deleted. Twice is harmless.

        Raises:
            OSError: it cannot be made or written, for one of `DISK_FAULTS` or for good, or another
                sidecar uses it; the text says so.
        """
        if self._lock is not None and self._is_there(self._lock):
            return
        try:
            os.makedirs(self.path, exist_ok=True)
            lock = self._open_lock()
        except OSError as error:
            raise self._fault(error.errno or 0, error.strerror or str(error)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise self._fault(errno.EAGAIN, "another sidecar uses it") from error
        self.release()
        self._lock = lock

    def _open_lock(self) -> int:
        path = os.path.join(self.path, "lock")
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            return os.open(path, os.O_RDONLY)  # it may be locked all the same

    def _is_there(self, lock: int) -> bool:
        try:
            return os.path.samestat(os.fstat(lock), os.stat(os.path.join(self.path, "lock")))
        except OSError:
            return False

    def check_local(self, force: bool) -> None:
        """Refuse a network file system, unless forced.

        Raises:
            OSError: it is one; the text says what to do.
        """
        kind = file_system(self.path)
        if kind in NETWORK_TYPES and not force:
            raise self._fault(
                errno.EINVAL,
                f"it is on a network file system ({kind}), where a journal may be corrupted; "
                "choose a local disk, or set sidecar.journal.force",
            )

    def release(self) -> None:
        """Unlock it. Twice is harmless."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _fault(self, code: int, reason: str) -> OSError:
        return OSError(code, f"cannot use the data folder {self.path}: {reason}")


def file_system(path: str, mounts: str = "/proc/self/mounts") -> str:
    """The type of the file system that a path is on; "" where that cannot be told."""
    real = os.path.realpath(path)
    best, kind = "", ""
    try:
        with open(mounts, encoding="utf-8", errors="replace") as file:
            for line in file:
                fields = line.split(" ")
                point = fields[1].replace("\\040", " ")
                within = real == point or real.startswith(point.rstrip("/") + "/")
                if within and len(point) >= len(best):
                    best, kind = point, fields[2]
    except (OSError, IndexError):
        return ""
    return kind
