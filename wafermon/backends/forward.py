"""To another sidecar, in a session of its own: a chain keeps what each link promises."""

from __future__ import annotations

import json
import logging
import re
import secrets
import socket
import time
from typing import Any, Optional

from wafermon.backends.dial import (
    Address,
    ClientTls,
    TimedSocket,
    explain,
    has_ended,
    read_secret,
)
from wafermon.delivery.backend import Backend
from wafermon.delivery.journal import DISK, MEMORY
from wafermon.errors import PermanentError, RetryableError
from wafermon.message import HELLO, MAX_FRAME_BYTES, MAX_NAME_CHARS, VERSION, Batch, is_name
from wafermon.observe import Family, family

log = logging.getLogger("wafermon.forward")

_SLICE_BYTES = 65_536
_MAX_LINE_BYTES = 65_536
_NO_SIDECAR = "it answers as no sidecar does"
_BLANKS = b" \t\r"
#: The number that a sender, or the link before this one, has put last: `,"q":812` before the `}`.
_LAST_NUMBER = re.compile(rb',"q":[0-9]{1,16}\Z')
_LAST_NUMBER_BYTES = len(',"q":') + 16


class ForwardBackend(Backend):
    """Hands each batch to another sidecar and waits for its receipt.

    Each frame gets a number in a session that lives as long as this object. So when a connection
    breaks, the other side tells what it holds, and just the rest is sent again: with its journal
    on, every frame is in there once, whatever becomes of it or of the connection. A new process is
    a new session: of what a killed one had handed over, the frames after its journal's last
    cursor, written every few ms, are sent again. To carry the session over would need their
    numbers in that journal, and would lose frames where the routing is changed meanwhile.

    The number stands last in the line, `,"q":7}`, in place of one that stood there, and overrules
    any other; all other bytes stay. A frame within 22 bytes of the limit has no room for it. It
    goes without (and encoded anew, where it had one of its own), and a heartbeat of `src` behind
    it carries the number; only if the connection breaks just between these two, it comes twice.

    Args:
        address: `host:port`, or the path of a Unix socket.
        tls: for a TLS connection; None for a plain one.
        secret_file: holds the secret that the other side asks for; read at each connection.
        src: names this link in the session; `wafermon.forward/<host>` when not given.
        timeout: seconds for opening a connection and its session, for each 64 KiB of a batch, and
            for each receipt that tells something new.
        host: what to put into the default of `src`; the host's own name when not given.

    Attributes:
        in_memory: messages that the other side acknowledged as being in its memory only.

    Raises:
        ValueError: an argument that can never work.

    Thread: owned by its delivery thread. The attributes may be read from any.

    >>> ForwardBackend("collector:17000", host="fab7").src
    'wafermon.forward/fab7'
    """

    def __init__(
        self,
        address: str,
        *,
        tls: Optional[ClientTls] = None,
        secret_file: Optional[str] = None,
        src: Optional[str] = None,
        timeout: float = 10.0,
        host: Optional[str] = None,
    ) -> None:
        self.src = src or f"wafermon.forward/{host or socket.gethostname()}"[:MAX_NAME_CHARS]
        if not is_name(self.src):
            raise ValueError(f"src: expected a source's name, got {self.src!r}")
        if not timeout > 0:
            raise ValueError(f"timeout: expected seconds above 0, got {timeout}")
        try:
            self._address = Address(address)
        except ValueError as error:
            raise ValueError(f"address: {error}") from error
        if tls is not None and not (tls.server_name or self._address.host):
            raise ValueError("tls.server_name: needed, as the address has no host name")
        self._tls = tls
        self._secret_file = secret_file
        self._timeout = timeout
        self._session = secrets.token_hex(16)
        self._next_src = self.src
        self._sock: Optional[TimedSocket] = None
        self._outdated = False  # the connection was opened by other settings
        self._received = b""  # of a line that is not complete
        self._level = DISK
        #: The batch at hand outlives a failed write, and so do its frames and their numbers.
        self._batch: Optional[Batch] = None
        self._frames: list[bytes] = []
        #: Numbers: the last one given, and the last one that the other side holds.
        self._last = self._held = 0
        self.in_memory = 0

    def open(self) -> None:
        """Connect and open the session; nothing where that is done.

        Raises:
            RetryableError: not reachable, not to be trusted, or it refuses the secret.
        """
        self._connection()

    def write(self, batch: Batch) -> None:
        """Hand over a batch; returns once the other side has acknowledged all of it.

        Raises:
            RetryableError: it could not be handed over, or was not acknowledged. The same batch
                object goes on where the other side says that it ends.
            PermanentError: a frame of it cannot be numbered; none has been sent.
        """
        if not len(batch):
            return
        if batch is not self._batch:
            if self.src != self._next_src:
                self._begin_session()
            self._frames = self._numbered(batch, self._last + 1)
            self._last += len(batch)
            self._batch = batch
        sock = self._connection()
        try:
            self._send(sock)
            while self._held < self._last:
                sock.deadline = time.monotonic() + self._timeout
                self._wait(sock, "ack")
        except (OSError, ValueError) as error:
            raise self._failed(error) from error
        self._batch, self._frames = None, []
        if self._level == MEMORY:
            self.in_memory += len(batch)

    def close(self) -> None:
        """Disconnect. The session is remembered on both sides."""
        if self._sock is not None:
            self._sock.close()
        self._sock, self._received = None, b""

    def follow(self, other: Backend) -> None:
        """As `Backend.follow`, for a link to the same address: its session and its numbers stay, so
        that the batch at hand is not doubled. A session belongs to its `src`: another one counts
        from the next batch on, in a session of its own."""
        if isinstance(other, ForwardBackend):
            self._tls, self._secret_file = other._tls, other._secret_file
            self._timeout, self._next_src = other._timeout, other.src
            self._outdated = True

    def collect(self, name: str) -> list[Family]:
        """As `Backend.collect`."""
        return [
            family(
                "sidecar_forward_in_memory_total",
                "counter",
                "Messages that the next sidecar acknowledged as being in its memory only.",
                {name: self.in_memory},
                "backend",
            )
        ]

    def _begin_session(self) -> None:
        self.close()
        self.src, self._session = self._next_src, secrets.token_hex(16)

    def _connection(self) -> TimedSocket:
        """The connection with its session open; a new one where there is none any more."""
        if self._sock is not None and (self._outdated or has_ended(self._sock)):
            self.close()  # between two batches, a restart of the other side is no outage
        if self._sock is not None:
            return self._sock
        self._outdated = False
        deadline = time.monotonic() + self._timeout
        try:
            hello = self._hello()
            self._sock = sock = self._address.connect(deadline, self._tls)
            sock.sendall(hello)
            self._wait(sock, "welcome")
        except (OSError, ValueError) as error:
            raise self._failed(error) from error
        return sock

    def _failed(self, error: Exception) -> RetryableError:
        self.close()
        return RetryableError(f"{self._address}: {explain(error)}")

    def _hello(self) -> bytes:
        data = {"session": self._session}
        if self._secret_file is not None:
            data["secret"] = read_secret(self._secret_file)
        return self._encoded(HELLO, data=data)

    def _encoded(self, kind: str, **fields: Any) -> bytes:
        now = int(time.time() * 1000)
        return _encode({"v": VERSION, "src": self.src, "ts": now, "type": kind, **fields})

    # -- numbers -------------------------------------------------------------------------------

    def _numbered(self, batch: Batch, first: int) -> list[bytes]:
        frames = []
        for q, line in enumerate(batch.lines, first):
            end = len(line.rstrip(_BLANKS)) - 1  # where the `}` of the object is
            old = _LAST_NUMBER.search(line, max(0, end - _LAST_NUMBER_BYTES), end)
            frame = b'%b,"q":%d%b\n' % (line[: old.start() if old else end], q, line[end:])
            frames.append(frame if len(frame) <= MAX_FRAME_BYTES else self._escorted(line, q))
        return frames

    def _escorted(self, line: bytes, q: int) -> bytes:
        """A frame that is too long for a number, and the heartbeat that carries it."""
        message = json.loads(line)
        frame = line + b"\n"
        if message.pop("q", None) is not None:
            # Its own number would be taken for one of this session.
            try:
                frame = _encode(message)
            except ValueError:  # a number that Python reads as infinite
                frame += bytes(MAX_FRAME_BYTES)
        if len(frame) > MAX_FRAME_BYTES:
            raise PermanentError(f"a frame of {len(line) + 1} bytes leaves no room for a number")
        return frame + self._encoded("heartbeat", q=q)

    # -- the wire ------------------------------------------------------------------------------

    def _send(self, sock: TimedSocket) -> None:
        """Send what the other side does not hold yet of the batch at hand."""
        held = max(0, len(self._frames) - (self._last - self._held))
        rest = memoryview(b"".join(self._frames[held:]))
        while rest:
            # Each slice has the whole time: a slow line is no fault, and what arrived is held.
            sock.deadline = time.monotonic() + self._timeout
            sock.sendall(rest[:_SLICE_BYTES])
            rest = rest[_SLICE_BYTES:]

    def _wait(self, sock: TimedSocket, kind: str) -> None:
        """Wait for the welcome, or for a receipt that tells something new."""
        before = self._held
        while True:
            answer = _parsed(self._line(sock))
            if answer.get("type") == "error":
                raise ValueError(self._refusal(answer.get("reason")))
            if answer.get("type") != kind:
                continue
            self._take(answer.get("q"), answer.get("level"))
            if kind == "welcome" or self._held > before:
                return

    def _refusal(self, reason: object) -> str:
        if reason != "auth":
            return f"it refuses the connection: {reason}"
        known = self._secret_file is not None
        return "it refuses the secret" if known else "it asks for a secret, and there is none"

    def _take(self, q: object, level: object) -> None:
        """Note what the other side holds."""
        if type(q) is not int or level not in (DISK, MEMORY):
            raise ValueError(_NO_SIDECAR)
        if q > self._last:
            # It would take all that comes for duplicates.
            self._begin_session()
            raise ValueError(f"it holds number {q} of a session that has come to {self._last}")
        self._held = q
        if level != self._level:
            self._level = level
            log.warning("%s: what it acknowledges is in its %s from now on", self._address, level)

    def _line(self, sock: TimedSocket) -> bytes:
        while b"\n" not in self._received:
            if len(self._received) > _MAX_LINE_BYTES:
                raise ValueError(_NO_SIDECAR)
            data = sock.recv(_SLICE_BYTES)
            if not data:
                raise ValueError("it closed the connection")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ValueError(_NO_SIDECAR)
    return answer


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _encode(message: dict[str, Any]) -> bytes:
    return _encoder.encode(message).encode("utf-8") + b"\n"
