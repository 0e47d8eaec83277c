"""One file that lines are appended to, and how it is kept free of torn lines."""

from __future__ import annotations

import errno
import json
import os
import stat
import time

from wafermon.message import MAX_FRAME_BYTES

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
# As much of the end of a file as is looked at for a torn line; after a power loss it may end in
# a long run of zeros.
_TAIL_BYTES = 1 << 20
# Longer than one write takes: whoever is still in the middle of one shows in the size meanwhile.
_SETTLE_SECONDS = 0.02

_sync_data = getattr(os, "fdatasync", os.fsync)


def sync_folder(path: str) -> None:
    """Make the names in the folder of a path survive a power loss.

    Where a folder cannot be opened or the file system does not sync folders, names are as safe
    as it makes them: that is no reason to refuse lines.
    """
    try:
        fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(fd)


class AppendFile:
    """A file open for appending: whole lines or nothing.

    Args:
        path: where; parent folders are made. A regular file or a character device. Anything else
            is refused: a FIFO or a socket would block the thread once its reader stops.

    Raises:
        OSError: it cannot be opened now.

    Attributes:
        size: bytes in the file, as of the last `is_current` or `append`.
        wrote: wall time of the last write to it, in seconds, by whomever.
        used: monotonic time of the last use; kept by the caller.
        dirty: whether something was written since the last `sync`.
        cut_bytes: bytes of a torn line that were cut off when it was opened.

    Thread: one at a time.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = _open(path)
        self.used = 0.0
        self.dirty = False
        self.cut_bytes = 0
        try:
            info = os.fstat(self.fd)
            self.regular = stat.S_ISREG(info.st_mode)
            if not self.regular and not stat.S_ISCHR(info.st_mode):
                raise OSError("is neither a regular file nor a character device")
            os.set_blocking(self.fd, True)
            self._identity = (info.st_dev, info.st_ino)
            self._unsynced_name = info.st_size == 0
            self.wrote = info.st_mtime
            self.size = self._mend_tail(info.st_size) if self.regular else 0
        except BaseException:
            os.close(self.fd)
            raise

    def is_current(self) -> bool:
        """Tell whether the path still leads to this file; it does not after logrotate.

        Cost: one stat, 2 us; at one a batch there is nothing to save by asking less often.
        """
        try:
            info = os.stat(self.path)
        except FileNotFoundError:
            return False
        self.size = info.st_size if self.regular else 0
        return self._identity == (info.st_dev, info.st_ino)

    def append(self, raw: bytes, sync: bool = False) -> None:
        """Append lines, in one system call as a rule.

        What fails half-way is cut back to the length before it, so that the same lines may be
        written again. That holds for a failed sync as well: nobody knows then what the disk has.

        Args:
            raw: whole lines.
            sync: wait until they are on disk.

        Raises:
            OSError: nothing of it stays. The file must then be closed and opened again: the
                kernel reports a failed sync once and takes the lost pages for clean.
        """
        before, done = self.size, 0
        try:
            while done < len(raw):
                # A slice copies, so only what is left of a short write is sliced.
                done += os.write(self.fd, raw[done:] if done else raw)
            self.dirty = True
            if sync:
                self.sync()
        except BaseException:
            self._cut_back(before, before + done)
            raise
        self.size = before + done

    def sync(self) -> None:
        """Wait until everything written is on disk, the name of a new file included."""
        self.dirty = False  # first: after an error nobody may try again on this descriptor
        if self.regular:
            _sync_data(self.fd)
            if self._unsynced_name:
                sync_folder(self.path)
                self._unsynced_name = False

    def close(self) -> None:
        """Close it; a network file system may report a lost write only here."""
        os.close(self.fd)

    def _cut_back(self, length: int, torn: int) -> None:
        # Only what is surely ours is cut: where somebody else appended meanwhile, nothing.
        try:
            if self.regular and os.fstat(self.fd).st_size == torn:
                os.ftruncate(self.fd, length)
        except OSError:
            return  # a torn line is then mended when the file is opened again

    def _mend_tail(self, size: int) -> int:
        """Deal with a last line that has no end, and return the size of the file.

        It is what a kill or a power loss left of a write that was never reported as done, and
        the one who reads the file would stumble over it: it is cut. But the file may be somebody
        else's, so only what looks like a torn frame (`{...` or zeros) is cut; to anything else,
        and to a whole object, just the line end is added.
        """
        if not size or os.pread(self.fd, 1, size - 1) == b"\n":
            return size
        time.sleep(_SETTLE_SECONDS)
        if os.fstat(self.fd).st_size != size:
            return size  # another writer is at work: not torn, only not finished
        start = max(0, size - _TAIL_BYTES)
        tail = os.pread(self.fd, size - start, start)
        line = tail[tail.rfind(b"\n") + 1 :]
        if _is_torn(line) and not (len(line) == len(tail) and start):
            os.ftruncate(self.fd, size - len(line))
            self.cut_bytes = len(line)
            return size - len(line)
        return size + os.write(self.fd, b"\n")


def _open(path: str) -> int:
    # O_NONBLOCK: to open a FIFO or a serial line must not wait for the other end. The mode: lines
    # may hold what is not for everybody; the umask may narrow it.
    try:
        return os.open(path, _FLAGS, 0o640)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return os.open(path, _FLAGS, 0o640)


def _is_torn(line: bytes) -> bool:
    text = line.rstrip(b"\0")
    if len(text) > MAX_FRAME_BYTES or (text and not text.startswith(b"{")):
        return False
    try:
        json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        return True
    return len(text) < len(line)
