"""The configuration of alerts: a rule by its name, of the kind that its telling key says.

>>> from wafermon.sidecar.load import parse
>>> rules = parse({"alerts": {
...     "config-service-silent": {"source": "config-service", "every": "30s"},
...     "nightly-load-late": {"job": "nightly-load", "by": "06:00", "days": "mon-fri"},
... }}).alerts
>>> rules["config-service-silent"].every, rules["nightly-load-late"].by
(30.0, '06:00')
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional, Union

from wafermon.flow.alert_parts import is_own
from wafermon.message import LEVELS, MAX_NAME_CHARS
from wafermon.sidecar.fields import setting
from wafermon.sidecar.kinds import Choice, Integer, Number, Seconds, Several, Text, Word

_YEAR = 365 * 86_400
_HUGE = 1e15
#: Stands in metric labels and in the environment of commands.
ALERT_NAME = Text(
    "an alert's name of up to 64 letters, digits and . _ -", r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
)
_SOURCE = Text(
    f"a source's name of up to {MAX_NAME_CHARS} characters, or a pattern of such",
    f".{{1,{MAX_NAME_CHARS}}}",
)
_JOB = Text("a `job_id`, or a pattern of such")
_CLOCK = Text('a time of day from "00:00" to "23:59"', "([01][0-9]|2[0-3]):[0-5][0-9]")
_WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = f"({'|'.join(_WEEK)})"
_DAYS = Text(
    'days of the week such as "mon-fri" or "sat,sun"', f"{_DAY}(-{_DAY})?(,{_DAY}(-{_DAY})?)*"
)
_WITHIN = (Seconds(1, _YEAR), 60, "The window.")
_FOR = (Seconds(0, _YEAR), 0, "It fires when that has lasted this long.")


@dataclass(frozen=True)
class Actions:
    """What is done when an alert fires and when it resolves, beside the event."""

    exec: tuple[str, ...] = setting(
        Several(Word("a word", r".{0,4096}")),
        None,
        "A command and its arguments, run without a shell, with `WAFERMON_ALERT_NAME`, `_STATE` and"
        " `_MESSAGE` in its environment; null = none.",
    )
    post: Optional[str] = setting(
        Text("an address that begins with http:// or https://"),
        None,
        "Where the event is posted, in JSON; tried three times; null = nowhere.",
    )
    timeout: float = setting(
        Seconds(0.1, 3_600), 10, "How long the command, or one try to post, may take; then it ends."
    )


@dataclass(frozen=True)
class _Silence:
    every: float = setting(
        Seconds(1, _YEAR), ..., "A source must be heard at least this often: a dead man's switch."
    )
    source: str = setting(
        _SOURCE,
        ...,
        "Whom to wait for, from the start on; of a pattern, each that came and said no goodbye.",
    )


@dataclass(frozen=True)
class Silence(Actions, _Silence):
    """A source is silent."""


@dataclass(frozen=True)
class _Deadline:
    by: str = setting(
        _CLOCK, ..., "A job must be `done` by this local time, in the day before it."
    )
    job: str = setting(_JOB, ..., "Which job.")
    days: str = setting(_DAYS, "mon-sun", "On which days it is due.")


@dataclass(frozen=True)
class Deadline(Actions, _Deadline):
    """A job is not done in time."""


@dataclass(frozen=True)
class _JobTrouble:
    state: tuple[str, ...] = setting(
        Several(Choice("stalled", "died", "failed"), alone=True),
        ...,
        "States that a job must not be in.",
    )
    job: str = setting(_JOB, "*", "Which job; each that matches is an alert of its own.")
    source: str = setting(_SOURCE, "*", "Of which source.")
    for_: float = setting(*_FOR)


@dataclass(frozen=True)
class JobTrouble(Actions, _JobTrouble):
    """A job is stalled, died or failed."""


@dataclass(frozen=True)
class _Events:
    level: str = setting(Choice(*LEVELS), ..., "Events of this level or a graver one.")
    source: str = setting(_SOURCE, "*", "From which sources, taken together.")
    count: int = setting(Integer(1, 10_000_000), 1, "So many make an alert.", "events")
    within: float = setting(*_WITHIN)


@dataclass(frozen=True)
class Events(Actions, _Events):
    """Grave events, too many of them."""


@dataclass(frozen=True)
class _MetricLimit:
    metric: str = setting(Text("a metric's name"), ..., "Name of a metric.")
    source: str = setting(
        _SOURCE, "*", "From which sources; each, and each set of tags, is an alert of its own."
    )
    above: Optional[float] = setting(
        Number(-_HUGE, _HUGE), None, "A value above this is wrong; null = none is."
    )
    below: Optional[float] = setting(
        Number(-_HUGE, _HUGE), None, "A value below this is wrong; null = none is."
    )
    for_: float = setting(*_FOR)


@dataclass(frozen=True)
class MetricLimit(Actions, _MetricLimit):
    """A metric is out of its bounds."""


@dataclass(frozen=True)
class _BackendDown:
    backend: str = setting(
        Text("a backend's name, or a pattern of such", r".{1,64}"), ..., "A backend must work."
    )
    for_: float = setting(*_FOR)


@dataclass(frozen=True)
class BackendDown(Actions, _BackendDown):
    """A backend is down."""


@dataclass(frozen=True)
class _Drops:
    drops: int = setting(
        Integer(1, 10_000_000),
        ...,
        "So many messages lost or rejected, all reasons together, make an alert.",
        "messages",
    )
    within: float = setting(*_WITHIN)


@dataclass(frozen=True)
class Drops(Actions, _Drops):
    """Messages are dropped."""


AlertRule = Union[Silence, Deadline, JobTrouble, Events, MetricLimit, BackendDown, Drops]
#: The class of each telling key.
RULES: dict[str, type[Any]] = {
    "every": Silence,
    "by": Deadline,
    "state": JobTrouble,
    "level": Events,
    "metric": MetricLimit,
    "backend": BackendDown,
    "drops": Drops,
}


def weekdays(text: str) -> frozenset[int]:
    """The days of `days`, Monday is 0; a range may go on past Sunday.

    >>> sorted(weekdays("mon-fri")), sorted(weekdays("sat-mon,wed"))
    ([0, 1, 2, 3, 4], [0, 2, 5, 6])
    """
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin, end = _WEEK.index(first), _WEEK.index(last or first)
        found.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(found)


def wrong_rules(rules: Mapping[str, AlertRule]) -> Iterator[str]:
    """Faults of rules that are fine key by key."""
    for name, rule in rules.items():
        if isinstance(rule, Silence) and is_own(rule.source):
            yield (
                f"alerts.{name}.source: the sidecar's own sources, wafermon.*, speak only when"
                " there is something to tell, so nothing can wait for them"
            )
        if not isinstance(rule, MetricLimit):
            continue
        if rule.above is None and rule.below is None:
            yield f"alerts.{name}: a rule about a metric needs above or below"
        elif rule.above is not None and rule.below is not None and rule.below >= rule.above:
            yield f"alerts.{name}.below: expected less than above, no value would be right"
