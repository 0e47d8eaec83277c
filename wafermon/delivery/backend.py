"""What a backend is: the interface between a delivery worker and a sink."""

from __future__ import annotations

from typing import Optional

from wafermon.message import Batch
from wafermon.observe import Family


class Backend:
    """A sink for batches. Subclass it and give it `write`; queue, retry and metrics come free.

    Life cycle: `open` once before the first write and again after a failed one, `write` any
    number of times, `close` once. `close` is safe without `open` and twice.

    Thread: owned by its delivery thread, which calls everything but the constructor. The
    constructor does no I/O and raises `ValueError` for arguments that can never work.

    >>> class Count(Backend):
    ...     seen = 0
    ...     def write(self, batch):
    ...         self.seen += len(batch)
    >>> sink = Count()
    >>> sink.write(Batch(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n'))
    >>> sink.seen
    1
    """

    def open(self) -> None:
        """Get ready to write: connect, create folders. Safe when already open.

        Raises:
            RetryableError: not possible now; it is tried again with back-off.
        """

    def write(self, batch: Batch) -> None:
        """Hand over a batch, whole or not at all as far as the sink allows.

        Raises:
            RetryableError: the same batch may succeed later. So is any unknown exception.
            PermanentError: it never will; the batch is split until the guilty line is alone.
        """
        raise NotImplementedError

    def idle(self) -> Optional[float]:
        """Do what is due while nothing is to be written: a sync, a rotation, retention.

        Called after the queue has gone quiet.

        Returns:
            Seconds until it wants to be called again, or None when nothing is due.
        """
        return None

    def follow(self, other: Backend) -> None:
        """Go on with what another one was made with, after a reload that leaves this one its place
        and the batch it has at hand.

        Called from another thread, also during a write. So it takes up what can change at any time
        and does no I/O; a backend that has no such settings need not have it.

        Args:
            other: of the same kind, for the same place, never opened.
        """

    def collect(self, name: str) -> list[Family]:
        """Yield counters of its own, for `/metrics`; called on any thread.

        Args:
            name: of this backend, for their label `backend`.
        """
        return []

    def close(self) -> None:
        """Flush and let go of everything. Safe without `open` and twice."""
