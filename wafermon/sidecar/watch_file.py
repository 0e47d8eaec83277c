"""Watch a file by its content: the only thing that tells of every kind of change."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Callable, Optional

from wafermon.sidecar.formats import MAX_BYTES


class FileWatch:
    """Tell when the content of a file is another one and has settled.

    Times and sizes do not tell: a swapped symlink, a copy with its old time, an NFS client with a
    cached attribute. Notifications of the system do not come from a network file system. A file
    that cannot be read is content too: its fault.

    Args:
        find: gives its path, None where there is none. It is asked each time, and the path is
            resolved each time.

    Thread: one; it may block for as long as the file system does.

    >>> path = os.path.join(tmp, "wafermon.json")
    >>> watch = FileWatch(lambda: path)
    >>> watch.remember()
    'cannot be read: No such file or directory'
    >>> with open(path, "w") as file: _ = file.write("{}")
    >>> watch.settled(), watch.settled()
    (False, True)
    """

    def __init__(self, find: Callable[[], Optional[str]]) -> None:
        self._find = find
        self._known = self._seen = ""

    def remember(self) -> str:
        """Take the content as it is now for known; its SHA-256 or what is wrong with it."""
        self._known = self._seen = self._reading()
        return self._known

    def settled(self) -> bool:
        """Whether the content is not the known one and the same as at the last call."""
        before, self._seen = self._seen, self._reading()
        return self._seen == before != self._known

    def _reading(self) -> str:
        path = self._find()
        if path is None:
            return ""
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                return "is no regular file"  # and to open a FIFO could take for ever
            with open(path, "rb") as file:
                return hashlib.sha256(file.read(MAX_BYTES + 1)).hexdigest()
        except OSError as error:
            return f"cannot be read: {error.strerror}"
