"""Disks of the tests' own, that can be filled, frozen, made read-only and broken.

Whatever happens to the test, and to the process that runs it, they are taken away: a keeper waits
for the end of a pipe, and the kernel ends that with the process.
"""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess

import pytest

_MIB = 1 << 20
_KEEPER = """
trap '' INT TERM HUP
read -r end
fsfreeze -u "$1" 2>/dev/null
umount -l "$1"
[ -z "$2" ] || losetup -d "$2" 2>/dev/null
exit 0
"""
# Of <linux/loop.h>; `lo_sizelimit` comes after three numbers of 64 bits and the offset.
_LOOP_SET_STATUS64, _LOOP_GET_STATUS64 = 0x4C04, 0x4C05
_INFO_BYTES, _SIZE_LIMIT_AT = 232, 32


class Volume:
    """A file system of some megabytes, mounted at `path`.

    Attributes:
        path: where; it is empty at first, but for what the file system itself puts there.
    """

    def __init__(self, path, source, *options, device=""):
        self.path = path
        self._device = device
        self._filler = path / "filler"
        path.mkdir()
        self._keeper = subprocess.Popen(
            ["sh", "-c", _KEEPER, "sh", str(path), device], stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            _run("mount", *options, source, str(path))
        except BaseException:
            self.close()
            raise

    def fill(self):
        """Take all the room that there is."""
        with open(self._filler, "ab", buffering=0) as file:
            for _ in range(2):  # what is written back may give some of it back
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(4096))
                os.fsync(file.fileno())

    def free(self):
        """Give it back."""
        self._filler.unlink()

    def read_only(self):
        """As an administrator makes it. Nobody may have a file open to write at the time."""
        _run("mount", "-o", "remount,ro", str(self.path))

    def read_write(self):
        """Undo that."""
        _run("mount", "-o", "remount,rw", str(self.path))

    def fall_read_only(self):
        """As the kernel makes it where it finds an error, for good."""
        _run("mount", "-o", "remount,errors=remount-ro", str(self.path))
        with open(f"/sys/fs/ext4/{os.path.basename(self._device)}/trigger_fs_error", "w") as file:
            file.write("a test")

    def freeze(self):
        """Let everybody who writes hang, as on a NAS that is gone. They cannot even be killed."""
        _run("fsfreeze", "-f", str(self.path))

    def thaw(self):
        """Let them go on."""
        _run("fsfreeze", "-u", str(self.path))

    def break_down(self):
        """Let the device fail: what is not in the page cache cannot be read or written (EIO)."""
        for folder, _, names in os.walk(self.path):
            for name in names:
                self._drop(os.path.join(folder, name))
        self._limit(8192)

    def repair(self):
        """Let it work again."""
        self._limit(0)

    @staticmethod
    def _drop(path):
        with contextlib.suppress(OSError), open(path, "rb") as file:  # a socket is no file to open
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _limit(self, size):
        device = os.open(self._device, os.O_RDWR)
        try:
            info = bytearray(_INFO_BYTES)
            fcntl.ioctl(device, _LOOP_GET_STATUS64, info)
            struct.pack_into("=Q", info, _SIZE_LIMIT_AT, size)
            fcntl.ioctl(device, _LOOP_SET_STATUS64, bytes(info))
        finally:
            os.close(device)

    def close(self):
        """Take it away, whatever state it is in."""
        self._keeper.communicate(b"\n")


@pytest.fixture
def small_disk(tmp_path):
    """Eight megabytes of memory, which can be full."""
    with _needed("mount", "umount"):
        volume = Volume(tmp_path / "disk", "tmpfs", "-t", "tmpfs", "-o", f"size={8 * _MIB}")
    yield volume
    volume.close()


@pytest.fixture
def disk(tmp_path):
    """A device of 32 megabytes with ext4 on it, for all faults; it goes on after an error. To be
    asked for after what uses it, so that it is thawed before that has to end."""
    image = tmp_path / "disk.img"
    with open(image, "wb") as file:
        file.truncate(32 * _MIB)
    with _needed("mount", "umount", "losetup", "mkfs.ext4", "fsfreeze"):
        _run("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=0", str(image))
        device = _run("losetup", "-f", "--show", str(image))
        volume = Volume(tmp_path / "disk", device, "-o", "errors=continue,nodelalloc", device=device)
    yield volume
    volume.close()


@contextlib.contextmanager
def _needed(*commands):
    """Skip a test where even root cannot have that; where CI runs, that is a failure."""
    missing = [name for name in commands if shutil.which(name) is None]
    try:
        assert os.geteuid() == 0 and not missing, f"needs root, {', '.join(missing or commands)}"
        yield
    except (AssertionError, OSError) as why:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(why))


def _run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout.strip()
