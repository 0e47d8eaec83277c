"""The senders of `wafermon bench`: a few processes that send at a steady rate and time receipts.

Each sends a block a tick, on schedule, and times a receipt from the tick on that its block was due
at: a sidecar that holds a sender back is not excused by what was not sent meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn, Optional, Union

#: Host and port, or the path of a Unix socket.
Address = Union[tuple[str, int], str]

SOURCE = "wafermon-bench"
SENDERS = 4
TICK_SECONDS = 0.005
#: A sender that is this much behind its schedule gives up: the rate is not held.
LATE_SECONDS = 2.0
#: How long the sidecar may take for the rest, once all has been sent.
DRAIN_SECONDS = 10.0
CONNECT_SECONDS = 5.0
#: Numbers from here on are all of one length, and so are the frames.
FIRST_NUMBER = 1_000_000_000
#: The fault where the sidecar ends a connection before its time.
CLOSED = "the sidecar closed the connection"
_PADDING = "wafer loaded, bins sorted, map written".ljust(78, ".")


class Sent(NamedTuple):
    """What became of the frames of one sender, or of all of them."""

    #: Written to the connection.
    frames: int
    #: Of those that asked for receipts: how many, and how many got one.
    numbered: int
    acknowledged: int
    #: From the begin until the sidecar had taken all, and how late the last block was written.
    seconds: float
    late_seconds: float
    #: Of a block each.
    receipt_seconds: list[float]
    #: Why a connection ended before its time.
    fault: str


class Way(NamedTuple):
    """How to the sidecar: where it listens, and what its listener asks for."""

    address: Address
    #: The shared secret.
    secret: Optional[str] = None
    #: From `tls_context`; of TCP alone.
    tls: Optional[ssl.SSLContext] = None

    def __str__(self) -> str:
        return self.address if isinstance(self.address, str) else "{}:{}".format(*self.address)


class Plan(NamedTuple):
    """What one sender sends."""

    rate: float
    seconds: float
    numbered: bool


def line(numbered: bool) -> bytes:
    """A frame with its line end; for `%` to put the number in, where it has one.

    >>> import json
    >>> len(line(True) % FIRST_NUMBER), json.loads(line(False))["src"]
    (214, 'wafermon-bench')
    """
    number = ',"q":%d' if numbered else ""
    text = (
        f'{{"v":1,"src":"{SOURCE}","ts":{int(time.time() * 1000)},"type":"event","data":{{"level":'
        f'"info","msg":"{_PADDING}","ctx":{{"tool":"EQP07"}}}}{number}}}\n'
    )
    return text.encode()


class _TlsSocket(ssl.SSLSocket):
    """Behaves without blocking as any socket does, so that a sender need not know of TLS."""

    def send(self, data: Any, flags: int = 0) -> int:
        try:
            return super().send(data, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        except ssl.SSLZeroReturnError:  # its end came after ours
            return b""

    def shutdown(self, how: int) -> None:
        """Tell the end, and wait for no answer; that of SSLSocket would go on without TLS."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.unwrap()


def tls_context(ca: str) -> ssl.SSLContext:
    """Trust a sidecar whose certificate is signed by one of those in the file `ca`.

    Raises:
        OSError: the file cannot be read, or holds none.
    """
    context = ssl.create_default_context(cafile=ca)
    context.sslsocket_class = _TlsSocket
    return context


def connect(way: Way) -> socket.socket:
    """Connect, and log in where that is asked for.

    Raises:
        OSError: nobody listens there, or who does is not trusted, or does not trust us.
    """
    if isinstance(way.address, str):
        sock = socket.socket(socket.AF_UNIX)
    else:
        sock = socket.create_connection(way.address, CONNECT_SECONDS)
    try:
        sock.settimeout(CONNECT_SECONDS)
        if isinstance(way.address, str):
            sock.connect(way.address)
        elif way.tls is not None:
            sock = way.tls.wrap_socket(sock, server_hostname=way.address[0])
        if way.secret is not None:
            _log_in(sock, way.secret)
    except BaseException:
        sock.close()
        raise
    return sock


def _log_in(sock: socket.socket, secret: str) -> None:
    """Say hello, and wait for the welcome: without a session, as nothing is sent again."""
    hello = {"v": 1, "src": SOURCE, "ts": int(time.time() * 1000), "type": "hello",
             "data": {"secret": secret}}  # fmt: skip
    sock.sendall(json.dumps(hello).encode() + b"\n")
    answer = b""
    while not answer.endswith(b"\n") and (data := sock.recv(65_536)):
        answer += data
    if b'"type":"welcome"' not in answer:
        raise PermissionError(0, "its listener refuses the secret")


