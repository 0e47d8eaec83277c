"""A live view of what passes: bounded, and of no cost while nobody looks."""

from __future__ import annotations

import threading
from typing import Optional

from wafermon.delivery.queue import BatchQueue
from wafermon.message import Batch


class View:
    """What one viewer sees. Close it when done.

    Thread: `next` and `close` the viewer's.
    """

    def __init__(self, tail: Tail, max_messages: int) -> None:
        self._tail = tail
        self._queue = BatchQueue(max_messages=max_messages, flush_seconds=0.05)
        #: Messages that came faster than they were looked at.
        self.missed = 0

    def next(self, timeout: float) -> Optional[Batch]:
        """Wait for what passes next.

        Args:
            timeout: seconds.

        Returns:
            None when nothing passed, or the tail is closed.
        """
        batch = self._queue.take(timeout)
        if batch is not None:
            self._queue.done(batch)
        return batch

    def close(self) -> None:
        """Look no more. Twice is harmless."""
        self._tail.leave(self)

    def offer(self, batch: Batch) -> None:
        """Take a packed batch that passes, or count what there is no room for."""
        if self._queue.is_under(batch.sources):
            self._queue.put(batch)
        else:
            self.missed += len(batch)

    def end(self) -> None:
        """Let a `next` that waits return."""
        self._queue.close()


class Tail:
    """Show the messages that pass to whoever asks for them; an observer of the pipeline.

    Args:
        max_viewers: at a time.
        max_messages: that wait for one viewer; what a slow one misses is counted.

    Thread: `observe` loop only; the rest any.

    >>> tail = Tail()
    >>> view = tail.view()
    >>> tail.observe(Batch(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n'), now=0.0)
    >>> len(view.next(timeout=1))
    1
    >>> view.close()
    """

    def __init__(self, *, max_viewers: int = 8, max_messages: int = 10_000) -> None:
        self._max_viewers = max_viewers
        self._max_messages = max_messages
        self._lock = threading.Lock()
        self._views: list[View] = []
        self.closed = False

    def observe(self, batch: Batch, now: float) -> None:
        """Pass a batch to all who look."""
        if self._views:
            packed = batch.packed()
            for view in self._views:
                view.offer(packed)

    def view(self) -> Optional[View]:
        """Look from now on; None where too many look already."""
        with self._lock:
            if self.closed or len(self._views) >= self._max_viewers:
                return None
            view = View(self, self._max_messages)
            self._views = [*self._views, view]  # a new list: `observe` takes no lock
        return view

    def leave(self, view: View) -> None:
        """Called by a view that is closed."""
        with self._lock:
            self._views = [other for other in self._views if other is not view]

    def close(self) -> None:
        """Let every view end, and take no new ones."""
        with self._lock:
            self.closed = True
            for view in self._views:
                view.end()
