"""show one trace as a waterfall: where its time went, what failed, what is missing"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.parse
from collections.abc import Sequence
from typing import Any, Optional

from wafermon.backends.store_query import Store
from wafermon.backends.store_schema import StoreError
from wafermon.cli.ask import add_admin, fetch
from wafermon.cli.lines import Style, clipped, style_of, time_of, visible
from wafermon.cli.query import add_store, store_of
from wafermon.cli.table import coloured, table
from wafermon.cli.traces import newest
from wafermon.cli.tree import counted, draw, duration, pen_for
from wafermon.errors import NoAnswer
from wafermon.flow import Correlator
from wafermon.flow.selection import Selection
from wafermon.flow.trace_view import trace_object
from wafermon.message import Batch, level_rank

EPILOG = """\
The beginning of an id is enough where just one trace has it. A sidecar that runs is asked first,
which remembers traces for an hour; what it has forgotten, or without one, is read from the store.

full bars   the critical path: what decides how long the whole takes
orphan      a span whose parent never came: who sends it, does not report, or not here
gap         a stretch in which no span tells what happened
a clock that differs   a span lies outside of its parent, which is of another source; times are
            shown as they were told, so that of the whole may be wrong
of no known span   messages that name no span, or one that never came

examples:
  wafermon traces
  wafermon trace 4bf92f35
  wafermon trace 4bf92f3577b34da6a3ce929d0e0e4736 --json | jq '.spans[] | select(.orphan)'
  wafermon trace 4bf92f35 --data /srv/wafermon
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which trace, and where it is looked for."""
    parser.add_argument("tid", metavar="TID", help="the id of a trace, or its beginning")
    add_admin(parser)
    add_store(parser)
    parser.add_argument("--json", action="store_true", help="print all that is known, as JSON")


def run(options: argparse.Namespace) -> int:
    """Find it and draw it.

    Returns:
        Exit status: 0; 1 where there is no such trace, or nobody to ask.
    """
    try:
        found = _found(options)
    except StoreError as error:
        print(f"wafermon trace: {error}", file=sys.stderr)
        return 1
    if hasattr(sys.stdout, "reconfigure"):  # a locale that lacks a letter must not end the list
        sys.stdout.reconfigure(errors="backslashreplace")
    if options.json:
        print(json.dumps(found))
        return 0
    style = style_of(sys.stdout)
    print(*draw(found, style, pen_for(sys.stdout)), sep="\n")
    for line in below(found, style):
        print(line)
    return 0


def below(found: dict[str, Any], style: Style) -> list[str]:
    """What is said below a waterfall: the way of the error, and who took the time."""
    names = {span["sid"]: f"{span['src']} {span['name']}" for span in found["spans"]}
    lines = _loose(found.get("loose", ()), style)
    if found["error_path"]:
        way = " > ".join(names[sid] for sid in found["error_path"])
        lines += ["", f"error: {visible(way)}"]
    if len(found["services"]) > 1:
        rows = [("SOURCE", "OWN TIME", "SPANS", "ERRORS")]
        for one in found["services"]:
            own = duration(one["self_ms"])
            rows.append((one["src"], own, str(one["spans"]), str(one["errors"] or "")))
        lines += ["", *table(rows, style)]
    if not found["complete"]:
        lines += ["", "not complete: more of it may come"]
    return lines


def _loose(events: Sequence[dict[str, Any]], style: Style) -> list[str]:
    """The messages that belong to no known span."""
    if not events:
        return []
    lines = ["", "of no known span:"]
    for event in events:
        level = event["level"] or event["type"]
        text = f"{level}  {event['src']}  {event['msg'] or ''}".rstrip()
        line = f"  {time_of(event['ts'])}  {visible(text)}"
        rank = level_rank(event["level"])
        shown = clipped(line, style.width) if style.width else line
        lines.append(coloured(shown, rank if rank >= 0 else None, style))
    return lines


def _found(options: argparse.Namespace) -> dict[str, Any]:
    """The trace, out of a sidecar or of the store; `--store` and `--data` ask for the store."""
    refusal: Optional[NoAnswer] = None
    if options.store is None and options.data is None:
        try:
            path = f"/api/traces/{urllib.parse.quote(options.tid, safe='')}"
            live: dict[str, Any] = fetch(options.admin, path)
            return live
        except NoAnswer as error:
            refusal = error
    store = store_of(options)
    try:
        found = stored(store, options.tid)
    except StoreError as error:
        if refusal is None:  # the store was asked for by name
            raise
        if not _is_unknown(refusal):
            raise refusal from None
        raise NoAnswer(f"{_nowhere(options)}; and no store is looked in: {error}") from None
    if found is not None:
        return found
    if refusal is None:
        raise NoAnswer(f"no trace {visible(options.tid)} in {visible(store.path)}")
    said = _nowhere(options) if _is_unknown(refusal) else str(refusal)
    raise NoAnswer(f"{said}, nor in the store {visible(store.path)} (--data DIR for another)")


def _is_unknown(refusal: NoAnswer) -> bool:
    """Whether a sidecar said that it knows no such trace, and not that there are several."""
    return refusal.status == 404 and "no trace" in str(refusal)


def _nowhere(options: argparse.Namespace) -> str:
    host, port = options.admin
    return f"no trace {visible(options.tid)} in the sidecar at {host}:{port}"


def stored(store: Store, tid: str) -> Optional[dict[str, Any]]:
    """A trace out of a store, by its id or the beginning of it; None where there is none.

    Raises:
        StoreError: there is no store, or it cannot be read.
        NoAnswer: several traces begin like this.
    """
    lines = [line for _, line, _ in store.query(Selection(tid=tid))]
    if not lines:
        tids = sorted({m["tid"] for _, m in newest(store) if m["tid"].startswith(tid)})
        if len(tids) > 1:
            named = visible(", ".join(tids[:5])) + (", ..." if len(tids) > 5 else "")
            raise NoAnswer(f"{counted(len(tids), 'trace')} begin with {visible(tid)}: {named}")
        if not tids:
            return None
        tid = tids[0]
        lines = [line for _, line, _ in store.query(Selection(tid=tid))]
    # All of it is there: nothing is forgotten, and what nothing follows is quiet.
    correlator = Correlator(max_spans=10**9, max_bytes=10**12, ttl=10**9, quiet=1.0)
    correlator.observe(Batch(b"\n".join(lines) + b"\n"), now=0.0)
    correlator.tidy(now=2.0)
    trace = correlator.trace(tid)
    return None if trace is None else trace_object(trace)
