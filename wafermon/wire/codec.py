"""The codec: bytes in, batches and rejects out; and the encoder.

Sans-I/O: no socket, no thread, no clock. What a line says is the business of `blocks`; here a
stream is cut into blocks of whole lines.
"""

from __future__ import annotations

import json
from typing import NamedTuple, Optional

from wafermon.message import MAX_FRAME_BYTES, VERSION, Batch, Message, Reason, Reject, check
from wafermon.wire.blocks import OVERSIZE_KEPT_BYTES, BlockDecoder, rejected


class Frames(NamedTuple):
    """What some bytes completed, not decoded yet.

    Attributes:
        block: whole lines.
        measured: whether each line is known to be within the bound of a frame.
        before: a frame that turned out too long, ahead of the block.
        after: one that follows it.
    """

    block: bytes = b""
    measured: bool = True
    before: tuple[Reject, ...] = ()
    after: tuple[Reject, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether this is nothing but a block that may be decoded by one parse."""
        return self.measured and not self.before and not self.after


class Decoder:
    """Turn a stream of bytes into batches, whatever way the stream was cut.

    Any split of the same bytes gives the same frames and the same rejects. Memory is bounded by
    one frame: of a longer one the bytes are discarded up to its line end.

    Args:
        max_frame: bytes of the longest frame that is accepted, its `\\n` included.
        blocks: what decodes the lines; many streams can share one.

    Thread: any one thread at a time.

    >>> decoder = Decoder()
    >>> batch = decoder.feed(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\nrubbish\\n{"v":')
    >>> len(batch), [reject.reason.value for reject in batch.rejects]
    (1, ['invalid_json'])
    >>> [reject.reason.value for reject in decoder.close().rejects]
    ['truncated']
    """

    __slots__ = ("_blocks", "_discarding", "_max_frame", "_tail")

    def __init__(
        self, max_frame: int = MAX_FRAME_BYTES, *, blocks: Optional[BlockDecoder] = None
    ) -> None:
        self._max_frame = max_frame
        self._blocks = blocks or BlockDecoder()
        self._tail = b""
        self._discarding = False

    @property
    def pending(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._discarding or bool(self._tail)

    def feed(self, data: bytes) -> Batch:
        """Take the next bytes of the stream.

        Args:
            data: any number of bytes, cut anywhere.

        Returns:
            The frames that these bytes completed, and what was rejected among them.
        """
        return self.decode(self.cut(data))

    def cut(self, data: bytes) -> Frames:
        """The first half of `feed`: keep what is no whole line yet, give what is."""
        end = data.rfind(b"\n") + 1
        if end == len(data) <= self._max_frame and not self._tail and not self._discarding:
            return Frames(data)  # what nearly every read brings
        if not end:
            return Frames(after=self._keep(data))
        before: tuple[Reject, ...] = ()
        if self.pending:
            first = data.find(b"\n") + 1
            if self._discarding:
                block = data[first:end]
            elif len(self._tail) + first > self._max_frame:
                before = self._oversize(data[:first])
                block = data[first:end]
            else:
                block = self._tail + data[:end]
            self._discarding = False
            self._tail = b""
        else:
            block = data[:end]
        # The first line was measured here; the others fit in what was fed.
        measured = len(data) <= self._max_frame or len(block) <= self._max_frame
        after = self._keep(data[end:]) if end < len(data) else ()
        return Frames(block, measured, before, after)

    def decode(self, frames: Frames) -> Batch:
        """The second half of `feed`."""
        block = frames.block
        batch = self._blocks.decode(block) if frames.measured and block else None
        if batch is None:
            batch = self._blocks.decode_lines(block, self._max_frame)
        if frames.before or frames.after:
            batch.rejected_first = bool(frames.before) or batch.rejected_first or not batch
            batch.rejects = [*frames.before, *batch.rejects, *frames.after]
        return batch

    def close(self) -> Batch:
        """Take the end of the stream: a frame that was cut off by it is rejected."""
        tail, self._tail = self._tail, b""
        self._discarding = False
        return Batch(rejects=[rejected(Reason.TRUNCATED, tail)] if tail.rstrip(b"\r") else [])

    def _keep(self, data: bytes) -> tuple[Reject, ...]:
        """Keep the beginning of a frame; give it up once it cannot fit any more."""
        if self._discarding:
            return ()
        self._tail += data
        if len(self._tail) < self._max_frame:
            return ()
        self._discarding = True
        return self._oversize(b"")

    def _oversize(self, rest: bytes) -> tuple[Reject, ...]:
        kept = min(OVERSIZE_KEPT_BYTES, self._max_frame)
        line = self._tail[:kept] + rest[:kept]
        self._tail = b""
        return (rejected(Reason.OVERSIZE, line[:kept]),)


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encode(message: Message, max_frame: int = MAX_FRAME_BYTES) -> bytes:
    """Encode one message as a frame.

    Args:
        message: a message that satisfies protocol section 2.
        max_frame: bytes of the longest frame, its `\\n` included.

    Raises:
        ValueError: the message would not be accepted; the text says why.

    >>> encode({"v": 1, "src": "a", "ts": 1, "type": "heartbeat"})
    b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n'
    """
    reason = check(message)
    if reason is not None:
        raise ValueError(f"not a message of protocol version {VERSION}: {reason.value}")
    frame = (_encoder.encode(message) + "\n").encode("utf-8")
    if len(frame) > max_frame:
        raise ValueError(f"a frame of {len(frame)} bytes, at most {max_frame} are allowed")
    return frame
