"""What a process owes its container where it is the first one there: to bury the orphans.

A process whose parent has ended becomes a child of number 1, which has to wait for it; else it
stays a zombie, and takes a process number, until the container ends.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Optional

#: Linux: leave the children of other threads alone. Python's `os` has no name for it.
_WNOTHREAD = 0x20000000


def adopt_orphans() -> None:
    """Wait for every orphan from now on. Main thread, and nowhere but in process 1.

    The kernel gives orphans to the main thread. Children of other threads, such as a command that
    one started and waits for, are not touched, so that nobody's exit status is taken away; nor may
    the main thread wait for a child by anything that minds whether it is there still.
    """
    signal.signal(signal.SIGCHLD, _reap)
    _reap()


def _reap(number: int = signal.SIGCHLD, frame: Optional[FrameType] = None) -> None:
    """All of them: of signals that come together just one is seen."""
    try:
        while os.waitpid(-1, os.WNOHANG | _WNOTHREAD) != (0, 0):
            pass
    except ChildProcessError:  # there are no more
        pass
