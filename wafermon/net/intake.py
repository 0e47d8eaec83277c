"""What connections have read, decoded together and handed on in the order of its arrival."""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

from wafermon.delivery.feeders import Crowd
from wafermon.message import Batch
from wafermon.wire.blocks import BlockDecoder
from wafermon.wire.codec import Frames

if TYPE_CHECKING:
    from wafermon.net.connection import Connection
    from wafermon.net.loop import Timer
    from wafermon.net.server import Server

#: Small blocks are decoded together up to this size; larger ones are no faster. It is half of what
#: one read brings at most, so that a full read is not joined with the next one.
UNIT_BYTES = 32_768
#: What may wait behind a unit that a worker has not answered, and how long. Then it is decoded by
#: the owner: a worker that hangs is nobody else's business.
MAX_WAITING_BYTES, MAX_WAITING_SECONDS = 4 << 20, 0.05

log = logging.getLogger("wafermon.net")

Parts = Sequence[tuple["Connection", Frames]]


class _Unit:
    """What is dealt with when all before it has been: decoded by one parse, or, where something is
    out of the ordinary, part by part then."""

    __slots__ = ("batch", "block", "is_decoded", "parts", "since")

    def __init__(self, parts: Parts, since: float, apart: bool = False) -> None:
        self.since = since
        self.parts = parts
        self.block = b"".join([frames.block for _, frames in parts])
        self.batch: Optional[Batch] = None
        self.is_decoded = apart


