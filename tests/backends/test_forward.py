"""The forward backend, against real sidecars, and against peers that misbehave."""

import contextlib
import json
import logging
import os
import re
import signal
import socket
import ssl
import threading

import pytest
from certificates import authority
from support import eventually

from wafermon.backends import ClientTls, ForwardBackend
from wafermon.delivery import Journal, Retry, Route
from wafermon.errors import RetryableError
from wafermon.message import Batch
from wafermon.testing import BackendContract, batch, frame, frames

SECRET = "sesame-of-the-fab"
NUMBER = re.compile(rb',"q":[0-9]+(\}[ \t\r]*)\Z')


def without_numbers(lines):
    """What was forwarded: no numbers, and none of the heartbeats that carry some."""
    return [NUMBER.sub(rb"\1", line) for line in lines if b'"wafermon.forward/' not in line]


class Receiver:
    """A sidecar that can be killed and started again on the same folder and port."""

    def __init__(self, start, folder, backend):
        self.data = folder / "receiver"
        self._start, self._port = start, 0
        self._backend = backend
        self.start()

    def start(self):
        config = {
            "sidecar": {
                "data_dir": str(self.data), "tcp": {"port": self._port}, "health": {"metrics_port": 0},
                "shutdown_timeout": 0.5,
            },
            "backends": {"out": self._backend},
        }
        self.process = self._start(config=config)
        self._port = self.process.tcp[1]
        self.tcp = f"127.0.0.1:{self._port}"
        self.unix = self.process.ready["unix"]

    def kill(self):
        self.process.process.kill()
        self.process.process.wait(30)

    def journal(self):
        """All lines in its journal, oldest first."""
        self.kill()
        journal = Journal(str(self.data / "journal.db"))
        journal.open()
        try:
            lines, after = [], 0
            while entries := journal.read(after):
                lines += [line for entry in entries for line in entry.batch.lines]
                after = entries[-1].seq
            return lines
        finally:
            journal.close()


@pytest.fixture
def filing(start_sidecar, tmp_path):
    """A receiver that writes a file."""
    receiver = Receiver(start_sidecar, tmp_path, {"type": "file", "path": str(tmp_path / "out.jsonl")})
    receiver.file = tmp_path / "out.jsonl"
    return receiver


@pytest.fixture
def keeping(start_sidecar, tmp_path):
    """A receiver whose journal keeps everything, as its only backend leads nowhere."""
    return Receiver(start_sidecar, tmp_path, {"type": "forward", "address": str(tmp_path / "nobody.sock")})


class TestContract(BackendContract):
    in_order = False  # the receiver routes by source

    @pytest.fixture(autouse=True)
    def _receiver(self, filing):
        self.receiver = filing

    def make(self, tmp_path):
        return ForwardBackend(self.receiver.unix, timeout=30)

    def read(self, tmp_path):
        sidecar = self.receiver.process
        if sidecar.process.poll() is None:
            eventually(lambda: not sidecar.total("sidecar_backend_queued_messages"))
        return without_numbers(self.receiver.file.read_bytes().split(b"\n")[:-1])

    def break_it(self, tmp_path):
        sidecar = self.receiver.process
        eventually(lambda: not sidecar.total("sidecar_backend_queued_messages"))
        sidecar.stop()

    def mend_it(self, tmp_path):
        self.receiver.start()


# -- a receiver that dies, stalls, comes back ----------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_receiver_that_is_killed_holds_each_frame_once(keeping, kind):
    """kill -9 in the midst of the stream, twice in a row, while frames go on."""
    lines = frames(40_000)
    route = Route("out", ForwardBackend(getattr(keeping, kind), timeout=30), retry=Retry(0.01, 0.1))
    route.start()
    for at in range(0, len(lines), 500):
        route.offer(batch(lines[at : at + 500]).packed())
        if at in (10_000, 20_000, 30_000):
            eventually(lambda: route.delivered > at - 8_000)  # noqa: B023
            keeping.kill()
            keeping.start()
    eventually(lambda: route.delivered == len(lines))
    assert route.stop(10) == 0
    assert without_numbers(keeping.journal()) == [line[:-1] for line in lines]


