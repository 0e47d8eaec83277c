"""What goes when a queue overflows: as its policy says, and what matters most goes last.

Heartbeats, goodbyes and events of level `error` and `fatal` tell that something is wrong, and
their lack tells it wrongly, so every other message goes before them. Precedent: rsyslog drops the
lowest severity first (`queue.discardMark`).
"""

from __future__ import annotations

import collections
import json
from collections.abc import Sequence
from typing import Optional

from wafermon.flow.rule import keeps
from wafermon.message import Batch, Message

BLOCK, DROP_NEWEST, DROP_OLDEST, SAMPLE = "block", "drop_newest", "drop_oldest", "sample"
POLICIES = (BLOCK, DROP_NEWEST, DROP_OLDEST, SAMPLE)

#: `sample` begins when a queue is this full, and keeps this share of what comes.
NEARLY_FULL, SAMPLE_SHARE = 0.75, 0.1
#: After passing over so many entries in vain more is dropped at once, one part in `BULK` of the
#: bound, so that the next batches do not pass over them again.
PATIENCE, BULK = 64, 8

#: A line without any of these is not urgent; `\u` might spell one of them.
_WORDS = (b"heartbeat", b"goodbye", b"error", b"fatal", b"\\u")


class Waiting:
    """A batch of one source that waits, since when, and the number that all before it have at most.

    `spared` says that only urgent messages are left of it.
    """

    __slots__ = ("after", "batch", "since", "spared")

    def __init__(self, since: float, batch: Batch, after: int = 0, spared: bool = False) -> None:
        self.since = since
        self.batch = batch
        self.after = after
        self.spared = spared


class Need:
    """How much has to go: messages and bytes.

    >>> bool(Need(0, 1)), bool(Need(-3, 0))
    (True, False)
    """

    __slots__ = ("bytes", "messages")

    def __init__(self, messages: int, bytes: int) -> None:
        self.messages = messages
        self.bytes = bytes

    def __bool__(self) -> bool:
        return self.messages > 0 or self.bytes > 0


def is_urgent(message: Message) -> bool:
    """Tell whether a message goes last.

    >>> is_urgent({"type": "event", "data": {"level": "fatal"}}), is_urgent({"type": "metric"})
    (True, False)
    """
    kind = message.get("type")
    if kind == "event":
        return message["data"].get("level") in ("error", "fatal")
    return kind in ("heartbeat", "goodbye")


def sample(batch: Batch) -> Batch:
    """The part of a batch that `sample` keeps of it, the same on every host and for all of a trace;
    what is urgent stays."""
    messages = _decoded(batch)
    if messages is None:
        return batch
    kept = [i for i, m in enumerate(messages) if is_urgent(m) or keeps(m, SAMPLE_SHARE)]
    return _part(batch, kept)


def cut(batch: Batch, need: Need, *, newest_first: bool, spare: bool) -> tuple[Batch, bool]:
    """Take lines out of a batch of one source until nothing more need go.

    Args:
        batch: stays as it is.
        need: what goes is taken off it.
        newest_first: begin at the end.
        spare: leave what is urgent.

    Returns:
        What is left, and whether it is known that nothing else than urgent messages is.
    """
    urgent = _urgent(batch) if spare else ()
    lines = Batch(batch.raw).lines  # of a copy: what waits in a queue keeps nothing but its bytes
    gone: set[int] = set()
    for index in range(len(lines) - 1, -1, -1) if newest_first else range(len(lines)):
        if not need:
            break
        if index not in urgent:
            gone.add(index)
            need.messages -= 1
            need.bytes -= len(lines[index]) + 1
    left = [index for index in range(len(lines)) if index not in gone]
    return _part(batch, left), spare and bool(need)


def evict(
    queue: collections.deque[Waiting],
    need: Need,
    bulk: Need,
    *,
    newest_first: bool,
    source: Optional[str] = None,
) -> list[tuple[Batch, Batch]]:
    """Take messages out of a queue until nothing more need go, or nothing is left that may.

    Args:
        queue: oldest on the left; entries of which nothing is left are taken out.
        need: what goes is taken off it.
        bulk: added to the need, once, where it takes long to find something.
        newest_first: begin on the right.
        source: only messages of this one.

    Returns:
        Each batch that lost messages, before and after.
    """
    changed: list[tuple[Batch, Batch]] = []
    passed: list[Waiting] = []
    pop = queue.pop if newest_first else queue.popleft
    for spare in (True, False):
        while queue and need:
            entry = pop()
            if not (spare and entry.spared) and source in (None, *entry.batch.sources):
                before = entry.batch
                entry.batch, spared = cut(before, need, newest_first=newest_first, spare=spare)
                entry.spared = entry.spared or spared
                if entry.batch is not before:
                    changed.append((before, entry.batch))
            if len(entry.batch):
                passed.append(entry)
            if len(passed) == PATIENCE:
                need.messages += bulk.messages
                need.bytes += bulk.bytes
        if newest_first:
            queue.extend(reversed(passed))
        else:
            queue.extendleft(reversed(passed))
        passed.clear()
    return changed


def _urgent(batch: Batch) -> Sequence[int]:
    messages = _decoded(batch) if any(word in batch.raw for word in _WORDS) else None
    return [i for i, message in enumerate(messages or ()) if is_urgent(message)]


def _decoded(batch: Batch) -> Optional[list[Message]]:
    """The messages, not kept in the batch; None for what is no message: dead letters are not."""
    try:
        messages = Batch(batch.raw).messages
    except (RecursionError, json.JSONDecodeError):  # parsed on a shallower stack than this one
        return None
    return messages if all("type" in message for message in messages) else None


def _part(batch: Batch, indexes: Sequence[int]) -> Batch:
    """Some of the messages of a batch, packed, with its number."""
    if len(indexes) == len(batch):
        return batch
    lines = Batch(batch.raw).lines
    raw = b"".join([lines[i] + b"\n" for i in indexes])
    single = len(batch.sources) == 1 and bool(indexes)
    sources = dict.fromkeys(batch.sources, len(indexes)) if single else None
    part = Batch(raw, received_ms=batch.received_ms, sources=sources)
    part.seq = batch.seq
    return part
