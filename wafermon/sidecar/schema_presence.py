"""Sources: who should be heard of, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from wafermon.message import MAX_NAME_CHARS
from wafermon.sidecar.fields import setting
from wafermon.sidecar.kinds import Integer, Seconds, Section, Several, Text

_DAY = 86_400


@dataclass(frozen=True)
class Expected:
    """Sources that should be heard of."""

    src: str = setting(
        Text("a source's name or a pattern with * and ?", f".{{1,{MAX_NAME_CHARS}}}"),
        ...,
        "The source; one without `*` and `?` is missing even if it never comes.",
    )
    every: float = setting(
        Seconds(0.1, 31 * _DAY),
        ...,
        "How often at least. It is late after 2 x that + 2 s, and missing after 4 x that + 2 s.",
    )


@dataclass(frozen=True)
class Presence:
    """When a source is late, and when it is missing."""

    expected: tuple[Expected, ...] = setting(
        Several(Section(Expected), empty=True),
        None,
        "Sources that should be heard of; the first one that fits counts. Others are judged by the"
        " `interval_s` of their heartbeats, or by the rhythm they have shown.",
    )
    missing_after: float = setting(
        Seconds(1, 31 * _DAY),
        "5m",
        "A source without any of these, that is gone without a goodbye, is missing after this.",
    )
    max_sources: int = setting(
        Integer(1, 1_000_000),
        10_000,
        "How many are remembered; who has finished goes first, then the one unheard of longest.",
        "sources",
    )
