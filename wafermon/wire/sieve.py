"""The sieve: tell by one pattern that a block holds nothing but frames as SDKs write them.

Most messages go through unread: their lines are written as they came. To know that each of them is
a frame takes a parse, 1.9 us a message, and most of that goes into objects that nobody looks at.
A compiled pattern tells the same of the usual form in 0.7 us. What it does not match is not wrong:
it is parsed. What it matches would have been accepted, message by message; a property test holds
the two against each other.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from typing import Optional

from wafermon.message import BARE_TYPES, MAX_NAME_CHARS, Batch, Message, is_name, is_telling

# From 3.11 on what was matched once is not tried otherwise. Before, a match that fails in the end
# takes twice as long, and no more: at each place the next byte tells which way is the right one.
_ONCE = "+" if sys.version_info >= (3, 11) else ""
#: For a block without control characters in its lines, and without a quote that is escaped.
_STRING = '"[^"]*"'
# Digits are bounded far below what the parser takes; the rest is left to that.
_NUMBER = (
    r"(?:0|[1-9][0-9]{0,17}|-(?:0|[1-9][0-9]{0,17}))"
    r"(?:\.[0-9]{1,40}(?:[eE][+-]?[0-9]{1,3}|)|[eE][+-]?[0-9]{1,3}|)"
)
_SCALAR = f"{_STRING}|{_NUMBER}|true|false|null"
_POSITIVE = "[1-9][0-9]{0,14}"  # 2**53 has 16 digits
_NAME = rf'"[ !#-\[\]-~]{{1,{MAX_NAME_CHARS}}}"'
#: `data`, an object in it such as `ctx`, and one in that.
_OBJECTS = 3
#: Control characters but for the line end; no frame holds one.
_CONTROLS = bytes(set(range(32)) - {10})
_BAD_ESCAPE = re.compile(rb"\\(?![/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4})")
#: No `data` ends like this: a second brace follows its own.
_RECEIPTS = re.compile(rb',"q":([0-9]+)\}\n')
_RECEIPT = re.compile(rb',"q":([0-9]+)\}\Z')
_RECEIPT_BYTES = 21
_HEAD, _TS, _PLAIN = b'{"v":1,"src":"', b'","ts":', b',"type":"event","data":'
_TS_DIGITS = 13  # from 2001 to 2286


def _some(item: str) -> str:
    return f"(?:{item}(?:,{item})*{_ONCE}|)"  # `(?:x|)` costs half of `(?:x)?`


def _object(objects: int) -> str:
    inner = "|" + _object(objects - 1) if objects > 1 else ""
    member = rf"{_STRING}:(?:{_SCALAR}{inner}|\[{_some(f'(?:{_SCALAR})')}\])"
    return rf"\{{{_some(member)}\}}"


def _pattern() -> re.Pattern[bytes]:
    """A block. Groups are set where a line is more than a plain event: `kind`, of another type;
    `before` and `behind`, with ids; `bare`, without data; `q`, asking for a receipt."""
    # Ids stand before `data` or, as from the Python client, behind it.
    ids = rf',"[tsp]id":{_NAME}(?:,"[tsp]id":{_NAME})*{_ONCE}'
    return re.compile(
        (
            rf'(?:\{{"v":1,"src":"[^"]*","ts":(?:{_POSITIVE}|0),"type":"'
            '(?:event|(?P<kind>)(?:span|metric|progress|resource|heartbeat))"'
            rf'(?:(?P<before>){ids}|)(?:,"data":{_object(_OBJECTS)}|(?P<bare>))'
            rf'(?:(?P<behind>){ids}|)(?:,"q":(?P<q>{_POSITIVE})|)\}}\n)+'
        ).encode("ascii")
    )


#: Made on import: what compiling it leaves behind (0.5 MB) is used again by what is imported next.
_PATTERN = _pattern()


class Sieve:
    """Recognise blocks of usual frames.

    Thread: any one thread at a time.

    >>> sieve = Sieve()
    >>> block = b'{"v":1,"src":"a","ts":1,"type":"event","data":{"level":"info","msg":""},"q":7}\\n'
    >>> batch = sieve.sift(block)
    >>> len(batch), batch.sources, batch.numbers, batch.telling
    (1, {'a': 1}, [7], [])
    >>> sieve.sift(block.replace(b":", b": ")) is None
    True
    """

    #: A bound on the sources that are remembered as well-formed; the memory starts anew when full.
    KNOWN_SOURCES = 10_000

    def __init__(self) -> None:
        self._known: dict[bytes, str] = {}

    def sift(self, block: bytes) -> Optional[Batch]:
        """Describe a block of whole lines that would all be accepted.

        Returns:
            None where that cannot be told, or a line is a hello or a goodbye.
        """
        plain = block
        if b"\\" in block:
            # A pair of bytes that no quote follows any more; outside of strings nothing matches it.
            plain = block.replace(b"\\\\", b"__").replace(b'\\"', b"__")
            if _BAD_ESCAPE.search(plain):
                return None
        match = _PATTERN.fullmatch(plain)
        if match is None or len(block.translate(None, _CONTROLS)) != len(block):
            return None
        if not block.isascii():
            try:
                block.decode("utf-8")
            except ValueError:
                return None
        count = block.count(b"\n")
        sources = self._sources(block, count)
        if sources is None:
            return None
        numbers = None if match["q"] is None else _numbers(block, count)
        if match.group("kind", "before", "bare", "behind") == (None, None, None, None):
            return Batch.described(block, count, sources, numbers, (), ())
        src = next(iter(sources)) if len(sources) == 1 else None
        found = _telling(block, src, match["behind"] is not None)
        return None if found is None else Batch.described(block, count, sources, numbers, *found)

    def _sources(self, block: bytes, count: int) -> Optional[dict[str, int]]:
        """How many lines each source has; None where a name is none, or a string holds a line end.

        To the pattern that is a character of the string. But what follows it there is no head of
        a line: that has quotes, of which the first would be the end of the string.
        """
        end = block.index(b'"', len(_HEAD)) + 1
        if block.count(b"\n" + block[:end]) == count - 1:  # the usual case
            src = self._name(block[len(_HEAD) : end - 1])
            return None if src is None else {src: count}
        if block.count(b"\n" + _HEAD) != count - 1:
            return None
        counts: dict[str, int] = {}
        for line in block.split(b"\n")[:-1]:
            src = self._name(line[len(_HEAD) : line.index(b'"', len(_HEAD))])
            if src is None:
                return None
            counts[src] = counts.get(src, 0) + 1
        return counts

    def _name(self, name: bytes) -> Optional[str]:
        src = self._known.get(name)
        if src is None and b"\\" not in name and is_name(name.decode("utf-8")):
            if len(self._known) >= self.KNOWN_SOURCES:
                self._known.clear()
            src = self._known[name] = name.decode("utf-8")
        return src


def _numbers(block: bytes, count: int) -> list[int]:
    """The receipt that each line asks for; 0 for none."""
    found = _RECEIPTS.findall(block)
    if len(found) == count:
        return [*map(int, found)]
    ends = [_RECEIPT.search(line, len(line) - _RECEIPT_BYTES) for line in block.split(b"\n")[:-1]]
    return [0 if end is None else int(end[1]) for end in ends]


def _telling(
    block: bytes, src: Optional[str], behind: bool
) -> Optional[tuple[list[int], list[Message]]]:
    """The indexes of the telling messages, and these; None where one would not be accepted.

    Args:
        src: the source of all lines, where it is one.
        behind: whether an id stands behind the data of a line.
    """
    lines = block.split(b"\n")[:-1]
    start = len(_HEAD)
    skipped = len(_TS) + _TS_DIGITS
    if src is None:
        odd = [not s.startswith(_PLAIN, s.index(_TS, start) + skipped) for s in lines]
    else:
        end = start + len(src.encode("utf-8")) + skipped
        odd = [not line.startswith(_PLAIN, end) for line in lines]
    if behind:
        odd = [one or b'"tid":"' in line for one, line in zip(odd, lines)]
    indexes = [*itertools.compress(range(len(lines)), odd)]
    messages = json.loads(b"[%b]" % b",".join([lines[index] for index in indexes]))
    if not all(map(_is_whole, messages)):
        return None
    if all(map(is_telling, messages)):
        return indexes, messages
    pairs = [pair for pair in zip(indexes, messages) if is_telling(pair[1])]
    return [index for index, _ in pairs], [message for _, message in pairs]


def _is_whole(message: Message) -> bool:
    """Whether a message that the pattern matched lacks no field of its type: 0.1 us where `check`
    takes 0.9, as each field that is there was looked at already."""
    kind = message["type"]
    if kind == "span":
        return "sid" in message and "tid" in message and "data" in message
    return "data" in message or kind in BARE_TYPES
