"""What the sieve lets through the parser would have accepted, with the same to say of it."""

import json
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafermon.message import MAX_INTEGER, is_telling
from wafermon.testing import frame, frames
from wafermon.wire.blocks import PARSED_BLOCKS, BlockDecoder
from wafermon.wire.sieve import Sieve

EXAMPLES = int(os.environ.get("WAFERMON_FUZZ_EXAMPLES", "300"))

names = st.one_of(
    st.sampled_from(["a", "etl-1", "a b", "é", "x" * 128, "x" * 129, "", 'q"', "b\\", "\x7f", "\x85"]),
    st.text(max_size=3),
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(allow_nan=False), names,
)
objects = st.dictionaries(
    st.text(max_size=2),
    st.recursive(scalars, lambda inner: st.lists(inner, max_size=2)
                 | st.dictionaries(st.text(max_size=2), inner, max_size=2), max_leaves=5),
    max_size=3,
)


@st.composite
def lines(draw):
    """A line that is a frame, or nearly."""
    fields = {"v": draw(st.sampled_from([1, 1, 1, 1, 1, 2, True])), "src": draw(names)}
    fields["ts"] = draw(st.sampled_from([0, 5, 1697821234567, MAX_INTEGER, MAX_INTEGER + 1, -1, 1.5]))
    fields["type"] = draw(st.sampled_from(
        ["event", "event", "span", "metric", "progress", "resource", "heartbeat", "goodbye", "hello", "x"]
    ))
    ids = {key: draw(names) for key in draw(st.sets(st.sampled_from(["tid", "sid", "pid"])))}
    behind = draw(st.booleans())
    fields.update({} if behind else ids)
    if draw(st.integers(0, 9)):
        fields["data"] = draw(st.one_of(objects, objects, scalars))
    fields.update(ids if behind else {})
    if draw(st.booleans()):
        fields["q"] = draw(st.sampled_from([0, 1, 7, 10**15, MAX_INTEGER, "3"]))
    if not draw(st.integers(0, 9)):
        fields["more"] = 1
    text = json.dumps(fields, ensure_ascii=draw(st.booleans()),
                      separators=draw(st.sampled_from([(",", ":"), (",", ":"), (", ", ": ")])))
    return text.encode("utf-8", "surrogatepass") + b"\n"


noise = st.sampled_from(
    [b'"', b"\\", b"\\\\", b'\\"', b"\\u00", b"\\ud83d", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r",
     b"\0", b"\x1f", b"\x7f", b"\xff", b"\xc3", b"0", b"1", b"-", b".", b"e", b'"q":7', b',"q":7}', b"_", b" "]
)


@st.composite
def blocks(draw):
    block = b"".join(draw(st.lists(lines(), min_size=1, max_size=4)))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(block) - 1))
        block = block[:at] + draw(noise) + block[at + draw(st.integers(0, 2)) :]
    return block if block.endswith(b"\n") else block + b"\n"


def agree(block):
    """Whether it was let through; then the parser says the same of it."""
    found = Sieve().sift(block)
    if found is None:
        return False
    parsed = BlockDecoder().parse(block)
    assert parsed is not None, block
    assert not parsed.hellos and not parsed.goodbyes
    assert (len(found), found.sources, found.numbered) == (len(parsed), parsed.sources, parsed.numbered)
    assert found.numbers == parsed.numbers
    assert found.telling == [m for m in parsed.messages if is_telling(m)]
    assert [parsed.messages[index] for index in found.telling_at] == found.telling
    assert repr(found.messages) == repr(parsed.messages) and found.raw == block
    return True


@settings(max_examples=EXAMPLES, deadline=None)
@given(blocks())
def test_it_agrees_with_the_parser(block):
    agree(block)


USUAL = [
    b'{"v":1,"src":"etl","ts":1697821234567,"type":"event","data":{"level":"info","msg":"a"},"q":1}\n',
    b'{"v":1,"src":"etl","ts":1697821234567,"type":"event","data":{"level":"info","msg":"C:\\\\x \\"y\\" \\n"}}\n',
    b'{"v":1,"src":"etl","ts":0,"type":"event","data":{"a":[1,-0.5e-3,null,"x"],"b":{"c":{"d":true}}},"q":2}\n',
    b'{"v":1,"src":"db","ts":5,"type":"event","data":{"msg":"\xc3\xa9 \\u00e9"},"tid":"t","sid":"s"}\n',
    b'{"v":1,"src":"db","ts":5,"type":"event","data":{},"sid":"s"}\n',
    b'{"v":1,"src":"etl","ts":1697821234567,"type":"span","tid":"t","sid":"s","pid":"p","data":{"name":"n"}}\n',
    b'{"v":1,"src":"etl","ts":1697821234567,"type":"span","data":{},"tid":"t","sid":"s","q":9}\n',
    b'{"v":1,"src":"etl","ts":1697821234567,"type":"heartbeat"}\n',
    b'{"v":1,"src":"etl","ts":1697821234567,"type":"heartbeat","q":12}\n',
    b'{"v":1,"src":"etl","ts":1697821234567,"type":"metric","data":{"name":"q","value":{"q":7}}}\n',
]


