"""A rule of the routing, compiled: which messages pass it, and in words why one does not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple, Optional, Union

from wafermon.flow.pattern import any_of
from wafermon.flow.redact import Redactor
from wafermon.message import Message, level_rank

Scalar = Union[str, int, float, bool, None]
Predicate = Callable[[Message], bool]

#: So much of a value is told in words.
_MAX_SHOWN = 60
#: What stands at a path that leads nowhere.
_NOTHING = object()


@dataclasses.dataclass(frozen=True)
class Rule:
    """Send to a backend what passes every one of these.

    Args:
        backend: the name of the backend.
        types: message types; none means all.
        level: events from this level up; messages of other types pass.
        where: dotted path -> a value, a list of values, or a pattern with `*` and `?`.
        sample: share to keep, 0 to 1, by a hash of `tid` (else of `src` and `ts`), so that all
            messages of a trace share one fate.
        redact: dotted paths of fields whose values this backend does not get to see.
    """

    backend: str
    types: Sequence[str] = ()
    level: Optional[str] = None
    where: Mapping[str, Union[Scalar, Sequence[Scalar]]] = dataclasses.field(default_factory=dict)
    sample: float = 1.0
    redact: Sequence[str] = ()


class Trial(NamedTuple):
    """What a rule makes of one message, in words.

    Attributes:
        rule: the rule as it was given.
        met: what it asks for and the message has.
        failed: the first thing that the message lacks; "" where it passes.
        kept: whether the rule's sample keeps a message that passes.
    """

    rule: Rule
    met: tuple[str, ...]
    failed: str
    kept: bool

    @property
    def sends(self) -> bool:
        """Whether the rule's backend gets the message by it."""
        return not self.failed and self.kept


class _Condition(NamedTuple):
    """One thing that a rule asks for: where it looks, whether it is there, what it wants."""

    path: Sequence[str]
    passes: Predicate
    wanted: str


class Step:
    """A rule, compiled.

    Args:
        rule: the rule.

    Thread: any.

    >>> step = Step(Rule("nas", types=["event"], level="error"))
    >>> step.trial({"type": "event", "data": {"level": "info"}}).failed
    'data.level is "info", wanted error or graver'
    """

    __slots__ = ("_conditions", "_rule", "backend", "filters", "redactor", "sample")

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._conditions = _conditions(rule)
        self.backend = rule.backend
        #: All of these have to take a message: for the routing, which asks for no words.
        self.filters = tuple(condition.passes for condition in self._conditions)
        self.sample = rule.sample
        self.redactor = Redactor(rule.redact) if rule.redact else None

    @property
    def takes_all(self) -> bool:
        """Whether each message goes to the backend, and as it is."""
        return not self.filters and self.sample >= 1.0 and self.redactor is None

    def trial(self, message: Message) -> Trial:
        """Tell what this rule makes of a message, by the same filters as the routing."""
        met: list[str] = []
        for path, passes, wanted in self._conditions:
            found = _found(message, path)
            if not passes(message):
                return Trial(self._rule, tuple(met), f"{found}, wanted {wanted}", False)
            met.append(found)
        return Trial(self._rule, tuple(met), "", keeps(message, self.sample))


def _conditions(rule: Rule) -> list[_Condition]:
    conditions = []
    if rule.types:
        types = frozenset(rule.types)
        wanted = " or ".join(rule.types)
        conditions.append(_Condition(["type"], lambda message: message["type"] in types, wanted))
    if rule.level is not None:
        rank = level_rank(rule.level)
        conditions.append(
            _Condition(
                ["data", "level"],
                lambda message: message["type"] != "event"
                or level_rank(message["data"].get("level")) >= rank,
                f"{rule.level} or graver",
            )
        )
    for dotted, value in rule.where.items():
        path = dotted.split(".")
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        conditions.append(_Condition(path, _where(path, values), " or ".join(map(_shown, values))))
    return conditions


def _where(path: Sequence[str], values: Sequence[Any]) -> Predicate:
    """A predicate on the value at a dotted path; where there is none, nothing matches."""
    texts = [value for value in values if isinstance(value, str)]
    pattern = any_of(texts) if texts else None
    others = {(type(v) is bool, v) for v in values if not isinstance(v, str)}

    def matches(message: Message) -> bool:
        value = _at(message, path)
        if type(value) is str:
            return pattern is not None and pattern.fullmatch(value) is not None
        if value is _NOTHING or type(value) in (dict, list):
            return False
        # JSON's true is not its 1, though Python's is.
        return (type(value) is bool, value) in others

    return matches


def _at(message: Message, path: Sequence[str]) -> Any:
    """What stands at a path."""
    value: Any = message
    for key in path:
        if type(value) is not dict or key not in value:
            return _NOTHING
        value = value[key]
    return value


def _found(message: Message, path: Sequence[str]) -> str:
    """What stands at a path, in words."""
    value = _at(message, path)
    name = ".".join(path)
    return f"there is no {name}" if value is _NOTHING else f"{name} is {_shown(value)}"


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def keeps(message: Message, share: float) -> bool:
    """Whether a sample of this share keeps a message: the same answer on every host."""
    if share >= 1.0:
        return True
    key = message.get("tid") or f"{message['src']}\n{message['ts']}"
    digest = hashlib.blake2b(key.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
