"""find out how many messages a second this host holds

The load goes up until something gives way, and the last rate that held is the verdict.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import sys
import time
from typing import Any, NamedTuple, Optional, TextIO

from wafermon.cli.ask import add_admin
from wafermon.cli.bench_load import (
    CLOSED,
    FIRST_NUMBER,
    SENDERS,
    Sent,
    Way,
    line,
    send,
    tls_context,
)  # fmt: skip
from wafermon.cli.bench_target import Counters, Target, TargetError, ThrowAway
from wafermon.cli.lines import visible
from wafermon.cli.run import host_and_port
from wafermon.cli.seconds import seconds
from wafermon.sidecar.secrets import Credentials

FIRST_RATE, LOWEST_RATE, HIGHEST_RATE = 10_000, 1_000, 2_000_000
#: Into how many steps the time is divided: doublings, and halvings of what lies between.
STEPS, HALVINGS = 10, 3
#: A rate is held where no sender is later at the end than this share of a step, no more waits for
#: the backends than comes in so many seconds, and of a hundred receipts 99 came this soon.
LATE_SHARE, BACKLOG_SECONDS, RECEIPT_SECONDS = 0.05, 0.5, 1.0
#: Late by chance, on a host that has more to do.
HICCUP_SECONDS = 0.05
#: What a batch that is not full may keep waiting.
BACKLOG_MESSAGES = 1_000
SETTLE_SECONDS = 10.0

EPILOG = f"""\
{SENDERS} connections send frames of {len(line(True) % FIRST_NUMBER)} bytes, half of them with receipts. A rate is held if the senders
keep their schedule, receipts come within a second, and the backends do not fall behind.

Without --tcp or --unix a throw-away sidecar is started in a temporary folder (TMPDIR names another
file system), writing to a file, with the journal synced to the disk. A sidecar that is named gets
messages of the source `wafermon-bench`, and routes them as it is told to: try it before it is in
use. The senders run on this host and take their share of it.

exit status: 0 a rate is held, and nothing was lost; 1 none is, or something was lost

examples:
  wafermon bench
  wafermon bench --rate 50000 --seconds 60             does it hold that for a minute?
  wafermon bench --unix /run/wafermon/sidecar.sock     the one that runs here
  wafermon bench --tcp fab7:17000 --tls-ca ca.pem --secret-file secret --admin fab7:17001
  wafermon bench --json > bench.json
"""  # noqa: E501


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is loaded, how much, how long."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--tcp", metavar="HOST:PORT", type=host_and_port, help="a sidecar that runs, by TCP"
    )
    where.add_argument("--unix", metavar="PATH", help="a sidecar that runs, by its Unix socket")
    parser.add_argument(
        "--secret-file", metavar="FILE", help="holds the secret that its listener asks for"
    )
    parser.add_argument(
        "--tls-ca", metavar="FILE", help="TLS; its certificate is signed by one of those in FILE"
    )
    add_admin(parser)
    parser.add_argument(
        "--seconds", metavar="S", type=seconds(0.5, 86_400), default=20.0,
        help="in all, about (default 20)",
    )
    parser.add_argument(
        "--rate", metavar="N", type=_rate, help="only this many messages a second"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _rate(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= HIGHEST_RATE):
        raise argparse.ArgumentTypeError(f"expected 1 to {HIGHEST_RATE} messages/s, got {text!r}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Load it, tell."""
    try:
        named = _named(options)
    except ValueError as error:
        print(f"wafermon bench: {visible(str(error))}", file=sys.stderr)
        return 2
    told = sys.stderr if options.json else sys.stdout
    try:
        with ThrowAway() if named is None else contextlib.nullcontext(named) as target:
            kind = "a throw-away sidecar" if named is None else "the sidecar"
            print(f"loading {kind} at {target.way} for about {options.seconds:g} s", file=told,
                  flush=True)
            steps = Bench(target, options.seconds / STEPS, told).run(options.rate)
    except KeyboardInterrupt:
        print("\nwafermon bench: interrupted, no verdict", file=sys.stderr)
        return 128 + signal.SIGINT
    except (TargetError, OSError) as error:
        print(f"wafermon bench: {_explained(error, named)}", file=sys.stderr)
        return 1
    result = summary(steps, fixed=options.rate is not None)
    print(json.dumps(result, indent=2) if options.json else f"\n{result['verdict']}")
    return 0 if result["held_messages_per_s"] and not result["lost"] else 1