class Sender:
    """One connection, from its first block to its end.

    Args:
        sock: connected; is closed by `run`.
        plan: what to send.
    """

    def __init__(self, sock: socket.socket, plan: Plan) -> None:
        self._sock = sock
        self._plan = plan
        self._line = line(plan.numbered)
        self._blocks: dict[int, bytes] = {}
        self._frames = 0
        self._acknowledged = 0
        self._late = 0.0
        self._received = b""
        self._ended = False
        #: The last number of each block that has no receipt, and when it was due.
        self._waiting: deque[tuple[int, float]] = deque()
        self._receipt_seconds: list[float] = []

    def run(self) -> Sent:
        """Send on schedule, then wait for the end."""
        plan, fault = self._plan, ""
        began = time.monotonic()
        with self._sock:
            self._sock.setblocking(False)
            try:
                self._send_all(began)
                until = time.monotonic() + DRAIN_SECONDS
                while self._waiting:  # here: inside TLS nothing is read behind our end
                    self._read_by(until)
                self._sock.shutdown(socket.SHUT_WR)
                self._finish(until)
            except ConnectionError:
                fault = CLOSED
            except OSError as error:
                fault = error.strerror or str(error)
        seconds = time.monotonic() - began
        numbered = self._frames if plan.numbered else 0
        return Sent(self._frames, numbered, self._acknowledged, seconds, self._late,
                    self._receipt_seconds, fault)

    def _send_all(self, began: float) -> None:
        per_tick = self._plan.rate * TICK_SECONDS
        for tick in range(round(self._plan.seconds / TICK_SECONDS)):
            due = began + tick * TICK_SECONDS
            while (now := time.monotonic()) < due:
                if select.select([self._sock], [], [], due - now)[0]:
                    self._read()
            count = int((tick + 1) * per_tick) - int(tick * per_tick)
            if count and not self._send(count, due):
                return

    def _send(self, count: int, due: float) -> bool:
        """Whether the next block was written before it was far too late."""
        block = memoryview(self._block(count))
        self._await(count, due)
        size, written = len(block), 0
        while written < size:
            if time.monotonic() > due + LATE_SECONDS:
                self._late = LATE_SECONDS
                whole = written * count // size
                if self._waiting and self._waiting[-1][1] == due:
                    self._waiting.pop()
                    self._await(whole, due)
                self._frames += whole
                return False
            readable, writable, _ = select.select([self._sock], [self._sock], [], LATE_SECONDS)
            if writable:
                written += self._sock.send(block[written:])
            if readable:
                self._read()
        self._frames += count
        self._late = time.monotonic() - due
        return True

    def _await(self, count: int, due: float) -> None:
        """Of the next block there is a receipt to come, unless it is empty."""
        if self._plan.numbered and count:
            self._waiting.append((FIRST_NUMBER + self._frames + count - 1, due))

    def _block(self, count: int) -> bytes:
        """So many frames; what does not change of them is made once."""
        if count not in self._blocks:
            self._blocks[count] = self._line * count
        block = self._blocks[count]
        if not self._plan.numbered:
            return block
        first = FIRST_NUMBER + self._frames
        return block % tuple(range(first, first + count))

    def _read(self) -> None:
        """Take the newest receipt, which covers all before it."""
        with contextlib.suppress(BlockingIOError):
            data = self._sock.recv(65_536)
            if not data:
                self._ended = True
                raise ConnectionError
            *lines, self._received = (self._received + data).split(b"\n")
            if lines:
                self._acknowledge(_number(lines[-1]))

    def _acknowledge(self, number: int) -> None:
        now = time.monotonic()
        self._acknowledged = max(self._acknowledged, number - FIRST_NUMBER + 1)
        while self._waiting and self._waiting[0][0] <= number:
            self._receipt_seconds.append(now - self._waiting.popleft()[1])

    def _finish(self, until: float) -> None:
        """Read to the end, by which the sidecar says that it has taken everything."""
        while not self._ended:
            try:
                self._read_by(until)
            except ConnectionError:
                if not self._ended:
                    raise

    def _read_by(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0 or not select.select([self._sock], [], [], left)[0]:
            raise TimeoutError(f"the sidecar did not take the rest in {DRAIN_SECONDS:.0f} s")
        self._read()


def _number(receipt: bytes) -> int:
    """What a receipt covers; 0 where it is none."""
    try:
        number = json.loads(receipt)["q"]
    except (ValueError, KeyError, TypeError):
        return 0
    return number if type(number) is int else 0


def send(way: Way, rate: float, seconds: float) -> Sent:
    """Have all senders send, every second one with receipts; blocks until they are done.

    Args:
        way: where to.
        rate: frames a second, of all together.
        seconds: for how long.

    Raises:
        OSError: it cannot be connected to, or there can be no further process.

    Thread: of a process that has no other one, as it forks.
    """
    with contextlib.ExitStack() as opened:
        socks = [opened.enter_context(connect(way)) for _ in range(SENDERS)]
        links = [
            _fork(sock, Plan(rate / SENDERS, seconds, number % 2 == 0))
            for number, sock in enumerate(socks)
        ]
    return _together([_answer(*link) for link in links])


def _fork(sock: socket.socket, plan: Plan) -> tuple[int, int]:
    """A process, and the pipe that its answer comes through."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        _child(sock, plan, writing)
    os.close(writing)
    return pid, reading


def _child(sock: socket.socket, plan: Plan, writing: int) -> NoReturn:
    try:
        with open(writing, "w", encoding="utf-8") as answer:
            json.dump(Sender(sock, plan).run(), answer)
    except KeyboardInterrupt:
        pass  # the parent has it, too, and says so
    finally:
        os._exit(0)


def _answer(pid: int, reading: int) -> Optional[Sent]:
    with open(reading, encoding="utf-8") as file:
        text = file.read()
    os.waitpid(pid, 0)
    return Sent(*json.loads(text)) if text else None


def _together(answers: list[Optional[Sent]]) -> Sent:
    """One for all."""
    told = [answer for answer in answers if answer is not None]
    if len(told) < len(answers):
        raise ChildProcessError("a process that sends has died")

    def every(name: str) -> Iterator[Any]:
        return (getattr(one, name) for one in told)

    return Sent(
        sum(every("frames")),
        sum(every("numbered")),
        sum(every("acknowledged")),
        max(every("seconds")),
        max(every("late_seconds")),
        sorted(value for one in told for value in one.receipt_seconds),
        next((fault for fault in every("fault") if fault), ""),
    )
