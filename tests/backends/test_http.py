"""The HTTP backend, against real servers."""

import contextlib
import gzip
import http.server
import json
import logging
import queue
import socket
import ssl
import struct
import subprocess
import threading
import time

import pytest
from certificates import authority
from support import eventually

from wafermon.backends import ClientTls, HttpBackend
from wafermon.backends.retry_after import retry_after
from wafermon.delivery import Retry, Route
from wafermon.errors import PermanentError, RetryableError
from wafermon.testing import BackendContract, batch, frames

TOKEN = "t0ken-of-the-fab"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it writes head and body apart

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        server = self.server
        server.requests.append((self.path, self.headers, body))
        status, headers, text = server.answer(body)
        if 200 <= status < 300:
            server.taken.append(body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)
        if server.closes:
            self.close_connection = True
            server.closed.put(True)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    """Takes everything until it is told otherwise."""

    daemon_threads = True

    def __init__(self, tls=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.scheme = "http"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.socket = context.wrap_socket(self.socket, server_side=True)
            self.scheme = "https"
        self.connections = self.open = 0
        self.requests, self.taken = [], []
        self.closes, self.closed = False, queue.Queue()
        self.answer = lambda body: (200, {}, b"taken")
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    def process_request(self, request, address):
        self.connections += 1
        self.open += 1
        super().process_request(request, address)

    def shutdown_request(self, request):
        super().shutdown_request(request)
        self.open -= 1

    def handle_error(self, request, address):
        pass  # a client that did not trust it

    def url(self, host="127.0.0.1"):
        return f"{self.scheme}://{host}:{self.server_address[1]}/in"

    def stop(self):
        self.shutdown()
        self.thread.join()
        self.server_close()


@pytest.fixture
def serve():
    servers = []

    def start(**options):
        servers.append(Server(**options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(serve):
    return serve()


@pytest.fixture
def raw_server():
    """A server that does with each connection what it is told, one after the other."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads, ends = [], threading.Event()

    def start(*plays):
        def run():
            for play in plays:
                with contextlib.suppress(OSError), listener.accept()[0] as sock:
                    sock.settimeout(30)
                    play(sock, ends)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/in"

    yield start
    ends.set()
    listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    listener.close()


def server_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority().issue())
    return context


def read_request(sock):
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65_536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(next(h for h in head.lower().split(b"\r\n") if h.startswith(b"content-length")).split(b":")[1])
    while len(body) < length:
        body += sock.recv(65_536)
    return body


def lines_of(bodies):
    return [line for body in bodies for line in body.split(b"\n")[:-1]]


class Patient(HttpBackend):
    """Waits at the end until the server, which is in this process, has let go as well."""

    def __init__(self, server, **options):
        super().__init__(server.url(), **options)
        self.server = server

    def close(self):
        super().close()
        eventually(lambda: not self.server.open)


class TestContract(BackendContract):
    @pytest.fixture(autouse=True)
    def _server(self, server):
        self.server = server

    def make(self, tmp_path):
        return Patient(self.server)

    def read(self, tmp_path):
        return lines_of(self.server.taken)

    def break_it(self, tmp_path):
        self.server.answer = lambda body: (503, {}, b"\xff\x00 busy\r\n" * 1000)

    def mend_it(self, tmp_path):
        self.server.answer = lambda body: (204, {}, b"")


class TestContractOfArrays(TestContract):
    exact = False

    def make(self, tmp_path):
        return Patient(self.server, format="array", gzip=True)

    def read(self, tmp_path):
        return [json.dumps(message).encode() for body in self.server.taken for message in json.loads(body)]


def test_what_is_sent(server, tmp_path):
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    sink = HttpBackend(server.url() + "?key=1", headers={"X-Fab": "7", "content-type": "text/x"}, token_file=str(token))
    sink.write(batch(frames(2)))
    token.write_text("renewed")
    sink.write(batch(frames(2)))
    sink.close()
    (path, headers, body), (_, second, _) = server.requests
    assert (path, body) == ("/in?key=1", b"".join(frames(2)))
    assert headers["X-Fab"] == "7" and headers.get_all("Content-Type") == ["text/x"]
    assert headers["Authorization"] == f"Bearer {TOKEN}" and second["Authorization"] == "Bearer renewed"
    assert server.connections == 1


def test_a_batch_has_one_key_at_each_try(server):
    answers = iter([(503, {}, b""), (200, {}, b""), (200, {}, b"")])
    server.answer = lambda body: next(answers)
    sink, first, second = HttpBackend(server.url()), batch(frames(3)), batch(frames(3))
    second.received_ms = 1
    with pytest.raises(RetryableError):
        sink.write(first)
    sink.write(first)
    sink.write(second)
    sink.close()
    one, again, other = (headers["Idempotency-Key"] for _, headers, _ in server.requests)
    assert one == again != other


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_answers_that_are_retried(server, status):
    server.answer = lambda body: (status, {"Retry-After": "7"}, b"later")
    sink = HttpBackend(server.url())
    with pytest.raises(RetryableError, match=f"/in: answered {status} .*: later") as caught:
        sink.write(batch(frames(1)))
    sink.close()
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_answers_that_refuse_for_good(server, status):
    server.answer = lambda body: (status, {}, b"no\x1b[31m\r\n\xff" + b"x" * 100_000)
    sink = HttpBackend(server.url())
    with pytest.raises(PermanentError, match=f"answered {status}") as caught:
        sink.write(batch(frames(1)))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400
    server.answer = lambda body: (200, {}, b"")
    sink.write(batch(frames(1)))
    sink.close()


def test_a_redirect_is_not_followed_and_refuses_nothing(server):
    server.answer = lambda body: (301, {"Location": "/other"}, b"")
    sink = HttpBackend(server.url())
    with pytest.raises(RetryableError, match="301 Moved Permanently; redirects are not followed"):
        sink.write(batch(frames(1)))
    sink.close()
    assert len(server.requests) == 1


def test_retry_after():
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    assert retry_after(date, 784111770.0) == 7
    assert retry_after(date, 784111779.0) == 0
    for text in (None, "", "soon", "-1", "1e9", "9" * 50, "Sun, 99 Nov 1994", "\udcff"):
        assert retry_after(text, 0.0) is None


def test_the_route_waits_as_long_as_asked(server):
    """503 with a `Retry-After`, then 200: once, and not before, whatever bounds other delays."""
    times = []

    def answer(body):
        times.append(time.monotonic())
        return (503, {"Retry-After": "1"}, b"") if len(times) == 1 else (200, {}, b"")

    server.answer = answer
    route = Route("out", HttpBackend(server.url()), retry=Retry(0.001, 0.01))
    route.start()
    route.offer(batch(frames(5)).packed())
    eventually(lambda: route.delivered == 5)
    route.stop(5)
    assert times[1] - times[0] >= 1
    assert lines_of(server.taken) == [line[:-1] for line in frames(5)]


@pytest.mark.parametrize("how", ["stop", "reload"])
def test_nobody_waits_for_what_was_asked(server, how):
    """A stop delivers at once, and so does a reload of the route's settings."""
    server.answer = lambda body: (503, {"Retry-After": "3000"}, b"")
    route = Route("out", HttpBackend(server.url()))
    route.start()
    route.offer(batch(frames(5)).packed())
    eventually(lambda: route.retries)
    server.answer = lambda body: (200, {}, b"")
    if how == "reload":
        route.follow(Route("out", HttpBackend(server.url()), retry=Retry(0.01, 0.1)))
        eventually(lambda: route.delivered == 5)
    assert route.stop(30) == 0
    assert lines_of(server.taken) == [line[:-1] for line in frames(5)]


def test_a_batch_has_its_key_after_a_reload(server):
    """It may have been taken already: what came behind it meanwhile does not join it."""
    server.answer = lambda body: (503, {}, b"")
    before = Route("out", HttpBackend(server.url()), retry=Retry(0.001, 0.01))
    before.start()
    before.offer(batch(frames(3)).packed())
    eventually(lambda: before.retries)
    before.offer(batch(frames(3, first=4)).packed())
    before.halt()
    assert before.wait(30)
    server.answer = lambda body: (200, {}, b"")
    tries = len(server.requests)
    after = Route("out", HttpBackend(server.url(), headers={"X-Fab": "7"}))
    after.take_over(before)
    after.start()
    assert after.stop(30) == 0 and after.delivered == 6
    keys = [headers["Idempotency-Key"] for _, headers, _ in server.requests]
    assert set(keys[:tries]) == {keys[tries]} and keys[tries] != keys[tries + 1]
    assert lines_of(server.taken) == [line[:-1] for line in frames(6)]


def test_one_bad_line_is_found_and_the_rest_delivered(server):
    lines = frames(20)
    server.answer = lambda body: (400, {}, b"bad line") if lines[13] in body else (200, {}, b"")
    letters = []
    route = Route(
        "out", HttpBackend(server.url()),
        dead_letter=lambda one, name, reason: letters.append((one.raw, name, reason)),
    )
    route.start()
    route.offer(batch(lines).packed())
    eventually(lambda: route.delivered + route.dead_lettered == 20)
    route.stop(5)
    ((raw, name, reason),) = letters
    assert (raw, name) == (lines[13], "out") and "answered 400 Bad Request: bad line" in reason
    assert lines_of(server.taken) == [line[:-1] for line in lines if line != lines[13]]


def test_a_connection_closed_between_batches_is_no_outage(server):
    server.closes = True
    sink = HttpBackend(server.url())
    for _ in range(5):
        sink.write(batch(frames(2)))
        server.closed.get(timeout=30)
    sink.close()
    assert len(server.taken) == server.connections == 5


def test_a_connection_closed_on_the_next_request_is_no_outage(raw_server):
    """The server closes just when it reads the second request."""
    bodies = []

    def once(sock, ends):
        bodies.append(read_request(sock))
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def once_and_closes(sock, ends):
        once(sock, ends)
        read_request(sock)

    sink = HttpBackend(raw_server(once_and_closes, once))
    sink.write(batch(frames(2)))
    sink.write(batch(frames(2, first=3)))
    sink.close()
    assert lines_of(bodies) == [line[:-1] for line in frames(4)]


def test_an_answer_that_nobody_asked_for_is_not_taken_for_one(raw_server):
    """A proxy says 408 to a connection that was idle for too long, and closes it."""
    said = threading.Event()

    def takes(sock, ends):
        read_request(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def takes_and_gives_up(sock, ends):
        takes(sock, ends)
        sock.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        said.set()

    sink = HttpBackend(raw_server(takes_and_gives_up, takes))
    sink.write(batch(frames(1)))
    assert said.wait(30)
    sink.write(batch(frames(1)))
    sink.close()


def test_a_server_that_stalls(raw_server):
    def silent(sock, ends):
        ends.wait(30)

    sink = HttpBackend(raw_server(silent), timeout=0.2)
    with pytest.raises(RetryableError, match="timed out"):
        sink.write(batch(frames(1)))
    sink.close()


def drip(sock, ends, text, seconds):
    for at in range(len(text)):
        sock.sendall(text[at : at + 1])
        if ends.wait(seconds):
            return


HEAD = b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 60 + b"\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_an_answer_that_drips(raw_server, secure):
    """Each byte comes in time, and all of them together do not."""
    context = server_context() if secure else None

    def slow(sock, ends):
        with context.wrap_socket(sock, server_side=True) if secure else sock as peer:
            read_request(peer)
            drip(peer, ends, HEAD, 0.05)

    url = raw_server(slow)
    tls = None
    if secure:
        url, tls = url.replace("http:", "https:"), ClientTls(ca=authority().path)
    sink = HttpBackend(url, timeout=1, tls=tls)
    with pytest.raises(RetryableError, match="timed out"):
        sink.write(batch(frames(1)))
    sink.close()


def test_the_rest_of_an_answer_that_drips_is_not_waited_for(raw_server):
    def slow(sock, ends):
        read_request(sock)
        sock.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 100000\r\n\r\n")
        with contextlib.suppress(OSError):
            drip(sock, ends, bytes(100), 0.05)
            whole.append(True)

    whole = []
    sink = HttpBackend(raw_server(slow), timeout=0.5)
    with pytest.raises(RetryableError, match="503"):
        sink.write(batch(frames(1)))
    sink.close()
    assert not whole


def test_a_reset_within_the_body(raw_server):
    def reset(sock, ends):
        sock.recv(10)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    sink = HttpBackend(raw_server(reset))
    with pytest.raises(RetryableError):
        sink.write(batch(frames(100_000)))
    sink.close()


def test_an_answer_before_the_body_is_read_counts(raw_server):
    """Who refuses by the head alone answers and closes: such a batch has to be split."""

    def early(sock, ends):
        sock.recv(10)
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        sock.shutdown(socket.SHUT_WR)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        ends.wait(1)

    sink = HttpBackend(raw_server(early), timeout=20)
    with pytest.raises(PermanentError, match="413"):
        sink.write(batch(frames(100_000)))
    sink.close()


def test_an_answer_that_never_ends_counts_by_its_status(raw_server):
    def endless(sock, ends):
        read_request(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\nand so on")
        ends.wait(30)

    sink = HttpBackend(raw_server(endless), timeout=0.2)
    sink.write(batch(frames(1)))
    sink.close()


@pytest.mark.parametrize("answer", [b"", b"220 smtp ready\r\n", b"HTTP/1.1 200\r\n" + b"a: b\r\n" * 200, b"\xff" * 70_000])
def test_a_server_that_speaks_something_else(raw_server, answer):
    def speak(sock, ends):
        read_request(sock)
        sock.sendall(answer)

    sink = HttpBackend(raw_server(speak))
    with pytest.raises(RetryableError) as caught:
        sink.write(batch(frames(1)))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400
    sink.close()


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    sink = HttpBackend(f"http://127.0.0.1:{port}/")
    for call in (sink.open, lambda: sink.write(batch(frames(1)))):
        with pytest.raises(RetryableError, match="Connection refused"):
            call()


def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    sink = HttpBackend(server.url())
    sink.write(batch(frames(1)))
    sink.close()
    assert server.taken


# -- TLS ---------------------------------------------------------------------------------------


@pytest.fixture
def secure(serve):
    return serve(tls=authority().issue())


def test_tls(secure):
    sink = HttpBackend(secure.url("localhost"), tls=ClientTls(ca=authority().path))
    for _ in range(3):
        sink.write(batch(frames(2)))
    sink.close()
    assert len(secure.taken) == 3 and secure.connections == 1


def test_tls_with_the_name_of_another(secure):
    here = secure.url()
    for url, name in ((here, "other.example"), (here.replace("127.0.0.1", "localhost"), "127.0.0.2")):
        sink = HttpBackend(url, tls=ClientTls(ca=authority().path, server_name=name))
        with pytest.raises(RetryableError, match=f"certificate is not valid for '{name}'"):
            sink.write(batch(frames(1)))
    sink = HttpBackend(here, tls=ClientTls(ca=authority().path, server_name="localhost"))
    sink.write(batch(frames(1)))
    sink.close()
    assert len(secure.taken) == 1


def test_tls_of_an_unknown_authority(secure):
    for tls in (None, ClientTls(ca=authority().issue()[0])):
        sink = HttpBackend(secure.url(), tls=tls)
        with pytest.raises(RetryableError, match="certificate verify failed"):
            sink.write(batch(frames(1)))
    assert not secure.taken


def test_tls_with_files_that_are_not_there(secure, tmp_path):
    sink = HttpBackend(secure.url(), tls=ClientTls(ca=str(tmp_path / "none.pem")))
    with pytest.raises(RetryableError, match=r"none\.pem: No such file"):
        sink.write(batch(frames(1)))


def test_a_key_with_a_passphrase_asks_nobody(secure, tmp_path):
    cert, key = authority().issue()
    locked = tmp_path / "locked.key"
    subprocess.run(["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", key, "-out", locked],
                   check=True, capture_output=True)
    sink = HttpBackend(secure.url(), tls=ClientTls(ca=authority().path, cert=cert, key=str(locked)))
    with pytest.raises(RetryableError):
        sink.write(batch(frames(1)))


# -- secrets and arguments ---------------------------------------------------------------------


def test_secrets_are_never_shown(server, tmp_path, caplog):
    """The server repeats all that it is told, as some do in their errors."""
    caplog.set_level(logging.DEBUG)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    server.answer = lambda body: (400, {}, f"you said {server.requests[-1][1]}".encode())
    secrets = {"Cookie": "session=abcdef", "X-Api-Key": "key-of-the-fab"}
    sink = HttpBackend(server.url() + "?key=in-the-url", headers=secrets, token_file=str(token))
    letters = []
    route = Route("out", sink, dead_letter=lambda one, name, reason: letters.append(reason))
    route.start()
    route.offer(batch(frames(1)).packed())
    eventually(lambda: letters)
    route.stop(5)
    told = " ".join([*letters, repr(sink), caplog.text])
    assert "you said" in told
    for secret in (TOKEN, "session=abcdef", "key-of-the-fab", "in-the-url"):
        assert secret not in told


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"bl ank", b"\xff", b"x" * 70_000, "ü".encode()])
def test_a_token_file_that_cannot_be_used(server, tmp_path, content):
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    sink = HttpBackend(server.url(), token_file=str(token))
    with pytest.raises(RetryableError, match="token: ") as caught:
        sink.write(batch(frames(1)))
    assert not content or content.decode("latin-1") not in str(caught.value)
    token.write_text(TOKEN)
    sink.write(batch(frames(1)))
    sink.close()


@pytest.mark.parametrize(
    "url",
    ["", "ftp://a/", "http://", "http:///x", "a:80", "http://a:0/", "http://a:99999/", "http://a/ b",
     "http://a/\r\nX: y", "http://a/ü", "http://a/#f", "http://[::1/", "http://u@a/", "http://u:sesame@a/"],
)
def test_urls_that_can_never_work(url):
    with pytest.raises(ValueError, match="^url: ") as caught:
        HttpBackend(url)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    "options, what",
    [
        ({"format": "xml"}, "format"),
        ({"timeout": 0}, "timeout"),
        ({"tls": ClientTls()}, "tls"),
        ({"headers": {"Content-Length": "1"}}, "headers"),
        ({"headers": {"a b": "1"}}, "headers"),
        ({"headers": {"a": "sesame\r\nb: c"}}, "headers"),
        ({"headers": {"Authorization": "x"}, "token_file": "t"}, "headers"),
    ],
)
def test_arguments_that_can_never_work(options, what):
    with pytest.raises(ValueError, match=f"^{what}: ") as caught:
        HttpBackend("http://a/", **options)
    assert "sesame" not in str(caught.value)


def test_in_a_sidecar(start_sidecar, server, tmp_path):
    """From the configuration to the server, and no secret on the way."""
    (tmp_path / "token").write_text(TOKEN)
    out = {"type": "http", "url": server.url(), "gzip": True, "token_file": str(tmp_path / "token"),
           "headers": {"X-Fab": "${FAB}"}}
    config = {"sidecar": {"data_dir": str(tmp_path / "d"), "tcp": {"port": 0}, "health": {"metrics_port": 0}},
              "backends": {"out": out}}
    sidecar = start_sidecar(config=config, env={"FAB": "fab-seven"})
    sidecar.send(b"".join(frames(100)))
    eventually(lambda: len(lines_of(server.taken)) == 100)
    assert server.requests[0][1]["X-Fab"] == "fab-seven"
    assert lines_of(server.taken) == [line[:-1] for line in frames(100)]
    status, said = sidecar.stop()
    assert status == 0 and TOKEN not in said and "fab-seven" not in said
