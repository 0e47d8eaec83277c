"""tell for each message which rules match and why, and who gets it

Nothing is started, opened or sent; no sidecar need run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import IO, Any

from wafermon.cli.lines import visible
from wafermon.cli.validate import EX_CONFIG, checked
from wafermon.errors import ConfigError
from wafermon.flow.rule import Trial
from wafermon.sidecar import Config, find_config
from wafermon.sidecar.explain import ROUTED, Explainer, Fate

#: A longer line is read in parts; the decoder gives it up by itself.
_CHUNK_BYTES = 64 << 10

EPILOG = """\
FILE holds messages, one JSON object a line, as they are sent; without it, or with -, they are read
from standard input. A line that the sidecar would reject is told with the reason.

The rate limit is judged by the `ts` of the messages, as if each arrived then.

Exit status: 0; 1 where FILE cannot be read; 78 when the config has a fault (wafermon validate).

examples:
  wafermon explain --config wafermon.yaml messages.jsonl
  echo '{"v":1,"src":"db-1","ts":1,"type":"event","data":{"level":"warn","msg":"hi"}}' |
    wafermon explain
  wafermon tail --json | wafermon explain --config new.yaml --json | jq -c '[.src, .backends]'
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="messages; - = stdin")
    parser.add_argument("--config", metavar="FILE", help="config (default as for wafermon run)")
    parser.add_argument("--json", action="store_true", help="one JSON object a message")


def run(options: argparse.Namespace) -> int:
    """Explain what comes until it ends.

    Returns:
        Exit status: 0, 1 where the messages cannot be read, 78 for a bad config.
    """
    path = find_config(options.config, os.environ)
    try:
        config = checked(path)
        explainer = Explainer(config)
    except ConfigError as error:
        print(*error.faults, sep="\n", file=sys.stderr)
        return EX_CONFIG
    try:
        with _opened(options.file) as file:
            for number, fate in explainer.lines(_chunks(file)):
                if options.json:
                    print(json.dumps(document(number, fate, config)))
                else:
                    print("\n".join(words(number, fate, config)))
                sys.stdout.flush()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 0
    except OSError as error:
        print(f"wafermon explain: {options.file}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    if name != "-":
        with open(name, "rb") as file:
            yield file
        return
    if sys.stdin.isatty():
        print("messages, one JSON object a line; Ctrl-D ends", file=sys.stderr)
    yield sys.stdin.buffer


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Its lines as they come; one without end costs no memory."""
    return iter(lambda: file.readline(_CHUNK_BYTES), b"")


def document(number: int, fate: Fate, config: Config) -> dict[str, Any]:
    """A fate for programs.

    Args:
        number: of the line.
        config: tells the types of the backends.
    """
    ruling, message = fate.ruling, fate.message or {}
    return {
        "line": number,
        "outcome": fate.outcome,
        "reason": fate.reason or None,
        "reject": None if fate.reject is None else fate.reject.value,
        "src": message.get("src"),
        "type": message.get("type"),
        "entry": None if ruling is None else ruling.entry,
        "beaten": [] if ruling is None else list(ruling.beaten),
        "rules": [_rule(i, t) for i, t in enumerate(ruling.trials)] if ruling else [],
        "redacted": list(fate.hidden),
        "backends": [
            {"name": name, "type": config.backends[name].type, "redacted": paths}
            for name, paths in fate.backends.items()
        ],
    }


def _rule(index: int, trial: Trial) -> dict[str, Any]:
    return {
        "index": index,
        "backend": trial.rule.backend,
        "sends": trial.sends,
        "met": list(trial.met),
        "failed": trial.failed or None,
        "sampled_out": not (trial.failed or trial.kept),
    }


def words(number: int, fate: Fate, config: Config) -> Iterator[str]:
    """A fate for people, line by line, escaped for a terminal.

    Args:
        number: of the line.
        config: tells the types of the backends.
    """
    message = fate.message
    about = f"{message['src']} {message['type']}: " if message else ""
    if fate.outcome == ROUTED:
        sinks = [f"{name} ({config.backends[name].type})" for name in fate.backends]
        yield visible(f"line {number}: {about}goes to {', '.join(sinks)}")
    else:
        name = fate.outcome if fate.reject is None else f"rejected, {fate.reject.value}"
        yield visible(f"line {number}: {about}{name}: {fate.reason}")
    if fate.hidden:
        yield visible(f"  hidden from everybody: {', '.join(fate.hidden)}")
    if fate.ruling is None or fate.ruling.entry is None:
        return
    beaten = ", ".join(fate.ruling.beaten)
    why = f" counts, as it is more specific than {beaten}" if beaten else ""
    yield visible(f"  routing.{fate.ruling.entry}{why}")
    for index, trial in enumerate(fate.ruling.trials):
        yield visible(f"    [{index}] {trial.rule.backend}: {_verdict(trial)}")
    for name, paths in fate.backends.items():
        more = [path for path in paths if path not in fate.hidden]
        if more:
            yield visible(f"  hidden from {name}: {', '.join(more)}")


def _verdict(trial: Trial) -> str:
    met = ", ".join(trial.met) or "takes everything"
    if trial.failed:
        return f"no: {trial.failed}"
    if not trial.kept:
        return f"sampled out: {met}, but not among the {trial.rule.sample:g} of its sample"
    share = f", among the {trial.rule.sample:g} of its sample" if trial.rule.sample < 1 else ""
    return f"yes: {met}{share}"
