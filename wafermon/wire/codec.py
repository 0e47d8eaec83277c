"""The codec: bytes in, batches and rejects out; and the encoder.

Sans-I/O: no socket, no thread, no clock. A block of lines is parsed at once (1.8 us a message
against 3.4 line by line); only a block in which something is wrong is gone through line by line,
to name the culprit. Both ways accept exactly the same frames.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import Any, Optional

from wafermon.message import (
    HELLO,
    MAX_FRAME_BYTES,
    MAX_INTEGER,
    ROUTED_TYPES,
    VERSION,
    Batch,
    Message,
    Reason,
    Reject,
    check,
    is_integer,
)

#: Of an oversize frame this much is kept for the dead letters (protocol section 2).
OVERSIZE_KEPT_BYTES = 1024
#: A bound on the sources that `Decoder` remembers as well-formed; it starts anew when reached.
KNOWN_SOURCES = 10_000

_PAIR = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
#: Frames that the quick check of a block can pass; a span needs ids, which `check` looks at.
_QUICK_TYPES = ROUTED_TYPES - {"span"}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _has_lone_surrogate(text: str) -> bool:
    """Tell whether valid JSON text escapes half a surrogate pair, which UTF-8 cannot carry."""
    if "\\" not in text or _HALF.search(text) is None:
        return False
    # Escaped backslashes go first, or `\\ud83d` would read as an escape.
    return _HALF.search(_PAIR.sub(" ", text.replace("\\\\", " "))) is not None


def _receipt_of(message: object) -> int:
    """The receipt that a rejected frame asks for: it is dealt with, and its sender may know."""
    q = message.get("q") if type(message) is dict else None
    return q if is_integer(q, 1) else 0  # type: ignore[return-value]


class Decoder:
    """Turn a stream of bytes into batches, whatever way the stream was cut.

    Any split of the same bytes gives the same frames and the same rejects. Memory is bounded by
    one frame: of a longer one the bytes are discarded up to its line end.

    Args:
        max_frame: bytes of the longest frame that is accepted, its `\\n` included.

    Thread: any one thread at a time.

    >>> decoder = Decoder()
    >>> batch = decoder.feed(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\nrubbish\\n{"v":')
    >>> len(batch), [reject.reason.value for reject in batch.rejects]
    (1, ['invalid_json'])
    >>> [reject.reason.value for reject in decoder.close().rejects]
    ['truncated']
    """

    def __init__(self, max_frame: int = MAX_FRAME_BYTES) -> None:
        self._max_frame = max_frame
        self._kept = min(OVERSIZE_KEPT_BYTES, max_frame)
        self._tail = bytearray()
        self._discarding = False
        self._json = json.JSONDecoder(parse_constant=_refuse_constant)
        # No sender can guess this, so no line can pretend to be two, nor two to be one: joining
        # with bare commas would take `[1` and `2]` for one value.
        self._separator = secrets.token_urlsafe(9)
        self._glue = f',"{self._separator}",'
        self._known_sources: set[str] = set()
        self._hellos = 0  # in the block at hand
        self._numbered = False  # whether a message of it asks for a receipt

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
        end = data.rfind(b"\n") + 1
        if not end:
            return Batch(rejects=self._keep(data))
        rejects: list[Reject] = []
        if self.pending:
            first = data.find(b"\n") + 1
            if self._discarding:
                block = data[first:end]
            elif len(self._tail) + first > self._max_frame:
                rejects.append(self._oversize(data[:first]))
                block = data[first:end]
            else:
                block = bytes(self._tail) + data[:end]
            self._discarding = False
            self._tail.clear()
        else:
            block = data[:end]
        batch = self._decode(block, len(data))
        after = self._keep(data[end:]) if end < len(data) else []
        if rejects or after:
            batch.rejected_first = bool(rejects) or batch.rejected_first or not batch
            batch.rejects = [*rejects, *batch.rejects, *after]
        return batch

    def close(self) -> Batch:
        """Take the end of the stream: a frame that was cut off by it is rejected."""
        tail = bytes(self._tail)
        self._tail.clear()
        self._discarding = False
        return Batch(rejects=[Reject(Reason.TRUNCATED, tail)] if tail.rstrip(b"\r") else [])

    def _keep(self, data: bytes) -> list[Reject]:
        """Keep the beginning of a frame; give it up once it cannot fit any more."""
        if self._discarding:
            return []
        self._tail += data
        if len(self._tail) < self._max_frame:
            return []
        self._discarding = True
        return [self._oversize(b"")]

    def _oversize(self, rest: bytes) -> Reject:
        line = bytes(self._tail[: self._kept]) + rest[: self._kept]
        self._tail.clear()
        return Reject(Reason.OVERSIZE, line[: self._kept])

    def _decode(self, block: bytes, fed: int) -> Batch:
        """Decode whole lines. The first was measured already; others fit in what was fed."""
        if not block:
            return Batch()
        if fed <= self._max_frame or len(block) <= self._max_frame:
            messages = self._decode_block(block)
            if messages is not None:
                return Batch(block, messages, hellos=self._hellos, numbered=self._numbered)
        return self._decode_lines(block)

    def _decode_block(self, block: bytes) -> Optional[list[Message]]:
        """Decode a block by one parse; None where anything at all is wrong with it."""
        try:
            text = block[:-1].decode("utf-8")
            joined = text.replace("\n", self._glue)
            values: list[Any]
            values, end = self._json.raw_decode(f"[{joined}]")
        except (ValueError, RecursionError):
            return None
        if end != len(joined) + 2:
            return None  # a line closed the array before its end
        count = (len(joined) - len(text)) // (len(self._glue) - 1)
        if len(values) != 2 * count + 1 or values[1::2].count(self._separator) != count:
            return None
        messages = values[::2] if count else values
        if not self._all_accepted(messages) or _has_lone_surrogate(text):
            return None
        return messages

    def _all_accepted(self, values: list[Any]) -> bool:
        """Check the envelopes of a block, 0.2 us each.

        The plainest form of a frame is recognised here, all else is put to `check`: this may be
        stricter than `check`, never laxer.
        """
        known, types, version = self._known_sources, _QUICK_TYPES, VERSION
        self._hellos, numbered = 0, False
        for message in values:
            try:
                size = len(message)
                if size == 6:  # a plain frame with a receipt asked for, the usual one of an SDK
                    q = message["q"]
                    if type(q) is int and 1 <= q <= MAX_INTEGER:
                        numbered, size = True, 5
                if (
                    size == 5
                    and message["src"] in known
                    and message["type"] in types
                    and type(message["ts"]) is int
                    and 0 <= message["ts"] <= MAX_INTEGER
                    and type(message["data"]) is dict
                    and type(message["v"]) is int
                    and message["v"] == version
                ):
                    continue
            except (KeyError, TypeError):
                pass
            if check(message) is not None:
                return False
            if len(known) >= KNOWN_SOURCES:
                known.clear()
            known.add(message["src"])
            self._hellos += message["type"] == HELLO
            numbered = numbered or "q" in message
        self._numbered = numbered
        return True

    def _decode_lines(self, block: bytes) -> Batch:
        """Decode line by line, and name what is wrong with each bad one."""
        lines: list[bytes] = []
        messages: list[Message] = []
        rejects: list[Reject] = []
        rejected_first = False
        for line in block.split(b"\n")[:-1]:
            if line in (b"", b"\r"):
                continue
            message, reason = self._decode_line(line)
            if reason is None:
                lines.append(line)
                messages.append(message)
            else:
                rejected_first = rejected_first or not lines
                kept = line[: self._kept] if reason is Reason.OVERSIZE else line
                if type(message) is dict and message.get("type") == HELLO:
                    kept = b'{"type":"hello"}'  # it may hold a secret
                rejects.append(Reject(reason, kept, _receipt_of(message)))
        raw = b"\n".join(lines) + b"\n" if lines else b""
        hellos = sum(message["type"] == HELLO for message in messages)
        numbered = any("q" in message for message in messages)
        batch = Batch(raw, messages, rejects, hellos=hellos, numbered=numbered)
        batch.rejected_first = rejected_first
        return batch

    def _decode_line(self, line: bytes) -> tuple[Message, Optional[Reason]]:
        if len(line) >= self._max_frame:
            return {}, Reason.OVERSIZE
        try:
            text = line.decode("utf-8")
            message = self._json.decode(text)
        except (ValueError, RecursionError):
            return {}, Reason.INVALID_JSON
        if _has_lone_surrogate(text):
            return {}, Reason.INVALID_JSON
        return message, check(message)


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
