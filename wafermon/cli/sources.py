"""show which sources are live, late, missing or finished, and how much each sends"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from wafermon.cli.ask import add_admin, fetch
from wafermon.cli.lines import style_of
from wafermon.cli.table import table
from wafermon.flow.duration import duration
from wafermon.flow.source import LATE, MISSING, STATES

_COLOURS = {MISSING: 3, LATE: 2}
_INTERVALS = {"told": "as it said", "learned": "as a rule", "configured": "as expected"}

EPILOG = """\
A source is what stands in `src` of a message, mostly a script.

  live      it speaks, or its connection is open
  late      it should have been heard of by now: it has told an interval in a heartbeat, has shown
            one, or is expected by `presence:` in the configuration
  missing   it is later than that, or was gone for long without a goodbye
  finished  it said goodbye

examples:
  wafermon sources
  wafermon sources --state missing
  wafermon sources etl
"""

_EMPTY = """\
no sources yet: one is there once it has sent something, such as
  wafermon send heartbeat --src etl interval_s=30\
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where to ask, and which sources."""
    add_admin(parser)
    parser.add_argument("text", metavar="TEXT", nargs="?", help="only sources with this")
    parser.add_argument("--state", choices=STATES, help="only sources in this state")
    parser.add_argument("--json", action="store_true", help="print all that is known, as JSON")


def run(options: argparse.Namespace) -> int:
    """Ask once and print."""
    answer = fetch(options.admin, "/api/sources", {"q": options.text, "state": options.state})
    if options.json:
        print(json.dumps(answer))
        return 0
    sources, style = answer["sources"], style_of(sys.stdout)
    if not sources:
        print("no such source" if options.text or options.state else _EMPTY)
        return 0
    now_ms = answer["now_ms"]
    header = ("STATE", "SOURCE", "LAST SEEN", "MESSAGES", "PER S", "DROPPED", "")
    rows = [header, *(_row(one, now_ms) for one in sources)]
    ranks = [None, *(_COLOURS.get(one["state"]) for one in sources)]
    print(*table(rows, style, ranks), sep="\n")
    if answer["total"] > len(sources):
        print(f"({len(sources)} of {answer['total']} are shown)")
    return 0


def _row(one: dict[str, Any], now_ms: int) -> tuple[str, ...]:
    seen = "never"
    if one["last_seen_ms"] is not None:
        seen = f"{duration(max(0, now_ms - one['last_seen_ms']) / 1000)} ago"
    words = []
    if one["interval_s"] is not None:
        words.append(f"every {one['interval_s']:.4g} s {_INTERVALS[one['interval_from']]}")
    if one["state"] in (LATE, MISSING):
        words.append(f"{one['state']} for {duration(max(0, now_ms - one['since_ms']) / 1000)}")
    if one["connections"] != 1:
        words.append(f"{one['connections'] or 'no'} connections")
    words.append(" ".join(f"{kind}={count}" for kind, count in sorted(one["by_type"].items())))
    return (
        one["state"],
        one["src"],
        seen,
        f"{one['messages']}",
        f"{one['per_s']:.1f}",
        f"{one['dropped'] or ''}",
        "; ".join(filter(None, words)),
    )