def _named(options: argparse.Namespace) -> Optional[Target]:
    """The sidecar that the options name; None where they name none.

    Raises:
        ValueError: they do not go together, or a file does not hold what it should.
    """
    address = options.unix or options.tcp
    if options.tls_ca is not None and options.tcp is None:
        raise ValueError("--tls-ca goes with --tcp")
    if options.secret_file is not None and address is None:
        raise ValueError("--secret-file goes with --tcp or --unix")
    if address is None:
        return None
    secret = None if options.secret_file is None else Credentials().secret(options.secret_file)
    try:
        tls = None if options.tls_ca is None else tls_context(options.tls_ca)
    except OSError as error:
        raise ValueError(f"--tls-ca {options.tls_ca}: {error.strerror or error}") from error
    return Target(Way(address, secret, tls), options.admin)


def _explained(error: Exception, named: Optional[Target]) -> str:
    if isinstance(error, TargetError) or named is None:
        return visible(str(error))
    hint = "; is it running?" if isinstance(error, (ConnectionError, FileNotFoundError)) else ""
    if isinstance(error, (ConnectionResetError, socket.timeout)):
        hint = "; does it ask for TLS, or has it locked us out after wrong secrets?"
    why = getattr(error, "strerror", None) or str(error)
    return f"cannot send to {visible(str(named.way))}: {visible(why)}{hint}"


class Step(NamedTuple):
    """What one rate did."""

    rate: int
    sent: int
    #: Why it is not held, in words; empty where it is.
    fault: str
    receipt_p50_ms: Optional[float]
    receipt_p99_ms: Optional[float]
    cpu_cores: Optional[float]
    memory_mb: Optional[float]
    lost: int

    def __str__(self) -> str:
        words = [f"not held: {self.fault}" if self.fault else "held"]
        if self.receipt_p99_ms is not None:
            words.append(f"receipts p50 {self.receipt_p50_ms:.0f} ms, p99 {self.receipt_p99_ms:.0f}"
                         " ms")
        if self.cpu_cores is not None:
            words.append(f"{self.cpu_cores:.2f} cores")
        if self.memory_mb is not None:
            words.append(f"{self.memory_mb:.0f} MB")
        if self.lost:
            words.append(f"{self.lost:,} LOST")
        return "; ".join(words)