def test_a_receipt_that_was_lost_doubles_nothing(keeping):
    """The receiver has all of it when the connection breaks, and the sender does not know."""
    with middle_man(keeping.tcp) as (address, cut):
        sink = ForwardBackend(address, timeout=30)
        sink.write(batch(frames(10)))
        second = batch(frames(500, first=11))
        cut.set()
        with pytest.raises(RetryableError):
            sink.write(second)
        eventually(lambda: keeping.process.total("sidecar_messages_received_total") == 510)
        cut.clear()
        sink.write(second)
        sink.write(batch(frames(10, first=511)))
        sink.close()
    assert without_numbers(keeping.journal()) == [line[:-1] for line in frames(520)]


@contextlib.contextmanager
def middle_man(target):
    """A proxy that, while `cut` is set, passes everything on and ends before an answer goes back."""
    host, _, port = target.rpartition(":")
    listener, cut = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def back(there, here):
        with contextlib.suppress(OSError):
            welcomed = False
            while data := there.recv(65_536):
                if cut.is_set() and welcomed:
                    here.shutdown(socket.SHUT_RDWR)
                    return
                here.sendall(data)
                welcomed = True

    def run():
        with contextlib.suppress(OSError):
            while True:
                here = listener.accept()[0]
                there = socket.create_connection((host, int(port)))
                answers = threading.Thread(target=back, args=(there, here))
                answers.start()
                with here, there, contextlib.suppress(OSError):
                    while data := here.recv(65_536):
                        there.sendall(data)
                    there.shutdown(socket.SHUT_WR)
                    answers.join(30)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", cut
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(30)
        listener.close()


def test_a_receiver_that_is_stopped_and_goes_on(keeping):
    """It takes bytes and gives no receipt: what it took is not sent into it a second time."""
    sink = ForwardBackend(keeping.tcp, timeout=0.3)
    sink.write(batch(frames(10)))
    os.kill(keeping.process.process.pid, signal.SIGSTOP)
    second = batch(frames(5_000, first=11))
    for _ in range(2):
        with pytest.raises(RetryableError, match=r"127\.0\.0\.1:\d+: timed out"):
            sink.write(second)
    os.kill(keeping.process.process.pid, signal.SIGCONT)
    eventually(lambda: delivered(sink, second))
    sink.close()
    assert without_numbers(keeping.journal()) == [line[:-1] for line in frames(5_010)]


def delivered(sink, some):
    try:
        sink.write(some)
    except RetryableError:
        return False
    return True


def test_a_receiver_that_restarts_between_batches_is_no_outage(keeping):
    sink = ForwardBackend(keeping.unix, timeout=30)
    sink.write(batch(frames(10)))
    keeping.process.stop()
    keeping.start()
    sink.write(batch(frames(10, first=11)))
    sink.close()
    assert without_numbers(keeping.journal()) == [line[:-1] for line in frames(20)]


def test_a_chain_of_sidecars(start_sidecar, keeping, tmp_path):
    """A client's own numbers do not disturb those of the link."""
    first = start_sidecar(config={
        "sidecar": {"data_dir": str(tmp_path / "first"), "tcp": {"port": 0}, "health": {"metrics_port": 0}},
        "backends": {"on": {"type": "forward", "address": keeping.unix}},
    })
    lines = frames(1_000)
    numbered = [line[:-2] + b',"q":%d}\n' % (2**53 - 1_001 + n) for n, line in enumerate(lines)]
    first.send(b"".join(numbered))
    first.send(b"".join(frames(1_000, src="plain")))
    eventually(lambda: keeping.process.total("sidecar_messages_received_total") == 2_000)
    eventually(lambda: first.total("sidecar_backend_messages_total", outcome="delivered") == 2_000)
    assert first.stop()[0] == 0
    got = without_numbers(keeping.journal())
    assert [line for line in got if b'"test"' in line] == [line[:-1] for line in lines]
    assert len(set(got)) == len(got) == 2_000


def test_the_longest_frames_with_numbers_of_their_own(keeping):
    """Each length around the limit, numbered first, last or not at all, written plainly or not."""
    lines = []
    for size in range(65_500, 65_537):
        for head, tail in ((b"", b""), (b'"q":9007199254740991,', b""), (b"", b',"q":900719925474099'), (b'"\\u0071" : 900719925474099, ', b"")):
            line = b'{%b"v":1,"src":"a","ts":1,"type":"heartbeat","data":{"x":"' % head
            lines.append(line + b"x" * (size - len(line) - len(tail) - 4) + b'"}' + tail + b"}\n")
            assert len(lines[-1]) == size
    sink = ForwardBackend(keeping.unix, timeout=30)
    for at in range(0, len(lines), 16):
        sink.write(batch(lines[at : at + 16]))
    sink.write(batch(frames(3)))
    sink.close()
    assert keeping.process.total("sidecar_messages_rejected_total") == 0
    got = [json.loads(line) for line in keeping.journal() if b'"wafermon.forward/' not in line]
    want = [json.loads(line) for line in [*lines, *frames(3)]]
    assert [{**message, "q": 0} for message in got] == [{**message, "q": 0} for message in want]


