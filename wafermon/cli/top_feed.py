"""What `wafermon top` knows: asked of the sidecar again and again, on a thread of its own."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

from wafermon.cli.ask import fetch
from wafermon.cli.top_view import PARTS, Look, Snapshot
from wafermon.errors import NoAnswer

#: Rows that are asked for: of each part for the view of all, and of the one that has its own view.
_FEW, _MANY = 100, 500
#: No answer at all, no token, another name: no page would say anything else.
_SAID_TO_ALL = (0, 401, 421)


def ask(admin: tuple[str, int], look: Look) -> dict[str, Any]:
    """Ask for what a look needs.

    Returns:
        The answers of the pages by their names; None for one that this sidecar does not have.

    Raises:
        NoAnswer: there is no sidecar, or it asks for a token or another name.
    """
    limit = _FEW if look.view == "all" else _MANY
    parts: dict[str, Any] = {}
    for part in ("summary", *PARTS[look.view]):
        query: dict[str, object] = {"limit": limit}
        if look.text and part in ("sources", "jobs"):
            query["q"] = look.text
        try:
            parts[part] = fetch(admin, f"/api/{part}", {} if part == "summary" else query)
        except NoAnswer as error:
            if error.status in _SAID_TO_ALL:
                raise
            parts[part] = None
    return parts


class Feed:
    """Ask every few seconds; what is wanted may change meanwhile.

    Args:
        admin: host and port.
        look: what is wanted; read at each round.
        interval: seconds between two rounds.
        changed: called when something new is known, or when the sidecar is gone or back.

    Thread: `start`, `hurry` and `stop` the owner's; `said` any.
    """

    def __init__(
        self,
        admin: tuple[str, int],
        look: Look,
        interval: float,
        changed: Callable[[], None],
    ) -> None:
        self._admin = admin
        self._look = look
        self._interval = interval
        self._changed = changed
        self._asked = threading.Event()
        self._ending = False
        self._answered = time.monotonic()
        #: The last that is known; replaced whole.
        self.said = Snapshot()

    def start(self) -> None:
        """Begin to ask. The thread ends with the process: an answer may take 10 s."""
        threading.Thread(target=self._run, name="ask", daemon=True).start()

    def hurry(self) -> None:
        """Ask at once: something else is wanted."""
        self._asked.set()

    def stop(self) -> None:
        """Ask no more."""
        self._ending = True
        self._asked.set()

    def _run(self) -> None:
        while not self._ending:
            self._asked.clear()
            try:
                parts = ask(self._admin, self._look)
            except NoAnswer as error:
                # What was known stays, marked as old.
                silent = time.monotonic() - self._answered
                self.said = Snapshot(self.said.parts, str(error), silent)
            else:
                self._answered = time.monotonic()
                self.said = Snapshot({**self.said.parts, **parts})
            self._changed()
            self._asked.wait(self._interval)
