"""What the log tells of frames that were rejected: whose, why, and how many."""

from __future__ import annotations

import collections
import logging
import re
from collections.abc import Sequence
from typing import Optional

from wafermon.message import Reject, is_name
from wafermon.net.loop import EventLoop, Timer
from wafermon.observe import OTHER

#: From a first frame to the line that tells of it: a script that sends nothing else is one line.
SOON_SECONDS = 1.0
#: From one line about a sender to the next.
PAUSE_SECONDS = 60.0
#: Senders that are told apart in that time.
MAX_SENDERS = 10
#: Where a frame that could not be read may still say who sent it.
_SRC = re.compile(rb'"src"\s*:\s*"([^"\\]{1,512})"')

log = logging.getLogger("wafermon.net")


class Rejections:
    """Count rejected frames by sender and reason, and warn of them once a minute.

    Args:
        loop: has the clock and the timer.

    Thread: loop only.

    >>> from wafermon.message import Reason
    >>> loop = EventLoop()
    >>> rejections = Rejections(loop)
    >>> rejections.note("etl", "192.0.2.7", [Reject(Reason.BAD_FIELD, b"{}")])
    >>> loop.close()
    """

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._counts: dict[tuple[str, str], collections.Counter[str]] = {}
        self._timer: Optional[Timer] = None

    def note(self, src: str, origin: str, rejects: Sequence[Reject]) -> None:
        """Frames of one read were rejected.

        Args:
            src: of whom the connection has brought messages; "" where of nobody yet.
            origin: where it comes from, as `peer.origin` has it.
            rejects: of this read.
        """
        sender = (src or _claimed(rejects[0].line), origin)
        if sender not in self._counts and len(self._counts) >= MAX_SENDERS:
            sender = (OTHER, OTHER)
        counts = self._counts.setdefault(sender, collections.Counter())
        counts.update([reject.reason.value for reject in rejects])
        if self._timer is None:
            self._timer = self._loop.call_later(SOON_SECONDS, self._tell_and_pause)

    def tell(self) -> None:
        """Warn of what was counted, a line a sender."""
        told, self._counts = self._counts, {}
        for (src, origin), counts in told.items():
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
            log.warning("%d frames of %s from %s were rejected: %s",
                        sum(counts.values()), src or "a source without a name",
                        origin or "somebody", reasons)  # fmt: skip

    def _tell_and_pause(self) -> None:
        """The next line waits for a minute; when that is over without one, it is soon again."""
        self._timer = None
        if self._counts:
            self.tell()
            self._timer = self._loop.call_later(PAUSE_SECONDS, self._tell_and_pause)


def _claimed(line: bytes) -> str:
    """Who a frame that was rejected says to be; "" where that is no name."""
    found = _SRC.search(line[:1024])
    name = found[1].decode("utf-8", "replace") if found else ""
    return name if is_name(name) else ""
