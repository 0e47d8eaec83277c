"""tell whether a running sidecar is well, as an exit status"""

from __future__ import annotations

import argparse
import json
from typing import Any

from wafermon.cli.ask import add_admin, fetch
from wafermon.cli.lines import visible
from wafermon.errors import NoAnswer

#: Of a container's health check there are three in a row, each with a limit of its own.
TIMEOUT_SECONDS = 3.0

EPILOG = """\
Prints one line: `ok`, or what is wrong. A backend that is down makes the sidecar `degraded`, not
`down`: its messages wait, and a restart would not mend it.

exit status: 0 it is up (with --strict: all of it is well), 1 it is down or does not answer

examples:
  wafermon health
  wafermon health --strict --admin 127.0.0.1:17001
  HEALTHCHECK CMD ["wafermon", "health"]        in a Dockerfile
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Whom to ask, and how much is asked for."""
    add_admin(parser)
    parser.add_argument(
        "--strict", action="store_true", help="fail where any part of it is not well, too"
    )
    parser.add_argument("--json", action="store_true", help="print all that /health tells")


def run(options: argparse.Namespace) -> int:
    """Ask once."""
    try:
        told = fetch(options.admin, "/health", timeout=TIMEOUT_SECONDS)
    except NoAnswer as error:
        if error.status != 503:
            raise
        told = {"status": "down", "reasons": ["loop: it is stuck"]}
    status = told.get("status") if isinstance(told, dict) else None
    print(json.dumps(told, indent=2) if options.json else _line(status, told))
    return int(status != "ok" if options.strict else status in ("down", None))


def _line(status: object, told: Any) -> str:
    """The status and its reasons in one line."""
    reasons = told.get("reasons") if isinstance(told, dict) else None
    words = "; ".join(map(str, reasons)) if isinstance(reasons, list) else ""
    return visible(f"{status}: {words}" if words else f"{status}")
