"""One row of each part of `wafermon top`, out of what a page says.

Nothing is trusted to be there or to be of its kind: an older sidecar, or one that has a part
switched off, leaves gaps. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Callable, Optional

from wafermon.cli.jobs import bar
from wafermon.cli.lines import visible
from wafermon.flow.duration import duration

#: From silence to the busiest moment; every terminal has these.
_LEVELS = " .:-=+*#%@"
_SPARK_CHARS = 20


def source(row: Any, now_ms: Any) -> Sequence[str]:
    """State, name, when heard of, rate, how that was, messages, drops, by type."""
    return (
        word(row, "state"), word(row, "src"), since(row, "last_seen_ms", now_ms),
        number(row, "per_s"), spark(at(row, "rates")), number(row, "messages"),
        number(row, "dropped"), counts(at(row, "by_type")),
    )  # fmt: skip


def job(row: Any, now_ms: Any) -> Sequence[str]:
    """State, name, source, bar, what is left, words."""
    percent = _real(at(row, "percent"))
    progress = "" if percent is None else f"{bar(min(100.0, max(0.0, percent)))} {percent:5.1f} %"
    eta = took(row, "eta_s") if at(row, "eta_s") is not None else ""
    words = [word(row, "reason"), word(row, "msg")]
    return (
        word(row, "state"), word(row, "job_id"), word(row, "src"), progress, eta,
        "; ".join(dict.fromkeys(filter(None, words))),
    )  # fmt: skip


def backend(row: Any, now_ms: Any) -> Sequence[str]:
    """State, name, type, how full, numbers, words."""
    oldest = f"oldest {took(row, 'oldest_s')}" if at(row, "oldest_s") else ""
    behind = f"{number(row, 'behind_messages')} behind" if at(row, "behind_messages") else ""
    dropped = counts(at(row, "dropped"))
    words = (word(row, "reason"), oldest, behind, dropped and f"dropped {dropped}")
    return (
        word(row, "state"), word(row, "name"), word(row, "type"), _fill(row),
        number(row, "queued_messages"), number(row, "per_s"), number(row, "delivered"),
        number(row, "failed"), "; ".join(filter(None, words)),
    )  # fmt: skip


def alert(row: Any, now_ms: Any) -> Sequence[str]:
    """State, name and of whom, since when, how often, words."""
    whose = f" ({subject})" if (subject := word(row, "subject")) else ""
    return (
        word(row, "state"), f"{word(row, 'name')}{whose}", since(row, "since_ms", now_ms),
        number(row, "fired"), word(row, "message"),
    )  # fmt: skip


def drop(row: Any, now_ms: Any) -> Sequence[str]:
    """Where, why, how many."""
    return word(row, "where"), word(row, "reason"), number(row, "count")


#: Makes the cells of a row out of what was said and of the time when that was said.
ROWS: dict[str, Callable[[Any, Any], Sequence[str]]] = {
    "sources": source,
    "jobs": job,
    "backends": backend,
    "alerts": alert,
    "drops": drop,
}
HEADS = {
    "sources": ("STATE", "SOURCE", "SEEN", "PER S", "5 MIN", "MESSAGES", "DROPPED", ""),
    "jobs": ("STATE", "JOB", "SOURCE", "PROGRESS", "LEFT", ""),
    "backends": ("STATE", "BACKEND", "TYPE", "QUEUE", "QUEUED", "PER S", "DELIVERED", "FAILED", ""),
    "alerts": ("STATE", "ALERT", "SINCE", "FIRED", ""),
    "drops": ("WHERE", "REASON", "MESSAGES"),
}


def spark(rates: Any) -> str:
    """Numbers over time as a row of characters, the busiest moment as `@`.

    >>> spark([0, 0, 5, 10] * 15)
    '=@@@=@@@=@@@=@@@=@@@'
    """
    known = [_real(rate) or 0.0 for rate in (rates if isinstance(rates, list) else ())]
    step = max(1, -(-len(known) // _SPARK_CHARS))
    tops = [max(known[i : i + step]) for i in range(0, len(known), step)]
    most = max(tops, default=0)
    if most <= 0:
        return ""
    # What is above nothing is never shown as nothing.
    return "".join(_LEVELS[max(rate > 0, int(rate / most * (len(_LEVELS) - 1)))] for rate in tops)


def _fill(row: Any) -> str:
    """How full a queue is: by messages or by bytes, whatever is fuller."""
    shares = []
    for what in ("messages", "bytes"):
        used, room = _real(at(row, f"queued_{what}")), _real(at(row, f"capacity_{what}"))
        if used is not None and room:
            shares.append(100.0 * used / room)
    if not shares:
        return ""
    percent = min(100.0, max(0.0, *shares))
    return f"{bar(percent)} {percent:3.0f} %"


# -- what may be missing or odd --------------------------------------------------------------


def at(value: Any, key: str) -> Any:
    """What a mapping has there; None where there is no such thing, or no mapping."""
    return value.get(key) if isinstance(value, dict) else None


def word(value: Any, key: str) -> str:
    """The same as text, escaped; "" for nothing."""
    found = at(value, key)
    return "" if found is None else visible(str(found))


def number(value: Any, key: str) -> str:
    """The same as a number; "?" where it is none."""
    found = _real(at(value, key))
    if found is None:
        return "?"
    return f"{found:,}" if isinstance(found, int) else f"{found:,.1f}"


def took(value: Any, key: str) -> str:
    """The same, seconds, in words; "?" where it is no number."""
    found = _real(at(value, key))
    return "?" if found is None else duration(max(0.0, found))


def since(value: Any, key: str, now_ms: Any) -> str:
    """How long ago a moment was; "" where that is not known."""
    found, now = _real(at(value, key)), _real(now_ms)
    return "" if found is None or now is None else duration(max(0.0, (now - found) / 1000))


def _real(value: Any) -> Optional[float]:
    """A number that can be reckoned with."""
    return value if type(value) in (int, float) and math.isfinite(value) else None


def counts(value: Any) -> str:
    """`3 live, 1 late`: what is not 0 of a mapping of counts."""
    if not isinstance(value, dict):
        return ""
    return visible(", ".join(f"{count:,} {name}" for name, count in value.items()
                             if type(count) is int and count))  # fmt: skip


def load(summary: Any) -> str:
    """What the sidecar itself takes of the host."""
    memory, cpu = _real(at(summary, "memory_bytes")), _real(at(summary, "cpu_percent"))
    words = [] if memory is None else [f"memory {memory / 1e6:,.0f} MB"]
    return "  ".join(words if cpu is None else [*words, f"cpu {cpu:.0f} %"])
