"""Which connections have been silent, or have left a frame unfinished, for too long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from wafermon.net.loop import EventLoop, Timer

if TYPE_CHECKING:
    from wafermon.net.connection import Connection


class Watch:
    """Close connections that exceed a time limit.

    Dicts keep the order of insertion, so the connection that is due first stands first, and the
    work per tick does not grow with the number of connections.

    Args:
        loop: its timers are used, one at a time.
        read_timeout: seconds that a frame may remain unfinished; 0 for ever.
        idle_timeout: seconds that a connection may be silent; 0 for ever.
        auth_timeout: seconds within which a secret must be shown, where one is asked for.

    Thread: loop only.
    """

    def __init__(
        self,
        loop: EventLoop,
        *,
        read_timeout: float,
        idle_timeout: float,
        auth_timeout: float = 5.0,
    ) -> None:
        self._loop = loop
        self._limits = {
            "read_timeout": read_timeout,
            "idle_timeout": idle_timeout,
            "auth_timeout": auth_timeout,
        }
        self._since: dict[str, dict[Connection, float]] = {name: {} for name in self._limits}
        self._timers: dict[str, Optional[Timer]] = dict.fromkeys(self._limits)

    def accepted(self, connection: Connection) -> None:
        """A connection is new."""
        if connection.session.waits_for_hello:
            self._note("auth_timeout", connection)
        if self._limits["idle_timeout"]:
            self._note("idle_timeout", connection)

    def seen(self, connection: Connection, progressed: bool) -> None:
        """Something was read from a connection, or it is read again.

        Args:
            progressed: whether a frame was completed: the unfinished one is a new one.
        """
        session, unfinished = connection.session, self._since["read_timeout"]
        if self._since["auth_timeout"] and not session.waits_for_hello:
            self._since["auth_timeout"].pop(connection, None)
        pending = session.pending
        if unfinished and (progressed or not pending):
            unfinished.pop(connection, None)
        if pending:
            self._note("read_timeout", connection)
        if self._limits["idle_timeout"]:
            self._since["idle_timeout"].pop(connection, None)
            self._note("idle_timeout", connection)

    def forget(self, connection: Connection) -> None:
        """It is closed, or waits for us and not we for it."""
        for since in self._since.values():
            since.pop(connection, None)

    def _note(self, name: str, connection: Connection) -> None:
        limit = self._limits[name]
        if limit:
            self._since[name].setdefault(connection, self._loop.clock())
            if self._timers[name] is None:
                self._timers[name] = self._loop.call_later(limit, lambda: self._check(name))

    def _check(self, name: str) -> None:
        self._timers[name] = None
        since, limit = self._since[name], self._limits[name]
        now = self._loop.clock()
        while since:
            connection, began = next(iter(since.items()))
            if began + limit > now:
                self._timers[name] = self._loop.call_later(
                    began + limit - now, lambda: self._check(name)
                )
                return
            if name == "auth_timeout":
                if connection.session.waits_for_hello:
                    connection.refuse()
            else:
                connection.close(name)
            since.pop(connection, None)