class Intake:
    """Decode what the connections of a server have read, and hand it to the outlet.

    At 50,000 messages a second from 1,000 connections every read brings one frame. To decode,
    count, journal and queue each alone costs 19 us; all that one turn of the loop has brought is
    one batch here, at 12 us a message with the read. What is out of the ordinary - a `hello` or a
    `goodbye`, a bad frame, numbers that a session holds already - is dealt with connection by
    connection.

    Where there are worker processes they decode as many full units as they can take, and the loop
    the rest. Units are dealt with in the order in which they were read, whoever decodes them; so
    the order of a connection holds, and that of a session from one connection to the next.

    Args:
        server: whose loop, outlet and workers are used.

    Thread: loop only.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._clock = server.loop.clock
        #: One for all connections: of what it remembers nothing belongs to one of them.
        self.blocks = BlockDecoder()
        self._parts: list[tuple[Connection, Frames]] = []
        self._size = 0
        self._units: collections.deque[_Unit] = collections.deque()
        self._waiting_bytes = 0
        self._timer: Optional[Timer] = None
        #: Whether a unit is being dealt with right now.
        self.is_busy = False

    def take(self, connection: Connection, frames: Frames) -> None:
        """Take what one read has completed."""
        if not (frames.is_plain and connection.session.is_settled):
            self.flush()
            self._append(_Unit([(connection, frames)], self._clock(), apart=True))
            return
        if not self._parts:
            self._server.loop.call_after_turn(self.flush)
        self._parts.append((connection, frames))
        self._size += len(frames.block)
        if self._size >= UNIT_BYTES:
            self.flush()

    def flush(self) -> None:
        """Begin with what was taken; it is done already unless a worker is at it or before it."""
        if not self._parts:
            return
        unit = _Unit(self._parts, self._clock())
        full, self._parts, self._size = self._size >= UNIT_BYTES, [], 0
        workers = self._server.workers
        handed_out = (
            full
            and workers is not None
            and workers.submit(unit.block, functools.partial(self._answered, unit))
        )
        if not handed_out:
            self._decode(unit)
        self._append(unit)

    def _append(self, unit: _Unit) -> None:
        self._units.append(unit)
        self._waiting_bytes += len(unit.block)
        self._go_on()
        while self._waiting_bytes > MAX_WAITING_BYTES:
            self._decode(self._units[0])
            self._go_on()
        if self._units and self._timer is None:
            self._timer = self._server.loop.call_later(MAX_WAITING_SECONDS, self._look_after)

    def _look_after(self) -> None:
        """Decode here what a worker has been asked for too long ago."""
        self._timer = None
        late = self._clock() - MAX_WAITING_SECONDS
        for unit in self._units:
            if unit.since <= late:
                self._decode(unit)
        self._go_on()
        if self._units:
            self._timer = self._server.loop.call_later(MAX_WAITING_SECONDS, self._look_after)

    def settle(self, connection: Optional[Connection] = None) -> None:
        """Be done with all that was taken up to now, from one connection or from any."""
        if self.is_busy:
            return  # this is about the unit at hand: what came later is not its business
        self.flush()
        if connection is not None and not any(
            connection is one for unit in self._units for one, _ in unit.parts
        ):
            return  # what workers are at is not decoded here without need
        for unit in self._units:
            self._decode(unit)
        self._go_on()

    def _decode(self, unit: _Unit) -> None:
        if not unit.is_decoded:
            unit.batch, unit.is_decoded = self.blocks.decode(unit.block), True

    def _answered(self, unit: _Unit, batch: Optional[Batch]) -> None:
        """A worker is done with a unit, or knows no answer."""
        if not unit.is_decoded:
            unit.batch, unit.is_decoded = batch, True
            self._go_on()

    def _go_on(self) -> None:
        while self._units and self._units[0].is_decoded:
            unit = self._units.popleft()
            self._waiting_bytes -= len(unit.block)
            self._deal_with(unit)

    def _deal_with(self, unit: _Unit) -> None:
        self.is_busy = True
        try:
            batch = unit.batch
            if batch is None or batch.hellos or batch.goodbyes or not self._submit(unit, batch):
                self._take_apart(unit.parts)
        except Exception:
            log.exception("a fault of our own with %d bytes that were read", len(unit.block))
        finally:
            self.is_busy = False

    def _submit(self, unit: _Unit, batch: Batch) -> bool:
        """Hand on a batch in which all is in order; tell whether it is."""
        parts, now = unit.parts, time.time()
        if not all(connection.session.is_settled for connection, _ in parts):
            return False  # one of them was closed meanwhile
        counted = [(c, len(batch) if len(parts) == 1 else f.block.count(b"\n")) for c, f in parts]
        receipts: list[tuple[Connection, int]] = []
        if batch.numbered:
            asked = _asked(counted, batch)
            if not all(connection.session.is_next(numbers) for connection, numbers in asked):
                return False
            receipts = [(c, c.session.note(numbers, now)) for c, numbers in asked]
            batch.marks = [m for c, _ in asked if (m := c.session.mark) is not None]
        batch.received_ms = int(now * 1000)
        _credit(counted, batch)
        outlet = self._server.outlet
        outlet.submit(batch, parts[0][0] if len(parts) == 1 else Crowd(counted, batch))
        for connection, q in receipts:
            if q:
                connection.expect(q)
        return True

    def _take_apart(self, parts: Parts) -> None:
        for connection, frames in parts:
            connection.take(frames)


def _credit(counted: Sequence[tuple[Connection, int]], batch: Batch) -> None:
    """Note which sources each connection carries. Who sent what is looked up only where one is new
    to a connection or to all of them."""
    if len(counted) == 1:
        counted[0][0].carries(batch.sources)
        return
    known = {connection.src for connection, _ in counted}
    if "" not in known and known.issuperset(batch.sources):
        return  # the usual case
    for connection, _ in counted:
        known.update(connection.sources)
    if all(connection.src for connection, _ in counted) and known.issuperset(batch.sources):
        return
    first = 0
    with contextlib.suppress(RecursionError):  # as in `Feeders.hold_back`; the next one tells
        for connection, count in counted:
            connection.carries([m["src"] for m in batch.messages[first : first + count]])
            first += count


def _asked(
    counted: Sequence[tuple[Connection, int]], batch: Batch
) -> list[tuple[Connection, list[int]]]:
    """The receipts that each connection asks for, of those who ask. One that stands there twice
    has read twice: its numbers are one list."""
    found: dict[Connection, list[int]] = {}
    first = 0
    for connection, count in counted:
        numbers = [q for q in batch.numbers[first : first + count] if q]
        first += count
        if numbers:
            found.setdefault(connection, []).extend(numbers)
    return list(found.items())
