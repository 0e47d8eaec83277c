"""check a configuration and name every fault

Nothing is started, opened or written.
"""

from __future__ import annotations

import argparse
import os
import sys

from wafermon.errors import ConfigError
from wafermon.sidecar.build import check
from wafermon.sidecar.load import find_config, load, parse

#: Exit status of a bad configuration (EX_CONFIG of sysexits.h), as systemd and Vector know it.
EX_CONFIG = 78

EPILOG = """\
examples:
  wafermon validate /etc/wafermon/wafermon.yaml
  wafermon validate && systemctl reload wafermon

Without FILE the same file is checked that `wafermon run` would use.
Exit status: 0 when all is well, 78 when there is a fault.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("file", metavar="FILE", nargs="?", help="YAML, TOML or JSON, by its ending")


def run(options: argparse.Namespace) -> int:
    """Check the file; faults go to stderr, one a line.

    Returns:
        Exit status: 0, or 78 where there is a fault.
    """
    path = find_config(options.file, os.environ)
    name = path or "defaults (no file found)"
    try:
        config = load(path) if path else parse({})
        check(config)
    except ConfigError as error:
        print(*error.faults, sep="\n", file=sys.stderr)
        print(f"{name}: {_count(len(error.faults), 'fault')}", file=sys.stderr)
        return EX_CONFIG
    backends, sources = len(config.backends), len(config.routing)
    print(f"{name}: ok ({_count(backends, 'backend')}, {_count(sources, 'source')} routed)")
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
