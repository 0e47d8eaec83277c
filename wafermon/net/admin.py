"""The admin HTTP server: read-only pages, each a function of its query."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import http.server
import json
import logging
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, Callable, Optional, Protocol, Union

from wafermon.net.gate import Gate

#: A client that does not send its request, or take its answer, for this long is dropped.
TIMEOUT_SECONDS = 10.0
#: Clients that are served at a time; further ones are turned away.
MAX_CLIENTS = 32
#: Bodies from this size on are worth compressing.
GZIP_BYTES = 1_000
#: What every answer says: it is nobody else's to embed, to sniff or to keep.
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
log = logging.getLogger("wafermon.net")


class Stream(Protocol):
    """A body of several parts, each sent as it comes; closed when the client has left."""

    def __iter__(self) -> Iterator[bytes]:
        """The parts."""

    def close(self) -> None:
        """Nobody listens any more. Called without any iteration, too."""


@dataclasses.dataclass(frozen=True)
class Response:
    """An answer. A body of bytes goes out compressed where the client takes that and it pays."""

    body: Union[bytes, Stream]
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @staticmethod
    def json(value: object, status: int = 200) -> Response:
        """An answer in JSON."""
        body = json.dumps(value, indent=2).encode("utf-8") + b"\n"
        return Response(body, "application/json", status)


#: The parameters of a query, each with all its values.
Query = Mapping[str, list[str]]


@dataclasses.dataclass(frozen=True)
class Request:
    """What a page is asked.

    Attributes:
        query: the parameters.
        rest: what follows the path of a page that ends in `/`, decoded.
        headers: as they came, by their names in lower case.
    """

    query: Query = dataclasses.field(default_factory=dict)
    rest: str = ""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def last(self, name: str) -> Optional[str]:
        """The last value of a parameter."""
        values = self.query.get(name)
        return values[-1] if values else None


Page = Callable[[Request], Response]


class AdminServer:
    """Serve pages over HTTP from threads of its own.

    Args:
        host: address to bind.
        port: 0 lets the system choose.
        pages: path -> function of a request. A page whose path ends in `/`, but for `/` itself,
            answers for all that is below it.
        gate: decides who is answered: 421 for another machine's name, 401 without the token. By
            default who asks for this host.

    Thread: `start` and `stop` any; pages are called on threads of this server.

    >>> import urllib.request
    >>> with AdminServer("127.0.0.1", 0, {"/hi": lambda request: Response(b"there")}) as admin:
    ...     urllib.request.urlopen(f"http://{admin.address}/hi").read()
    b'there'
    """

    def __init__(
        self, host: str, port: int, pages: Mapping[str, Page], gate: Optional[Gate] = None
    ) -> None:
        self._host = host
        self._port = port
        self._pages = dict(pages)
        self._gate = gate or Gate()
        self._server: Optional[_HttpServer] = None
        self._thread: Optional[threading.Thread] = None

    @property
    def address(self) -> str:
        """`host:port`, with the port that the system chose."""
        port = self._server.server_address[1] if self._server else self._port
        return f"[{self._host}]:{port}" if ":" in self._host else f"{self._host}:{port}"

    @property
    def paths(self) -> list[str]:
        """All that can be asked for."""
        return sorted(self._pages)

    def start(self) -> None:
        """Bind and serve.

        Raises:
            OSError: the address cannot be bound; the text names it.
        """
        try:
            self._server = _HttpServer(self._host, self._port, self._pages, self._gate)
        except OSError as error:
            raise OSError(
                error.errno or 0,
                f"cannot listen on {self.address} (admin): {error.strerror or error}, another "
                "address goes by --admin HOST:PORT or sidecar.health",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="admin",
            daemon=True,
        )
        self._thread.start()

    def guard(self, gate: Gate) -> None:
        """Ask another gate from the next request on. Any thread."""
        self._gate = gate
        if self._server is not None:
            self._server.gate = gate

    def stop(self) -> None:
        """End; answers under way are left behind. Safe without `start` and twice."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._thread = None

    def __enter__(self) -> AdminServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _HttpServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, pages: dict[str, Page], gate: Gate) -> None:
        self.pages = pages
        self.gate = gate
        self._waiting: dict[Any, float] = {}  # who has still to ask, and until when
        self._answering: set[Any] = set()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # The parent looks its own name up in the DNS, which may hang for seconds.
        http.server.socketserver.TCPServer.server_bind(self)  # type: ignore[attr-defined]
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._waiting) + len(self._answering) >= MAX_CLIENTS and not self._make_room():
            self.shutdown_request(request)  # never wait here: this thread also ends the server
            return
        self._waiting[request] = time.monotonic() + TIMEOUT_SECONDS
        super().process_request(request, client_address)

    def _make_room(self) -> bool:
        """Drop who has been about to ask for longest: whoever connects and says nothing must not
        keep a supervisor from `/livez`."""
        for request in list(self._waiting):
            if self._waiting.pop(request, None) is not None:
                _hang_up(request)
                return True
        return False

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._waiting.pop(request, None)
            self._answering.discard(request)

    def asked(self, request: Any) -> None:
        """A client has sent its whole request."""
        self._answering.add(request)
        self._waiting.pop(request, None)

    def service_actions(self) -> None:
        """Drop who takes too long to ask, however it drips; called every now and then."""
        now = time.monotonic()
        for request, deadline in list(self._waiting.items()):
            if deadline < now:
                self._waiting.pop(request, None)
                _hang_up(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("an admin request failed", exc_info=True)


def _hang_up(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _HttpServer
    server_version = "wafermon"
    sys_version = ""
    timeout = TIMEOUT_SECONDS

    def do_GET(self) -> None:
        """Answer with a page."""
        self._send(self._answer(), with_body=True)

    def do_HEAD(self) -> None:
        """Answer without the body."""
        self._send(self._answer(), with_body=False)

    def _answer(self) -> Response:
        self.server.asked(self.connection)
        url = urllib.parse.urlsplit(self.path)
        hosts = self.headers.get_all("Host", [])
        if len(hosts) > 1 or (not hosts and self.request_version != "HTTP/1.0"):
            return Response(b"expected one Host header\n", status=400)
        if not all(map(self.server.gate.knows, [*hosts, *filter(None, [url.netloc])])):
            return Response(b"this sidecar is not asked for by that name, see "
                            b"sidecar.health.hosts\n", status=421)
        if self.command not in ("GET", "HEAD"):  # all there is can only be read
            self.close_connection = True
            allow = {"Allow": "GET, HEAD"}
            return Response(b"only GET and HEAD\n", status=405, headers=allow)
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not self.server.gate.admits(url.path, headers, self.server.server_port):
            return self._login(url)
        page, rest = self.server.pages.get(url.path), ""
        if page is None:
            above, slash, rest = url.path.rpartition("/")
            page = self.server.pages.get(above + slash) if above and rest else None
        if page is None:
            known = "\n".join(sorted(self.server.pages))
            return Response(f"there is no such page; there are:\n{known}\n".encode(), status=404)
        try:
            query = urllib.parse.parse_qs(url.query, keep_blank_values=True)
            return page(Request(query, urllib.parse.unquote(rest), headers))
        except Exception:
            log.exception("the admin page %s failed", url.path[:100])
            return Response(b"the page failed, see the sidecar's log\n", status=500)

    def _login(self, url: urllib.parse.SplitResult) -> Response:
        """What who has shown no token is told; a cookie, where it stands in the address."""
        shown = urllib.parse.parse_qs(url.query).get("token", [""])[-1]
        cookie = self.server.gate.cookie(shown, self.server.server_port)
        if url.path == "/" and cookie is not None:
            return Response(b"", status=303, headers={"Location": "/", "Set-Cookie": cookie})
        words = (b"this sidecar asks for its token: open /?token=... once in a browser, else send "
                 b"Authorization: Bearer ...\n")  # fmt: skip
        return Response(words, status=401, headers={"WWW-Authenticate": "Bearer"})

    def __getattr__(self, name: str) -> Any:
        """Methods of any other name are answered, too: with what may be asked."""
        if name.startswith("do_"):
            return self.do_GET
        raise AttributeError(name)

    def _send(self, response: Response, with_body: bool) -> None:
        self.send_response(response.status)
        headers = {**SAFE_HEADERS, "Content-Type": response.content_type, **response.headers}
        body = response.body
        if isinstance(body, bytes):
            if len(body) >= GZIP_BYTES and _takes_gzip(self.headers.get("Accept-Encoding", "")):
                body = gzip.compress(body, 1, mtime=0)
                headers["Content-Encoding"] = "gzip"
            headers["Vary"] = "Accept, Accept-Encoding"
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if isinstance(body, bytes):
            if with_body:
                self.wfile.write(body)
            return
        with contextlib.closing(body) as parts:
            for part in parts if with_body else ():
                self.wfile.write(part)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("admin: %s %s", self.command, self.path.partition("?")[0][:200])


def _takes_gzip(accepted: str) -> bool:
    """Whether a client accepts compressed answers: RFC 9110, 12.5.3; `q=0` says no."""
    for coding in accepted.lower().split(","):
        name, _, weight = coding.replace(" ", "").partition(";q=")
        if name == "gzip":
            return weight.strip("0.") != "" or weight == ""
    return False
