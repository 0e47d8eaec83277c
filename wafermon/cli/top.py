"""watch sources, jobs, backends and alerts at a glance, in a terminal"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time

from wafermon.cli.ask import add_admin
from wafermon.cli.lines import style_of
from wafermon.cli.seconds import seconds
from wafermon.cli.table import coloured
from wafermon.cli.top_feed import ask
from wafermon.cli.top_view import BAD, GOOD, WARN, Look, Snapshot, body, header
from wafermon.errors import NoAnswer

_RANKS = {GOOD: 1, WARN: 2, BAD: 3}
#: Rows of each part, where no height bounds them.
_ROWS = 20

EPILOG = """\
keys:
  q                         quit
  tab, left, right          all, sources, jobs, backends, alerts, drops
  up, down, PgUp, PgDn      scroll
  /                         show only what has this in its name; Enter takes it, Esc leaves it
  p                         pause, and go on
  ?                         these keys; any key leaves them

A sidecar that is gone is asked again until it answers. Where the output is no terminal, or TERM is
dumb, plain lines are printed in place of a screen. NO_COLOR is respected.

examples:
  wafermon top
  wafermon top --once
  wafermon top --json --once | jq .summary.status
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Whom to ask, how often, and how to show it."""
    add_admin(parser)
    parser.add_argument("--interval", metavar="S", type=seconds(0.1, 3_600), default=2.0,
                        help="seconds between two looks (default 2)")  # fmt: skip
    parser.add_argument("--once", action="store_true", help="print once, and end")
    parser.add_argument("--plain", action="store_true", help="print lines, and no screen")
    parser.add_argument("--json", action="store_true", help="print one JSON object a look")


def run(options: argparse.Namespace) -> int:
    """Show until it is enough."""
    try:
        if not (options.plain or options.once or options.json) and _can_draw():
            return _draw(options)
        while True:
            _print(options)
            if options.once:
                return 0
            time.sleep(options.interval)
            if not options.json:
                print()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 0


def _can_draw() -> bool:
    """Whether there is a terminal, on both sides, that is more than a typewriter."""
    both = sys.stdin.isatty() and sys.stdout.isatty()
    return both and os.environ.get("TERM", "dumb") not in ("dumb", "")


def _draw(options: argparse.Namespace) -> int:
    # Not at the top: a Python may be built without curses, and a terminal be unknown to it.
    try:
        import curses

        from wafermon.cli.top_screen import show
    except ImportError:
        print("wafermon top: this Python has no curses, try --plain", file=sys.stderr)
        return 1
    try:
        show(options.admin, options.interval)
    except curses.error as error:
        term = ascii(os.environ.get("TERM"))
        print(f"wafermon top: the terminal {term} cannot show it ({error}), try --plain",
              file=sys.stderr)  # fmt: skip
        return 1
    return 0


def _print(options: argparse.Namespace) -> None:
    """One look as lines.

    Raises:
        NoAnswer: nobody answers, and it is the only look.
    """
    look = Look()
    try:
        said = Snapshot(ask(options.admin, look))
    except NoAnswer as error:
        if options.once:
            raise
        said = Snapshot(fault=str(error))
    if options.json:
        print(json.dumps({**said.parts, "fault": said.fault or None}), flush=True)
        return
    style = style_of(sys.stdout)
    for line in (*header(said), *body(said, look, style.width, _ROWS)):
        print(coloured(line.text, _RANKS.get(line.tone), style))
    sys.stdout.flush()
