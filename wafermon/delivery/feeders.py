"""Feeders: where batches come from, who of them waits for a queue, and what they are told."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterator, Sequence
from typing import Callable, Optional, Protocol, Union

from wafermon.delivery.queue import BatchQueue
from wafermon.message import Batch


class Feeder(Protocol):
    """Where batches come from: something that can be told to wait."""

    def pause(self) -> None:
        """Stop reading; called on the loop thread."""

    def resume(self) -> None:
        """Read on; called on the loop thread."""

    def safe(self, q: int, level: str, answers: int) -> None:
        """All that was submitted up to a batch is safe; `q` is that batch's receipt. Called on
        the loop thread, once for as many `expect`s as it answers."""


class Crowd:
    """The feeders of a batch that comes from several.

    Args:
        parts: feeders, each with how many messages of the batch are its own, in their order.
        batch: whose own is whose is found out when somebody asks.
    """

    def __init__(self, parts: Sequence[tuple[Feeder, int]], batch: Batch) -> None:
        self.parts = parts
        self._batch = batch

    def senders(self, sources: Collection[str]) -> Iterator[tuple[Feeder, list[str]]]:
        """Those who sent messages of certain sources, each with which of these."""
        first = 0
        for feeder, count in self.parts:
            own = {m["src"] for m in self._batch.messages[first : first + count]}
            first += count
            concerned = [source for source in own if source in sources]
            if concerned:
                yield feeder, concerned


class Feeders:
    """Those who wait: for room in a queue, or for a receipt.

    Args:
        call_soon: runs a function on the loop thread; without it `resume` is the caller's task.

    Thread: loop only, but `look_soon` any.

    >>> class Script:
    ...     def pause(self): print("waits")
    ...     def resume(self): print("goes on")
    >>> feeders, full = Feeders(None), [True]
    >>> feeders.pause(Script(), lambda: not full[0])
    waits
    >>> full[0] = False
    >>> feeders.resume()
    goes on
    """

    def __init__(self, call_soon: Optional[Callable[[Callable[[], None]], None]]) -> None:
        self._call_soon = call_soon
        #: Each with what tells whether it may go on.
        self._paused: dict[Feeder, list[Callable[[], bool]]] = {}
        self._resume_asked = False
        #: Receipts that wait for a commit, by its number.
        self._receipts: collections.deque[tuple[int, Feeder, int]] = collections.deque()

    # -- room ----------------------------------------------------------------------------------

    def hold_back(
        self, feeder: Union[Feeder, Crowd], sources: list[str], queue: BatchQueue
    ) -> None:
        """A queue is full: whoever sent messages for which it is so waits until it is low."""
        if not isinstance(feeder, Crowd):
            self.pause(feeder, lambda: queue.is_low(sources))
            return
        try:
            senders = list(feeder.senders(sources))
        except RecursionError:  # a message cannot be parsed here: who sent what cannot be told
            senders = [(one, sources) for one, _ in feeder.parts]
        for one, own in senders:
            if not queue.is_under(own):
                self.pause(one, lambda own=own: queue.is_low(own))  # type: ignore[misc]

    def hold_all(self, feeder: Union[Feeder, Crowd], may_go_on: Callable[[], bool]) -> None:
        """Whoever sent it waits."""
        for one in [f for f, _ in feeder.parts] if isinstance(feeder, Crowd) else [feeder]:
            self.pause(one, may_go_on)

    def pause(self, feeder: Feeder, may_go_on: Callable[[], bool]) -> None:
        """One waits until it may go on, for this and for whatever else it waits."""
        waits = self._paused.get(feeder)
        if waits is None:
            waits = self._paused[feeder] = []
            feeder.pause()
        waits.append(may_go_on)
        if may_go_on():
            self.look_soon()  # it ran empty before it was known that somebody waits

    def look_soon(self) -> None:
        """There may be room: let the loop see who may go on."""
        if self._paused and self._call_soon is not None and not self._resume_asked:
            self._resume_asked = True
            self._call_soon(self.resume)

    def resume(self) -> None:
        """Let those go on who may."""
        self._resume_asked = False
        for feeder, waits in list(self._paused.items()):
            waits[:] = [may_go_on for may_go_on in waits if not may_go_on()]
            if not waits:
                del self._paused[feeder]
                feeder.resume()

    # -- receipts ------------------------------------------------------------------------------

    @property
    def expect_receipts(self) -> bool:
        """Whether somebody waits for one."""
        return bool(self._receipts)

    def expect(self, seq: int, feeder: Feeder, q: int) -> None:
        """One wants to be told a number once a commit has come so far."""
        self._receipts.append((seq, feeder, q))

    def committed(self, seq: int, level: str) -> None:
        """Tell all who wait for this commit: the last number of each covers the rest."""
        due: dict[Feeder, tuple[int, int]] = {}
        while self._receipts and self._receipts[0][0] <= seq:
            _, feeder, q = self._receipts.popleft()
            before, answers = due.get(feeder, (0, 0))
            due[feeder] = (max(q, before), answers + 1)
        for feeder, (q, answers) in due.items():
            feeder.safe(q, level, answers)

    def forget(self, feeder: Feeder) -> None:
        """One is gone: it is not resumed, and gets no receipt."""
        self._paused.pop(feeder, None)
        if self._receipts:
            self._receipts = collections.deque(r for r in self._receipts if r[1] is not feeder)
