"""The router: which messages of a batch go to which backend.

A source is looked up once; its compiled plan is remembered, so the routing of a known source is
one dict access a batch, whatever the number of rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from wafermon.flow.pattern import any_of, is_pattern
from wafermon.flow.redact import Redactor
from wafermon.flow.rule import Rule, Step, Trial, keeps
from wafermon.message import Batch, Message, Reject
from wafermon.observe import Family, family

#: Reasons of messages that no backend gets.
NO_ROUTE, FILTERED, SAMPLED = "no_route", "filtered", "sampled"


class Ruling(NamedTuple):
    """Why a message goes where it goes.

    Attributes:
        entry: the entry of the routing that counts for its source; None where none takes it.
        beaten: the other entries that would take it, from the most specific one down.
        trials: what each rule of the entry makes of it, in order.
    """

    entry: Optional[str]
    beaten: tuple[str, ...]
    trials: tuple[Trial, ...]

    @property
    def backends(self) -> list[str]:
        """Who gets it, each once."""
        return list(dict.fromkeys(trial.rule.backend for trial in self.trials if trial.sends))


class _Plan(NamedTuple):
    """What happens to the messages of a source."""

    steps: list[Step]
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

    def add(self, steps: Sequence[Step], indexes: Sequence[int]) -> None:
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
        entry = next(self._entries(source), None)
        if len(self._plans) >= self._max_sources:
            self._plans.clear()
            self.evictions += 1
        self._plans[source] = plan = _NOWHERE if entry is None else self._compiled[entry]
        return plan

    def _entries(self, source: str) -> Iterator[str]:
        """The entries that take a source; the first of them counts."""
        if source in self._compiled and not is_pattern(source):
            yield source
        for pattern, name in self._patterns:
            if pattern.fullmatch(source):
                yield name

    def explain(self, message: Message) -> Ruling:
        """Tell in words why `route` does what it does with a message. Any thread.

        Args:
            message: as `clean` leaves it, since the rules look at that.

        >>> router = Router({"db-*": [Rule("nas", types=["event"])], "*": [Rule("store")]})
        >>> beat = {"v": 1, "src": "db-loader", "ts": 1, "type": "heartbeat"}
        >>> router.explain(beat).trials[0].failed, router.explain(beat).beaten
        ('type is "heartbeat", wanted event', ('*',))
        """
        entries = list(self._entries(message["src"]))
        steps = self._compiled[entries[0]].steps if entries else []
        trials = tuple(step.trial(message) for step in steps)
        return Ruling(entries[0] if entries else None, tuple(entries[1:]), trials)

    def collect(self) -> list[Family]:
        """Yield what was dropped."""
        return [
            family(
                "sidecar_messages_dropped_total",
                "counter",
                "Accepted messages that were not delivered, by reason.",
                self.dropped,
                "reason",
            ),
            family(
                "sidecar_router_evictions_total",
                "counter",
                "Times that the router forgot which rules its sources have, as they were too many.",
                {"": self.evictions},
            ),
        ]


def _plan(rules: Iterable[Rule]) -> _Plan:
    steps = [Step(rule) for rule in rules]
    if not steps or not all(step.takes_all for step in steps):
        return _Plan(steps, None)
    return _Plan(steps, tuple(dict.fromkeys(step.backend for step in steps)))


_NOWHERE = _Plan([], None)
