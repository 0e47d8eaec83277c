"""The Python SDK's sessions: numbers, receipts, reconnects, the secret, TLS (protocol section 4)."""

import json
import os
import random
import socket
import ssl
import threading
import time

import pytest
from certificates import authority

from wafermon import client as module
from wafermon.client import CONNECTED, DISCONNECTED, OVERFLOW, Client

TIMEOUT = 15.0


@pytest.fixture
def delivery():
    return "ack"


@pytest.fixture
def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture
def soon(monkeypatch):
    """A silent sidecar is given up after 0.1 s."""
    monkeypatch.setattr(module, "_SILENCE", 0.1)
    monkeypatch.setattr(module, "_LAST_RETRY", 0.1)


def until(condition):
    limit = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


def log(client, numbers):
    for i in numbers:
        client.log_event("info", str(i))


def acknowledge(listener, q):
    """By hand, where the listener does not."""
    listener.open[0].send(b'{"type":"ack","q":%d}\n' % q)


def bounded(client):
    return len(client._sender.queue) + len(client._sender.window)


def test_hello_then_rising_numbers_then_a_goodbye_alone(listener):
    client = Client("a", **listener.where)
    log(client, range(5))
    assert client.flush(TIMEOUT)
    assert (client.state, client.sent) == (CONNECTED, 5)
    log(client, range(5, 9))
    assert client.close(TIMEOUT) == 0
    listener.wait(lambda it: it.ended == 1)
    (hello,) = listener.hellos
    assert set(hello) == {"v", "src", "ts", "type", "data"}
    assert (hello["src"], list(hello["data"])) == ("a", ["session"])
    assert len(hello["data"]["session"]) == 32
    int(hello["data"]["session"], 16)
    assert listener.numbers == list(range(1, 11))
    assert listener.messages() == [str(i) for i in range(9)]
    assert listener.frames()[-1]["type"] == "goodbye"


def test_sessions_differ(listen):
    listener = listen()
    for _ in range(2):
        with Client("a", **listener.where) as client:
            client.log_event("info", "x")
    first, second = (hello["data"]["session"] for hello in listener.hellos)
    assert first != second


def test_the_secret_goes_into_the_hello_and_nowhere_else(listen, monkeypatch, capfd, free_port):
    monkeypatch.setenv("WAFERMON_DEBUG", "1")
    secret = 'per%cent "quoted" %s \u00e4'
    listener, told = listen(), []
    with Client("a", secret=secret, **listener.where) as client:
        client.log_event("info", "x")
    monkeypatch.setenv("MONITORING_SECRET", "from outside")
    with Client("a", **listener.where) as client:
        client.log_event("info", "x")
    assert [one["data"]["secret"] for one in listener.hellos] == [secret, "from outside"]
    with Client("a", port=free_port, on_error=told.append, close_timeout=0.1) as client:
        client.log_event("info", "x")
    assert told
    assert "outside" not in told[0] + capfd.readouterr().err


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_listeners_come_and_go(listen, tmp_path, family):
    """They are cut off anywhere, and remember what they held: all arrives once, in order."""
    total, dice = 3000, random.Random(7)
    where = {"unix": str(tmp_path / "s")} if family == "unix" else {}
    first = listen(**where)
    client = Client("a", buffer_messages=total, **first.where)
    listeners = [first]
    for i in range(total):
        client.log_event("info", str(i), {"pad": "x" * dice.randrange(3000)})
        if i % 150 == 149:
            listeners[-1].wait(lambda it: it.numbers or len(listeners) > 1)
            listeners[-1].stop()
            if family == "unix":
                os.unlink(where["unix"])
            listeners.append(listen(held=first.held, **first.where))
    assert client.close(TIMEOUT) == 0
    assert (client.sent, client.dropped) == (total, 0)
    messages = [message for one in listeners for message in one.messages()]
    assert messages == [str(i) for i in range(total)]
    numbers = [q for one in listeners for q in one.numbers]
    assert numbers == list(range(1, total + 2))
    assert len({one["data"]["session"] for it in listeners for one in it.hellos}) == 1


def test_what_welcome_covers_is_not_sent_again(listen):
    first = listen(answering=("welcome",))
    client = Client("a", **first.where)
    log(client, range(10))
    first.wait(lambda it: len(it.numbers) == 10)
    assert (client.sent, client.flush(0)) == (0, False)
    (session,) = first.held
    first.stop()
    second = listen(held={session: 7}, **first.where)
    assert client.flush(TIMEOUT)
    assert (second.numbers, second.duplicates, client.sent) == ([8, 9, 10], 0, 10)
    client.close()


