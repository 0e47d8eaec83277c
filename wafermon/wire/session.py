"""One connection's side of the contract: hello, secret, numbers, receipts (protocol section 4).

Sans-I/O, and a table of states. What is to be written comes out of `safe` and `refusal`; a plain
client gets neither.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections.abc import Callable
from typing import Any, Optional

from wafermon.message import HELLO, MAX_FRAME_BYTES, Batch, Message, Reason
from wafermon.wire.blocks import BlockDecoder, rejected
from wafermon.wire.codec import Decoder, Frames
from wafermon.wire.sessions import SessionTable, session_key

MAX_SESSION_CHARS = 64


class State(enum.Enum):
    """Where a connection stands."""

    NEW = "new"
    PLAIN = "plain"
    OPENED = "opened"
    REFUSED = "refused"
    CLOSED = "closed"


class Event(enum.Enum):
    """What can happen to it."""

    MESSAGE = "message"
    HELLO = "hello"
    NO_SECRET = "no_secret"  # noqa: S105 - a name
    EOF = "eof"


#: A missing entry is a fault of the peer: the frame is rejected, the connection lives on.
TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.NEW, Event.MESSAGE): State.PLAIN,
    (State.NEW, Event.HELLO): State.OPENED,
    (State.NEW, Event.NO_SECRET): State.REFUSED,
    (State.PLAIN, Event.MESSAGE): State.PLAIN,
    (State.OPENED, Event.MESSAGE): State.OPENED,
    (State.NEW, Event.EOF): State.CLOSED,
    (State.PLAIN, Event.EOF): State.CLOSED,
    (State.OPENED, Event.EOF): State.CLOSED,
    (State.REFUSED, Event.EOF): State.CLOSED,
}


class Secret:
    """The shared secret of a listener; it is kept as its digest only.

    >>> Secret("tell nobody").matches("tell nobody"), Secret("tell nobody").matches(None)
    (True, False)
    """

    def __init__(self, secret: str) -> None:
        self._digest = _digest(secret)

    def matches(self, given: object) -> bool:
        """Compare in a time that tells nothing."""
        return isinstance(given, str) and hmac.compare_digest(self._digest, _digest(given))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class Session:
    """Take the bytes of one connection, give the batches that are to be routed.

    Args:
        max_frame: bytes of the longest frame, its `\\n` included.
        table: what is held of each session; without it a `hello` opens one that ends with it.
        secret: what the first frame, a `hello`, must show.
        blocks: decodes the lines; many sessions can share one.

    Thread: loop only, with its table.

    >>> session = Session()
    >>> hello = b'{"v":1,"src":"a","ts":1,"type":"hello","data":{"session":"9f0c"}}\\n'
    >>> batch = session.receive(hello + b'{"v":1,"src":"a","ts":1,"type":"heartbeat","q":7}\\n')
    >>> len(batch), batch.receipt
    (1, 7)
    >>> print(session.safe(batch.receipt, "disk").decode(), end="")
    {"v":1,"type":"welcome","q":0,"level":"disk","max_frame":65536}
    {"v":1,"type":"ack","q":7,"level":"disk"}
    """

    def __init__(
        self,
        max_frame: int = MAX_FRAME_BYTES,
        *,
        table: Optional[SessionTable] = None,
        secret: Optional[Secret] = None,
        blocks: Optional[BlockDecoder] = None,
    ) -> None:
        self.state = State.NEW
        #: Called when another connection opens the same session.
        self.on_superseded: Callable[[], None] = lambda: None
        self._max_frame = max_frame
        self._decoder = Decoder(max_frame, blocks=blocks)
        self._table = SessionTable() if table is None else table
        self._secret = secret
        #: Whether it is a session of a client that says goodbye when it leaves on purpose.
        self.owes_goodbye = False
        self._key: Optional[str] = None
        self._src = ""
        self._held = 0
        self._welcome: Optional[int] = None
        self._goodbye = 0
        self._is_over = False

    @property
    def pending(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._decoder.pending

    @property
    def waits_for_hello(self) -> bool:
        """Whether the peer still has to show the secret."""
        return self._secret is not None and self.state is State.NEW

    @property
    def greets(self) -> bool:
        """Whether a `welcome` is due once everything before it is safe."""
        return self._welcome is not None

    @property
    def is_settled(self) -> bool:
        """Whether it is known what the connection is, so that messages are all that may come."""
        return self.state is State.PLAIN or self.state is State.OPENED

    def receive(self, data: bytes, now: float = 0.0) -> Batch:
        """Take bytes that arrived.

        Args:
            data: cut anywhere.
            now: Unix seconds.

        Returns:
            What is to be routed and what was rejected; with `receipt`, `marks` and `duplicates`
            set where the peer asked for receipts.
        """
        return self.take(self.cut(data), now)

    def cut(self, data: bytes) -> Frames:
        """The first half of `receive`: the whole lines among the bytes."""
        if self.state in (State.REFUSED, State.CLOSED):
            return Frames()
        return self._decoder.cut(data)

    def take(self, frames: Frames, now: float) -> Batch:
        """The second half of `receive`."""
        if self.state in (State.REFUSED, State.CLOSED):
            return Batch()
        batch = self._decoder.decode(frames)
        hello = 0
        if self.state is State.NEW and (batch or batch.rejects):
            first = batch.messages[0] if batch else {}
            batch = self._first(batch, now)
            hello = first.get("q", 0) if self.greets else 0
        elif batch.hellos:
            batch = self._without_hellos(batch, 0)
        if hello:
            self._cover(batch, hello, now)
        if batch.numbered:
            batch = self._number(batch, now)
        rejected = max((reject.q for reject in batch.rejects), default=0)
        if rejected:
            self._cover(batch, rejected, now)
        return batch

    def is_next(self, numbers: list[int]) -> bool:
        """Whether `note` may be told: nothing of this is held already. (Without a session such
        frames are no duplicates.)"""
        if self._key is None:
            return True
        held = self._held
        for q in numbers:
            if q <= held:
                return False
            held = q
        return True

    def note(self, numbers: list[int], now: float) -> int:
        """In place of `take`, for messages that were decoded elsewhere and hold no hello and no
        goodbye.

        Args:
            numbers: the receipts they ask for, one at least; `is_next`.
            now: Unix seconds.

        Returns:
            The receipt that is due once they are safe, 0 for none. `mark` goes with it.
        """
        top = max(numbers)
        if top <= self._held:
            return 0
        self._held = top
        if self._key is not None:
            self._goodbye = 0
            self._table.advance(self._key, top, now)
        return top

    @property
    def mark(self) -> Optional[tuple[str, int]]:
        """The session with the highest number that it holds."""
        return None if self._key is None else (self._key, self._held)

    def _cover(self, batch: Batch, q: int, now: float) -> None:
        """A frame that is not routed is dealt with: its number is held as that of any other."""
        if q > self._held:
            batch.receipt = self._held = q
        if self._key is not None:
            batch.receipt = self._held
            batch.marks = [(self._key, self._held)]
            self._table.advance(self._key, self._held, now)

    def receive_eof(self) -> Batch:
        """Take the end of the stream. Twice is harmless.

        Of a peer that has not shown the secret nothing is rejected either: what it left unfinished
        may be a hello, and hold a secret.
        """
        unknown = self.waits_for_hello or self.state is State.REFUSED
        self._enter(Event.EOF)
        if self._key is not None:
            self._table.close(self._key, self._superseded)
        rest = self._decoder.close()
        return Batch() if unknown else rest

    def refuse(self) -> bytes:
        """Refuse a peer that has not shown the secret; what to write before closing."""
        self._enter(Event.NO_SECRET)  # where it was silent for too long
        return b'{"v":1,"type":"error","reason":"auth"}\n'

    def safe(self, q: int, level: str) -> bytes:
        """Everything up to a batch is safe: what the peer is to be told.

        Args:
            q: the `receipt` of the batch.
            level: `disk` or `memory`.
        """
        lines = b""
        if self._welcome is not None:
            lines = b'{"v":1,"type":"welcome","q":%d,"level":"%s","max_frame":%d}\n' % (
                self._welcome,
                level.encode("ascii"),
                self._max_frame,
            )
            self._welcome = None
        if q:
            lines += b'{"v":1,"type":"ack","q":%d,"level":"%s"}\n' % (q, level.encode("ascii"))
        self._is_over = bool(self._goodbye) and q >= self._goodbye
        return lines

    def part(self) -> None:
        """The peer has closed in order, with every receipt written to it: a session that has said
        goodbye is forgotten. Of any other end it may come back, for what it does not know to be
        held."""
        if self._is_over and self._key is not None:
            self._table.forget(self._key)

    def _enter(self, event: Event) -> None:
        self.state = TRANSITIONS.get((self.state, event), self.state)

    def _superseded(self) -> None:
        self.on_superseded()

    def _first(self, batch: Batch, now: float) -> Batch:
        """Look at the first frame: it decides what the connection is."""
        hello: Optional[Message] = None
        if batch and not batch.rejected_first and batch.messages[0]["type"] == HELLO:
            hello = batch.messages[0]
        if self._secret is not None and not (
            hello is not None and self._secret.matches(hello["data"].get("secret"))
        ):
            self._enter(Event.NO_SECRET)
            return Batch()
        if hello is None:
            self._enter(Event.MESSAGE)
            return self._without_hellos(batch, 0) if batch.hellos else batch
        session: Any = hello["data"].get("session")
        if session is not None and not _is_session(session):
            self._enter(Event.MESSAGE)
            return self._without_hellos(batch, 0)
        self._enter(Event.HELLO)
        if session is not None:
            self._src = hello["src"]
            self.owes_goodbye = hello["data"].get("goodbye") is not False
            self._key = session_key(self._src, session)
            self._held = self._table.open(self._key, now, self._superseded)
        self._welcome = self._held
        return self._without_hellos(batch, 1)

    def _without_hellos(self, batch: Batch, taken: int) -> Batch:
        """Take out the hellos, which are never routed; all but the one that was `taken` are
        rejected, without their bytes, as these may hold a secret."""
        kept, rejects = [], list(batch.rejects)
        for index, message in enumerate(batch.messages):
            if message["type"] != HELLO:
                kept.append(index)
            elif index >= taken:
                rejects.append(rejected(Reason.BAD_FIELD, b"", message))
        chosen = batch.select(kept)
        chosen.rejects = rejects
        chosen.numbered = batch.numbered
        return chosen

    def _number(self, batch: Batch, now: float) -> Batch:
        """Note the receipts that are asked for; of a session, discard what is held already."""
        numbers = batch.numbers
        top = max(numbers, default=0)
        if self._key is None:
            if top > self._held:
                batch.receipt = self._held = top
            return batch
        last = batch.messages[-1] if batch else None
        asked = [q for q in numbers if q]
        if asked and (asked[0] <= self._held or asked != sorted(set(asked))):
            batch = self._discard(batch, numbers)
        self._held = max(self._held, top)
        batch.receipt = self._held
        batch.marks = [(self._key, self._held)]
        self._table.advance(self._key, self._held, now)
        parts = last is not None and last["type"] == "goodbye" and last["src"] == self._src
        self._goodbye = self._held if parts else 0
        return batch

    def _discard(self, batch: Batch, numbers: list[int]) -> Batch:
        held, kept = self._held, []
        for index, q in enumerate(numbers):
            if not q or q > held:
                kept.append(index)
                held = max(held, q)
        chosen = batch.select(kept)
        chosen.rejects = batch.rejects
        chosen.duplicates = len(numbers) - len(kept)
        return chosen


def _is_session(value: object) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_SESSION_CHARS
        and value.isprintable()
    )
