"""`/api/live`: the summary once a second, as server-sent events."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

from wafermon.net import Request, Response

#: How often it comes, and how soon a browser tries again when it has been cut off.
SECONDS = 1.0
RETRY_MS = 3_000


class Live:
    """Hand the same summary to all who listen, made once a second while anybody does.

    Args:
        value: makes it; called on a listener's thread, one at a time.
        max_listeners: at a time, further ones are turned away (they may poll).
        clock: monotonic seconds.

    Thread: any. Each listener has a thread of the admin server, which sleeps between two events.

    >>> live = Live(lambda: {"status": "ok"})
    >>> stream = iter(live.page(Request()).body)
    >>> next(stream), next(stream)
    (b'retry: 3000\\n\\n', b'event: summary\\ndata: {"status": "ok"}\\n\\n')
    >>> live.close(); list(stream)
    []
    """

    def __init__(
        self,
        value: Callable[[], Any],
        *,
        max_listeners: int = 8,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._value = value
        self._max = max_listeners
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._made = float("-inf")
        self._event = b""
        self._listeners = 0

    def page(self, request: Request) -> Response:
        """The page."""
        with self._lock:
            if self._closed.is_set() or self._listeners >= self._max:
                words = b"too many look already: ask /api/summary now and then\n"
                return Response(words, status=503)
            self._listeners += 1
        return Response(_Stream(self), "text/event-stream")

    def events(self) -> Iterator[bytes]:
        """What one listener is sent, until `close`."""
        yield f"retry: {RETRY_MS}\n\n".encode()
        while not self._closed.is_set():
            yield self._latest()
            self._closed.wait(SECONDS)

    def _latest(self) -> bytes:
        with self._lock:
            now = self._clock()
            # Half of the pause: who comes in between takes what there is, and nobody drifts apart.
            if now - self._made > SECONDS / 2:
                body = json.dumps(self._value())
                self._event, self._made = f"event: summary\ndata: {body}\n\n".encode(), now
            return self._event

    def left(self) -> None:
        """A listener has gone."""
        with self._lock:
            self._listeners -= 1

    def close(self) -> None:
        """Let every stream end, and begin no new one. Twice is harmless."""
        self._closed.set()


class _Stream:
    def __init__(self, live: Live) -> None:
        self._live = live

    def __iter__(self) -> Iterator[bytes]:
        return self._live.events()

    def close(self) -> None:
        self._live.left()