def test_a_session_that_was_forgotten_goes_on(listen):
    first = listen()
    client = Client("a", **first.where)
    log(client, range(10))
    assert client.flush(TIMEOUT)
    first.stop()
    second = listen(**first.where)
    log(client, range(10, 20))
    assert client.close(TIMEOUT) == 0
    assert second.messages() == [str(i) for i in range(10, 20)]
    assert client.sent == 20


def test_a_listener_that_never_answers(listen, soon):
    """Closed and tried again; nothing is sent without receipts; the caller never notices."""
    told = []
    first = listen(answering=())
    client = Client("a", on_error=told.append, **first.where)
    log(client, range(3))
    first.wait(lambda it: len(it.hellos) >= 3)
    assert (client.state, client.sent, first.raw()) == (DISCONNECTED, 0, b"")
    assert len(told) == 1
    assert "no welcome" in told[0]
    first.answering = ("welcome", "ack")
    assert client.close(TIMEOUT) == 0
    assert first.messages() == ["0", "1", "2"]


def test_receipts_that_fail_to_come(listen, soon):
    told = []
    listener = listen(answering=("welcome",))
    client = Client("a", on_error=told.append, **listener.where)
    log(client, range(3))
    listener.wait(lambda it: len(it.numbers) == 3)
    log(client, range(3, 6))
    listener.wait(lambda it: len(it.hellos) >= 2)
    assert "no receipt" in told[0]
    assert len(told) == 1
    listener.answering = ("welcome", "ack")
    assert client.close(TIMEOUT) == 0
    assert listener.messages() == [str(i) for i in range(6)]
    assert client.sent == 6


def test_close_counts_what_is_not_acknowledged(listen):
    listener = listen(answering=("welcome",))
    client = Client("a", **listener.where)
    log(client, range(3))
    listener.wait(lambda it: len(it.numbers) == 3)
    assert client.close(0.2) == 3
    assert (client.sent, client.dropped) == (0, 3)
    listener.wait(lambda it: it.ended == 1)
    assert listener.of("goodbye") == []  # it would end the session with frames to come


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_what_is_on_its_way_is_never_dropped(listen, overflow):
    listener = listen(answering=("welcome",))
    client = Client("a", buffer_messages=10, overflow=overflow, **listener.where)
    log(client, range(10))
    listener.wait(lambda it: len(it.numbers) == 10)
    log(client, range(10, 30))
    assert (client.dropped, client.state, bounded(client)) == (20, OVERFLOW, 10)
    listener.answering = ("welcome", "ack")
    acknowledge(listener, 10)
    assert client.flush(TIMEOUT)
    client.log_event("info", "30")
    assert client.close(TIMEOUT) == 20
    assert (client.sent, client.dropped) == (11, 20)
    assert listener.numbers == list(range(1, 14))
    messages = listener.messages()
    assert messages[:11] == [str(i) for i in [*range(10), 30]]
    assert listener.of("event")[11]["data"]["ctx"] == {"dropped": 20}


def test_in_an_outage_the_oldest_go_first_and_their_numbers_never_come(listen):
    first = listen(answering=("welcome",))
    client = Client("a", buffer_messages=10, **first.where)
    log(client, range(8))
    first.wait(lambda it: len(it.numbers) == 8)
    first.stop()
    until(lambda: client.state == DISCONNECTED)
    log(client, range(8, 15))
    assert (client.dropped, bounded(client)) == (5, 10)
    second = listen(**first.where)
    assert client.close(TIMEOUT) == 5
    assert second.messages()[:10] == [str(i) for i in range(5, 15)]
    assert second.numbers == list(range(6, 18))  # a note and the goodbye with them
    assert (client.sent, client.dropped) == (10, 5)


def test_of_what_waits_and_what_is_on_its_way_the_former_goes():
    client = Client("a", port=1, buffer_messages=3)
    sender = client._sender
    sender.asleep = False  # no thread
    sender.patient = False
    log(client, range(2))
    assert len(sender.take()) == 2
    log(client, range(2, 5))
    assert [q for q, _, _ in sender.window] == [1, 2]
    assert [json.loads(one)["data"]["msg"] for one in sender.queue] == ["4"]
    assert client.close(0) == client.dropped == 5


