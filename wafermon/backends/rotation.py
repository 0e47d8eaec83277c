"""Rotation of a file: when, under which name, how many are kept, compression.

`x.jsonl` becomes `x@20261123T101500.jsonl`, named for the last write in it, in local time. One
rename a rotation, against `keep` of them for `.1`, `.2`, ...: a crash leaves no gap, a network
file system is asked once, a reader of an old file is not moved, and the order survives a restart
in the names alone. No message can make a file with an `@` in its name (`safe_component`), so
none can pass for a rotated one; multilog has named its old files with an `@` since 1997.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import stat
import time
from typing import Optional

from wafermon.backends.append import sync_folder

_Key = tuple[str, int]

_GZIP_LEVEL = 6
_GZIP_CHUNK = 1 << 20
# Fields of a local time that tell one period from the next.
_PERIODS = {None: 0, "day": 3, "hour": 4}


class Rotation:
    """When a file is full, and what happens to it then.

    Args:
        max_bytes: size that a file does not pass, unless by a single write; 0 for no limit.
        every: "hour" or "day" of local time, or None. It is the time of writes that counts: an
            empty file is not rotated, and a quiet one when it is next written to.
        keep: how many rotated files stay, of each path; the oldest goes first.
        compress: "none", or "gzip": about 12 ms a MB, in the thread that writes.

    Raises:
        ValueError: an argument out of its range.

    Thread: one at a time.

    >>> daily = Rotation(every="day")
    >>> daily.due(size=100, length=10, wrote=0.0, now=3 * 86400.0)
    True
    """

    def __init__(
        self,
        max_bytes: int = 0,
        every: Optional[str] = None,
        keep: int = 10,
        compress: str = "none",
    ) -> None:
        if max_bytes < 0:
            raise ValueError(f"rotate_bytes: expected 0 or more, got {max_bytes}")
        if every not in _PERIODS:
            raise ValueError(f"rotate_every: expected None, 'hour' or 'day', got {every!r}")
        if keep < 1:
            raise ValueError(f"keep: expected 1 or more, got {keep}")
        if compress not in ("none", "gzip"):
            raise ValueError(f"compress: expected 'none' or 'gzip', got {compress!r}")
        self._max_bytes = max_bytes
        self._period = _PERIODS[every]
        self._keep = keep
        self._gzip = compress == "gzip"

    def due(self, size: int, length: int, wrote: float, now: float) -> bool:
        """Tell whether a file is to be rotated before a write.

        Args:
            size: bytes in the file.
            length: bytes about to be written.
            wrote: wall time of its last write, seconds.
            now: wall time, seconds.
        """
        if not size:
            return False
        if self._max_bytes and size + length > self._max_bytes:
            return True
        period = self._period
        return period > 0 and time.localtime(wrote)[:period] != time.localtime(now)[:period]

    def move(self, path: str, wrote: float) -> None:
        """Give the file its rotated name.

        Names never run backwards: after the clock was set back, and in the hour that comes twice
        in autumn, the newest time there is goes on with a counter. `keep` would otherwise remove
        the newest lines as the oldest.

        Args:
            path: the file; of a symbolic link, what it leads to is renamed.
            wrote: wall time of its last write, seconds.

        Raises:
            OSError: it has its old name still.
        """
        names = _Names(os.path.realpath(path))
        key = (time.strftime("%Y%m%dT%H%M%S", time.localtime(wrote)), 0)
        newest = max(names.scan(), default=key)
        if key in names.found or key < newest:
            key = (newest[0], newest[1] + 1)
        os.rename(names.path, names.name(key))

    def tidy(self, path: str) -> None:
        """Remove what is too many, compress the rest, finish what a crash left half done.

        Raises:
            OSError: something could not be done; it is tried again at the next rotation.
        """
        names = _Names(os.path.realpath(path))
        keys = sorted(names.scan())
        for stale in names.unfinished:
            os.unlink(stale)
        for key in keys[: -self._keep]:
            for suffix in names.found[key]:
                os.unlink(names.name(key) + suffix)
        for key in keys[-self._keep :]:
            if names.found[key] == {"", ".gz"}:
                # The second name is given to a complete and synced file only.
                os.unlink(names.name(key))
            elif self._gzip and "" in names.found[key]:
                _compress(names.name(key))


class _Names:
    """The rotated files of one path."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._root, self._extension = os.path.splitext(path)
        if self._extension == ".gz":  # would look like a compressed one
            self._root, self._extension = path, ""
        self.found: dict[_Key, set[str]] = {}
        self.unfinished: list[str] = []

    def name(self, key: _Key) -> str:
        stamp, number = key
        return f"{self._root}@{stamp}{f'_{number}' if number else ''}{self._extension}"

    def scan(self) -> dict[_Key, set[str]]:
        """Look for them: time and number of each, with the suffixes it exists under."""
        folder, root = os.path.split(self._root)
        pattern = re.compile(
            rf"{re.escape(root)}@(\d{{8}}T\d{{6}})(?:_([1-9]\d*))?{re.escape(self._extension)}"
            r"(|\.gz|\.gz\.tmp)",
            re.ASCII,
        )
        for name in os.listdir(folder or "."):
            match = pattern.fullmatch(name)
            if match is None:
                continue
            if match[3] == ".gz.tmp":
                self.unfinished.append(os.path.join(folder, name))
            else:
                key = (match[1], int(match[2] or 0))
                self.found.setdefault(key, set()).add(match[3])
        return self.found


def _compress(path: str) -> None:
    # The plain file goes last, after the other is on disk under its name: a crash at any point
    # leaves one of them whole, and the next `tidy` removes the rest.
    unfinished = path + ".gz.tmp"
    try:
        with open(path, "rb") as plain, open(unfinished, "xb") as raw:
            info = os.fstat(plain.fileno())
            os.fchmod(raw.fileno(), stat.S_IMODE(info.st_mode))
            with gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, info.st_mtime) as packed:
                shutil.copyfileobj(plain, packed, _GZIP_CHUNK)
            raw.flush()
            os.fsync(raw.fileno())
        os.utime(unfinished, ns=(info.st_atime_ns, info.st_mtime_ns))
        os.rename(unfinished, path + ".gz")
    except BaseException:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
        raise
    sync_folder(path)
    os.unlink(path)
