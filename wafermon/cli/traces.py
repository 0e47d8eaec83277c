"""list traces: what ran, how long it took, and whether anything failed or is missing"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from wafermon.backends.store_query import Store
from wafermon.backends.store_schema import StoreError
from wafermon.cli.ask import add_admin, fetch
from wafermon.cli.lines import clipped, style_of, time_of, visible
from wafermon.cli.query import add_store, store_of
from wafermon.cli.table import table
from wafermon.cli.tree import duration
from wafermon.flow import Correlator
from wafermon.flow.selection import Selection
from wafermon.flow.trace_view import chosen, summary_object
from wafermon.message import ROUTED_TYPES, Batch, Message

EPILOG = """\
Asks a sidecar that runs, which remembers the traces of the last hour; with --data or --store reads
the store in place of that. The newest stand first.

examples:
  wafermon traces
  wafermon traces --errors
  wafermon traces --src db-loader --min-ms 2000
  wafermon traces LOT4711 --data /srv/wafermon
"""

_EMPTY = """\
no traces yet: a trace is there once a source has sent a span, such as
  wafermon send span --src etl --tid 4bf92f3577b34da6a3ce929d0e0e4736 --sid 00f067aa0ba902b7 \\
    name=load duration_ms=120
in a script, the SDK does it: with client.span("load"): ...\
"""
_LIMIT = 50
#: Of the newest messages of a store so many spans, and so many others, are read for its traces.
_READ = 100_000
_OTHERS = tuple(sorted(ROUTED_TYPES - {"span"}))
_JOINED = 1_000
#: Of a name so many characters, also where nothing else limits it.
_NAME_CHARS = 200


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which traces, and where to ask."""
    parser.add_argument(
        "text", metavar="TEXT", nargs="?", help="only those with this in id, name or a source"
    )
    parser.add_argument("--src", metavar="NAME", help="only those that this source has a part in")
    parser.add_argument("--min-ms", metavar="N", type=_number, help="only those that took so long")
    parser.add_argument("--errors", action="store_true", help="only those with an error")
    parser.add_argument(
        "--limit", metavar="N", type=_whole, default=_LIMIT, help=f"at most (default {_LIMIT})"
    )
    add_admin(parser)
    add_store(parser)
    parser.add_argument("--json", action="store_true", help="print all that is known, as JSON")


def run(options: argparse.Namespace) -> int:
    """Ask once and print.

    Returns:
        Exit status: 0, also without any; 1 where nobody can be asked.
    """
    from_store = options.store is not None or options.data is not None
    try:
        answer = _stored(options) if from_store else _live(options)
    except StoreError as error:
        print(f"wafermon traces: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(answer))
        return 0
    traces, style = answer["traces"], style_of(sys.stdout)
    if not traces:
        print("no such trace" if answer["remembered"] else _EMPTY)
        return 0
    header = ("TRACE", "BEGAN", "TOOK", "SPANS", "SOURCE", "NAME")
    rows = [header, *map(_row, traces)]
    ranks = [None, *(3 if one["errors"] or one["error_events"] else None for one in traces)]
    print(*table(rows, style, ranks), sep="\n")
    if answer["total"] > len(traces):
        print(f"({len(traces)} of {answer['total']} are shown; --limit N shows more)")
    return 0


def _live(options: argparse.Namespace) -> dict[str, Any]:
    query = {
        "src": options.src,
        "min_ms": options.min_ms,
        "errors": 1 if options.errors else None,
        "q": options.text,
        "limit": options.limit,
    }
    answer: dict[str, Any] = fetch(options.admin, "/api/traces", query)
    return answer


def _stored(options: argparse.Namespace) -> dict[str, Any]:
    """The same out of the store: its newest spans put together."""
    correlator = from_spans(store_of(options))
    summaries = [record.summary() for record in correlator.records()]
    found = chosen(summaries, options.src, options.min_ms, options.errors, options.text)
    found.sort(key=lambda summary: -(summary.start_ms or 0))
    return {
        "now_ms": int(time.time() * 1000),
        "total": len(found),
        "remembered": len(summaries),
        "evicted": {},
        "traces": [summary_object(summary) for summary in found[: options.limit]],
    }


def from_spans(store: Store) -> Correlator:
    """All that the newest messages of a store tell of traces."""
    correlator = Correlator(
        max_traces=_READ, max_spans=_READ, max_bytes=10**12, ttl=10**9, quiet=1.0
    )
    lines: list[bytes] = []
    for line, _ in newest(store):
        lines.append(line)
        if len(lines) == _JOINED:
            correlator.observe(Batch(b"\n".join(lines) + b"\n"), now=0.0)
            lines = []
    if lines:
        correlator.observe(Batch(b"\n".join(lines) + b"\n"), now=0.0)
    correlator.tidy(now=2.0, steps=_READ)
    return correlator


def newest(store: Store) -> Iterator[tuple[bytes, Message]]:
    """The newest messages of a store that belong to traces: first spans, then the others."""
    for types in (("span",), _OTHERS):
        for _, line, message in store.query(Selection(types=types, limit=_READ)):
            if "tid" in message:
                yield line, message


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    words = [clipped(visible(one["name"] or "(no span yet)"), _NAME_CHARS)]
    for count, what in (
        (one["errors"], "failed"),
        (one["error_events"], "error events"),
        (one["orphans"], "orphans"),
        (one["open"], "open"),
    ):
        if count:
            words.append(f"{count} {what}")
    began = "" if one["start_ms"] is None else time_of(one["start_ms"])
    took = "" if one["duration_ms"] is None else duration(one["duration_ms"])
    source = one["src"] or ""
    if len(one["services"]) > 1:
        source += f" +{len(one['services']) - 1}"
    return one["tid"], began, took, str(one["spans"]), source, ", ".join(words)


def _number(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError
    return int(text)
