"""Dead letters: what was rejected on the way in, or refused for good by a backend, and why."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterable
from typing import Callable, Optional

from wafermon.delivery.account import SHUTDOWN
from wafermon.delivery.backend import Backend
from wafermon.delivery.queue import BatchQueue
from wafermon.delivery.route import Route
from wafermon.errors import BackendError, RetryableError
from wafermon.message import Batch, Reject
from wafermon.observe import Family, family

#: The source under which the records are queued.
SOURCE = "wafermon.dead-letters"
#: What may wait in memory; a flood of rubbish must stop nobody, so the rest is dropped and counted.
QUEUE_BYTES = 4 << 20
#: A commit waits no longer for them, and its receipts then say `memory`.
SETTLE_SECONDS = 1.0


class DeadLetters:
    """Turn what nobody takes into JSON lines, and keep these.

    A record is `{"time": ms, "reason": ..., "line": text}`; bytes that are not UTF-8 stand as
    `"base64"` in place of `"line"`, and what a backend refused names it as `"backend"`.

    What is rejected goes by a route of their own, as the loop may not wait for a disk: `settle`
    says when it is there. What a backend refused was acknowledged long ago, so its delivery thread
    writes it and knows.

    Args:
        backend: where the records go; owned from now on.
        clock: wall time in seconds.

    Thread: `rejected` and `refused` any, `settle` the journal's, the rest the owner's.

    >>> from wafermon.message import Reason
    >>> class File(Backend):
    ...     def write(self, batch): self.raw = batch.raw
    >>> file = File()
    >>> letters = DeadLetters(file, clock=lambda: 5.0)
    >>> letters.rejected([Reject(Reason.INVALID_JSON, b"rubbish")])
    >>> letters.start()
    >>> letters.stop(timeout=5)
    0
    >>> file.raw
    b'{"time":5000,"reason":"invalid_json","line":"rubbish"}\\n'
    """

    def __init__(self, backend: Backend, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._condition = threading.Condition(threading.Lock())
        self._file = _Shared(backend, self._tell)
        queue = BatchQueue(max_bytes=QUEUE_BYTES, when_full="drop_newest")
        #: Of what was rejected.
        self.route = Route("dead-letters", self._file, queue=queue, on_done=self._tell)
        self._offered = 0  # batches, by which a written one is known
        self._late = False
        self._refused = self._refused_written = 0

    def start(self) -> None:
        """Begin to write."""
        self.route.start()

    def stop(self, timeout: float) -> int:
        """Write what waits, and end.

        Args:
            timeout: seconds.

        Returns:
            How many records are lost, as they could not be written.
        """
        self.route.stop(timeout)
        return self.route.dropped[SHUTDOWN]

    def rejected(self, rejects: Iterable[Reject]) -> None:
        """Keep frames that were not accepted, as far as there is room."""
        records = [self._record(r.reason.value, r.line) for r in rejects]
        batch = _batch(records)
        with self._condition:
            self._offered += 1
            batch.seq = self._offered
            self.route.offer(batch)

    def refused(self, batch: Batch, backend: str, reason: str) -> None:
        """Keep messages that a backend refused for good.

        Raises:
            RetryableError: they could not be written, and are still the caller's.
        """
        records = [self._record(reason, line, backend) for line in batch.lines]
        with self._condition:
            self._refused += len(records)
        try:
            self._file.open()
            self._file.write(_batch(records))
        except BackendError as error:
            with self._condition:
                self._refused -= len(records)
            raise RetryableError(f"refused for good, and no dead letter: {error}") from error
        with self._condition:
            self._refused_written += len(records)

    @property
    def is_written(self) -> bool:
        """Whether nothing that was rejected still waits."""
        with self._condition:
            return self._is_past(self._offered)

    def settle(self, timeout: float = SETTLE_SECONDS) -> bool:
        """Wait for what was rejected up to now, while it can be written.

        Returns:
            Whether a kill of the process loses nothing of it.
        """
        with self._condition:
            last = self._offered
            if not self._late:  # who did not make it in time once is not waited for each time
                self._condition.wait_for(lambda: self._is_past(last) or self._is_stuck, timeout)
            written = self._is_past(last)
            self._late = not written
            return written

    @property
    def _is_stuck(self) -> bool:
        return self._file.fails or self.route.hanging_seconds > 0

    def _is_past(self, number: int) -> bool:
        # The newest may have been dropped, as there were too many: then the queue runs empty.
        return self._file.written >= number or not self.route.queue.messages

    def _tell(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _record(self, reason: str, line: bytes, backend: Optional[str] = None) -> bytes:
        record: dict[str, object] = {"time": int(self._clock() * 1000), "reason": reason}
        if backend is not None:
            record["backend"] = backend
        try:
            record["line"] = line.decode("utf-8")
        except UnicodeDecodeError:
            record["base64"] = base64.b64encode(line).decode("ascii")
        return json.dumps(record, separators=(",", ":")).encode("ascii")

    def collect(self) -> list[Family]:
        """Yield their counters."""
        account = self.route.queue.account()
        return [
            family(
                "sidecar_dead_letters_up",
                "gauge",
                "Whether dead letters can be written (1), or the last write failed or hangs (0).",
                {"": int(not self._is_stuck)},
            ),
            family(
                "sidecar_dead_letters_total",
                "counter",
                "Records for the dead-letter file, by outcome.",
                {
                    "offered": account.offered + self._refused,
                    "written": account.delivered + self._refused_written,
                    "dropped": sum(account.dropped.values()),
                },
                "outcome",
            ),
        ]


def _batch(records: list[bytes]) -> Batch:
    return Batch(b"\n".join(records) + b"\n", sources={SOURCE: len(records)})


class _Shared(Backend):
    """What the thread of the route and those of other routes write to, one at a time.

    Args:
        backend: where to.
        tell: called when a write failed.
    """

    def __init__(self, backend: Backend, tell: Callable[[], None]) -> None:
        self._backend = backend
        self._tell = tell
        self._lock = threading.Lock()
        #: Whether the last write failed.
        self.fails = False
        #: The number of the last batch that was written.
        self.written = 0

    def open(self) -> None:
        with self._lock:
            self._backend.open()

    def write(self, batch: Batch) -> None:
        try:
            with self._lock:
                self._backend.write(batch)
        except BaseException:
            self.fails = True
            self._tell()
            raise
        self.fails = False
        self.written = max(self.written, batch.seq)

    def idle(self) -> Optional[float]:
        with self._lock:
            return self._backend.idle()

    def close(self) -> None:
        with self._lock:
            self._backend.close()
