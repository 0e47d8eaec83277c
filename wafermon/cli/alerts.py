"""show what the rules of a running sidecar say: what is wrong now, and what was told last"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any, Optional

from wafermon.cli.ask import add_admin, fetch
from wafermon.cli.lines import Style, style_of, time_of
from wafermon.cli.table import table
from wafermon.flow.alerts import FIRING, PENDING

_COLOURS = {FIRING: 3, PENDING: 2}
_RECENT = 10

EPILOG = """\
Rules stand in the section `alerts:` of the configuration; docs/alerts.md has one of each kind.

examples:
  wafermon alerts
  wafermon alerts --json | jq '.alerts[] | select(.state == "firing")'
  wafermon query --src wafermon.alerts --since 1d
"""

_TEACH = """\
there are no alerts; a configuration could begin with these:

alerts:
  config-service-silent:
    source: config-service
    every: 30s
  nightly-load-late:
    job: nightly-load
    by: "06:00"
    days: mon-fri"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which sidecar, and how it is shown."""
    add_admin(parser)
    parser.add_argument("--json", action="store_true", help="print what /api/alerts says")


def run(options: argparse.Namespace) -> int:
    """Ask once."""
    told = fetch(options.admin, "/api/alerts")
    if options.json:
        print(json.dumps(told))
        return 0
    style = style_of(sys.stdout)
    for line in _lines(told, style) if told["alerts"] else [_TEACH]:
        print(line)
    return 0


def _lines(told: dict[str, Any], style: Style) -> Iterator[str]:
    """All that is told, as lines for people."""
    alerts, recent = told["alerts"], told["recent"][:_RECENT]
    rows: list[tuple[str, ...]] = [
        (a["state"], a["name"], _time(a["since_ms"]), str(a["fired"]), a["message"]) for a in alerts
    ]
    yield from _drawn([("STATE", "ALERT", "SINCE", "FIRED", ""), *rows], style)
    if told["total"] > len(alerts):
        yield f"({len(alerts)} of {told['total']} are shown)"
    if recent:
        yield ""
        rows = [(c["state"], c["name"], _time(c["at_ms"]), c["message"]) for c in recent]
        yield from _drawn([("TOLD LAST", "ALERT", "AT", ""), *rows], style)


def _drawn(rows: list[tuple[str, ...]], style: Style) -> Iterator[str]:
    yield from table(rows, style, [_COLOURS.get(row[0]) for row in rows])


def _time(ms: Optional[int]) -> str:
    """Local time, to the second."""
    return "" if ms is None else time_of(ms)[:19]
