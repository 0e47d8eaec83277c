"""The router: which messages of a batch go to which backend.

A source is looked up once; its compiled plan is remembered, so the routing of a known source is
one dict access a batch, whatever the number of rules.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, NamedTuple, Optional, Union

from wafermon.flow.pattern import any_of, is_pattern
from wafermon.flow.redact import Redactor
from wafermon.message import Batch, Message, Reject, level_rank
from wafermon.observe import Family, family

Scalar = Union[str, int, float, bool, None]
Predicate = Callable[[Message], bool]

#: Reasons of messages that no backend gets.
NO_ROUTE, FILTERED, SAMPLED = "no_route", "filtered", "sampled"


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


@dataclasses.dataclass(frozen=True)
class _Step:
    """A rule, compiled."""

    backend: str
    filters: tuple[Predicate, ...]
    sample: float
    redactor: Optional[Redactor] = None

    @property
    def takes_all(self) -> bool:
        return not self.filters and self.sample >= 1.0 and self.redactor is None


class _Plan(NamedTuple):
    """What happens to the messages of a source."""

    steps: list[_Step]
    #: The backends that get all of them, where no other one gets any: none of them is looked at.
    whole: Optional[tuple[str, ...]]


class _Choice:
    """What becomes of the messages of one batch. The router counts drops once all of it is known,
    so that one which fails halfway has counted nothing."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages
        #: Backend -> indexes of what it gets.
        self.chosen: dict[str, list[int]] = {}
        #: Backend -> what is to be hidden from it, in which of these.
        self.hiding: dict[str, list[tuple[Redactor, set[int]]]] = {}
        self.dropped = dict.fromkeys((NO_ROUTE, FILTERED, SAMPLED), 0)

    def add(self, steps: Sequence[_Step], indexes: Sequence[int]) -> None:
        """Put the messages of one source to every rule of its plan; a backend gets each once."""
        if not steps:
            self.dropped[NO_ROUTE] += len(indexes)
            return
        matched: set[int] = set()
        taken: dict[str, set[int]] = {}
        for step in steps:
            passed = [i for i in indexes if all(f(self._messages[i]) for f in step.filters)]
            matched.update(passed)
            kept = {i for i in passed if keeps(self._messages[i], step.sample)}
            taken.setdefault(step.backend, set()).update(kept)
            if step.redactor is not None and kept:
                self.hiding.setdefault(step.backend, []).append((step.redactor, kept))
        sent = set().union(*taken.values())
        self.dropped[FILTERED] += len(indexes) - len(matched)
        self.dropped[SAMPLED] += len(matched - sent)
        for backend, kept in taken.items():
            self.chosen.setdefault(backend, []).extend(kept)


