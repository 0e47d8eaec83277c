"""What the sidecar holds of each session: the table behind `hello` and `welcome`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Optional

#: Protocol section 4: remembered this long after its last frame, and no more of them at a time.
TTL_SECONDS = 24 * 3600.0
MAX_SESSIONS = 10_000


def session_key(src: str, session: str) -> str:
    """A session belongs to the source that opened it; no `src` holds a line feed."""
    return f"{src}\n{session}"


class _Record:
    __slots__ = ("owner", "q", "touched")

    def __init__(self, q: int, touched: float) -> None:
        self.q = q
        self.touched = touched
        self.owner: Optional[Callable[[], None]] = None


class SessionTable:
    """The marks of all sessions, bounded, the one touched longest ago first to go.

    Args:
        marks: session -> (q, Unix seconds of its last frame), as the journal kept them.
        max_sessions: past it the oldest is forgotten.
        ttl: seconds after the last frame that a session is remembered.
        on_forget: called with each session that is forgotten.

    Thread: loop only.

    >>> table = SessionTable()
    >>> table.open("loader\\n9f0c", now=0.0, on_superseded=lambda: print("another took over"))
    0
    >>> table.advance("loader\\n9f0c", 500, now=1.0)
    >>> table.open("loader\\n9f0c", now=2.0, on_superseded=lambda: None)
    another took over
    500
    """

    def __init__(
        self,
        marks: Optional[Mapping[str, tuple[int, float]]] = None,
        *,
        max_sessions: int = MAX_SESSIONS,
        ttl: float = TTL_SECONDS,
        on_forget: Callable[[str], None] = lambda key: None,
    ) -> None:
        self._max_sessions = max_sessions
        self._ttl = ttl
        self._on_forget = on_forget
        known = sorted((marks or {}).items(), key=lambda item: item[1][1])
        self._records = OrderedDict((key, _Record(*mark)) for key, mark in known)
        #: Sessions that were forgotten while they might still have been wanted.
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._records)

    def learn(self, marks: Mapping[str, tuple[int, float]]) -> None:
        """Take up marks that were not known at the start; nothing that is held is lowered."""
        for key, (q, touched) in sorted(marks.items(), key=lambda item: -item[1][1]):
            record = self._records.get(key)
            if record is not None:
                record.q = max(record.q, q)
            elif len(self._records) < self._max_sessions:
                self._records[key] = _Record(q, touched)
                self._records.move_to_end(key, last=False)
            else:
                self._on_forget(key)

    def open(self, key: str, now: float, on_superseded: Callable[[], None]) -> int:
        """Open a session, for the first time or again.

        Args:
            key: from `session_key`.
            now: Unix seconds.
            on_superseded: called when another connection opens the same session.

        Returns:
            The highest q that is held of it, 0 where it is not known.
        """
        self._expire(now)
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = _Record(0, now)
            if len(self._records) > self._max_sessions:
                self.evicted += 1
                self.forget(next(iter(self._records)))
        elif record.owner is not None:
            record.owner()
        record.owner = on_superseded
        self._touch(key, record, now)
        return record.q

    def advance(self, key: str, q: int, now: float) -> None:
        """Frames up to q are taken."""
        record = self._records.get(key)
        if record is None:  # evicted while it was open
            record = self._records[key] = _Record(0, now)
        record.q = max(record.q, q)
        self._touch(key, record, now)

    def close(self, key: str, owner: Callable[[], None]) -> None:
        """A connection of the session ended; the session is remembered."""
        record = self._records.get(key)
        if record is not None and record.owner == owner:
            record.owner = None

    def forget(self, key: str) -> None:
        """It is not wanted any more: its client is through with it, or it is too old."""
        if self._records.pop(key, None) is not None:
            self._on_forget(key)

    def _touch(self, key: str, record: _Record, now: float) -> None:
        record.touched = now
        self._records.move_to_end(key)

    def _expire(self, now: float) -> None:
        while self._records:
            key, record = next(iter(self._records.items()))
            if record.touched > now - self._ttl or record.owner is not None:
                return
            self.forget(key)
