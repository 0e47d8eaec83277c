"""A wall clock that a test sets under a running process, while the monotonic one goes on."""

import os
import shutil
import struct
import subprocess
import sys

import pytest

#: In place of the C library's: what a step of the system's clock does to a process. libfaketime 0.9
#: does more, and `time.sleep` of Python 3.11 fails under it.
SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long *ahead;

__attribute__((constructor)) static void begin(void)
{
    int fd = open(getenv("WALL_CLOCK"), O_RDONLY | O_CLOEXEC);
    void *found = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, fd, 0);
    if (found == MAP_FAILED)
        abort();
    ahead = found;
    close(fd);
}

int clock_gettime(clockid_t id, struct timespec *now)
{
    int result = syscall(SYS_clock_gettime, id, now);
    if (result == 0 && ahead && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        now->tv_sec += *ahead;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (out)
        *out = precise.tv_sec;
    return precise.tv_sec;
}
"""


class WallClock:
    """The clock of those processes that are started with its `env`."""

    def __init__(self, folder):
        if shutil.which("gcc") is None:
            assert os.environ.get("CI") != "true", "gcc is needed here"
            pytest.skip("needs gcc")
        if sys.version_info < (3, 11):
            pytest.skip("Python waits by the wall clock there")
        self._file = folder / "ahead"
        self.set(0)
        source, library = folder / "clock.c", folder / "clock.so"
        source.write_text(SOURCE)
        subprocess.run(["gcc", "-shared", "-fPIC", "-O", "-o", library, source], check=True, timeout=60)
        self.env = {"LD_PRELOAD": str(library), "WALL_CLOCK": str(self._file)}

    def set(self, hours):
        """Be so much ahead of the true time from now on."""
        with open(self._file, "r+b" if self._file.exists() else "wb", buffering=0) as file:
            file.write(struct.pack("l", hours * 3600))