@pytest.mark.parametrize("line", USUAL)
def test_what_is_usual_is_let_through(line):
    assert agree(line) and agree(line * 3)


def test_so_is_any_mixture():
    random.seed(7)
    for _ in range(50):
        assert agree(b"".join(random.choices(USUAL, k=random.randint(1, 20))))


@pytest.mark.parametrize("line", [
    b'{"v":1,"src":"a","ts":1,"type":"goodbye"}\n',
    b'{"v":1,"src":"a","ts":1,"type":"hello","data":{"session":"s"}}\n',
    b'{"v":1,"src":"a","ts":1,"type":"event"}\n',
    b'{"v":1,"src":"a","ts":1,"type":"span","tid":"t","data":{}}\n',
    b'{"v":1,"src":"a","ts":1,"type":"event","data":{"x":"\\ud83d\\ude00"}}\n',
    b'{"v":1,"src":"a","ts":1,"type":"event","data":{"x":"\\q"}}\n',
    b'{"v":1,"src":"a","ts":1,"type":"event","data":{"x":"a\tb"}}\n',
    b'{"v":1,"src":"a","ts":1,"type":"event","data":{"x":"\xff"}}\n',
    b'{"v":1,"src":"a","ts":1,"type":"event","data":{"x":01}}\n',
    b'{"v":1,"src":"a","ts":1,"type":"event","data":{"x":' + b"9" * 5000 + b"}}\n",
    b'{"v":1,"src":"a","ts":1,"type":"event","data":{"x":1,}}\n',
    b'{"v":1,"src":"a","ts":1,"type":"event","data":{\\"x":1}}\n',
    b'{"v":1,"src":"a\\"b","ts":1,"type":"event","data":{}}\n',
    b'{"v":1,"src":"\xc2\x85","ts":1,"type":"event","data":{}}\n',
    b'{"v":1,"src":"","ts":1,"type":"event","data":{}}\n',
    b'{"v":1,"src":"a","ts":1,"type":"event","data":{}}\r\n',
    b'{"v":1,"src":"a","ts":1,"type":"event","data":{"x":"a\nb"}}\n',
    b'{"v":1,"src":"a\nb","ts":1,"type":"span","tid":"t","sid":"s","data":{}}\n',
    b'{"v":1,"src":"etl","ts":1,"type":"event","data":{"x":"\n{"}}\n',
    b"\n",
])
def test_what_is_not_is_left_to_the_parser(line):
    assert Sieve().sift(line) is None
    assert Sieve().sift(USUAL[0] + line + USUAL[0]) is None


def test_a_million_ways_to_be_wrong_cost_no_more_than_one():
    """A match that fails at its end must not be tried in every other way: it would take for ever."""
    line = frame(1, data={"msg": "x" * 50, "ctx": {str(n): [n, {"a": n}] for n in range(500)}})
    for block in (line * 9, line[:-3] + b"\n", line * 9 + line[:-4] + b'"}}\n'):
        assert not agree(block)


def is_sifted(decoder, block):
    return decoder.decode(block).on_decode is not None


def test_who_reads_all_messages_has_them_parsed_at_once():
    decoder, block = BlockDecoder(), b"".join(frames(5))
    asked = 0
    for _ in range(5 * PARSED_BLOCKS):
        batch = decoder.decode(block)
        asked += batch.on_decode is not None
        assert len(batch.messages) == 5
    assert asked <= 10, "2, 4, 8, ... are parsed, then 100 at a time"
    assert sum(is_sifted(decoder, block) for _ in range(2 * PARSED_BLOCKS)) >= PARSED_BLOCKS, (
        "nobody asks any more"
    )


def test_who_reads_the_messages_of_one_block_in_many_has_few_others_parsed():
    decoder, block, parsed = BlockDecoder(), b"".join(frames(5)), 0
    for number in range(1000):
        batch = decoder.decode(block)
        parsed += batch.on_decode is None
        if number % 100 == 50:
            assert len(batch.messages) == 5
    assert parsed == 20
