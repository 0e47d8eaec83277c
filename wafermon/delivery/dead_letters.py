"""Dead letters: what was rejected on the way in, or refused for good by a backend, and why."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterable
from typing import Callable, Optional

from wafermon.delivery.route import Route
from wafermon.message import Batch, Reject

#: The source under which the records are queued.
SOURCE = "wafermon.dead-letters"


class DeadLetters:
    """Turn what nobody takes into JSON lines and hand these to a route of their own.

    A record is `{"time": ms, "reason": ..., "line": text}`; bytes that are not UTF-8 stand as
    `"base64"` in place of `"line"`, and what a backend refused names it as `"backend"`.

    Args:
        route: where the records go. Let it drop when full: a flood of rubbish must stop nobody.
        clock: wall time in seconds.

    Thread: any.

    >>> from wafermon.message import Reason
    >>> class Show:
    ...     def offer(self, batch): print(batch.raw.decode(), end="")
    >>> letters = DeadLetters(Show(), clock=lambda: 5.0)
    >>> letters.rejected([Reject(Reason.INVALID_JSON, b"rubbish")])
    {"time":5000,"reason":"invalid_json","line":"rubbish"}
    """

    def __init__(self, route: Route, *, clock: Callable[[], float] = time.time) -> None:
        self._route = route
        self._clock = clock
        self._lock = threading.Lock()

    def rejected(self, rejects: Iterable[Reject]) -> None:
        """Keep frames that were not accepted."""
        self._keep([self._record(r.reason.value, r.line) for r in rejects])

    def refused(self, batch: Batch, backend: str, reason: str) -> None:
        """Keep messages that a backend refused for good."""
        self._keep([self._record(reason, line, backend) for line in batch.lines])

    def _record(self, reason: str, line: bytes, backend: Optional[str] = None) -> bytes:
        record: dict[str, object] = {"time": int(self._clock() * 1000), "reason": reason}
        if backend is not None:
            record["backend"] = backend
        try:
            record["line"] = line.decode("utf-8")
        except UnicodeDecodeError:
            record["base64"] = base64.b64encode(line).decode("ascii")
        return json.dumps(record, separators=(",", ":")).encode("ascii")

    def _keep(self, records: list[bytes]) -> None:
        raw = b"\n".join(records) + b"\n"
        with self._lock:
            self._route.offer(Batch(raw, sources={SOURCE: len(records)}))
