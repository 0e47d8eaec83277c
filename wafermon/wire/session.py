"""One connection's side of the contract: what its frames may be, and when it is over.

Sans-I/O, and a table of states. A plain client needs no answer and never gets one, so a session
has nothing to send.
"""

from __future__ import annotations

import enum

from wafermon.message import HELLO, MAX_FRAME_BYTES, Batch, Reason, Reject
from wafermon.wire.codec import Decoder


class State(enum.Enum):
    """Where a connection stands."""

    NEW = "new"
    PLAIN = "plain"
    OPENED = "opened"
    CLOSED = "closed"


class Event(enum.Enum):
    """What can happen to it."""

    MESSAGE = "message"
    HELLO = "hello"
    EOF = "eof"


#: A missing entry is a fault of the peer: the frame is rejected, the connection lives on.
TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.NEW, Event.MESSAGE): State.PLAIN,
    (State.NEW, Event.HELLO): State.OPENED,
    (State.PLAIN, Event.MESSAGE): State.PLAIN,
    (State.OPENED, Event.MESSAGE): State.OPENED,
    (State.NEW, Event.EOF): State.CLOSED,
    (State.PLAIN, Event.EOF): State.CLOSED,
    (State.OPENED, Event.EOF): State.CLOSED,
}


class Session:
    """Take the bytes of one connection, give the batches that are to be routed.

    Args:
        max_frame: bytes of the longest frame, its `\\n` included.

    Thread: any one thread at a time.

    >>> session = Session()
    >>> batch = session.receive(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n')
    >>> len(batch), session.state.value
    (1, 'plain')
    >>> session.receive_eof().rejects, session.state.value
    ([], 'closed')
    """

    def __init__(self, max_frame: int = MAX_FRAME_BYTES) -> None:
        self.state = State.NEW
        self._decoder = Decoder(max_frame)

    @property
    def pending(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._decoder.pending

    def receive(self, data: bytes) -> Batch:
        """Take bytes that arrived; give what is to be routed and what was rejected."""
        batch = self._decoder.feed(data)
        if self.state is State.NEW or batch.hellos:
            return self._advance(batch)
        return batch

    def receive_eof(self) -> Batch:
        """Take the end of the stream. Twice is harmless."""
        self.state = TRANSITIONS.get((self.state, Event.EOF), self.state)
        return self._decoder.close()

    def _advance(self, batch: Batch) -> Batch:
        """Walk through a batch that may change the state; a `hello` is never routed."""
        routed, rejects = [], list(batch.rejects)
        for index, message in enumerate(batch.messages):
            event = Event.HELLO if message["type"] == HELLO else Event.MESSAGE
            state = TRANSITIONS.get((self.state, event))
            if state is None:
                rejects.append(Reject(Reason.BAD_FIELD, batch.lines[index]))
                continue
            self.state = state
            if event is Event.MESSAGE:
                routed.append(index)
        if batch.rejects and self.state is State.NEW:
            self.state = State.PLAIN  # its first frame was rejected: a hello comes too late now
        chosen = batch.select(routed)
        chosen.rejects = rejects
        return chosen
