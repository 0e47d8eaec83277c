"""show stored messages

Reads the file that the `store` backend writes, beside the sidecar or without it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Callable, TypeVar

from wafermon.backends.store_query import Found, Store
from wafermon.backends.store_schema import StoreError
from wafermon.cli.lines import Style, json_of, line_of, style_of, visible
from wafermon.flow.selection import Selection, parse_time
from wafermon.message import LEVELS, ROUTED_TYPES

EPILOG = """\
examples:
  wafermon query --level warn --since 2h
  wafermon query --src 'etch-*' --type progress,span --limit 20
  wafermon query --tid 4bf92f3577b34da6a3ce929d0e0e4736
  wafermon query --since 2026-01-31 --until 2026-02-01 --limit 0 --json > january-31.jsonl
  wafermon query --text timeout | less

With a limit the newest are shown, oldest first. Times are event times (ts).
Exit status: 0, also when nothing matches; 1 without a readable store; 2 for a bad argument.
"""

DEFAULT_DATA = "./wafermon-data"
STORE_FILE = "store.db"
DEFAULT_LIMIT = 100
#: So many sources are named where none of them matches.
_NAMED = 8

T = TypeVar("T")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_store(parser)
    add_selection(parser)
    parser.add_argument(
        "--limit",
        metavar="N",
        type=_argument(_limit),
        default=DEFAULT_LIMIT,
        help=f"show the newest N (default {DEFAULT_LIMIT}, 0: all)",
    )
    parser.add_argument("--json", action="store_true", help="print the raw lines, byte for byte")


def add_store(parser: argparse.ArgumentParser) -> None:
    """Declare where the store is, for `store_of`."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--data", metavar="DIR", help=f"the sidecar's data_dir (default {DEFAULT_DATA})"
    )
    where.add_argument(
        "--store", metavar="FILE", help=f"the store itself (default {STORE_FILE} in --data)"
    )


def store_of(options: argparse.Namespace) -> Store:
    """The store that the arguments of `add_store` name."""
    return Store(options.store or os.path.join(options.data or DEFAULT_DATA, STORE_FILE))


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Declare the filters, for `selection_of`; for each command that selects messages."""
    group = parser.add_argument_group("filters (a message must pass all)")
    add = group.add_argument
    add(
        "--src",
        metavar="NAME",
        action="append",
        default=[],
        help="source, or pattern with * and ?; may be repeated",
    )
    add(
        "--type",
        metavar="TYPE",
        dest="types",
        action="append",
        type=_argument(_types),
        default=[],
        help=f"{', '.join(sorted(ROUTED_TYPES))}; several with commas or repeated",
    )
    add(
        "--level",
        type=str.lower,
        choices=LEVELS,
        help="only events, of this level and above",
    )
    add("--tid", metavar="ID", help="trace id")
    add("--since", metavar="TIME", type=_argument(_time), help="10m, 2h, 7d, 2026-01-31T14:05, ...")
    add("--until", metavar="TIME", type=_argument(_time), help="the same; this moment excluded")
    add("--text", metavar="TEXT", help="anywhere in the line, whatever its case")


def selection_of(options: argparse.Namespace) -> Selection:
    """The selection that the arguments of `add_selection`, and `--limit` if declared, ask for."""
    return Selection(
        src=tuple(options.src),
        types=tuple(kind for kinds in options.types for kind in kinds),
        level=options.level,
        tid=options.tid,
        since_ms=options.since,
        until_ms=options.until,
        text=options.text,
        limit=getattr(options, "limit", 0),
    )


def run(options: argparse.Namespace) -> int:
    """Print the messages that match.

    Returns:
        Exit status: 0; 1 where the store cannot be read; 2 for a time span of nothing.
    """
    selection = selection_of(options)
    since, until = selection.since_ms, selection.until_ms
    if since is not None and until is not None and since >= until:
        print("wafermon query: expected --since to be before --until", file=sys.stderr)
        return 2
    store = store_of(options)
    try:
        shown = _show(store, selection, options.json)
        sys.stdout.flush()
        if not shown:
            print(_nothing(store, selection), file=sys.stderr)
    except StoreError as error:
        print(f"wafermon query: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (head, less) has seen enough. What is still buffered goes nowhere, else the
        # interpreter would complain at exit.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 0


def _show(store: Store, selection: Selection, as_json: bool) -> int:
    """Print what is found and count it."""
    style = style_of(sys.stdout)
    put = _printer(as_json, style)
    shown = 0
    for found in store.query(selection):
        put(found)
        shown += 1
    return shown


def _printer(as_json: bool, style: Style) -> Callable[[Found], object]:
    if as_json and not style.terminal:
        raw = sys.stdout.buffer
        return lambda found: raw.write(found[1] + b"\n")
    if hasattr(sys.stdout, "reconfigure"):  # a locale that lacks a letter must not end the list
        sys.stdout.reconfigure(errors="backslashreplace")
    if as_json:
        return lambda found: print(json_of(found[1]))
    return lambda found: print(line_of(found[2], style))


def _nothing(store: Store, selection: Selection) -> str:
    """Why there is nothing to see, and what to try."""
    counts = store.counts()
    if not counts:
        return f"No messages yet in {store.path}. Is a source sending, and routed to the store?"
    names = sorted({src for src, _ in counts})
    known = visible(", ".join(names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")
    of_kind = Selection(src=selection.src, types=selection.types)
    if any(of_kind.matches({"src": src, "type": kind, "ts": 0}, b"") for src, kind in counts):
        return (
            f"Nothing matches among {sum(counts.values())} messages in {store.path}. "
            "Fewer filters or an earlier --since find more."
        )
    return f"No message of that --src and --type in {store.path}. Its sources: {known}"


def _argument(read: Callable[[str], T]) -> Callable[[str], T]:
    """An argparse type whose faults are shown in the words of the ValueError."""

    def typed(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r}: expected a whole number, 0 for all")
    return int(text)


def _types(text: str) -> list[str]:
    kinds = [kind.strip() for kind in text.split(",") if kind.strip()]
    Selection(types=tuple(kinds))  # raises for a type that does not exist
    return kinds


def _time(text: str) -> int:
    return parse_time(text, time.time())
