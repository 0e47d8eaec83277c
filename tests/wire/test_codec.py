"""The codec against the conformance cases and against itself, for every way to cut the bytes."""

import json
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafermon.message import MAX_FRAME_BYTES, Reason, check
from wafermon.wire import Decoder, encode
from wafermon.wire.blocks import BlockDecoder

CASES = json.loads(
    (pathlib.Path(__file__).parents[1] / "conformance" / "frames.json").read_text("utf-8")
)["cases"]
GOOD = b'{"v":1,"src":"a","ts":1,"type":"event","data":{"msg":"x"}}\n'


def input_bytes(parts):
    out = []
    for part in parts if isinstance(parts, list) else [parts]:
        if isinstance(part, str):
            out.append(part.encode("utf-8"))
        elif "hex" in part:
            out.append(bytes.fromhex(part["hex"]))
        else:
            out.append((part["repeat"] * part["times"]).encode("utf-8"))
    return b"".join(out)


def feed(chunks, decoder=None):
    """All that a decoder makes of a stream: messages, raw lines, rejects."""
    decoder = decoder or Decoder()
    messages, raw, rejects = [], b"", []
    for batch in [*map(decoder.feed, chunks), decoder.close()]:
        messages += batch.messages
        raw += batch.raw
        rejects += batch.rejects
        assert len(batch) == len(batch.messages) == batch.raw.count(b"\n")
        assert [json.loads(line.decode()) for line in batch.lines] == batch.messages
    return messages, raw, rejects


class LineByLine(BlockDecoder):
    """Without the way to parse a block at once."""

    def decode(self, block):
        return None


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
@pytest.mark.parametrize("step", [0, 1, 7, 4096, 65536], ids=lambda n: f"step{n}")
def test_conformance(case, step):
    data = input_bytes(case["input"])
    if step == 1 and len(data) > 10_000:
        step = 997
    step = step or max(len(data), 1)
    chunks = [data[i : i + step] for i in range(0, len(data), step)]
    messages, _, rejects = feed(chunks)
    if isinstance(case["accepted"], int):
        assert len(messages) == case["accepted"]
    else:
        assert messages == case["accepted"]
    assert [reject.reason.value for reject in rejects] == case["rejected"]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_conformance_between_good_frames(case):
    """The frames around a bad one are delivered as if nothing had happened."""
    data = input_bytes(case["input"])
    if data and not data.endswith(b"\n"):
        data += b"\n"
    messages, raw, rejects = feed([GOOD * 3 + data + GOOD * 3])
    plain_messages, plain_raw, plain_rejects = feed([data])
    assert raw == GOOD * 3 + plain_raw + GOOD * 3
    assert messages[3:-3] == plain_messages
    assert rejects == plain_rejects


def test_every_reason_is_covered_by_the_cases():
    seen = {reason for case in CASES for reason in case["rejected"]}
    assert seen == {reason.value for reason in Reason}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
messages_ = st.fixed_dictionaries(
    {
        "v": st.sampled_from([1, 1, 1, 1, 2, True, "1", None]),
        "src": st.sampled_from(["a", "b", "晶", "", 5, "x" * 129, "bad\x07"]),
        "ts": st.sampled_from([0, 1, 2**53 - 1, 2**53, -1, True, 1.0]),
        "type": st.sampled_from(["event", "span", "heartbeat", "hello", "gossip", None, []]),
    },
    optional={
        "data": st.sampled_from([{}, {"a": [1, {"b": None}]}, [], None]),
        "tid": st.sampled_from(["t", "", 1]),
        "sid": st.sampled_from(["s", None]),
        "pid": st.just("p"),
        "q": st.sampled_from([1, 0, True, "1"]),
        "x": json_values,
    },
)
lines = st.one_of(
    messages_.map(lambda message: json.dumps(message).encode()),
    messages_.map(lambda message: json.dumps(message, ensure_ascii=False).encode()),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b"[1", b"2]", b'{"a":[1', b"2]}", b"", b"\r", b"{}]", b"[", b"]", b'"', b"NaN",
                     b'"\\ud800"', b'{"v":1,"src":"a","ts":1,"type":"heartbeat"},', b"x" * 40,
                     GOOD[:-1], GOOD[:-1] + b"\r", b'{"v":1,"src":"a","ts":1,"type":"goodbye"}']),
    st.binary(max_size=12).map(lambda data: data.replace(b"\n", b"")),
)
streams = st.lists(lines, max_size=12).map(b"\n".join)
cuts = st.lists(st.integers(0, 600), max_size=8)


def cut(data, places):
    edges = sorted({0, len(data), *(place for place in places if place < len(data))})
    return [data[a:b] for a, b in zip(edges, edges[1:])]


@settings(max_examples=400)
@given(streams, cuts, st.sampled_from([16, 60, 100, MAX_FRAME_BYTES]))
def test_any_cut_gives_the_same(data, places, max_frame):
    whole = feed([data], Decoder(max_frame))
    assert feed(cut(data, places), Decoder(max_frame)) == whole
    assert feed([data[i : i + 1] for i in range(len(data))], Decoder(max_frame)) == whole


@settings(max_examples=400)
@given(streams, cuts, st.sampled_from([60, MAX_FRAME_BYTES]))
def test_block_and_line_decode_agree(data, places, max_frame):
    chunks = cut(data, places)
    assert feed(chunks, Decoder(max_frame)) == feed(chunks, Decoder(max_frame, blocks=LineByLine()))


@settings(max_examples=300)
@given(st.lists(messages_, max_size=6))
def test_accepted_is_what_check_accepts(values):
    data = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    messages, _, rejects = feed([data])
    assert messages == [value for value in values if check(value) is None]
    assert [reject.reason for reject in rejects] == [check(v) for v in values if check(v)]


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_rejected(data):
    messages, _, rejects = feed([data])
    skipped = [line for line in data.split(b"\n") if line in (b"", b"\r")]
    assert len(messages) + len(rejects) + len(skipped) == data.count(b"\n") + 1


def test_a_separator_of_another_decoder_is_no_separator_here():
    first = BlockDecoder()
    forged = b'[1,"%s",2]\n' % first._separator.encode()
    assert [r.reason for r in Decoder().feed(forged + GOOD).rejects] == [Reason.NOT_OBJECT]
    assert first._separator != BlockDecoder()._separator


def test_a_frame_that_never_ends_takes_no_memory():
    decoder = Decoder()
    rejects = []
    for _ in range(256):
        rejects += decoder.feed(b"x" * 65536).rejects
        assert len(decoder._tail) <= MAX_FRAME_BYTES
    assert [(r.reason, len(r.line)) for r in rejects] == [(Reason.OVERSIZE, 1024)]
    assert decoder.pending
    assert len(decoder.feed(b"end of it\n" + GOOD)) == 1
    assert not decoder.pending


@given(messages_)
def test_encode_makes_what_the_decoder_takes(message):
    if check(message) is not None:
        with pytest.raises(ValueError, match=check(message).value):
            encode(message)
    else:
        frame = encode(message)
        assert Decoder().feed(frame).messages == [message]


@pytest.mark.parametrize(
    "data", [{"x": float("nan")}, {"x": float("inf")}, {"x": "\ud800"}, {"x": "y" * 65536}]
)
def test_encode_refuses_what_would_not_be_accepted(data):
    with pytest.raises(ValueError):
        encode({"v": 1, "src": "a", "ts": 1, "type": "event", "data": data})