# -- peers that are made up ----------------------------------------------------------------------


class Peer:
    """Accepts one connection after the other; each play gets a file of it."""

    def __init__(self, *plays, context=None):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.hellos, self.lines = [], []
        self.thread = threading.Thread(target=self._run, args=(plays, context))
        self.thread.start()

    def _run(self, plays, context):
        for play in plays:
            with contextlib.suppress(OSError):
                sock = self.listener.accept()[0]
                sock.settimeout(30)
                with (context.wrap_socket(sock, server_side=True) if context else sock) as peer, peer.makefile("rwb") as file:
                    self.hellos.append(json.loads(file.readline()))
                    play(self, file)
                    file.flush()

    def take(self, file, count):
        """Read frames; the number of the last one."""
        for _ in range(count):
            self.lines.append(file.readline())
        return json.loads(self.lines[-1])["q"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(30)
        self.listener.close()


def say(file, kind, q, level="disk"):
    file.write(b'{"v":1,"type":"%b","q":%d,"level":"%b"}\n' % (kind.encode(), q, level.encode()))
    file.flush()


def receives(count, level="disk"):
    def play(peer, file):
        say(file, "welcome", 0, level)
        say(file, "ack", peer.take(file, count), level)
        file.readline()

    return play


def says(line):
    def play(peer, file):
        file.write(line)

    return play


def test_only_the_rest_is_sent_again():
    def takes_three(peer, file):
        say(file, "welcome", 0)
        peer.take(file, 3)

    def holds_three(peer, file):
        say(file, "welcome", 3)
        say(file, "ack", 4)
        say(file, "ack", peer.take(file, 2))

    some = batch(frames(5))
    with Peer(takes_three, holds_three) as peer:
        sink = ForwardBackend(peer.address, timeout=30)
        with pytest.raises(RetryableError):
            sink.write(some)
        sink.write(some)
        sink.close()
    assert without_numbers(line[:-1] for line in peer.lines) == some.lines
    one, two = (hello["data"]["session"] for hello in peer.hellos)
    assert one == two and len(one) == 32


def test_another_batch_after_a_failed_one_gets_higher_numbers():
    with Peer(lambda peer, file: say(file, "welcome", 0), receives(2)) as peer:
        sink = ForwardBackend(peer.address, timeout=30)
        with pytest.raises(RetryableError):
            sink.write(batch(frames(5)))
        sink.write(batch(frames(2)))
        sink.close()
    assert [json.loads(line)["q"] for line in peer.lines] == [6, 7]


def test_memory_is_said_once_and_counted(caplog):
    with Peer(receives(3, "memory")) as peer:
        sink = ForwardBackend(peer.address, timeout=30)
        sink.write(batch(frames(3)))
        sink.close()
    assert sink.in_memory == 3
    assert len([r for r in caplog.records if "in its memory" in r.getMessage()]) == 1


def test_what_is_in_memory_only_is_on_metrics(start_sidecar, tmp_path):
    """Of a chain whose second sidecar has no journal."""
    def config(name, journal, backend):
        return {"sidecar": {"data_dir": str(tmp_path / name), "tcp": {"port": 0}, "health": {"metrics_port": 0},
                            "journal": {"enabled": journal}}, "backends": {"out": backend}}

    second = start_sidecar(config=config("second", False, {"type": "null"}))
    first = start_sidecar(config=config("first", True, {"type": "forward", "address": second.ready["unix"]}))
    assert b'sidecar_forward_in_memory_total{backend="out"} 0' in first.get("/metrics")
    first.send(b"".join(frames(20)))
    eventually(lambda: first.total("sidecar_forward_in_memory_total", backend="out") == 20)


# -- peers that are slow -------------------------------------------------------------------------


def slowly(file, text, seconds=0.05):
    """Say it byte by byte."""
    for at in range(len(text)):
        file.write(text[at : at + 1])
        file.flush()
        threading.Event().wait(seconds)


@pytest.mark.parametrize("word", ["welcome", "ack"])
def test_a_receipt_that_drips(word):
    line = b'{"v":1,"type":"%b","q":%d,"level":"disk"}\n'

    def play(peer, file):
        if word == "ack":
            say(file, "welcome", 0)
            peer.take(file, 1)
        slowly(file, line % (word.encode(), word == "ack"))
        file.readline()

    with Peer(play) as peer:
        sink = ForwardBackend(peer.address, timeout=0.5)
        with pytest.raises(RetryableError, match="timed out"):
            sink.write(batch(frames(1)))


# -- other settings ------------------------------------------------------------------------------


def test_other_settings_count_although_the_connection_is_good(tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    with Peer(receives(1), receives(1)) as peer:
        sink = ForwardBackend(peer.address, timeout=30)
        sink.write(batch(frames(1)))
        sink.follow(ForwardBackend(peer.address, timeout=30, secret_file=str(tmp_path / "secret")))
        sink.write(batch(frames(1, first=2)))
        sink.close()
    assert [hello["data"].get("secret") for hello in peer.hellos] == [None, SECRET]
    assert len({hello["data"]["session"] for hello in peer.hellos}) == 1


def test_other_settings_count_from_the_next_connection_and_the_session_stays(tmp_path):
    """What the other side holds of the batch at hand is not sent again; a name of its own the link
    has from the next batch on."""
    (tmp_path / "secret").write_text(SECRET)

    def takes_three(peer, file):
        say(file, "welcome", 0)
        peer.take(file, 3)

    def holds_three(peer, file):
        say(file, "welcome", 3)
        say(file, "ack", peer.take(file, 2))
        file.readline()

    some = batch(frames(5))
    with Peer(takes_three, holds_three, receives(1)) as peer:
        sink = ForwardBackend(peer.address, timeout=30)
        with pytest.raises(RetryableError):
            sink.write(some)
        other = ForwardBackend(peer.address, timeout=20, src="fab7", secret_file=str(tmp_path / "secret"))
        sink.follow(other)
        sink.write(some)
        sink.write(batch(frames(1, first=6)))
        sink.close()
    assert without_numbers(line[:-1] for line in peer.lines) == [line[:-1] for line in frames(6)]
    one, two, three = peer.hellos
    assert one["data"]["session"] == two["data"]["session"] != three["data"]["session"]
    assert one["src"] == two["src"] != three["src"] == "fab7"
    assert "secret" not in one["data"] and two["data"]["secret"] == three["data"]["secret"] == SECRET


def test_the_secret_is_shown_to_the_peer_only(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "secret"
    refuse = says(b'{"v":1,"type":"error","reason":"auth"}\n')
    with Peer(refuse, refuse, receives(1)) as peer:
        sink = ForwardBackend(peer.address, timeout=30)
        with pytest.raises(RetryableError, match="it asks for a secret, and there is none"):
            sink.open()
        sink = ForwardBackend(peer.address, secret_file=str(file), timeout=30)
        with pytest.raises(RetryableError, match="secret: No such file"):
            sink.open()
        file.write_text(SECRET + "\n")
        with pytest.raises(RetryableError, match="it refuses the secret"):
            sink.open()
        sink.write(batch(frames(1)))
        sink.close()
    assert "secret" not in peer.hellos[0]["data"]
    assert {hello["data"]["secret"] for hello in peer.hellos[1:]} == {SECRET}
    assert SECRET not in caplog.text + repr(sink)


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"220 smtp ready\r\n", b"\xff\n", b"[1]\n", b"[" * 60_000 + b"\n", b"x" * 200_000,
     b'{"type":"welcome"}\n', b'{"type":"welcome","q":true,"level":"disk"}\n',
     b'{"type":"welcome","q":1,"level":"tape"}\n', b'{"type":"welcome","q":7,"level":"disk"}\n',
     b'{"type":"error","reason":"\x1b[31m' + b"x" * 9_000 + b'"}\n'],
    ids=range(12),
)
def test_a_peer_that_is_no_sidecar(line):
    with Peer(says(line)) as peer:
        sink = ForwardBackend(peer.address, timeout=5)
        with pytest.raises(RetryableError) as caught:
            sink.write(batch(frames(1)))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_a_peer_that_holds_more_than_was_sent_gets_a_new_session():
    """Its welcome would make duplicates of all that comes."""
    with Peer(says(b'{"v":1,"type":"welcome","q":99,"level":"disk"}\n'), receives(1)) as peer:
        sink = ForwardBackend(peer.address, timeout=30)
        with pytest.raises(RetryableError, match="holds number 99"):
            sink.write(batch(frames(1)))
        sink.write(batch(frames(1)))
        sink.close()
    assert len({hello["data"]["session"] for hello in peer.hellos}) == 2


def test_a_peer_that_does_not_welcome():
    ends = threading.Event()
    with Peer(lambda peer, file: ends.wait(30)) as peer:
        sink = ForwardBackend(peer.address, timeout=0.2)
        with pytest.raises(RetryableError, match="timed out"):
            sink.open()
        ends.set()


def test_nobody_is_there(tmp_path):
    for address in (str(tmp_path / "none.sock"), "127.0.0.1:1"):
        with pytest.raises(RetryableError, match=address):
            ForwardBackend(address).open()


@pytest.mark.parametrize(
    "address, options, what",
    [("", {}, "address"), ("collector", {}, "address"), ("a:0", {}, "address"), ("a:99999", {}, "address"),
     ("a b:1", {}, "address"), ("a:1", {"timeout": 0}, "timeout"), ("a:1", {"src": "x\n"}, "src"),
     ("/a", {"tls": ClientTls()}, "tls.server_name")],
)
def test_arguments_that_can_never_work(address, options, what):
    with pytest.raises(ValueError, match=f"^{what}: "):
        ForwardBackend(address, **options)


# -- TLS -----------------------------------------------------------------------------------------


def test_tls_with_certificates_on_both_sides():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority().issue())
    context.load_verify_locations(authority().path)
    context.verify_mode = ssl.CERT_REQUIRED
    cert, key = authority().issue()
    ca = authority().path
    with Peer(receives(1), receives(1), receives(300), context=context) as peer:
        for tls in (ClientTls(ca=ca, cert=cert, key=key, server_name="other.example"), ClientTls(ca=ca)):
            with pytest.raises(RetryableError):
                ForwardBackend(peer.address, tls=tls, timeout=30).write(batch(frames(1)))
        sink = ForwardBackend(peer.address, tls=ClientTls(ca=ca, cert=cert, key=key), timeout=30)
        sink.write(batch(frames(300)))
        sink.close()
    assert without_numbers(line[:-1] for line in peer.lines) == [line[:-1] for line in frames(300)]


