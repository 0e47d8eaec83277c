"""The session: which frames may come when."""

import pytest

from wafermon.message import Reason
from wafermon.wire.session import TRANSITIONS, Event, Session, State

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
    assert [(r.reason, r.line) for r in rejected] == [(Reason.BAD_FIELD, HELLO[:-1])]
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
