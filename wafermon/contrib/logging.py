"""A `logging.Handler` that sends to the sidecar what a program logs the usual way.

>>> logging.getLogger().addHandler(Handler("db-loader", level=logging.INFO))
>>> logging.getLogger("loader").info("file loaded", extra={"lot": "L1"})

>>> logging.config.dictConfig({
...     "version": 1,
...     "handlers": {
...         "sidecar": {"class": "wafermon.contrib.logging.Handler", "src": "db-loader"},
...     },
...     "root": {"level": "INFO", "handlers": ["sidecar"]},
... })
"""

from __future__ import annotations

import logging
from typing import Any, Optional

from wafermon.client import THREAD_NAME, Client

__all__ = ["Handler"]

_LEVELS = (
    (logging.CRITICAL, "fatal"),
    (logging.ERROR, "error"),
    (logging.WARNING, "warn"),
    (logging.INFO, "info"),
)
#: What every record has; the rest came by `extra`. The last three come with formatting and tasks.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_JSON = (str, int, float, bool, dict, list, tuple, type(None))
_TRACEBACKS = logging.Formatter()


class Handler(logging.Handler):
    """Sends each record as an event.

    `msg` is the message with its arguments filled in, `ts` the time of the record; `ctx` holds what
    was given by `extra`, the logger's name as `logger`, and the traceback as `exc_info`. An `extra`
    that is no JSON value goes as its `str`, since a line of a log is never lost over one.

    Args:
        src: name of the sender; not with `client`.
        client: a `wafermon.client.Client` to send through; it is left open when the handler closes.
            Without it the handler makes its own, and closes that.
        level: the lowest level that is handled.
        options: the other arguments of `Client`: host, port, unix, delivery, buffer_messages, ...

    Raises:
        ValueError: neither or both of `src` and `client` were given, or `Client` refused the rest.

    Thread: any.
    """

    def __init__(
        self,
        src: Optional[str] = None,
        *,
        client: Optional[Client] = None,
        level: Any = logging.NOTSET,
        **options: Any,
    ) -> None:
        super().__init__(level)
        if (src is None) == (client is None) or (client is not None and options):
            raise ValueError("give src (and the options of a Client), or a ready client")
        self._owned = client is None
        self.client = Client(src, **options) if client is None else client  # type: ignore[arg-type]

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record; what a client's own thread logs would feed itself and is ignored."""
        if record.threadName == THREAD_NAME:
            return
        try:
            data = {
                "level": next((name for low, name in _LEVELS if record.levelno >= low), "debug"),
                "msg": record.getMessage(),
                "ctx": _context(record),
            }
            self.client.send("event", data, ts=int(record.created * 1000))
        except Exception:  # logging decides what becomes of it
            self.handleError(record)

    def flush(self) -> None:
        """Wait, 2 s at most, until everything is acknowledged."""
        self.client.flush()

    def close(self) -> None:
        """Close the client, where it is the handler's own."""
        if self._owned:
            self.client.close()
        super().close()


def _context(record: logging.LogRecord) -> dict[str, Any]:
    ctx = {
        name: value if isinstance(value, _JSON) else str(value)
        for name, value in vars(record).items()
        if name not in _USUAL
    }
    ctx["logger"] = record.name
    if record.exc_info and record.exc_info[0] is not None:
        ctx["exc_info"] = record.exc_text or _TRACEBACKS.formatException(record.exc_info)
    return ctx
