"""The command line: one file a command, each with `arguments`, `run` and an `EPILOG`."""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Sequence
from typing import Optional

from wafermon.cli.signals import hold

#: Imported by `parser` and not before: `main` has something to do first.
COMMANDS = (
    "run", "demo", "validate", "explain", "config", "send", "query", "tail", "top", "traces",
    "trace", "jobs", "sources", "alerts", "health",
    "journal", "dead-letters", "bench", "sdk", "version"
)  # fmt: skip

EPILOG = """\
examples:
  wafermon demo                       see it at work, with four little services
  wafermon run                        the sidecar, with no config at all
  wafermon send event --src etl level=info msg="lot L1 loaded"
  wafermon query --since 10m          what has arrived
"""


def parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        names: the commands that it shall know. What one of them does not need is not imported for
            it: `run` has a tenth less in memory, for as long as it runs.
    """
    top = argparse.ArgumentParser(
        prog="wafermon",
        description="A monitoring sidecar: scripts send it line-delimited JSON, it does the rest.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    for name in names:
        module = importlib.import_module(f"wafermon.cli.{name.replace('-', '_')}")
        about = (module.__doc__ or "").split("\n")[0]
        command = commands.add_parser(
            name,
            help=about,
            description=f"{about[:1].upper()}{about[1:]}.",
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.arguments(command)
        command.set_defaults(run=module.run)
    return top


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run a command.

    Args:
        arguments: without the program's name; `sys.argv` by default.

    Returns:
        The exit status: 0, 1 for a failure, 2 for a wrong use, 78 for a bad configuration.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] == "run":
        hold()
    from wafermon.errors import NoAnswer  # not before the signals are held, as all of the rest

    top = parser(words[:1] if words and words[0] in COMMANDS else COMMANDS)
    options, rest = top.parse_known_args(words)
    if options.command is None:
        top.print_help()
        return 2
    if rest:
        _take_rest(top, options, rest)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name must not fail where the locale lacks it
            stream.reconfigure(errors="backslashreplace")
    try:
        status: int = options.run(options)
    except NoAnswer as error:
        print(f"wafermon {options.command}: {error}", file=sys.stderr)
        return 1
    return status


def _take_rest(
    top: argparse.ArgumentParser, options: argparse.Namespace, rest: Sequence[str]
) -> None:
    """Words behind an option: argparse gives up on them, `send` lets KEY=VALUE stand anywhere."""
    if not hasattr(options, "pairs") or any(word.startswith("-") for word in rest):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    options.pairs = [*options.pairs, *rest]


if __name__ == "__main__":
    sys.exit(main())
