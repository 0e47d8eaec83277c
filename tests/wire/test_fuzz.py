"""Decoder and session under any bytes: parsed, or rejected with a reason, and nothing else.

What is found is kept in `corpus/`, one stream a file; each is run again with every test run.
WAFERMON_FUZZ_EXAMPLES bounds the number of fresh streams.
"""

import json
import os
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wafermon.message import ROUTED_TYPES, Reason
from wafermon.wire import Session, SessionTable
from wafermon.wire.session import Secret

CORPUS = sorted(pathlib.Path(__file__).with_name("corpus").iterdir())
MAX_FRAME = 4096  # so that oversize frames are small
EXAMPLES = int(os.environ.get("WAFERMON_FUZZ_EXAMPLES", "200"))

#: Fragments that mean something to a parser of JSON, of frames, or of sessions.
WORDS = [
    b"\n", b"\r\n", b"\n\n", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\\u0000", b"\\ud800",
    b"\x00", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"1e999", b"NaN", b"-Infinity",
    b"9" * 400, b"[" * 600, b'{"a":' * 300, b"x" * MAX_FRAME, b"null", b"true", b"-0", b"1.0",
    b'"q":', b'"q":0', b'"q":9007199254740992', b'"type":"hello"', b'"session":""',
    b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\n',
    b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\r\n',
    b'{"v":1,"src":"a","ts":1,"type":"event","data":{"msg":"\xc3\xa9"},"q":3}\n',
    b'{"v":1,"src":"a","ts":1,"type":"event","data":{},"q":"3"}\n',
    b'{"v":1,"src":"b","ts":1,"type":"goodbye","q":9}\n',
    b'{"v":1,"src":"b","ts":1,"type":"hello","data":{"session":"s"}}\n',
    b'{"v":1,"src":"b","ts":1,"type":"hello","data":{"session":7}}\n',
    b'{"v":1,"src":"b","ts":1,"type":"hello","data":{"secret":"open","session":"s"}}\n',
    b'{"v":1,"src":"b","ts":1,"type":"hello"}\n',
    b'{"v":2,"src":"a","ts":1,"type":"event"}\n',
]

messages = st.fixed_dictionaries(
    {},
    optional={
        "v": st.sampled_from([1, 1, 1, 2, True, 1.0, "1", None]),
        "src": st.one_of(st.just("a"), st.text(max_size=4), st.just("x" * 129), st.none()),
        "ts": st.one_of(st.integers(0, 2**53), st.sampled_from([-1, 1.5, True, 2**53])),
        "type": st.sampled_from([*sorted(ROUTED_TYPES), "hello", "nope", 3]),
        "data": st.one_of(st.just({}), st.dictionaries(st.text(max_size=2), st.none(), max_size=2),
                          st.just([])),
        "q": st.one_of(st.integers(-1, 12), st.sampled_from([2**53 - 1, 2**53, "1", True])),
        "tid": st.one_of(st.just("t"), st.just("")),
    },
).map(lambda message: json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

streams = st.lists(
    st.one_of(st.sampled_from(WORDS), messages, st.binary(max_size=20)), max_size=25
).map(b"".join)


class Seen:
    """All that a session made of a stream."""

    def __init__(self, chunks, secret=None):
        table = SessionTable()
        session = Session(MAX_FRAME, table=table, secret=secret)
        self.messages, self.rejects, self.written, self.duplicates = [], [], b"", 0
        for batch in (*map(session.receive, chunks), session.receive_eof()):
            assert len(batch) == len(batch.messages) == len(batch.lines) == batch.raw.count(b"\n")
            for line, message in zip(batch.lines, batch.messages):
                assert json.loads(line) == message
                assert message["type"] in ROUTED_TYPES
            self.messages += batch.messages
            self.rejects += [(r.reason, r.line) for r in batch.rejects]
            self.duplicates += batch.duplicates
            for mark in batch.marks:
                assert mark[1] == batch.receipt > 0
            if batch.receipt or session.greets:
                self.written += session.safe(batch.receipt, "disk")
        assert all(isinstance(reason, Reason) for reason, _ in self.rejects)
        self.state, self.held = session.state, {key: r.q for key, r in table._records.items()}
        self.last = [line for line in self.written.splitlines() if b'"ack"' in line][-1:]

    def outcome(self):
        """What may not depend on how the stream was cut; of receipts the last one covers all."""
        return (self.messages, sorted(self.rejects, key=repr), self.duplicates, self.state,
                self.held, self.last)


def check(stream, cuts=(), secret=None):
    """The invariant; and any way to cut the stream gives the same."""
    whole = Seen([stream], secret)
    frames = [line for line in stream.split(b"\n") if line not in (b"", b"\r")]
    if secret is None:
        hellos = sum(b'"hello"' in line or b"hello" in line for line in frames)
        dealt = len(whole.messages) + len(whole.rejects) + whole.duplicates
        assert len(frames) - hellos <= dealt <= len(frames), "a frame has exactly one outcome"
    bounds = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in zip(bounds, bounds[1:]) if a < b]
    assert Seen(pieces, secret).outcome() == whole.outcome()


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
@pytest.mark.parametrize("secret", [None, Secret("open")], ids=["open", "guarded"])
def test_corpus(path, secret):
    stream = path.read_bytes()
    for step in (1, 2, 7, 64, len(stream) + 1):
        check(stream, range(step, len(stream), step), secret)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(streams, st.lists(st.integers(0, 10_000), max_size=8), st.booleans())
def test_any_bytes(stream, cuts, guarded):
    check(stream, cuts, Secret("open") if guarded else None)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=200), st.data())
def test_good_frames_survive_what_stands_between_them(noise, data):
    """Noise costs its own lines only."""
    good = [b'{"v":1,"src":"a","ts":%d,"type":"heartbeat"}\n' % n for n in range(1, 6)]
    stream = b"".join(frame + noise.replace(b"{", b"(") + b"\n" for frame in good)
    cut = data.draw(st.integers(0, len(stream)))
    seen = Seen([stream[:cut], stream[cut:]])
    assert [message["ts"] for message in seen.messages] == [1, 2, 3, 4, 5]
