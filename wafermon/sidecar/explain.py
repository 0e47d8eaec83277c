"""What a sidecar would do with messages, and why: asked of the parts that it would run with.

Nothing here decides. The frames are read by the decoder, what is too much is dropped by the rate
limit, what is secret hidden by the redaction, and what is sent routed by the router.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Optional

from wafermon.flow.redact import REDACTED
from wafermon.flow.router import Ruling
from wafermon.message import HELLO, Batch, Message, Reason, Reject
from wafermon.sidecar import build
from wafermon.sidecar.schema import Config
from wafermon.wire import Decoder

ROUTED, REJECTED, HELD = "routed", "rejected", "session"
RATE_LIMITED, INTERNAL_ERROR = "rate_limited", "internal_error"

#: What to do about each reject.
_REJECTS = {
    Reason.OVERSIZE: "the line is longer than 65,536 bytes",
    Reason.INVALID_JSON: "the line is not JSON (in UTF-8, without NaN, and not nested too deeply)",
    Reason.NOT_OBJECT: "the line is JSON, but no object",
    Reason.BAD_VERSION: 'there is no "v": 1',
    Reason.BAD_FIELD: (
        "a field is missing or of the wrong kind: src (text of 1 to 128 characters), ts (whole"
        " milliseconds), type, data (an object); of a span also tid and sid"
    ),
    Reason.UNKNOWN_TYPE: "there is no such type",
    Reason.TRUNCATED: "the last line has no line end, so it may be the half of one",
}
_DROPS = {
    "no_route": "no entry of the routing sends this source anywhere",
    "filtered": "no rule of the entry takes it",
    "sampled": "the rules that take it do not keep it in their sample",
}


@dataclasses.dataclass(frozen=True)
class Fate:
    """What becomes of one line.

    Attributes:
        outcome: `routed`, the reason of a drop (`no_route`, `filtered`, `sampled`, `rate_limited`,
            `internal_error`), `rejected`, or `session` for a hello, which is never routed.
        reason: the same in words; "" where it is routed.
        message: as it may be shown, without what is hidden from everybody; None where it is none.
        reject: the reason of a reject, else None.
        ruling: which rules were asked; None where it did not come so far.
        hidden: dotted paths of what nobody gets to see.
        backends: who gets it -> dotted paths of what is hidden from it, `hidden` included.
    """

    outcome: str
    reason: str = ""
    message: Optional[Message] = None
    reject: Optional[Reason] = None
    ruling: Optional[Ruling] = None
    hidden: Sequence[str] = ()
    backends: dict[str, list[str]] = dataclasses.field(default_factory=dict)


class Explainer:
    """Tell the fate of lines under a configuration, one after the other.

    Args:
        config: nothing of it is opened or started.
        limited: whether the rate limit counts. Time is what the messages say in `ts`: each is
            taken to arrive then, and alone.

    Thread: one.

    >>> from wafermon.sidecar.load import parse
    >>> explainer = Explainer(parse({"routing": {"db-*": [{"backend": "store", "level": "warn"}]}}))
    >>> info = b'{"v":1,"src":"db-1","ts":1,"type":"event","data":{"level":"info","msg":"hi"}}\\n'
    >>> (fate,) = explainer.fates(Decoder().feed(info))
    >>> fate.outcome, fate.ruling.trials[0].failed
    ('filtered', 'data.level is "info", wanted warn or graver')
    """

    def __init__(self, config: Config, *, limited: bool = True) -> None:
        self._router = build.router(config)
        self._now = 0.0
        self._limit = build.rate_limit(config, lambda: self._now) if limited else None

    def lines(self, chunks: Iterable[bytes]) -> Iterator[tuple[int, Fate]]:
        """The number of each line, from 1, with its fate; empty lines have none.

        Args:
            chunks: of a stream of lines; none may hold more than one line end.
        """
        decoder = Decoder()
        number = 1
        for chunk in chunks:
            for fate in self.fates(decoder.feed(chunk)):
                yield number, fate
            number += chunk.count(b"\n")
        for fate in self.fates(decoder.close()):
            yield number, fate

    def fates(self, batch: Batch) -> Iterator[Fate]:
        """The fates of what was decoded: first the rejects, then the messages in order."""
        for reject in batch.rejects:
            yield self._rejected(reject)
        for index in range(len(batch)):
            try:
                yield self._fate(batch.select([index]))
            except RecursionError:  # as the pipeline: it alone is dropped
                yield Fate(INTERNAL_ERROR, "it is nested too deeply to be dealt with")

    def _rejected(self, reject: Reject) -> Fate:
        why = f"{_REJECTS[reject.reason]}; it goes to the dead letters"
        return Fate(REJECTED, why, reject=reject.reason)

    def _fate(self, batch: Batch) -> Fate:
        """The way of a batch of one message through the pipeline, see `Pipeline.submit`."""
        (message,) = batch.messages
        if message["type"] == HELLO:
            return Fate(HELD, "a hello opens a session and is never routed")
        shown = self._router.clean(batch)
        self._now = max(self._now, message["ts"] / 1000)
        if self._limit is not None and not self._limit.admit(batch):
            why = "its source sends faster than sidecar.buffers.rate_limit allows"
            return Fate(RATE_LIMITED, why, shown.messages[0])
        before = dict(self._router.dropped)
        backends = {
            name: hidden(message, _decoded(part)) for name, part in self._router.route(shown)
        }
        drop = [reason for reason, n in self._router.dropped.items() if n > before[reason]]
        seen = _decoded(shown)
        return Fate(
            drop[0] if drop else ROUTED,
            _DROPS[drop[0]] if drop else "",
            seen,
            ruling=self._router.explain(seen),
            hidden=hidden(message, seen),
            backends=backends,
        )


def _decoded(batch: Batch) -> Message:
    """What a reader makes of the line: the bytes are what counts, whatever is remembered of it."""
    message: Message = json.loads(batch.lines[0])
    return message


def hidden(before: Message, after: Message) -> list[str]:
    """The dotted paths, through lists as in the configuration, of what was hidden on the way.

    >>> hidden({"data": {"a": [{"b": 1}, {"b": 2}], "c": 3}},
    ...        {"data": {"a": [{"b": "[redacted]"}, {"b": "[redacted]"}], "c": 3}})
    ['data.a.b']
    """
    paths: dict[str, None] = {}
    ahead: list[tuple[str, Any, Any]] = [("", before, after)]  # no recursion: it nests as it likes
    while ahead:
        path, old, new = ahead.pop()
        if new == REDACTED and old != REDACTED:
            paths[path] = None
        elif isinstance(old, dict) and isinstance(new, dict):
            start = f"{path}." if path else ""
            ahead += [(f"{start}{key}", old[key], new.get(key)) for key in old]
        elif isinstance(old, list) and isinstance(new, list):
            ahead += [(path, *pair) for pair in zip(old, new)]
    return sorted(paths)
