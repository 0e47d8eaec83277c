"""JSON lines in files: appended, rotated, one file for all or one a source, type, day or hour."""

from __future__ import annotations

import errno
import os
import time
from collections import OrderedDict, deque
from typing import Callable, Optional, Union

from wafermon.backends.append import AppendFile
from wafermon.backends.paths import Part, PathTemplate
from wafermon.backends.rotation import Rotation
from wafermon.delivery.backend import Backend
from wafermon.errors import RetryableError
from wafermon.message import Batch

_FSYNC = ("never", "batch", "interval")
_CLOSE_AFTER_SECONDS = 60.0
# After a rotation that failed the file is appended to; looking through a folder at every write
# would cost more than the writes.
_ROTATE_AGAIN_SECONDS = 60.0
_MAX_ERROR_PATH = 200


class FileBackend(Backend):
    """Appends the raw lines of each batch to a file, byte for byte as they came.

    Lines are whole or not there: a write that fails half-way is cut back. A batch for several
    files that failed at one of them goes on there when the same batch is written again. A file
    that was renamed or removed is made anew at the next write, so logrotate needs no signal.

    One writer a path: several sidecars put `{host}` or `{pid}` into it. Appends of two hosts to
    one file of a network file system overwrite each other.

    Args:
        path: the file, with the fields `{src} {type} {date} {hour} {host} {pid}` (`PathTemplate`
            says what each is). Folders are made. A character device such as `/dev/null` is fine.
        rotate_bytes: size that a file does not pass, unless by a single batch; 0 for no limit.
        rotate_every: "hour" or "day" of local time, or None. Rotated files are named for their
            last write, `x@20261123T101500.jsonl`.
        keep: how many rotated files stay of each path.
        compress: "none" or "gzip", for rotated files.
        fsync: when lines are forced to disk. "never": the system writes them within about 30 s;
            a crash of the process loses nothing, one of the host what was not written yet.
            "batch": before a batch counts as delivered. "interval": at most `fsync_interval`
            later, so that much may be lost with the host.
        fsync_interval: seconds.
        max_open_files: open at once; the one unused for longest is closed, and synced unless
            fsync is "never". Fewer than there are sources at a time costs an open a write.
        clock: wall time in seconds, for `{date}`, `{hour}` and rotation.
        monotonic: for timers, seconds.
        host: what `{host}` stands for; the host's own name when not given.

    Attributes:
        path: the argument.
        rotations: files rotated.
        rotation_errors: rotations or compressions that failed. No line is lost: a file that
            cannot be renamed is appended to for another minute.
        sync_errors: files that could not be synced or closed without an error.
        cut_bytes: bytes of torn lines, left by a kill or a power loss, that were cut off.
        last_error: text of the last of these errors, or "".

    Raises:
        ValueError: an argument that can never work, or a path with an unknown field.

    Thread: owned by its delivery thread. The attributes may be read from any.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> sink = FileBackend(folder.name + "/{src}.jsonl", rotate_bytes=100_000_000)
    >>> sink.write(Batch(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n'))
    >>> sink.close()
    >>> os.listdir(folder.name)
    ['a.jsonl']
    >>> folder.cleanup()
    """

    def __init__(
        self,
        path: Union[str, os.PathLike[str]],
        *,
        rotate_bytes: int = 0,
        rotate_every: Optional[str] = None,
        keep: int = 10,
        compress: str = "none",
        fsync: str = "never",
        fsync_interval: float = 1.0,
        max_open_files: int = 64,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        host: Optional[str] = None,
    ) -> None:
        if fsync not in _FSYNC:
            raise ValueError(f"fsync: expected one of {', '.join(_FSYNC)}, got {fsync!r}")
        if not fsync_interval > 0:
            raise ValueError(f"fsync_interval: expected seconds above 0, got {fsync_interval}")
        if max_open_files < 1:
            raise ValueError(f"max_open_files: expected 1 or more, got {max_open_files}")
        self.path = os.fspath(path)
        self._template = PathTemplate(path, host)
        self._rotation = Rotation(rotate_bytes, rotate_every, keep, compress)
        self._fsync = fsync
        self._fsync_interval = fsync_interval
        self._max_open_files = max_open_files
        self._clock = clock
        self._monotonic = monotonic
        self._files: OrderedDict[str, AppendFile] = OrderedDict()  # by path, last used last
        self._stamp = ""
        self._synced = 0.0
        self._rotate_from = 0.0
        # The batch being written and what of it is still to do. It outlives a failed write, so
        # that no file gets its lines twice.
        self._batch: Optional[Batch] = None
        self._parts: deque[Part] = deque()
        self.rotations = 0
        self.rotation_errors = 0
        self.sync_errors = 0
        self.cut_bytes = 0
        self.last_error = ""

    def open(self) -> None:
        """Open the file where it is known before the first message, to show a fault early.

        Raises:
            RetryableError: it cannot be opened now.
        """
        if self._template.single:
            path = self._template.render("", "", self._moment(self._clock()))
            try:
                self._current(path)
            except OSError as error:
                raise self._failed(path, error) from error

    def write(self, batch: Batch) -> None:
        """Append a batch: one system call a file, beside one stat.

        Raises:
            RetryableError: a file did not take its part. None of it stays there, and what other
                files took is not written again with the same batch object.
        """
        if not len(batch):
            return
        if batch is not self._batch:
            self._batch, self._parts = batch, deque(self._template.split(batch))
        if self._fsync == "interval" and self._sync_due_in() <= 0:
            self._sync_all()  # before the write: its error then says nothing about this batch
        now = self._clock()
        moment = self._moment(now)
        parts = self._parts
        while parts:
            source, kind, raw = parts[0]
            path = self._template.render(source, kind, moment)
            try:
                self._append(path, raw, now)
            except OSError as error:
                raise self._failed(path, error) from error
            parts.popleft()
        self._batch = None

    def idle(self) -> Optional[float]:
        """Sync what is due and close what was not written to for 60 s.

        Raises:
            RetryableError: a sync failed; that file is opened anew at its next write.
        """
        due = []
        now = self._monotonic()
        if self._fsync == "interval" and any(file.dirty for file in self._files.values()):
            wait = self._sync_due_in()
            if wait <= 0:
                self._sync_all()
            else:
                due.append(wait)
        stale = [p for p, f in self._files.items() if now - f.used >= _CLOSE_AFTER_SECONDS]
        self._close_files(stale)
        if self._files:
            first = next(iter(self._files.values()))
            due.append(max(0.001, first.used + _CLOSE_AFTER_SECONDS - now))
        return min(due, default=None)

    def close(self) -> None:
        """Sync, unless fsync is "never", and close all files.

        Raises:
            RetryableError: a file could not be synced; all are closed nevertheless.
        """
        self._close_files(list(self._files))

    def _moment(self, now: float) -> time.struct_time:
        """Local time; the files of the day or hour before are closed when it changes."""
        moment = time.localtime(now)
        stamp = self._template.stamp(moment)
        if stamp != self._stamp:
            self._stamp = stamp
            self._close_files(list(self._files))
        return moment

    def _append(self, path: str, raw: bytes, now: float) -> None:
        file = self._current(path)
        if file.regular and self._rotation.due(file.size, len(raw), file.wrote, now):
            file = self._rotate(file)
        file.append(raw, sync=self._fsync == "batch")
        file.wrote = now
        file.used = self._monotonic()

    def _current(self, path: str) -> AppendFile:
        """The open file of a path; anew where the path leads to another one by now."""
        file = self._files.get(path)
        if file is not None and not file.is_current():
            self._close_files([path])
            file = None
        if file is None:
            if len(self._files) >= self._max_open_files:
                self._close_files([next(iter(self._files))])
            file = self._files[path] = AppendFile(path)
            file.used = self._monotonic()
            self.cut_bytes += file.cut_bytes
        self._files.move_to_end(path)
        return file

    def _rotate(self, file: AppendFile) -> AppendFile:
        """Rotate a file and return the one to go on with: the same where that failed."""
        if self._monotonic() < self._rotate_from:
            return file
        try:
            self._rotation.move(file.path, file.wrote)
        except OSError as error:
            self._rotate_from = self._monotonic() + _ROTATE_AGAIN_SECONDS
            self._rotation_failed(file.path, error)
            return file
        self.rotations += 1
        self._close_files([file.path])
        try:
            self._rotation.tidy(file.path)
        except OSError as error:
            self._rotation_failed(file.path, error)
        return self._current(file.path)

    def _rotation_failed(self, path: str, error: OSError) -> None:
        self.rotation_errors += 1
        self.last_error = _explain(path, error)

    def _sync_due_in(self) -> float:
        return self._synced + self._fsync_interval - self._monotonic()

    def _sync_all(self) -> None:
        self._synced = self._monotonic()
        failure = None
        for path, file in list(self._files.items()):
            try:
                if file.dirty:
                    file.sync()
            except OSError as error:
                self.sync_errors += 1
                failure = self._failed(path, error)
        if failure is not None:
            raise failure

    def _close_files(self, paths: list[str]) -> None:
        failure = None
        for path in paths:
            file = self._files[path]
            try:
                if file.dirty and self._fsync != "never":
                    file.sync()
                del self._files[path]
                file.close()
            except OSError as error:
                self.sync_errors += 1
                failure = self._failed(path, error)
        if failure is not None:
            raise failure

    def _failed(self, path: str, error: OSError) -> RetryableError:
        """Drop a file after an error, and say what happened.

        No error is permanent: whatever is in the way, an operator can remove it.
        """
        self.last_error = _explain(path, error)
        file = self._files.pop(path, None)
        if file is not None:
            try:
                # Of a failed write nothing is left, but of those before it.
                if file.dirty and self._fsync != "never":
                    file.sync()
            except OSError:
                self.sync_errors += 1
            try:
                file.close()
            except OSError:
                self.sync_errors += 1
        return RetryableError(self.last_error)


def _explain(path: str, error: OSError) -> str:
    """One line for the log: which file, what happened."""
    if len(path) > _MAX_ERROR_PATH:
        path = "..." + path[3 - _MAX_ERROR_PATH :]
    name = errno.errorcode.get(error.errno or 0)
    return f"{path}: {error.strerror or error}" + (f" ({name})" if name else "")
