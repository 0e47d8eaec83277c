"""POST to an HTTP server: JSON lines, or one JSON array a batch."""

from __future__ import annotations

import gzip as gzip_format
import hashlib
import http.client
import re
import time
import urllib.parse
from collections.abc import Mapping
from typing import Callable, Optional

from wafermon import __version__
from wafermon.backends.dial import (
    Address,
    ClientTls,
    TimedSocket,
    explain,
    has_ended,
    read_secret,
    shown,
)
from wafermon.backends.retry_after import retry_after
from wafermon.delivery.backend import Backend
from wafermon.errors import PermanentError, RetryableError
from wafermon.message import Batch

_CONTENT_TYPES = {"lines": "application/x-ndjson", "array": "application/json"}
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: What only this backend can know.
_OWN_HEADERS = {
    "connection",
    "content-encoding",
    "content-length",
    "host",
    "idempotency-key",
    "transfer-encoding",
}
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]{0,4096}")
_TOKEN = re.compile(r"[\x21-\x7e]+")
#: Of an answer so much is read, that the connection can be used again; a longer one ends it.
_ANSWER_BYTES = 65_536
_SHOWN_CHARS = 200
#: Shorter values of headers are hardly secret, and would make holes in a server's words.
_MIN_SECRET_CHARS = 6


