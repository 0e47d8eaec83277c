"""The terminal of `wafermon top`: keys in, lines out. At any end it is left as it was."""

from __future__ import annotations

import curses
import locale
import os
import select
import signal
import socket
import sys
from types import FrameType
from typing import Optional

from wafermon.cli.lines import clipped
from wafermon.cli.top_feed import Feed
from wafermon.cli.top_view import BAD, DIM, GOOD, TITLE, VIEWS, WARN, Look, frame

#: So often the clock of a silence goes on, with nothing else to show.
_TICK_SECONDS = 1.0
#: A terminal that has gone is readable for ever, and has no key.
_MAX_EMPTY_READS = 100
_MAX_FILTER_CHARS = 60
_PAIRS = {GOOD: curses.COLOR_GREEN, WARN: curses.COLOR_YELLOW, BAD: curses.COLOR_RED}
_ATTRIBUTES = {TITLE: curses.A_BOLD, DIM: curses.A_DIM, BAD: curses.A_BOLD}


class Quit(Exception):
    """Somebody has seen enough."""


def press(look: Look, key: str, page: int) -> bool:
    """What a key does to a look.

    Args:
        key: a character, or a name such as `KEY_UP`.
        page: lines of a screenful.

    Returns:
        Whether the sidecar has to be asked again.

    Raises:
        Quit: the key is q.

    >>> look = Look()
    >>> press(look, "\\t", 20), look.view
    (True, 'sources')
    """
    if look.typing:
        return _type(look, key)
    moves = {"KEY_UP": -1, "KEY_DOWN": 1, "k": -1, "j": 1, "KEY_PPAGE": -page, "KEY_NPAGE": page,
             " ": page, "KEY_HOME": -look.top, "KEY_END": 1_000_000}  # fmt: skip
    if key in ("q", "Q"):
        raise Quit
    if look.helping or key in ("?", "h", "KEY_F(1)"):
        look.helping, look.top = not look.helping, 0
        return False
    if key in ("\t", "KEY_BTAB", "KEY_RIGHT", "KEY_LEFT"):
        step = 1 if key in ("\t", "KEY_RIGHT") else -1
        look.view = VIEWS[(VIEWS.index(look.view) + step) % len(VIEWS)]
        look.top = 0
        return True
    if key in moves:
        look.top = max(0, look.top + moves[key])
    elif key == "/":
        look.typing, look.text = True, ""
    elif key == "\x1b" and look.text:
        look.text = ""
        return True
    elif key == "p":
        look.paused = not look.paused
    return False


def _type(look: Look, key: str) -> bool:
    """A key while the filter is typed: Enter takes it, Esc leaves it."""
    if key in ("\n", "\r", "KEY_ENTER", "\x1b"):
        look.typing = False
        look.text = "" if key == "\x1b" else look.text
    elif key in ("KEY_BACKSPACE", "\x7f", "\b"):
        look.text = look.text[:-1]
    elif len(key) == 1 and key.isprintable():
        look.text = (look.text + key)[:_MAX_FILTER_CHARS]
    else:
        return False
    look.top = 0
    return True


def show(admin: tuple[str, int], interval: float) -> None:
    """Show until somebody quits. The main thread's, which gets the signals.

    Raises:
        curses.error: the terminal cannot do it.
        SystemExit: SIGTERM or SIGHUP came; the terminal is as it was.
    """
    locale.setlocale(locale.LC_CTYPE, "")
    os.environ.setdefault("ESCDELAY", "25")  # before curses reads it: Esc alone is a key here
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        curses.wrapper(lambda screen: _Screen(screen, admin, interval).run())
    except Quit:
        return


def _leave(number: int, frame: Optional[FrameType]) -> None:
    raise SystemExit(128 + number)


class _Screen:
    """The screen while curses has it."""

    def __init__(self, screen: curses.window, admin: tuple[str, int], interval: float) -> None:
        self._screen = screen
        self._address = f"{admin[0]}:{admin[1]}"
        self._look = Look()
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        self._feed = Feed(admin, self._look, interval, self._new)
        self._said = self._feed.said
        self._colours = self._make_colours()
        screen.keypad(True)
        screen.nodelay(True)

    def run(self) -> None:
        """Draw and take keys, until `Quit`."""
        self._feed.start()
        empty = 0
        try:
            while empty < _MAX_EMPTY_READS:
                self._draw()
                ready = select.select([sys.stdin, self._woken], [], [], _TICK_SECONDS)[0]
                if self._woken in ready:
                    self._woken.recv(4096)
                keys = self._keys()
                empty = empty + 1 if sys.stdin in ready and not keys else 0
                for key in keys:
                    if press(self._look, key, max(1, self._screen.getmaxyx()[0] - 5)):
                        self._feed.hurry()
        finally:
            self._feed.stop()

    def _new(self) -> None:
        """Something new is known. The feed's thread."""
        try:
            self._wake.send(b"\0")
        except OSError:
            pass  # full, so it wakes anyway; or closed, at the end

    def _keys(self) -> list[str]:
        """All keys that wait; a resize is one of them, and needs nothing but to be drawn."""
        keys: list[str] = []
        while True:
            try:
                key = self._screen.get_wch()
            except curses.error:
                return keys
            name = curses.keyname(key).decode("ascii", "replace") if isinstance(key, int) else key
            if name == "KEY_RESIZE":
                curses.update_lines_cols()
            keys.append(name)

    def _draw(self) -> None:
        if not self._look.paused:
            self._said = self._feed.said
        height, width = self._screen.getmaxyx()
        self._screen.erase()
        for row, (text, tone) in enumerate(
            frame(self._said, self._look, width - 1, height, self._address)
        ):
            try:
                self._screen.addstr(row, 0, self._sayable(text, width - 1), self._attribute(tone))
            except curses.error:
                break  # it has become smaller meanwhile
        self._screen.refresh()

    def _sayable(self, text: str, width: int) -> str:
        """What the terminal's encoding has no character for is spelled out."""
        encoding = self._screen.encoding
        said = text.encode(encoding, "backslashreplace").decode(encoding)
        return said if said == text else clipped(said, width)

    def _make_colours(self) -> dict[str, int]:
        if os.environ.get("NO_COLOR") or not curses.has_colors():
            return {}
        curses.use_default_colors()
        for index, colour in enumerate(_PAIRS.values(), 1):
            curses.init_pair(index, colour, -1)
        return {tone: curses.color_pair(index) for index, tone in enumerate(_PAIRS, 1)}

    def _attribute(self, tone: str) -> int:
        return self._colours.get(tone, 0) | _ATTRIBUTES.get(tone, 0)
