"""The session: which frames may come when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafermon.message import Reason
from wafermon.wire.session import TRANSITIONS, Event, Secret, Session, State
from wafermon.wire.sessions import SessionTable, session_key

BEAT = b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\n'
HELLO = b'{"v":1,"src":"a","ts":1,"type":"hello","data":{"session":"s"}}\n'


def reasons(batch):
    return [reject.reason for reject in batch.rejects]


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_hello_opens_and_is_not_routed(step):
    session, stream, seen = Session(), HELLO + BEAT * 3, []
    for at in range(0, len(stream), step):
        batch = session.receive(stream[at : at + step])
        seen += batch.messages
        assert not batch.rejects
        assert batch.raw == b"".join(line + b"\n" for line in batch.lines)
    assert [message["type"] for message in seen] == ["heartbeat"] * 3
    assert session.state is State.OPENED


@pytest.mark.parametrize("data, owes", [
    (b'{"session":"s"}', True), (b'{"session":"s","goodbye":false}', False), (b"{}", False),
    (b'{"session":"s","goodbye":0}', True), (b'{"session":7}', False),
])  # fmt: skip
def test_a_session_owes_a_goodbye_unless_it_says_otherwise(data, owes):
    session = Session()
    session.receive(HELLO.replace(b'{"session":"s"}', data))
    assert session.owes_goodbye is owes


@pytest.mark.parametrize("step", [1, 1000])
def test_a_hello_anywhere_but_first_is_rejected(step):
    session, stream, seen, rejected = Session(), BEAT + HELLO + BEAT, 0, []
    for at in range(0, len(stream), step):
        batch = session.receive(stream[at : at + step])
        seen += len(batch)
        rejected += batch.rejects
    assert seen == 2
    assert [(r.reason, r.line) for r in rejected] == [(Reason.BAD_FIELD, b'{"type":"hello"}')]
    assert session.state is State.PLAIN


def test_a_second_hello_is_rejected():
    session = Session()
    assert reasons(session.receive(HELLO + HELLO)) == [Reason.BAD_FIELD]
    assert reasons(session.receive(HELLO)) == [Reason.BAD_FIELD]
    assert session.state is State.OPENED


def test_a_rejected_first_frame_is_a_first_frame():
    session = Session()
    assert reasons(session.receive(b"rubbish\n")) == [Reason.INVALID_JSON]
    assert session.state is State.PLAIN
    assert reasons(session.receive(HELLO)) == [Reason.BAD_FIELD]


def test_end_of_file():
    session = Session()
    session.receive(BEAT + BEAT[:-1])
    assert session.pending
    assert reasons(session.receive_eof()) == [Reason.TRUNCATED]
    assert session.state is State.CLOSED
    assert reasons(session.receive_eof()) == []


def test_the_table_names_every_state_and_event():
    assert {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values()) == set(State)
    assert {event for _, event in TRANSITIONS} == set(Event)


# -- numbers and sessions ------------------------------------------------------------------------


def numbered(q, src="a", type="event"):
    return b'{"v":1,"src":"%s","ts":1,"type":"%s","data":{},"q":%d}\n' % (src.encode(), type.encode(), q)


def taken(batch):
    return [message["q"] for message in batch.messages if "q" in message]


def test_a_plain_client_is_told_nothing():
    session = Session()
    batch = session.receive(BEAT * 3 + b"rubbish\n")
    assert (batch.receipt, batch.marks, session.greets) == (0, (), False)
    assert session.safe(batch.receipt, "disk") == b""


@pytest.mark.parametrize("step", [1, 50, 10_000])
def test_what_a_session_holds_is_discarded_and_covered(step):
    table = SessionTable()
    table.advance(session_key("a", "s"), 3, now=0.0)
    session = Session(table=table)
    stream = HELLO + b"".join(map(numbered, (2, 3, 4, 4, 9, 5, 10)))
    seen, duplicates, receipts, marks = [], 0, [], []
    for at in range(0, len(stream), step):
        batch = session.receive(stream[at : at + step], now=1.0)
        seen += taken(batch)
        duplicates += batch.duplicates
        if batch.receipt:
            receipts.append(batch.receipt)
            marks += batch.marks
    assert (seen, duplicates, receipts[-1]) == ([4, 9, 10], 4, 10)
    assert receipts == sorted(receipts)
    assert marks[-1] == (session_key("a", "s"), 10)


def test_welcome_tells_what_is_held_and_comes_first():
    table = SessionTable()
    table.advance(session_key("a", "s"), 500, now=0.0)
    session = Session(table=table)
    batch = session.receive(HELLO + numbered(501))
    assert session.greets
    welcome, ack = session.safe(batch.receipt, "disk").splitlines()
    assert welcome == b'{"v":1,"type":"welcome","q":500,"level":"disk","max_frame":65536}'
    assert ack == b'{"v":1,"type":"ack","q":501,"level":"disk"}'
    assert not session.greets


def test_a_rejected_frame_is_held_by_its_number():
    """Else a client that reconnects would be told less than it had been told before."""
    table = SessionTable()
    session = Session(table=table)
    batch = session.receive(HELLO + numbered(1) + numbered(2).replace(b'"ts":1', b'"ts":-1'))
    assert (taken(batch), batch.receipt, batch.marks) == ([1], 2, [(session_key("a", "s"), 2)])
    assert table.open(session_key("a", "s"), 0.0, lambda: None) == 2


def test_without_a_session_receipts_never_fall():
    session = Session()
    receipts = [session.receive(numbered(q)).receipt for q in (5, 3, 5, 6)]
    bad = session.receive(numbered(9).replace(b'"ts":1', b'"ts":-1'))
    assert (receipts, bad.receipt) == ([5, 0, 0, 6], 9)
    assert session.receive(numbered(8)).receipt == 0


def test_a_goodbye_is_forgotten_once_it_is_acknowledged_and_the_peer_has_closed():
    forgotten = []
    session = Session(table=SessionTable(on_forget=forgotten.append))
    batch = session.receive(HELLO + numbered(1) + numbered(2, type="goodbye"))
    session.part()
    session.safe(batch.receipt, "disk")
    assert forgotten == [], "who knows whether the receipt arrives"
    session.part()
    assert forgotten == [session_key("a", "s")]


def test_who_goes_on_after_a_goodbye_has_not_parted():
    table = SessionTable()
    for more in (
        lambda session: session.receive(numbered(3)).receipt,
        lambda session: session.note([4], 0.0),
    ):
        session = Session(table=table)
        batch = session.receive(HELLO + numbered(2, type="goodbye"))
        session.safe(batch.receipt, "disk")
        session.safe(more(session), "disk")
        session.part()
        assert len(table) == 1


def test_a_goodbye_that_comes_again_ends_the_session_too():
    """Its receipt did not arrive the first time, so its client has sent it once more."""
    table = SessionTable()
    for _ in range(2):
        session = Session(table=table)
        batch = session.receive(HELLO + numbered(1) + numbered(2, type="goodbye"))
        session.safe(batch.receipt, "disk")
        session.receive_eof()
    assert len(table) == 1 and batch.duplicates == 2
    session.part()
    assert len(table) == 0


@pytest.mark.parametrize("hello", [HELLO, HELLO.replace(b'"session":"s"', b"")], ids=["session", "none"])
def test_a_hello_may_ask_for_a_receipt(hello):
    session = Session()
    batch = session.receive(hello[:-2] + b',"q":1}\n')
    welcome, ack = session.safe(batch.receipt, "disk").splitlines()
    assert b'"q":0' in welcome and ack == b'{"v":1,"type":"ack","q":1,"level":"disk"}'
    batch = session.receive(numbered(1) + numbered(2))
    assert batch.receipt == 2
    assert taken(batch) == ([2] if b"session" in hello else [1, 2])


def test_the_number_of_a_hello_is_one_of_its_session():
    table = SessionTable()
    table.advance(session_key("a", "s"), 5, now=0.0)
    session = Session(table=table)
    batch = session.receive(HELLO[:-2] + b',"q":3}\n' + numbered(4) + numbered(6))
    assert (taken(batch), batch.receipt, batch.duplicates) == ([6], 6, 1)
    assert b'"q":5' in session.safe(batch.receipt, "disk").splitlines()[0]


SECRET = b'{"v":1,"src":"a","ts":1,"type":"hello","data":{"secret":"tell nobody"}}\n'


@pytest.mark.parametrize(
    "line",
    [
        SECRET[:-4],
        SECRET.replace(b"}}", b"},}"),
        SECRET.replace(b"}}", b',"pad":"%s"}}' % (b"x" * 70_000)),
        SECRET.replace(b"secret", b"s\\u0065cret").replace(b"}}", b"}"),
        SECRET.replace(b"secret", b"Secret").replace(b'"hello"', b'"helo"'),
        SECRET.replace(b'"hello"', b"'hello'"),
        b"[" + SECRET[:-1] + b"]",
        SECRET.decode().strip().encode("utf-16-le"),
        SECRET.replace(b'"secret"', b'"token"')[:-4],
    ],
    ids=["cut off", "comma", "oversize", "escaped", "misspelt", "quotes", "array", "UTF-16", "key"],
)
@pytest.mark.parametrize("before", [b"", BEAT, HELLO], ids=["first", "plain", "second"])
def test_nothing_is_kept_of_what_may_be_a_hello(line, before):
    for ending in (b"\n", b""):
        session = Session()
        batches = [session.receive(before + line.rstrip(b"\n") + ending), session.receive_eof()]
        kept = [reject.line for batch in batches for reject in batch.rejects]
        assert kept and not any(b"nobody" in one.replace(b"\0", b"") for one in kept)


def test_of_what_is_no_hello_the_bytes_are_kept():
    session = Session()
    lines = [b"rubbish", b'{"msg":"hello \\u00e4', b'{"v":2,"src":"a"}']
    batch = session.receive(b"\n".join(lines) + b"\n")
    assert [reject.line for reject in batch.rejects] == lines


def test_the_goodbye_of_another_source_ends_nothing():
    table = SessionTable()
    session = Session(table=table)
    batch = session.receive(HELLO + numbered(1, src="b", type="goodbye"))
    session.safe(batch.receipt, "disk")
    assert len(table) == 1


def test_the_table_forgets_and_says_so():
    """So that the journal does not keep what nobody can ask for."""
    forgotten = []
    table = SessionTable(max_sessions=2, ttl=10.0, on_forget=forgotten.append)
    nobody = [lambda: None for _ in range(4)]
    for n, key in enumerate("abc"):
        table.open(key, float(n), nobody[n])
    assert forgotten == ["a"] and table.evicted == 1
    for key, owner in zip("bc", nobody[1:]):
        table.close(key, owner)
    table.open("d", 100.0, nobody[3])
    assert forgotten == ["a", "b", "c"] and len(table) == 1


def test_marks_that_are_learnt_late_lower_nothing_and_displace_nobody():
    forgotten = []
    table = SessionTable({"a": (5, 50.0), "b": (5, 60.0)}, max_sessions=4, on_forget=forgotten.append)
    table.learn({"a": (7, 10.0), "b": (3, 20.0), "c": (1, 30.0), "d": (2, 40.0), "e": (9, 1.0)})
    assert forgotten == ["e"] and len(table) == 4
    table.open("f", 70.0, lambda: None)
    assert forgotten == ["e", "c"], "the one touched longest ago goes first"
    held = [table.open(key, 70.0, lambda: None) for key in "dab"]
    assert held == [2, 7, 5]


def test_a_secret_is_asked_for_first():
    right = HELLO.replace(b'"session"', b'"secret":"open","session"')
    assert Session(secret=Secret("open")).receive(right + BEAT).messages[0]["type"] == "heartbeat"
    for wrong in (BEAT, HELLO, right.replace(b"open", b"shut"), b"rubbish\n" + right):
        session = Session(secret=Secret("open"))
        batch = session.receive(wrong + BEAT)
        assert not batch and not batch.rejects and session.state is State.REFUSED
        assert session.refuse() == b'{"v":1,"type":"error","reason":"auth"}\n'
        assert not session.receive(right + BEAT)


@pytest.mark.parametrize("hello", [HELLO, b""], ids=["session", "plain"])
@given(batches=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=5), max_size=6))
def test_to_note_numbers_is_to_take_their_frames(hello, batches):
    """The quick way, for what was decoded elsewhere, against the one that looks at messages."""
    quick, slow = Session(), Session()
    for session in (quick, slow):
        session.receive(hello + BEAT)
    for numbers in batches:
        asked = [q for q in numbers if q]
        if not asked:
            continue
        fits = quick.is_next(asked)
        batch = slow.receive(b"".join(numbered(q) if q else BEAT for q in numbers))
        assert fits == (not batch.duplicates)
        if not fits:
            break
        assert quick.note(asked, 0.0) == batch.receipt
        assert ([quick.mark] if quick.mark else []) == list(batch.marks)
