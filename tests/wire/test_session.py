"""The session: which frames may come when."""

import pytest

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
    assert (batch.receipt, batch.mark, session.greets) == (0, None, False)
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
            marks.append(batch.mark)
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
    assert (taken(batch), batch.receipt, batch.mark) == ([1], 2, (session_key("a", "s"), 2))
    assert table.open(session_key("a", "s"), 0.0, lambda: None) == 2


def test_without_a_session_receipts_never_fall():
    session = Session()
    receipts = [session.receive(numbered(q)).receipt for q in (5, 3, 5, 6)]
    bad = session.receive(numbered(9).replace(b'"ts":1', b'"ts":-1'))
    assert (receipts, bad.receipt) == ([5, 0, 0, 6], 9)
    assert session.receive(numbered(8)).receipt == 0


def test_a_goodbye_is_forgotten_once_it_is_acknowledged():
    forgotten = []
    session = Session(table=SessionTable(on_forget=forgotten.append))
    batch = session.receive(HELLO + numbered(1) + numbered(2, type="goodbye"))
    assert forgotten == []
    session.safe(batch.receipt, "disk")
    assert forgotten == [session_key("a", "s")]


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


def test_a_secret_is_asked_for_first():
    right = HELLO.replace(b'"session"', b'"secret":"open","session"')
    assert Session(secret=Secret("open")).receive(right + BEAT).messages[0]["type"] == "heartbeat"
    for wrong in (BEAT, HELLO, right.replace(b"open", b"shut"), b"rubbish\n" + right):
        session = Session(secret=Secret("open"))
        batch = session.receive(wrong + BEAT)
        assert not batch and not batch.rejects and session.state is State.REFUSED
        assert session.refuse() == b'{"v":1,"type":"error","reason":"auth"}\n'
        assert not session.receive(right + BEAT)
