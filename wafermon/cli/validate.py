"""check a configuration and name every fault

Nothing is started, opened or written, also by its tests.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Optional

from wafermon.cli.lines import visible
from wafermon.errors import ConfigError
from wafermon.sidecar import Config
from wafermon.sidecar.build import check
from wafermon.sidecar.config_tests import results
from wafermon.sidecar.load import find_config, load, parse

#: Exit status of a bad configuration (EX_CONFIG of sysexits.h), as systemd and Vector know it.
EX_CONFIG = 78

EPILOG = """\
examples:
  wafermon validate /etc/wafermon/wafermon.yaml
  wafermon validate && systemctl reload wafermon
  wafermon validate --test wafermon.yaml

Without FILE the same file is checked that `wafermon run` would use. With --test the tests in it
are run, too: its `tests:` says which messages have to go where.
Exit status: 0 when all is well, 78 when there is a fault, 1 when a test fails.
"""

_TEACH = """\
there are no tests in it; one looks like this:

tests:
  - name: what a loader says goes to the store, without passwords
    messages: [{src: db-loader, type: event, data: {level: info, msg: hi, ctx: {password: x}}}]
    backends: [store]
    redacted: {store: [data.ctx.password]}"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("file", metavar="FILE", nargs="?", help="YAML, TOML or JSON, by its ending")
    parser.add_argument("--test", action="store_true", help="run the tests that stand in the file")


def run(options: argparse.Namespace) -> int:
    """Check the file; faults go to stderr, one a line.

    Returns:
        Exit status: 0, 78 where there is a fault, 1 where a test fails.
    """
    path = find_config(options.file, os.environ)
    name = path or "defaults (no file found)"
    try:
        config = checked(path)
    except ConfigError as error:
        print(*error.faults, sep="\n", file=sys.stderr)
        print(f"{name}: {_count(len(error.faults), 'fault')}", file=sys.stderr)
        return EX_CONFIG
    backends, sources = len(config.backends), len(config.routing)
    print(f"{name}: ok ({_count(backends, 'backend')}, {_count(sources, 'source')} routed)")
    return _test(config) if options.test else 0


def checked(path: Optional[str]) -> Config:
    """The configuration of a file, or of none: what each command takes that takes one.

    Raises:
        ConfigError: with every fault; `wafermon run` would not start either.
    """
    config = load(path) if path else parse({})
    check(config)
    return config


def _test(config: Config) -> int:
    """Run the tests of a configuration and say what differs."""
    failed = 0
    for result in results(config):
        failed += bool(result.faults)
        name = f" {visible(result.name)}" if result.name else ""
        print(f"{result.place}{name}: {'FAILED' if result.faults else 'ok'}")
        for fault in result.faults:
            print(f"  {visible(fault)}")
    if not config.tests:
        print(_TEACH)
        return 0
    print(f"{_count(len(config.tests), 'test')}, {failed} failed")
    return 1 if failed else 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
