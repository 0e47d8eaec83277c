"""The command: measure, print, and where asked write the page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Callable

from bench import BenchError, badinput, idle, latency, micro, process, scaling, sdk, throughput
from bench.growth import measure as growth
from bench.peers import compare
from bench.report import write_page

Measure = Callable[[], Iterator[str]]


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m bench", description="Measure the sidecar and its SDKs."
    )
    parser.add_argument(
        "measures",
        nargs="*",
        metavar="MEASURE",
        help="throughput, latency, idle, sdk, badinput, peers, scaling, micro, growth, or all, "
        "the default",
    )
    for name, kind, default, text in (
        ("rounds", int, 3, "how often each is measured; the table shows the median"),
        ("frames", int, 2_000_000, "throughput: messages of a case"),
        ("rate", int, 50_000, "throughput: messages a second of the paced case"),
        ("paced-seconds", float, 10, "throughput: how long the paced case lasts"),
        ("latency-rate", int, 1000, "latency: messages a second"),
        ("latency-seconds", float, 10, "latency: how long a run lasts"),
        ("idle-seconds", float, 20, "idle: how long the sidecar is left alone"),
        ("calls", int, 50_000, "sdk: calls of a run"),
        ("loss-frames", int, 200_000, "peers: messages sent while the receiver is ended"),
        ("micro-seconds", float, 0.1, "micro: how long one figure is measured at the least"),
        ("megabytes", int, 256, "badinput: length of the line that does not end"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{text} (%(default)s)")
    parser.add_argument("--full", action="store_true", help="growth: up to a journal of 10 GB")
    parser.add_argument("--write", action="store_true", help="put the tables into the page as well")
    return parser


def measures(options: argparse.Namespace) -> dict[str, Measure]:
    """Every measure by its name."""
    rounds = options.rounds
    return {
        "throughput": lambda: throughput.measure(
            rounds, options.frames, options.rate, options.paced_seconds
        ),
        "latency": lambda: latency.measure(rounds, options.latency_rate, options.latency_seconds),
        "idle": lambda: idle.measure(rounds, options.idle_seconds),
        "sdk": lambda: sdk.measure(rounds, options.calls),
        "badinput": lambda: badinput.measure(rounds, options.megabytes),
        "peers": lambda: compare.measure(
            rounds, options.frames, options.rate, options.paced_seconds, options.loss_frames
        ),
        "scaling": lambda: scaling.measure(rounds, options.frames),
        "micro": lambda: micro.measure(rounds, options.micro_seconds),
        "growth": lambda: growth.measure(rounds, options.frames, options.full),
    }


def main(arguments_given: list[str]) -> int:
    """Measure what is asked for.

    Returns:
        The exit status: 1 where a check failed or something is missing here.
    """
    parser = arguments()
    options = parser.parse_args(arguments_given)
    known = measures(options)
    chosen = options.measures or ["all"]
    for name in chosen:
        if name not in known and name != "all":
            parser.error(f"no such measure: {name}; there are {', '.join(known)} and all")
    if "all" in chosen:
        chosen = list(known)
    status = 0
    head = f"{process.machine()}; median of {options.rounds} rounds (lowest-highest)."
    print(head, flush=True)
    sections = {}
    for name in chosen:
        print(f"\n## {name}\n", flush=True)
        try:
            sections[name] = "\n\n".join([head, *known[name]()])
        except BenchError as error:
            print(f"bench {name}: {error}", file=sys.stderr)
            status = 1
        else:
            print(sections[name].partition("\n\n")[2], flush=True)
    if options.write:
        write_page(sections)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BenchError as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