def test_a_note_that_is_dropped_itself_is_made_again(listen):
    first = listen(answering=("welcome",))
    client = Client("a", buffer_messages=4, **first.where)
    log(client, range(4))
    first.wait(lambda it: len(it.numbers) == 4)
    log(client, range(4, 9))
    assert client.dropped == 5
    acknowledge(first, 4)
    until(lambda: client.sent == 4)
    log(client, [9])
    first.wait(lambda it: len(it.numbers) == 6)  # with a note, not acknowledged
    first.stop()
    until(lambda: client.state == DISCONNECTED)
    log(client, range(10, 20))
    assert client.dropped == 5 + 1 + 6
    second = listen(**first.where)
    assert client.close(TIMEOUT) == 12
    *events, note = second.of("event")
    assert [event["data"]["msg"] for event in events] == ["16", "17", "18", "19"]
    assert note["data"]["ctx"] == {"dropped": 12}


def test_what_is_logged_during_close_is_not_put_on_the_sidecar(listen):
    listener = listen(answering=("welcome",))
    client = Client("a", **listener.where)
    log(client, range(2))
    listener.wait(lambda it: len(it.numbers) == 2)
    client._sender.finish(TIMEOUT)
    log(client, range(2, 5))
    listener.answering = ("welcome", "ack")
    acknowledge(listener, 2)
    assert client._sender.join() == 3
    assert (client.sent, client.dropped) == (2, 3)
    assert [frame["type"] for frame in listener.frames()] == ["event", "event", "goodbye"]


def test_the_wait_for_a_receipt_begins_when_there_is_something_to_acknowledge(listen):
    listener = listen()
    client = Client("a", **listener.where)
    log(client, [0])
    assert client.flush(TIMEOUT)
    sender = client._sender
    sender.heard -= 100  # it was idle for so long
    listener.answering = ("welcome",)
    looks, receive = [], sender.receive
    sender.receive = lambda: looks.append(receive())
    log(client, [1])
    until(lambda: len(looks) > 2)
    listener.wait(lambda it: len(it.numbers) == 2)
    acknowledge(listener, 2)
    assert client.flush(TIMEOUT)
    assert len(listener.hellos) == 1
    client.close()


def test_a_child_has_a_session_of_its_own(listen):
    listener = listen(answering=("welcome",))
    client = Client("a", **listener.where)
    log(client, range(5))
    listener.wait(lambda it: len(it.numbers) == 5)  # and not acknowledged
    listener.answering = ("welcome", "ack")
    pid = os.fork()
    if not pid:
        try:
            client.log_event("info", "child")
            os._exit(0 if client.flush(TIMEOUT) and client.sent == 1 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    client.log_event("info", "5")
    assert client.close(TIMEOUT) == 0
    listener.wait(lambda it: it.ended == 2)
    assert len({one["data"]["session"] for one in listener.hellos}) == 2
    parted = {one["data"]["session"]: one["data"].get("goodbye") for one in listener.hellos}
    assert list(parted.values()) == [None, False], "the child will say none"
    assert sorted(listener.messages()) == ["0", "1", "2", "3", "4", "5", "child"]
    assert listener.duplicates == 0


# -- what a peer may do ---------------------------------------------------------------------


@pytest.fixture
def peer():
    """Serve each connection by a generator function of its lines, which yields what to answer."""
    ended = []

    def serve(answers, context=None):
        server = socket.socket()
        server.bind(("127.0.0.1", 0))
        server.listen()

        def run():
            while True:
                try:
                    sock, _ = server.accept()
                except OSError:
                    return
                sock.settimeout(TIMEOUT)
                try:
                    if context:
                        sock = context.wrap_socket(
                            sock, server_side=True, suppress_ragged_eofs=False
                        )
                    with sock, sock.makefile("rb") as lines:
                        for answer in answers(map(json.loads, lines)):
                            sock.sendall(answer)
                            if context is None and answer == b"":
                                sock.shutdown(socket.SHUT_WR)
                        if context:
                            sock.unwrap()
                except OSError:
                    pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        ended.append((server, thread))
        return server.getsockname()[1]

    yield serve
    for server, thread in ended:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def answers(lines):
    """As a sidecar does, without a memory."""
    for line in lines:
        if line["type"] == "hello":
            yield b'{"v":1,"type":"welcome","q":0,"level":"disk","max_frame":65536}\n'
        else:
            yield b'{"v":1,"type":"ack","q":%d,"level":"disk"}\n' % line["q"]


def test_a_wrong_secret_is_told_once_and_tried_again(peer, monkeypatch):
    monkeypatch.setattr(module, "_LAST_RETRY", 0.05)
    told, refused = [], []

    def refuse(lines):
        refused.append(next(lines))
        if len(refused) > 4:
            yield from answers([refused[-1]])
            yield from answers(lines)
            return
        yield b'{"v":1,"type":"error","reason":"auth"}\n'

    client = Client("a", secret="x", port=peer(refuse), on_error=told.append)
    client.log_event("info", "x")
    assert client.close(TIMEOUT) == 0
    assert len(refused) == 5
    assert {one["type"] for one in refused} == {"hello"}
    assert len(told) == 1
    assert "refused by the sidecar: auth" in told[0]


@pytest.mark.parametrize(
    "rubbish",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\n",
        b"[]\n",
        b"7\n",
        b"{}\n",
        b'{"type":"error"}\n',
        b'{"type":"welcome"}\n{"type":"ack"}\n',
        b'{"type":"welcome","q":0}\n{"type":"ack","q":"x"}\n',
        b"x" * 70_000,
        b"[" * 60_000 + b"\n",
        b"",
    ],
)
def test_an_answer_that_is_none_costs_the_connection_and_nothing_else(peer, rubbish):
    count = []

    def first_rubbish(lines):
        count.append(1)
        if len(count) == 1:
            next(lines)
            yield rubbish
            for _ in lines:
                pass
        else:
            yield from answers(lines)

    client = Client("a", port=peer(first_rubbish))
    log(client, range(3))
    assert client.close(TIMEOUT) == 0
    assert (client.sent, len(count)) == (3, 2)