def test_tls_of_an_unknown_authority():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority().issue())
    with Peer(receives(1), context=context) as peer:
        sink = ForwardBackend(peer.address, tls=ClientTls(), timeout=30)
        with pytest.raises(RetryableError, match="certificate verify failed"):
            sink.open()


def test_numbers_take_the_place_of_numbers():
    """Links of a chain do not add up, and what only looks like a number stays."""
    lines = [
        (b'{"v":1,"src":"a","ts":1,"type":"heartbeat","q":7}\r', b'{"v":1,"src":"a","ts":1,"type":"heartbeat","q":1}\r'),
        (b'{"data":{"a":1,"q":7}} ', b'{"data":{"a":1,"q":7},"q":2} '),
        (b'{"data":{},"x":",\\"q\\":7"}', b'{"data":{},"x":",\\"q\\":7","q":3}'),
        (b'{"data":{},"q": 7 }', b'{"data":{},"q": 7 ,"q":4}'),
    ]
    some = Batch(b"".join(line + b"\n" for line, _ in lines))
    with Peer(receives(4)) as peer:
        sink = ForwardBackend(peer.address, timeout=30)
        sink.write(some)
        sink.close()
    assert [line[:-1] for line in peer.lines] == [line for _, line in lines]
    assert frame(1) not in peer.lines


def test_a_sidecar_that_asks_for_tls_and_a_secret(start_sidecar, tmp_path, caplog):
    cert, key = authority().issue()
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.write_text(SECRET + "\n")
    ours.write_text("wrong")
    tcp = {"port": 0, "tls": {"cert": cert, "key": key}, "auth": {"secret_file": str(theirs)}}
    sidecar = start_sidecar(config={
        "sidecar": {"data_dir": str(tmp_path / "d"), "tcp": tcp, "health": {"metrics_port": 0}},
        "backends": {"out": {"type": "null"}},
    })
    sink = ForwardBackend(
        f"127.0.0.1:{sidecar.tcp[1]}", tls=ClientTls(ca=authority().path), secret_file=str(ours), timeout=30
    )
    with pytest.raises(RetryableError, match="it refuses the secret"):
        sink.write(batch(frames(10)))
    ours.write_text(SECRET)
    for n in range(20):
        sink.write(batch(frames(1_000, first=1_000 * n)))
    sink.close()
    assert sidecar.total("sidecar_messages_received_total") == 20_000
    assert SECRET not in caplog.text + sidecar.stop()[1]
