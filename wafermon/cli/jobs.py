"""show how far each job is, when it will be done, and which stand still or have died"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from typing import Any

from wafermon.cli.ask import add_admin, fetch
from wafermon.cli.lines import style_of
from wafermon.cli.table import table
from wafermon.flow.duration import duration
from wafermon.flow.job_run import DONE, FAILED
from wafermon.flow.job_state import DIED, STALLED, STATES

#: What one look at a terminal can take in.
BAR_CHARS = 20
_COLOURS = {DIED: 4, FAILED: 3, STALLED: 2, DONE: 1}

EPILOG = """\
A job is what sends `progress` messages: the most urgent ones come first.

  running   with the time that is left, once that can be told
  stalled   its percentage does not change any more
  died      its script is gone, and did not say goodbye
  failed    it said so, or its script said goodbye before it was done
  done      it said so

examples:
  wafermon jobs
  wafermon jobs --state stalled
  wafermon jobs nightly
  wafermon jobs --json | jq '.jobs[] | select(.percent < 50)'
"""

_EMPTY = """\
no jobs yet: a job is there once somebody sends its progress, such as
  wafermon send progress --src etl job_id=load percent=40\
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where to ask, and which jobs."""
    add_admin(parser)
    parser.add_argument("text", metavar="TEXT", nargs="?", help="only jobs and sources with this")
    parser.add_argument("--state", choices=STATES, help="only jobs in this state")
    parser.add_argument("--json", action="store_true", help="print all that is known, as JSON")


def run(options: argparse.Namespace) -> int:
    """Ask once and print."""
    answer = fetch(options.admin, "/api/jobs", {"q": options.text, "state": options.state})
    if options.json:
        print(json.dumps(answer))
        return 0
    jobs, style = answer["jobs"], style_of(sys.stdout)
    if not jobs:
        print("no such job" if options.text or options.state else _EMPTY)
        return 0
    rows = [("STATE", "JOB", "SOURCE", "PROGRESS", ""), *map(_row, jobs)]
    ranks = [None, *(_COLOURS.get(job["state"]) for job in jobs)]
    print(*table(rows, style, ranks), sep="\n")
    if answer["total"] > len(jobs):
        print(f"({len(jobs)} of {answer['total']} are shown)")
    return 0


def _row(job: dict[str, Any]) -> tuple[str, ...]:
    progress = f"{bar(job['percent'])} {job['percent']:5.1f} %"
    return job["state"], job["job_id"], job["src"], progress, "; ".join(_words(job))


def _words(job: dict[str, Any]) -> list[str]:
    """What there is to say of a job beside its numbers."""
    words = []
    if job["reason"]:
        words.append(job["reason"])
    if job["eta_s"] is not None:
        words.append(f"done in {duration(job['eta_s'])} ({_clock(job['eta_ms'])})")
    if job["state"] == DONE:
        words.append(f"at {_clock(job['ended_ms'])}, it took {_took(job)}")
    elif job["usual_s"] is not None:
        words.append(f"usually takes {duration(job['usual_s'])}")
    if job["msg"] and job["msg"] != job["reason"]:
        words.append(job["msg"])
    return words


def _took(job: dict[str, Any]) -> str:
    return duration((job["ended_ms"] - job["started_ms"]) / 1000)


def _clock(unix_ms: int) -> str:
    """Local time; the day, too, where it is another one."""
    moment, today = datetime.datetime.fromtimestamp(unix_ms / 1000), datetime.date.today()
    return f"{moment:%H:%M:%S}" if moment.date() == today else f"{moment:%Y-%m-%d %H:%M}"


def bar(percent: float) -> str:
    """A percentage as a bar; full only at 100.

    >>> bar(0), bar(52), bar(99.9)
    ('[....................]', '[##########..........]', '[###################.]')
    """
    full = int(percent / 100 * BAR_CHARS)
    return f"[{'#' * full}{'.' * (BAR_CHARS - full)}]"
