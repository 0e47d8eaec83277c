"""The configuration of traces: what is remembered of them, and whether they are routed whole."""

# ruff: noqa: RUF009 - fields are made by functions that know their kind

from __future__ import annotations

from dataclasses import dataclass

from wafermon.sidecar.fields import section, setting
from wafermon.sidecar.kinds import Bytes, Flag, Integer, Number, Seconds

_DAY = 86_400


@dataclass(frozen=True)
class Keep:
    """Which assembled traces are routed: those that pass any of these."""

    errors: bool = setting(Flag(), True, "Those with an error, in a span or in an event.")
    slower_than_ms: float = setting(
        Number(0, 1e12), 1_000, "Those that took at least so long; 0 = none for that.", "ms"
    )
    share: float = setting(
        Number(0, 1), 0.05, "This share of all, the same ones on each host; 1 = all, 0 = none."
    )


@dataclass(frozen=True)
class Traces:
    """What is remembered of traces, for pages, `wafermon traces` and routing."""

    ttl: float = setting(
        Seconds(1, 7 * _DAY), "1h", "How long a trace is kept after its last message."
    )
    max_traces: int = setting(
        Integer(1, 50_000),
        10_000,
        "How many are kept; beyond that the one goes that was silent longest.",
        "traces",
    )
    max_spans: int = setting(
        Integer(1, 1_000_000),
        10_000,
        "How many spans of one trace are kept; more are counted.",
        "spans",
    )
    max_bytes: int = setting(
        Bytes(1_000_000, 10**11), "64MB", "Memory for all; one trace takes a quarter of it at most."
    )
    quiet: float = setting(
        Seconds(0.1, _DAY), 5, "A trace whose root has ended is complete after this much silence."
    )
    route: bool = setting(
        Flag(),
        False,
        "Send each trace that is complete or given up as an event of source `wafermon.traces`.",
    )
    keep: Keep = section(Keep, "Which of them.")
