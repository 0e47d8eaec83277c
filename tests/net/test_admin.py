"""The admin server, spoken to by hand."""

import gzip
import http.client
import socket

import pytest
from support import eventually

from wafermon.net import AdminServer, Gate, Response


def boom(request):
    raise ValueError("secret detail")


class Endless:
    closed = 0

    def __iter__(self):
        while True:
            yield b"x" * 1000

    def close(self):
        type(self).closed += 1


PAGES = {
    "/hi": lambda request: Response(repr(sorted(request.query.items())).encode()),
    "/json": lambda request: Response.json({"a": 1}),
    "/boom": boom,
    "/below/": lambda request: Response(request.rest.encode()),
    "/long": lambda request: Response(b"long " * 1_000),
    "/endless": lambda request: Response(Endless()),
}


@pytest.fixture
def admin():
    with AdminServer("127.0.0.1", 0, PAGES) as admin:
        yield admin


def ask(admin, method="GET", path="/hi", **headers):
    connection = http.client.HTTPConnection(admin.address, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_pages(admin):
    assert ask(admin, path="/hi?b=2&a=1&a=3") == (200, b"[('a', ['1', '3']), ('b', ['2'])]")
    assert ask(admin, path="/json") == (200, b'{\n  "a": 1\n}\n')
    assert ask(admin, "HEAD") == (200, b"")


def raw(admin, request):
    host, port = admin.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(request)
        return sock.makefile("rb").read()


@pytest.mark.parametrize("request_, status", [
    (b"GET /hi HTTP/1.1\r\nConnection: close\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b"400"),
    (b"GET /hi HTTP/1.1\r\nConnection: close\r\n\r\n", b"400"),
    (b"GET http://evil.example/hi HTTP/1.1\r\nConnection: close\r\nHost: localhost\r\n\r\n", b"421"),
    (b"GET http://localhost/hi HTTP/1.1\r\nConnection: close\r\nHost: localhost\r\n\r\n", b"200"),
    (b"POST /hi HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421"),
    (b"FOO /hi HTTP/1.1\r\nHost: localhost\r\n\r\n", b"405"),
    (b"TRACE /hi HTTP/1.0\r\n\r\n", b"405"),
    (b"GET /hi HTTP/1.0\r\n\r\n", b"200"),
])
def test_what_is_asked_must_be_asked_of_us(admin, request_, status):
    assert raw(admin, request_).split(b" ")[1] == status


@pytest.mark.parametrize("coding, packed", [
    ("gzip", True), ("deflate, gzip;q=0.5", True), ("gzip;q=0, identity;q=1", False),
    ("gzip; q=0.0", False), ("identity", False), ("xgzip", False),
])
def test_who_does_not_take_gzip_gets_none(admin, coding, packed):
    connection = http.client.HTTPConnection(admin.address, timeout=10)
    connection.request("GET", "/long", headers={"Accept-Encoding": coding})
    answer = connection.getresponse()
    assert (answer.headers["Content-Encoding"] == "gzip") is packed
    answer.read()
    connection.close()


def test_who_connects_and_asks_nothing_keeps_nobody_out(admin):
    from wafermon.net import admin as module

    host, port = admin.address.split(":")
    held = [socket.create_connection((host, int(port))) for _ in range(module.MAX_CLIENTS + 5)]
    for sock in held:
        sock.sendall(b"GET /h")
    assert ask(admin) == (200, b"[]")
    for sock in held:
        sock.close()


def test_a_page_answers_for_what_is_below_it(admin):
    assert ask(admin, path="/below/a%20b?c=1") == (200, b"a b")
    assert ask(admin, path="/below/a/b")[0] == 404


def test_a_long_answer_is_compressed_for_who_takes_that(admin):
    connection = http.client.HTTPConnection(admin.address, timeout=10)
    connection.request("GET", "/long", headers={"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    assert answer.headers["Content-Encoding"] == "gzip" and "Accept-Encoding" in answer.headers["Vary"]
    assert gzip.decompress(answer.read()) == b"long " * 1_000
    connection.close()
    assert ask(admin, path="/long") == (200, b"long " * 1_000)


def test_what_is_not_there(admin, caplog):
    status, body = ask(admin, path="/nothing")
    assert status == 404 and b"/json" in body
    assert ask(admin, path="/below/")[0] == 200 and ask(admin, path="/below")[0] == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(admin, method)[0] == 405
    status, body = ask(admin, path="/boom")
    assert status == 500 and b"secret" not in body
    assert ask(admin)[0] == 200


@pytest.mark.parametrize(
    "host, status",
    [("localhost", 200), ("127.0.0.1:80", 200), ("[::1]:9", 200), ("LOCALHOST:1", 200),
     ("evil.example", 421), ("127.0.0.1.evil.example:17001", 421), ("[::2]", 421)],
)
def test_a_foreign_host_name_is_refused(admin, host, status):
    assert ask(admin, Host=host)[0] == status


def test_an_endless_answer_ends_with_its_reader(admin):
    before = Endless.closed
    with socket.create_connection(admin.address.split(":")) as sock:
        sock.sendall(b"GET /endless HTTP/1.0\r\n\r\n")
        assert sock.recv(100)

    eventually(lambda: Endless.closed == before + 1)
    assert ask(admin, "HEAD", "/endless") == (200, b"")
    eventually(lambda: Endless.closed == before + 2)


def test_a_port_that_is_taken(admin):
    port = int(admin.address.split(":")[1])
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port} \\(admin\\)"):
        AdminServer("127.0.0.1", port, {}).start()


def test_stop_without_start_and_twice():
    admin = AdminServer("127.0.0.1", 0, {})
    admin.stop()
    admin.start()
    admin.stop()
    admin.stop()


def test_clients_that_drip_hold_up_neither_others_for_long_nor_the_end(monkeypatch):
    from wafermon.net import admin as module

    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.3)
    with AdminServer("127.0.0.1", 0, PAGES) as admin:
        slow = [socket.create_connection(admin.address.split(":")) for _ in range(module.MAX_CLIENTS)]
        for sock in slow:
            sock.sendall(b"GET /h")

        def answered():
            for sock in slow:
                try:
                    sock.sendall(b"x")
                except OSError:
                    pass
            try:
                return ask(admin) == (200, b"[]")
            except (OSError, http.client.HTTPException):
                return False

        eventually(answered)
        for sock in slow:
            sock.close()


TOKEN = "tell nobody but the fab"


def asked(admin, path="/hi", **headers):
    connection = http.client.HTTPConnection(admin.address, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer
    finally:
        connection.close()


@pytest.fixture
def guarded():
    pages = {**PAGES, "/": PAGES["/hi"], "/livez": PAGES["/hi"], "/readyz": PAGES["/hi"]}
    with AdminServer("127.0.0.1", 0, pages, Gate(TOKEN, ["proxy.fab.example"])) as admin:
        yield admin


def test_who_shows_no_token_is_told_so_and_nothing_else(guarded):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"},
                    {"Cookie": f"wafermon-{guarded.address.split(':')[1]}={TOKEN}"}, {"Cookie": "\x7f=;;"}):
        for path in ("/hi", "/", "/nothing", "/?token=wrong", f"/hi?token={TOKEN.replace(' ', '+')}"):
            answer = asked(guarded, path, **headers)
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), (path, headers)
            assert answer.headers["Set-Cookie"] is None
    assert asked(guarded, "/livez").status == asked(guarded, "/readyz").status == 200
    assert asked(guarded, Authorization=f"Bearer {TOKEN}").status == 200


def test_a_browser_shows_the_token_once(guarded):
    port = guarded.address.split(":")[1]
    answer = asked(guarded, f"/?token={TOKEN.replace(' ', '+')}")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    cookie, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} == set(attributes) and TOKEN not in cookie
    assert asked(guarded, "/hi", Cookie=f"other=1; {cookie}").status == 200
    # Another sidecar of the same host has a cookie of its own.
    assert asked(guarded, "/hi", Cookie=cookie.replace(port, "1")).status == 401
    guarded.guard(Gate("another token"))
    assert asked(guarded, "/hi", Cookie=cookie).status == 401


def test_names_that_are_configured_are_known(guarded):
    shown = {"Authorization": f"Bearer {TOKEN}"}
    assert asked(guarded, Host="Proxy.fab.example:8443", **shown).status == 200
    assert asked(guarded, Host="evil.example", **shown).status == 421
    guarded.guard(Gate(None, None))
    assert asked(guarded, Host="evil.example").status == 200


def test_tokens_do_not_get_into_the_log(guarded, caplog):
    with caplog.at_level("DEBUG", logger="wafermon.net"):
        asked(guarded, f"/?token={TOKEN.replace(' ', '+')}")
        eventually(lambda: "admin: GET /" in caplog.text)
    assert "nobody" not in caplog.text