class Bench:
    """Steps at one rate after the other.

    Args:
        target: what is loaded.
        seconds: how long a step lasts.
        told: where the progress goes.
    """

    def __init__(self, target: Target, seconds: float, told: TextIO) -> None:
        self._target = target
        self._seconds = seconds
        self._told = told

    def run(self, rate: Optional[int]) -> list[Step]:
        """All steps, at a rate or at rising ones.

        Raises:
            TargetError: it takes nothing.
            NoAnswer: the sidecar is gone.
            OSError: it cannot be connected to.
        """
        if rate is not None:
            return [self._step(rate) for _ in range(STEPS)]
        steps = [self._step(FIRST_RATE)]
        while not steps[-1].fault and steps[-1].rate * 2 <= HIGHEST_RATE:
            steps.append(self._step(steps[-1].rate * 2))
        while all(step.fault for step in steps) and steps[-1].rate // 2 >= LOWEST_RATE:
            steps.append(self._step(steps[-1].rate // 2))
        for _ in range(HALVINGS):
            held = max((step.rate for step in steps if not step.fault), default=0)
            above = min((step.rate for step in steps if step.fault), default=0)
            if not held or above <= held:
                break
            steps.append(self._step(_two_digits((held + above) / 2)))
        return steps

    def _step(self, rate: int) -> Step:
        self._settle(rate)
        print(f"  {rate:>9,}/s  ", end="", file=self._told, flush=True)
        before, began = self._target.counters(), time.monotonic()
        sent = send(self._target.way, rate, self._seconds)
        after = self._target.counters()
        if sent.fault == CLOSED and after.received == before.received:
            # At once: a listener counts who comes without the secret, and then locks out.
            raise TargetError(f"{CLOSED}, and took nothing: does it ask for --secret-file, or "
                              "--tls-ca?")
        step = judged(rate, sent, before, after, time.monotonic() - began)
        print(step, file=self._told, flush=True)
        return step

    def _settle(self, rate: int) -> None:
        """Let the backends catch up with the step before; those that do not, fail the next one."""
        until = time.monotonic() + SETTLE_SECONDS
        while self._target.counters().queued > _backlog(rate) and time.monotonic() < until:
            time.sleep(0.1)


def judged(rate: int, sent: Sent, before: Counters, after: Counters, seconds: float) -> Step:
    """What a step shows.

    Args:
        rate: messages a second that were asked for.
        sent: as the senders have it.
        before: as the sidecar has it, before they began,
        after: and once they were done.
        seconds: between the two.
    """
    p99 = percentile(sent.receipt_seconds, 0.99)
    p50 = percentile(sent.receipt_seconds, 0.5)
    cpu = None
    if before.cpu_seconds is not None and after.cpu_seconds is not None:
        cpu = round((after.cpu_seconds - before.cpu_seconds) / seconds, 2)
    missing = max(0, sent.frames - (after.received - before.received))
    dropped = after.dropped - before.dropped + after.rejected - before.rejected
    return Step(
        rate,
        sent.frames,
        _fault(rate, sent, after, p99),
        None if p50 is None else round(p50 * 1000, 1),
        None if p99 is None else round(p99 * 1000, 1),
        cpu,
        None if after.memory_bytes is None else round(after.memory_bytes / 1e6, 1),
        max(missing, sent.numbered - sent.acknowledged) + dropped,
    )


def _fault(rate: int, sent: Sent, after: Counters, p99: Optional[float]) -> str:
    if sent.fault:
        return sent.fault
    if sent.late_seconds > max(HICCUP_SECONDS, LATE_SHARE * sent.seconds):
        return f"it took {sent.frames / sent.seconds:,.0f}/s"
    if p99 is None or p99 > RECEIPT_SECONDS:
        return "receipts came late"
    if after.queued > _backlog(rate):
        return f"backends fell {after.queued:,} messages behind"
    return ""


def _backlog(rate: int) -> float:
    return max(BACKLOG_MESSAGES, rate * BACKLOG_SECONDS)


def percentile(ordered: list[float], share: float) -> Optional[float]:
    """The value that this share of them does not exceed; None of none.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else None


def _two_digits(rate: float) -> int:
    digits = 10 ** (len(str(int(rate))) - 2)
    return int(rate // digits * digits)


def summary(steps: list[Step], *, fixed: bool) -> dict[str, Any]:
    """The result, for `--json`; the verdict in words is in there.

    Args:
        steps: at least one.
        fixed: all at the rate that was asked for; it is held if it was in each of them.
    """
    held = [step for step in steps if not step.fault]
    if fixed and len(held) < len(steps):
        held = []
    best = max(held, key=lambda step: (step.rate, step.receipt_p99_ms or 0), default=None)
    lost = sum(step.lost for step in steps)
    return {
        "verdict": _verdict(steps, best, lost, fixed),
        "held_messages_per_s": best.rate if best else 0,
        "receipt_p50_ms": best.receipt_p50_ms if best else None,
        "receipt_p99_ms": best.receipt_p99_ms if best else None,
        "cpu_cores": best.cpu_cores if best else None,
        "memory_mb": best.memory_mb if best else None,
        "lost": lost,
        "steps": [step._asdict() for step in steps],
    }


def _verdict(steps: list[Step], best: Optional[Step], lost: int, fixed: bool) -> str:
    sent = sum(step.sent for step in steps)
    end = f" {lost:,} of {sent:,} were lost." if lost else " Nothing was lost."
    if best is None:
        fault = next((step for step in steps if step.fault), steps[0])
        return f"this host does not hold {fault.rate:,} messages a second: {fault.fault}.{end}"
    capped = not fixed and not any(step.fault for step in steps)
    uses = [] if best.cpu_cores is None else [f"{best.cpu_cores:.2f} cores"]
    uses += [] if best.memory_mb is None else [f"{best.memory_mb:.0f} MB"]
    return (
        f"this host holds {'at least ' if capped else ''}{best.rate:,} messages a second, 99 % of "
        f"the receipts within {best.receipt_p99_ms:.0f} ms"
        + (f", with {' and '.join(uses)} for the sidecar." if uses else ".")
        + end
    )
