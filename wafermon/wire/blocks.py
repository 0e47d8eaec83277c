"""Whole lines in, a batch out: the one place where frames are parsed and checked.

A block of frames as SDKs write them is recognised without a parse (`sieve.py`). Any other is parsed
at once (1.8 us a message against 3.4 line by line); only one in which something is wrong is gone
through line by line, to name the culprit. All ways accept exactly the same frames.
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
from wafermon.wire.sieve import Sieve

#: Of an oversize frame this much is kept for the dead letters (protocol section 2).
OVERSIZE_KEPT_BYTES = 1024
#: Once somebody has asked for what the sieve left out, so many blocks at most are parsed without
#: trying it. Two at first: who asks for one block in many, as who holds a sender back, costs that
#: one. Twice as many each time that one of the next few to be sifted is asked for, too.
PARSED_BLOCKS, NEXT_FEW = 100, 8
#: A bound on the sources that are remembered as well-formed; the memory starts anew when full.
KNOWN_SOURCES = 10_000

#: What stands for a rejected line that may hold a secret.
_HELLO_LINE = b'{"type":"hello"}'
#: What a `hello` holds, and its secret follows, also where the line is no JSON or cut off.
_OF_A_HELLO = re.compile(rb'secret|"hello"', re.IGNORECASE)
_ESCAPED_ASCII = re.compile(rb"\\u00([2-7][0-9a-fA-F])")
_PAIR = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
#: Frames that the quick check of a block can pass. A span needs ids, which `check` looks at, and
#: a goodbye is counted.
_QUICK_TYPES = ROUTED_TYPES - {"span", "goodbye"}


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


def rejected(reason: Reason, line: bytes, message: object = None) -> Reject:
    """A frame that was not accepted: every `Reject` of a line is made here.

    A line that may be a `hello` leaves none of its bytes: a secret is kept nowhere. The key of a
    secret stands before it in each part of a frame that is kept, in plain letters or as `\\u`
    escapes of these, or with a NUL beside each (UTF-16). A line that is taken for one wrongly costs
    the bytes of one dead letter.

    Args:
        reason: why.
        line: what is to be kept of it, from its beginning.
        message: what was parsed, where it could be.

    >>> rejected(Reason.TRUNCATED, b'{"data":{"s\\\\u0065cret":"tell no').line
    b'{"type":"hello"}'
    """
    plain = _ESCAPED_ASCII.sub(lambda code: bytes((int(code[1], 16),)), line.replace(b"\0", b""))
    if _OF_A_HELLO.search(plain) or (type(message) is dict and message.get("type") == HELLO):
        line = _HELLO_LINE
    return Reject(reason, line, _receipt_of(message))


class BlockDecoder:
    """Decode blocks of whole lines. It keeps nothing of one block for the next, so one of these
    serves any number of connections.

    Thread: any one thread at a time.

    >>> decoder = BlockDecoder()
    >>> batch = decoder.decode(b'{"v":1,"src":"a","ts":1,"type":"heartbeat","q":7}\\n')
    >>> len(batch), batch.numbers
    (1, [7])
    >>> decoder.decode(b"rubbish\\n") is None
    True
    >>> [reject.reason.value for reject in decoder.decode_lines(b"rubbish\\n").rejects]
    ['invalid_json']
    """

    def __init__(self) -> None:
        self._json = json.JSONDecoder(parse_constant=_refuse_constant)
        # No sender can guess this, so no line can pretend to be two, nor two to be one: joining
        # with bare commas would take `[1` and `2]` for one value.
        self._separator = secrets.token_urlsafe(9)
        self._glue = f',"{self._separator}",'
        self._known_sources: set[str] = set()
        self._sieve = Sieve()
        self._to_parse, self._parsed, self._sifted = 0, 1, 0
        #: Of the block at hand.
        self._hellos = self._goodbyes = 0
        self._numbered = False

    def decode(self, block: bytes) -> Optional[Batch]:
        """Decode a block, or tell that this can be left to who wants its messages.

        Where messages are wanted after all, the next blocks are parsed here: to do both costs a
        third more.

        Args:
            block: whole lines, each known to be within the bound of a frame.

        Returns:
            None where anything at all is wrong with it, or a line is empty.
        """
        if self._to_parse:
            self._to_parse -= 1
            return self.parse(block)
        batch = self._sieve.sift(block)
        if batch is None:
            return self.parse(block)
        self._sifted += 1
        batch.on_decode = self._on_decode
        return batch

    def _on_decode(self) -> None:
        self._parsed = min(2 * self._parsed, PARSED_BLOCKS) if self._sifted <= NEXT_FEW else 2
        self._to_parse, self._sifted = self._parsed, 0

    def parse(self, block: bytes) -> Optional[Batch]:
        """Decode a block by one parse; arguments and results as above."""
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
        return Batch(
            block,
            messages,
            hellos=self._hellos,
            goodbyes=self._goodbyes,
            numbered=self._numbered,
        )

    def _all_accepted(self, values: list[Any]) -> bool:
        """Check the envelopes of a block, 0.2 us each.

        The plainest form of a frame is recognised here, all else is put to `check`: this may be
        stricter than `check`, never laxer.
        """
        known, types, version = self._known_sources, _QUICK_TYPES, VERSION
        self._hellos = self._goodbyes = 0
        numbered = False
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
            self._goodbyes += message["type"] == "goodbye"
            numbered = numbered or "q" in message
        self._numbered = numbered
        return True

    def decode_lines(self, block: bytes, max_frame: int = MAX_FRAME_BYTES) -> Batch:
        """Decode line by line, and name what is wrong with each bad one.

        Args:
            block: whole lines of any length.
            max_frame: bytes of the longest frame that is accepted, its `\\n` included.
        """
        kept_bytes = min(OVERSIZE_KEPT_BYTES, max_frame)
        lines: list[bytes] = []
        messages: list[Message] = []
        rejects: list[Reject] = []
        rejected_first = False
        for line in block.split(b"\n")[:-1]:
            if line in (b"", b"\r"):
                continue
            message, reason = self._decode_line(line, max_frame)
            if reason is None:
                lines.append(line)
                messages.append(message)
            else:
                rejected_first = rejected_first or not lines
                kept = line[:kept_bytes] if reason is Reason.OVERSIZE else line
                rejects.append(rejected(reason, kept, message))
        batch = Batch(
            b"\n".join(lines) + b"\n" if lines else b"",
            messages,
            rejects,
            hellos=sum(message["type"] == HELLO for message in messages),
            goodbyes=sum(message["type"] == "goodbye" for message in messages),
            numbered=any("q" in message for message in messages),
        )
        batch.rejected_first = rejected_first
        return batch

    def _decode_line(self, line: bytes, max_frame: int) -> tuple[Message, Optional[Reason]]:
        if len(line) >= max_frame:
            return {}, Reason.OVERSIZE
        try:
            text = line.decode("utf-8")
            message = self._json.decode(text)
        except (ValueError, RecursionError):
            return {}, Reason.INVALID_JSON
        if _has_lone_surrogate(text):
            return {}, Reason.INVALID_JSON
        return message, check(message)