class HttpBackend(Backend):
    """Posts each batch, and takes any 2xx for an answer.

    408, 429, 5xx, redirects (which are not followed) and all that goes wrong on the way are
    retried, after what `Retry-After` asks for. Any other 4xx refuses the batch for good, so it is
    split until the guilty line is alone. A proxy that the environment names is not used.

    The connection is kept; one that the server has closed between two batches is replaced at
    once. Each batch has an `Idempotency-Key`, the same at each try, made of its bytes, its time
    and its number in the journal: by it a server knows a batch that it has taken already.

    Args:
        url: `http://` or `https://`, without a user or a password.
        format: "lines", or "array" for one JSON array.
        gzip: compress the body, 15 us a KB.
        headers: to be sent along; their values are never shown.
        token_file: holds a bearer token; read at each batch, so a new one counts at once.
        timeout: seconds for a whole request, connecting and its answer included.
        tls: what to trust and what to show, for `https://`; the system's authorities otherwise.
        clock: Unix seconds, for dates in `Retry-After`.

    Raises:
        ValueError: an argument that can never work.

    Thread: owned by its delivery thread.

    >>> HttpBackend("https://user:pass@logs.example/in")
    Traceback (most recent call last):
    ValueError: url: a user or password does not belong there; use token_file or headers
    """

    def __init__(
        self,
        url: str,
        *,
        format: str = "lines",
        gzip: bool = False,
        headers: Optional[Mapping[str, str]] = None,
        token_file: Optional[str] = None,
        timeout: float = 10.0,
        tls: Optional[ClientTls] = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if format not in _CONTENT_TYPES:
            raise ValueError(f"format: expected one of lines, array, got {format!r}")
        if not timeout > 0:
            raise ValueError(f"timeout: expected seconds above 0, got {timeout}")
        parts = _split(url)
        if tls is not None and parts.scheme == "http":
            raise ValueError("tls: the url begins with http://")
        self._address = _address(parts)
        self._tls = (tls or ClientTls()) if parts.scheme == "https" else None
        self._path = parts.path or "/"
        self._target = self._path + (f"?{parts.query}" if parts.query else "")
        # Without its query, which may hold a key.
        self._name = f"{parts.scheme}://{parts.netloc}{self._path}"
        self._array = format == "array"
        self._gzip = gzip
        self._token_file = token_file
        self._timeout = timeout
        self._clock = clock
        self._secrets = _checked(headers or {}, token_file)
        self._headers = {
            "host": parts.netloc,
            "user-agent": f"wafermon/{__version__}",
            "content-type": _CONTENT_TYPES[format],
            **({"content-encoding": "gzip"} if gzip else {}),
            **{name.lower(): value for name, value in (headers or {}).items()},
        }
        self._connection: Optional[_Connection] = None

    def open(self) -> None:
        """Connect, to show a fault early; nothing where that is done.

        Raises:
            RetryableError: not reachable, or not to be trusted.
        """
        try:
            self._connected(time.monotonic() + self._timeout)
        except OSError as error:
            raise self._failed(error) from error

    def write(self, batch: Batch) -> None:
        """Post a batch.

        Raises:
            RetryableError: no answer, or one that may be better another time.
            PermanentError: the server refuses these bytes.
        """
        if not len(batch):
            return
        try:
            token = self._token()
            response = self._post(self._body(batch), self._headers_of(batch, token))
            answer = self._read(response)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._failed(error) from error
        if not 200 <= response.status < 300:
            raise self._refused(response, self._words(answer, token))

    def follow(self, other: Backend) -> None:
        """As `Backend.follow`."""
        if isinstance(other, HttpBackend):
            self._timeout = other._timeout

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _failed(self, error: Exception) -> RetryableError:
        self.close()
        if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
            # Its text is what the server said, which may be what it was told.
            return RetryableError(f"{self._name}: no answer in HTTP ({type(error).__name__})")
        return RetryableError(f"{self._name}: {explain(error)}")

    # -- the request ---------------------------------------------------------------------------

    def _token(self) -> str:
        if self._token_file is None:
            return ""
        token = read_secret(self._token_file)
        if not _TOKEN.fullmatch(token):
            raise ValueError(f"{self._token_file}: expected a token without blanks, in ASCII")
        return token

    def _headers_of(self, batch: Batch, token: str) -> dict[str, str]:
        stamp = b"%d %d\n" % (batch.received_ms, batch.seq)
        key = hashlib.sha256(stamp + batch.raw).hexdigest()[:32]
        headers = {**self._headers, "idempotency-key": key}
        if token:
            headers["authorization"] = f"Bearer {token}"
        return headers

    def _body(self, batch: Batch) -> bytes:
        raw = batch.raw
        if self._array:
            raw = b"[" + raw[:-1].replace(b"\n", b",") + b"]"
        return gzip_format.compress(raw, 6, mtime=0) if self._gzip else raw

    def _connected(self, deadline: float) -> _Connection:
        """A connection that can be used until then: the last one, or a new one."""
        known = self._connection
        if known is not None and known.sock is not None and not has_ended(known.sock):
            known.sock.deadline = deadline
            return known
        self.close()
        sock = self._address.connect(deadline, self._tls)
        self._connection = connection = _Connection(str(self._address.host))
        connection.sock = sock
        return connection

    def _post(self, body: bytes, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Send a request; once more where the server closed an old connection just then."""
        deadline = time.monotonic() + self._timeout
        known = self._connection
        connection = self._connected(deadline)
        try:
            return self._exchange(connection, body, headers)
        except ConnectionError:
            if connection is not known:
                raise
            self.close()
        return self._exchange(self._connected(deadline), body, headers)

    def _exchange(
        self, connection: _Connection, body: bytes, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        try:
            connection.request("POST", self._target, body, dict(headers))
        except ConnectionError:
            # A server that refuses a body by its head answers and closes while it is being sent.
            try:
                return connection.getresponse()
            except http.client.HTTPException:
                pass
            raise
        return connection.getresponse()

    # -- the answer ----------------------------------------------------------------------------

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        """The body of an answer; its status counts whatever becomes of the rest."""
        answer = b""
        try:
            answer = response.read(_ANSWER_BYTES)
            if response.isclosed() or not response.read(1):
                return answer
        except (OSError, http.client.HTTPException):
            pass
        self.close()
        return answer

    def _words(self, answer: bytes, token: str) -> str:
        """What a server says, in so far as it can be shown."""
        text = answer.decode("utf-8", "replace")
        for secret in (*self._secrets, token):
            if secret:
                text = text.replace(secret, "***")
        return shown(text, _SHOWN_CHARS)

    def _refused(self, response: http.client.HTTPResponse, words: str) -> Exception:
        status = response.status
        text = f"{self._name}: answered {status} {http.client.responses.get(status, '')}".rstrip()
        if status < 400:
            return RetryableError(f"{text}; redirects are not followed, correct the url")
        text += f": {words}" if words else ""
        if status in (408, 429) or status >= 500:
            wait = retry_after(response.headers.get("Retry-After"), self._clock())
            return RetryableError(text, wait)
        return PermanentError(text)


class _Connection(http.client.HTTPConnection):
    sock: Optional[TimedSocket]
    auto_open = 0  # it would connect without TLS


def _split(url: str) -> urllib.parse.SplitResult:
    """The parts of a url; its faults are told without showing it, as it may hold a password."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError("url: it cannot be read") from error
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or port == 0:
        raise ValueError("url: expected http://host/path or https://host/path")
    faults = []
    if parts.username is not None or parts.password is not None:
        faults.append("url: a user or password does not belong there; use token_file or headers")
    if not re.fullmatch("[!-~]+", url) or "#" in url:
        faults.append("url: expected ASCII without blanks, other characters %-encoded, no #")
    if faults:
        raise ValueError("; ".join(faults))
    return parts


def _address(parts: urllib.parse.SplitResult) -> Address:
    host = str(parts.hostname)
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    return Address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _checked(headers: Mapping[str, str], token_file: Optional[str]) -> list[str]:
    """Check the headers of a user; their values, which an answer may repeat."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _OWN_HEADERS:
            raise ValueError(f"headers: {name!r} cannot be set")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"headers: expected printable ASCII in {name}")
        if name.lower() == "authorization" and token_file is not None:
            raise ValueError("headers: Authorization is what token_file is for")
    return [value for value in headers.values() if len(value) >= _MIN_SECRET_CHARS]
