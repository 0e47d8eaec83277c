"""The tests of a configuration: does each message get where its author meant it to go?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from wafermon.sidecar.explain import REJECTED, Explainer, Fate
from wafermon.sidecar.schema import Config
from wafermon.sidecar.schema_tests import Case
from wafermon.wire import Decoder


class Result(NamedTuple):
    """What came of one test.

    Attributes:
        place: where it stands in the file, `tests[0]`.
        name: what its author calls it; "" where he does not.
        faults: what differs, a line each; empty where all is as expected.
    """

    place: str
    name: str
    faults: list[str]


def results(config: Config) -> Iterator[Result]:
    """Run the tests of a configuration, in order. Nothing is opened, started or sent.

    Each message is judged alone: the rate limit, which hangs on what came before, is left out.

    >>> from wafermon.sidecar.load import parse
    >>> beat = {"src": "db-1", "type": "heartbeat"}
    >>> config = parse({"tests": [{"messages": [beat], "backends": []}]})
    >>> next(results(config)).faults
    ['messages[0]: + store gets it, by routing.*[0]']
    """
    explainer = Explainer(config, limited=False)
    for index, case in enumerate(config.tests):
        faults = [
            f"messages[{i}]: {fault}"
            for i, message in enumerate(case.messages)
            for fault in _faults(explainer, case, message)
        ]
        yield Result(f"tests[{index}]", case.name or "", faults)


def _faults(explainer: Explainer, case: Case, message: Mapping[str, Any]) -> Iterator[str]:
    """What becomes of one message otherwise than expected: - is missing, + is too much."""
    line = json.dumps({"v": 1, "ts": 0, **message}).encode() + b"\n"
    (fate,) = explainer.fates(Decoder().feed(line))
    if fate.outcome == REJECTED:
        reason = "" if fate.reject is None else fate.reject.value
        yield f"is rejected ({reason}): {fate.reason}"
        return
    for name in dict.fromkeys(case.backends):
        if name not in fate.backends:
            yield f"- {name} does not get it: {_why_not(fate, name)}"
    for name in fate.backends:
        if name not in case.backends:
            yield f"+ {name} gets it, by {_why(fate, name)}"
    for name, expected in case.redacted.items():
        got = fate.backends.get(name)
        if got is None:
            if name not in case.backends:
                yield f"- {name} gets nothing, so nothing can be hidden from it"
            continue
        for path in sorted({*expected} - {*got}):
            yield f"- {path} is not hidden from {name}"
        for path in sorted({*got} - {*expected}):
            yield f"+ {path} is hidden from {name}"


def _why_not(fate: Fate, name: str) -> str:
    """Each rule for a backend with what it lacks."""
    if fate.ruling is None or not fate.ruling.trials:
        return fate.reason
    entry = f"routing.{fate.ruling.entry}"
    asked = [
        f"{entry}[{i}]: {trial.failed or 'not in its sample'}"
        for i, trial in enumerate(fate.ruling.trials)
        if trial.rule.backend == name
    ]
    return "; ".join(asked) or f"{entry} has no rule for it"


def _why(fate: Fate, name: str) -> str:
    """The rules by which a backend gets a message."""
    if fate.ruling is None:
        return ""
    return ", ".join(
        f"routing.{fate.ruling.entry}[{i}]"
        for i, trial in enumerate(fate.ruling.trials)
        if trial.rule.backend == name and trial.sends
    )