class Router:
    """Split batches among backends.

    An exact source name beats a pattern, a longer pattern a shorter one, `*` comes last; within
    the entry that won, every rule that matches sends, and a backend gets a message once.

    Args:
        routing: source name or pattern -> rules.
        redact: dotted paths of fields whose values nobody gets to see; `clean` hides them.
        max_sources: how many sources are remembered; past it the memory starts anew.

    Raises:
        ValueError: a path of `redact` does not lead below `data`.

    Thread: loop only; `collect` any.

    >>> router = Router({"db-*": [Rule("nas", types=["event"])], "*": [Rule("store")]})
    >>> beat = Batch(b'{"v":1,"src":"db-loader","ts":1,"type":"heartbeat"}\\n')
    >>> router.route(beat), dict(router.dropped)
    ([], {'no_route': 0, 'filtered': 1, 'sampled': 0})
    """

    def __init__(
        self,
        routing: Mapping[str, Iterable[Rule]],
        *,
        redact: Sequence[str] = (),
        max_sources: int = 10_000,
    ) -> None:
        entries = {source: list(rules) for source, rules in routing.items()}
        #: Compiled once an entry, however many sources it is for.
        self._compiled = {source: _plan(rules) for source, rules in entries.items()}
        patterns = sorted((s for s in entries if is_pattern(s)), key=len, reverse=True)
        self._patterns = [(any_of([s]), s) for s in patterns]
        #: The names of all backends that a rule sends to.
        self.backends = {rule.backend for rules in entries.values() for rule in rules}
        self._redactor = Redactor(redact) if redact else None
        self._max_sources = max_sources
        self._plans: dict[str, _Plan] = {}
        #: Messages that no backend got, by reason.
        self.dropped = {NO_ROUTE: 0, FILTERED: 0, SAMPLED: 0}
        #: How often the memory of sources was full.
        self.evictions = 0

    def go_on(self, before: Router) -> None:
        """Count on from another router, whose place it takes."""
        self.dropped, self.evictions = before.dropped, before.evictions

    def clean(self, batch: Batch) -> Batch:
        """A batch as it may be shown and kept: the batch itself where nothing is to be hidden."""
        return batch if self._redactor is None else self._redactor.apply(batch)

    def clean_rejects(self, rejects: Sequence[Reject]) -> Sequence[Reject]:
        """The same for frames that were rejected."""
        return rejects if self._redactor is None else self._redactor.apply_to_rejects(rejects)

    def route(self, batch: Batch) -> list[tuple[str, Batch]]:
        """Tell which backend gets which part of a batch.

        Returns:
            Pairs of a backend's name and its part; a part that is the whole batch is the batch
            itself. A backend stands in one pair, and its part is in the order of the batch.
        """
        sources = batch.sources
        plans = {source: self._plan(source) for source in sources}
        first = next(iter(plans.values()), _NOWHERE)
        if first.whole is not None and all(p.whole == first.whole for p in plans.values()):
            return [(backend, batch) for backend in first.whole]
        choice = _Choice(batch.messages)
        if len(plans) == 1:
            choice.add(first.steps, range(len(batch)))
        else:
            # By message and not by part, so that the order among sources is kept.
            where: dict[str, list[int]] = {source: [] for source in plans}
            for index, message in enumerate(batch.messages):
                where[message["src"]].append(index)
            for source, indexes in where.items():
                choice.add(plans[source].steps, indexes)
        routed = []
        for backend, indexes in choice.chosen.items():
            if indexes:
                clean = batch
                for redactor, taken in choice.hiding.get(backend, ()):
                    clean = redactor.apply(clean, taken)
                routed.append((backend, clean.select(sorted(indexes))))
        for reason, count in choice.dropped.items():
            self.dropped[reason] += count
        return routed

    def _plan(self, source: str) -> _Plan:
        """The compiled rules of a source, from memory but for the first time."""
        plan = self._plans.get(source)
        if plan is not None:
            return plan
        entry: Optional[str] = source
        if source not in self._compiled or is_pattern(source):
            entry = next((name for p, name in self._patterns if p.fullmatch(source)), None)
        if len(self._plans) >= self._max_sources:
            self._plans.clear()
            self.evictions += 1
        self._plans[source] = plan = _NOWHERE if entry is None else self._compiled[entry]
        return plan

    def collect(self) -> list[Family]:
        """Yield what was dropped."""
        return [
            family(
                "sidecar_messages_dropped_total",
                "counter",
                "Accepted messages that were not delivered, by reason.",
                self.dropped,
                "reason",
            )
        ]


def _plan(rules: Iterable[Rule]) -> _Plan:
    steps = [_compile(rule) for rule in rules]
    if not steps or not all(step.takes_all for step in steps):
        return _Plan(steps, None)
    return _Plan(steps, tuple(dict.fromkeys(step.backend for step in steps)))


_NOWHERE = _Plan([], None)


def _compile(rule: Rule) -> _Step:
    filters: list[Predicate] = []
    if rule.types:
        types = frozenset(rule.types)
        filters.append(lambda message: message["type"] in types)
    if rule.level is not None:
        rank = level_rank(rule.level)
        filters.append(
            lambda message: message["type"] != "event"
            or level_rank(message["data"].get("level")) >= rank
        )
    for path, wanted in rule.where.items():
        filters.append(_where(path.split("."), wanted))
    redactor = Redactor(rule.redact) if rule.redact else None
    return _Step(rule.backend, tuple(filters), rule.sample, redactor)


def _where(path: Sequence[str], wanted: Union[Scalar, Sequence[Scalar]]) -> Predicate:
    """A predicate on the value at a dotted path; where there is none, nothing matches."""
    values = list(wanted) if isinstance(wanted, (list, tuple)) else [wanted]
    texts = [value for value in values if isinstance(value, str)]
    pattern = any_of(texts) if texts else None
    others = {(type(v) is bool, v) for v in values if not isinstance(v, str)}

    def matches(message: Message) -> bool:
        value: Any = message
        for key in path:
            if type(value) is not dict or key not in value:
                return False
            value = value[key]
        if type(value) is str:
            return pattern is not None and pattern.fullmatch(value) is not None
        # JSON's true is not its 1, though Python's is.
        return type(value) not in (dict, list) and (type(value) is bool, value) in others

    return matches


def keeps(message: Message, share: float) -> bool:
    """Whether a sample of this share keeps a message: the same answer on every host."""
    if share >= 1.0:
        return True
    key = message.get("tid") or f"{message['src']}\n{message['ts']}"
    digest = hashlib.blake2b(key.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