def test_answers_in_pieces_and_lines_of_unknown_type(peer):
    def pieces(lines):
        for answer in answers(lines):
            for i in range(len(answer)):
                yield answer[i : i + 1]
            yield b'{"v":1,"type":"news","q":9}\n'

    client = Client("a", port=peer(pieces))
    log(client, range(3))
    assert client.close(TIMEOUT) == 0
    assert client.sent == 3


def test_it_reads_to_the_end_of_file_before_it_closes(peer):
    ended = []

    def last_words(lines):
        yield from answers(lines)
        for _ in range(50):
            yield b'{"v":1,"type":"news"}\n' * 1000  # a reset would end this
            time.sleep(0.001)
        ended.append(True)

    client = Client("a", port=peer(last_words))
    client.log_event("info", "x")
    assert client.close(TIMEOUT) == 0
    assert ended


# -- TLS ------------------------------------------------------------------------------------


def tls_listener():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    context.load_cert_chain(*authority().issue())
    return context


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_tls(peer, host):
    where = {"host": host, "port": peer(answers, tls_listener())}
    client = Client("a", tls_ca=authority().path, **where)
    log(client, range(2000))
    assert client.close(TIMEOUT) == 0
    assert (client.sent, client.dropped) == (2000, 0)


def test_tls_and_plain_sending_end_with_an_alert(peer):
    seen = []

    def keep(lines):
        seen.extend(lines)  # an end without the alert would be an error before the next line
        seen.append("end")
        yield from ()

    context = tls_listener()
    port = peer(keep, context)
    client = Client("a", tls_ca=authority().path, port=port, delivery="send")
    log(client, range(100))
    assert client.close(TIMEOUT) == 0
    until(lambda: "end" in seen)
    assert len(seen) == 102


def test_certificates_are_verified(peer, monkeypatch):
    """By another authority, and for another name: not one byte of a message."""
    seen, told = [], []

    def keep(lines):
        seen.extend(lines)
        yield from ()

    port = peer(keep, tls_listener())
    monkeypatch.setenv("MONITORING_TLS_CA", authority().issue()[0])
    for count, options in enumerate(({}, {"tls_ca": authority().path, "host": "127.1"})):
        client = Client("a", port=port, on_error=told.append, **options)
        client.log_event("info", "x")
        until(lambda count=count: len(told) > count)
        assert client.close(0) == 1
    assert ["CERTIFICATE_VERIFY_FAILED" in text for text in told] == [True, True]
    assert seen == []


def test_a_peer_that_speaks_no_tls_gets_no_plain_text(free_port):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        client = Client("a", tls_ca=authority().path, port=port, write_timeout=0.1)
        client.log_event("info", "message")
        for _ in range(3):
            sock, _ = server.accept()
            with sock:
                data = sock.recv(65536)
            assert data[:1] == b"\x16"  # a handshake
            assert b"message" not in data
        assert client.close(0) == 1


def test_a_unix_socket_is_never_tls(listen, tmp_path, monkeypatch):
    monkeypatch.setenv("MONITORING_TLS_CA", "/none")
    listener = listen(unix=str(tmp_path / "s"))
    with Client("a", **listener.where) as client:
        client.log_event("info", "x")
        assert client.flush(TIMEOUT)
