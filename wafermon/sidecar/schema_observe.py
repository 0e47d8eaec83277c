"""What is kept of the metrics that sources tell, and how the sidecar logs."""

from __future__ import annotations

from dataclasses import dataclass

from wafermon.sidecar.fields import setting
from wafermon.sidecar.kinds import Choice, Integer, Seconds


@dataclass(frozen=True)
class UserMetrics:
    """What is kept of `metric` and `resource` messages, for `/metrics/messages` and charts."""

    max_series: int = setting(
        Integer(1, 100_000),
        1_000,
        "Past this the one that was silent longest goes; 4 KiB each at the most. One source gets"
        " half of them.",
        "series",
    )
    stale_after: float = setting(
        Seconds(1, 7 * 86_400), "5m", "A series that is silent this long is dropped."
    )


@dataclass(frozen=True)
class Logging:
    """The lines on stderr; the journal of systemd gets their level and has times of its own."""

    format: str = setting(
        Choice("text", "json"), "text", "`text` is `key=value`; both have one line an event."
    )
    level: str = setting(
        Choice("debug", "info", "warning", "error"), "info", "Only lines of this level or above."
    )
