"""The Python SDK: what a script imports to tell the sidecar of its host what it does.

One file, standard library only, Python 3.6 and newer; it runs alone when it is copied somewhere.

    >>> client = Client("db-loader")
    >>> client.log_event("info", "file loaded", {"lot": "L1", "rows": 12})
    >>> with client.span("parse"):
    ...     client.log_metric("rows", 1200, tags={"tool": "EQP07"})
    >>> left = client.close()  # how many the sidecar did not acknowledge; done at exit by itself

A caller's thread encodes a message and appends it to a bounded buffer; one daemon thread sends,
many frames a write, and keeps each until the sidecar says that it is safe: what was lost with a
connection or with the sidecar goes out again. No verb raises, writes to stdout, touches a signal
handler or waits for the network; a loop that outruns the sidecar gives way to it, 100 ms at most,
before anything is dropped. `Client` holds the verbs, `Span` is one span of a trace, `_Sender` is
the buffer, the connection and the thread.
"""

import atexit
import functools
import json
import os
import re
import signal
import socket
import sys
import threading
import weakref
from collections import deque
from json.encoder import encode_basestring as _quote
from threading import get_ident
from time import monotonic, process_time, sleep, time
from typing import Any, Callable, Deque, Dict, List, Mapping, Optional, Set, Tuple, TypeVar, cast

__all__ = ["CLOSED", "CONNECTED", "DISCONNECTED", "OVERFLOW", "THREAD_NAME", "Client", "Span"]

CONNECTED = "CONNECTED"  # there is a connection
DISCONNECTED = "DISCONNECTED"  # there is none; messages wait in the buffer
OVERFLOW = "OVERFLOW"  # the buffer is full and messages are dropped
CLOSED = "CLOSED"  # closed; every later message is dropped
THREAD_NAME = "wafermon-sender"

#: (state, what happened) -> state; a pair that is not here changes nothing.
_NEXT = {
    (DISCONNECTED, "connected"): CONNECTED,
    (DISCONNECTED, "full"): OVERFLOW,
    (DISCONNECTED, "closed"): CLOSED,
    (CONNECTED, "lost"): DISCONNECTED,
    (CONNECTED, "full"): OVERFLOW,
    (CONNECTED, "closed"): CLOSED,
    (OVERFLOW, "taken"): CONNECTED,
    (OVERFLOW, "closed"): CLOSED,
}

_MAX_FRAME_BYTES = 65536  # protocol section 1, the newline included
_NUMBER_BYTES = 21  # of ,"q": and a number below 2**53
_MAX_NESTING = 100
_MAX_DIGITS = 4000
_LONG_NUMBER = re.compile(rb"[0-9]{4001}")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BATCH_BYTES = 1 << 18  # of one write; each costs a hand-over of the interpreter lock
_FIRST_RETRY, _LAST_RETRY = 0.1, 30.0  # seconds
_SILENCE = 10.0  # seconds without the receipt that is due, after which a connection is given up
_TICK = 0.005  # seconds; while one waits for a receipt, how often it looks for more to send
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)  # the host may have set SIGPIPE to its default
_FORK_HOOK = getattr(os, "register_at_fork", None)  # 3.7; before it each call looks at the pid
_CO_COROUTINE = 0x80  # inspect.CO_COROUTINE; to import inspect takes 7 ms of a short script

_TYPES = frozenset(("event", "metric", "progress", "resource", "span", "heartbeat", "goodbye"))
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_IN_NAMES = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_TRACEPARENT = re.compile(
    "(?!ff)[0-9a-f]{2}-(?!0+-)([0-9a-f]{32})-(?!0+-)([0-9a-f]{16})-([0-9a-f]{2})"
)
_SENT_AS_TEXT = frozenset(("datetime", "decimal", "pathlib", "uuid"))
_END = "}\n"

_F = TypeVar("_F", bound=Callable[..., Any])
_Context = Optional[Mapping[str, Any]]
#: Number, frame, and whose it is: 0 the caller's, -1 our goodbye, else our note of so many dropped.
_Entry = Tuple[int, bytes, int]

try:
    from contextvars import ContextVar  # novm: 3.6 takes the other branch
except ImportError:  # there, spans nest by thread alone

    class ContextVar(threading.local):  # type: ignore[no-redef]
        def __init__(self, name: str, default: Any = None) -> None:
            self.value = default

        def get(self) -> Any:
            return self.value

        def set(self, value: Any) -> None:
            self.value = value


_current: "ContextVar[Optional[Span]]" = ContextVar("wafermon_span", default=None)


def _plain(value: Any) -> Any:
    """What json gets for a value that it does not know: the text of dates, decimals, paths and
    UUIDs, the number in a numpy scalar. Anything else is refused, never sent as its repr."""
    if not _SENT_AS_TEXT.isdisjoint(
        kind.__module__.partition(".")[0] for kind in type(value).__mro__
    ):
        return str(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a {type(value).__name__} is no JSON value; give its text or a number")


#: Raw characters and no \u escapes: shorter, faster, and .encode() then finds every lone surrogate.
_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
).encode


def _nesting(frame: bytes) -> int:
    """Levels of a frame; 0 where it has too few brackets to matter."""
    depth = deepest = 0
    if frame.count(b"{") + frame.count(b"[") <= _MAX_NESTING:
        return depth
    for bracket in _STRING.sub(b"", frame):
        if bracket in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in b"}]":
            depth -= 1
    return deepest


def _event_head(level: str) -> str:
    return f',"type":"event","data":{{"level":{_quote(level)},"msg":'


#: The levels of the protocol, and what Python calls two of them.
_EVENTS = {level: _event_head(level) for level in ("debug", "info", "warn", "error", "fatal")}
_EVENTS.update(warning=_EVENTS["warn"], critical=_EVENTS["fatal"])


class _Sender:
    """The buffer, the connection, and the thread that empties the one into the other.

    A frame goes from `queue` into `window`, where it gets its number, and leaves that when it is
    acknowledged (with plain sending: when the kernel has it). The first `taken` of the window went
    out on this connection; on the next one all that the sidecar does not hold go again.

    It knows nothing of its `Client`: a client that nobody holds is collected, while the thread
    lives on for the rest of the buffer.

    Thread: any down to `left`, the sender's own below. Python may run a signal handler or a
    finalizer between any two lines, and that may log: so the lock is reentrant, and what wakes the
    sleeper is a bare lock and not an Event, whose inner lock is not reentrant.
    """

    def __init__(
        self,
        address: Tuple[Any, ...],
        tls: Any,
        hello: Optional[str],
        goodbye: bool,
        prefix: str,
        size: int,
        overflow: str,
        write_timeout: float,
        close_timeout: float,
        on_error: Optional[Callable[[str], None]],
    ) -> None:
        self.address = address  # (path,) or (host as bytes, port)
        self.tls = tls  # an ssl.SSLContext, or None
        self.flags = 0 if tls else _NO_SIGNAL
        self.hello = hello  # its data, for the session id to be filled in; None sends plainly
        self.farewell = goodbye  # whether it says one when it leaves; `goodbye` is its frame
        self.receipts = hello is not None
        self.longest = _MAX_FRAME_BYTES - (_NUMBER_BYTES if self.receipts else 0)
        self.prefix = prefix
        self.size = size
        self.drop_newest = overflow == "drop_newest"
        self.write_timeout = write_timeout
        self.close_timeout = close_timeout
        self.on_error = on_error
        self.debug = bool(os.environ.get("WAFERMON_DEBUG"))
        self.maker = os.getpid()
        self.closing = False
        self.sock: Optional[socket.socket] = None
        self.queue: Deque[bytes] = deque()
        self.window: Deque[_Entry] = deque()
        self.reset()

    def reset(self) -> None:
        """Begin anew: in the constructor, and in a child after a fork, where nothing of the
        parent's is sent or shut down. Nothing is logged, a lock of logging may be held for ever."""
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.bell = threading.Lock()  # held while there is nothing to wake up for
        self.bell.acquire()
        self.asleep = True
        self.waiters: List[threading.Lock] = []  # of flush()
        self.thread: Optional[threading.Thread] = None
        self.ident: Optional[int] = None
        self.queue.clear()
        self.window.clear()
        self.session = os.urandom(16).hex()
        self.q = self.taken = 0
        self.greeted = False
        self.inbox = b""
        if self.sock is not None:
            self.sock.close()  # of this process only: the parent's connection lives on
            self.sock = None
        self.state = CLOSED if self.closing else DISCONNECTED
        self.limit = 0 if self.closing else self.size
        self.used = self.told = False
        self.patient = True
        self.yielding: Set[int] = set()  # threads in make_room()
        self.goodbye = b""
        self.deadline = self.retry_at = self.heard = 0.0
        self.attempt = self.sent = self.dropped = self.noted = self.refused = 0
        self.refusal = ""

    def put(self, frame: bytes) -> None:
        """Append a frame. What the sender's own thread logs would feed itself and is ignored; two
        threads that pass the limit at the same time make the buffer a frame longer."""
        if _FORK_HOOK is None:
            self.check_process()
        if get_ident() == self.ident:
            return
        if len(frame) > self.longest:
            text = f"a frame of {len(frame)} bytes; at most {self.longest:,} are allowed"
            self.refuse(ValueError(text))
            return
        # What the parser of the sidecar may not take: encoders go deeper and write longer numbers.
        if len(frame) > 2 * _MAX_NESTING and _nesting(frame) > _MAX_NESTING:
            self.refuse(ValueError(f"nested deeper than {_MAX_NESTING} levels"))
            return
        if len(frame) > _MAX_DIGITS and _LONG_NUMBER.search(_STRING.sub(b"", frame)):
            self.refuse(ValueError(f"a number of more than {_MAX_DIGITS} digits"))
            return
        if len(self.queue) >= self.limit and not self.make_room():
            return
        self.queue.append(frame)
        if self.asleep:
            self.wake()

    def make_room(self) -> bool:
        """Buffer full: drop the oldest, or tell by False that the new one is dropped.

        A loop that does nothing but log outruns the sender, which gets the interpreter lock every
        5 ms, and the sidecar, whose receipt takes up to 50 ms: the caller gives way, for 10 or
        100 ms at most, before anything is lost, and not again before something went well.
        """
        me = get_ident()
        if self.patient and not self.closing and me not in self.yielding:
            self.yielding.add(me)  # a signal handler that logs meanwhile does not wait, too
            try:
                for _ in range(100 if self.receipts else 10):
                    sleep(0.001)
                    if len(self.queue) < self.limit or not self.patient:
                        break
                else:
                    self.patient = False
            finally:
                self.yielding.discard(me)
        with self.lock:
            if len(self.queue) < self.limit:
                return True
            self.happen("full")
            if self.closing:
                self.noted += 1  # logged too late: the sidecar is not to be blamed for it
            elif not self.drop_newest and (self.queue or not self.taken):
                self.drop_oldest()
                return True
            self.dropped += 1
            return False

    def drop_oldest(self) -> None:
        """Of what is on its way nothing is dropped: it may be there already."""
        note = 0
        if self.window and not self.taken:
            note = self.window.popleft()[2]  # its number never comes
            self.fit()
        else:
            self.queue.popleft()
        self.noted -= note
        self.dropped += not note

    def fit(self) -> None:
        self.limit = 0 if self.closing else self.size - len(self.window)

    def wake(self) -> None:
        """Wake the thread up; the first message of a process starts it."""
        self.asleep = False
        self.used = True
        with self.lock:
            if self.thread is None:
                self.thread = threading.Thread(target=self.run, name=THREAD_NAME, daemon=True)
                try:
                    self.thread.start()
                except RuntimeError:
                    if not self.thread.is_alive():  # no more threads, or since 3.12 the interpreter
                        self.thread, self.asleep = None, True  # is ending: join() will send
                        return
                # A child of multiprocessing ends without atexit, by finalizers of its own.
                ends = sys.modules.get("multiprocessing.util")
                if ends is not None:
                    ends.Finalize(None, _at_exit, exitpriority=0)
        self.ring()

    def ring(self) -> None:
        try:
            self.bell.release()
        except RuntimeError:
            pass  # somebody else just did

    def happen(self, event: str) -> None:
        with self.lock:
            self.state = _NEXT.get((self.state, event), self.state)

    def refuse(self, error: Exception) -> None:
        with self.lock:
            self.refused += 1
            self.refusal = f"{type(error).__name__}: {error}"
        self.say(f"message refused: {self.refusal}")

    def say(self, text: str) -> None:
        if self.debug:
            try:
                sys.stderr.write(f"wafermon: {text}\n")
            except (AttributeError, OSError, ValueError):
                pass  # there is no stderr

    def check_process(self) -> None:
        """Notice a fork where there is no hook for it."""
        if self.pid != os.getpid():
            self.reset()

    def flush(self, timeout: float) -> bool:
        self.check_process()
        done = threading.Lock()
        done.acquire()
        self.waiters.append(done)
        if self.asleep:
            self.wake() if self.queue else self.ring()
        if self.thread is not None and get_ident() != self.ident:
            done.acquire(True, timeout)
        if done in self.waiters:
            self.waiters.remove(done)
        return self.left() == 0

    def says_goodbye(self) -> bool:
        """Whether it tells when it is finished; a forked worker is not the job."""
        return self.farewell and self.pid == self.maker

    def finish(self, timeout: float) -> None:
        """Ask the thread to send what is left, say goodbye, and end; does not wait for it."""
        self.check_process()
        with self.lock:
            if self.closing:
                return
            self.deadline = monotonic() + timeout
            self.attempt, self.retry_at = 0, 0.0
            if self.used and self.says_goodbye():
                self.goodbye = self.own("goodbye")
            self.limit = 0
            self.closing = True
        self.ring()

    def join(self) -> int:
        """Wait until `finish` is done or its time is up; tells how many messages are not safe."""
        if self.state == CLOSED or get_ident() == self.ident:
            return 0
        if self.thread is None:
            self.run()
        else:
            self.thread.join(max(0.0, self.deadline - monotonic()))
            sock = self.sock
            if self.thread.is_alive() and sock is not None:
                try:
                    # Ends a write that hangs. That of SSLSocket would turn it into a plain one.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
                except OSError:
                    pass
            self.thread.join(0.2)
        with self.lock:
            left = self.left()
            self.dropped += left
            self.queue.clear()
            self.window.clear()
            self.goodbye = b""
            self.happen("closed")
            return self.dropped if self.receipts else left

    def left(self) -> int:
        with self.lock:
            return len(self.queue) + sum(not note for _, _, note in self.window)

    def run(self) -> None:
        """Thread body; `join` calls it itself where there is no thread."""
        self.ident = get_ident()
        if self.tls and threading.current_thread() is self.thread and hasattr(signal, "SIGPIPE"):
            # OpenSSL writes without MSG_NOSIGNAL, and SIGPIPE goes to the thread that wrote.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
        try:
            while self.turn():
                pass
        finally:
            self.hang_up(orderly=True)
            self.ident = None
            self.release_waiters()

    def turn(self) -> bool:
        """Send, or wait before the next try, or sleep; False ends the loop."""
        if self.queue or self.window or self.goodbye:
            pause = self.retry_at - monotonic()
            if self.sock is None and pause > 0:
                self.bell.acquire(True, min(pause, self.patience(pause)))
            elif self.sock is not None or self.connect():
                self.exchange()
            return not self.closing or monotonic() < self.deadline
        self.release_waiters()
        if self.closing:
            return False
        # Asleep first, then look: whoever appends after the look sees it and rings.
        self.asleep = True
        if not (self.queue or self.waiters or self.closing):
            self.bell.acquire()
        self.asleep = False
        return True

    def patience(self, most: float) -> float:
        """Seconds that something may take: when closing, what is left of them."""
        return max(0.001, min(most, self.deadline - monotonic())) if self.closing else most

    def connect(self) -> bool:
        sock = None
        try:
            if len(self.address) == 1:
                sock = socket.socket(socket.AF_UNIX)
                sock.settimeout(self.patience(self.write_timeout))
                sock.connect(self.address[0])
            else:
                sock = socket.create_connection(self.address, self.patience(self.write_timeout))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if sock.getsockname() == sock.getpeername():  # nobody listens, and the kernel
                    raise OSError("connected to itself")  # gave our own end that very port
                if self.tls:
                    name = self.address[0].decode()
                    sock = self.tls.wrap_socket(sock, server_hostname=name)
            if self.hello is not None:
                data = self.hello % self.session
                if not self.says_goodbye():
                    data = data[:-1] + ',"goodbye":false}'
                sock.sendall(self.own("hello", data), self.flags)
        except Exception as error:  # nothing that the network does ends the thread
            if sock is not None:
                sock.close()
            self.lose(error)
            return False
        self.sock = sock
        self.heard = monotonic()
        self.greeted = not self.receipts
        if self.greeted:
            self.happen("connected")
        return True

    def exchange(self) -> None:
        """Send one batch, and read what is answered. What breaks costs the connection."""
        try:
            if self.greeted:
                self.write()
            if self.receipts:
                self.receive()
        except Exception as error:
            self.lose(error)

    def write(self) -> None:
        """Send one batch. In plain sending a frame that was written whole is sent; where a write
        breaks, the others go, whole, out on the next connection."""
        frames = self.take()
        if not frames:
            return
        written, error = self.transmit(b"".join(frames))
        if not self.receipts:
            whole = 0
            for q, frame, _ in list(self.window):
                written -= len(frame)
                if written < 0:
                    break
                whole = q
            self.settle(whole)
        if error is not None:
            raise error
        if not self.receipts:
            self.go_well()

    def take(self) -> List[bytes]:
        """The next batch, by way of the window."""
        frames: List[bytes] = []
        size = 0
        with self.lock:
            if not self.window:
                self.heard = monotonic()
            while size < _BATCH_BYTES:
                if self.taken == len(self.window) and not self.refill(bool(frames)):
                    break
                frames.append(self.window[self.taken][1])
                size += len(frames[-1])
                self.taken += 1
            self.fit()
        return frames

    def refill(self, behind: bool) -> bool:
        """Put what comes next into the window; False where there is nothing. A note of what was
        dropped goes behind a message, or before the goodbye, which ends the session at the sidecar
        and so waits until all else is acknowledged."""
        note = 0
        last = bool(self.goodbye) and not (self.receipts and self.window)
        if self.queue:
            frame = self.queue[0]
        elif self.dropped > self.noted and (behind or last):
            note = self.dropped - self.noted
            frame = self.own("event", _NOTE % note)
            self.noted += note
        elif last:
            note, frame, self.goodbye = -1, self.goodbye, b""
        else:
            return False
        self.q += 1
        if self.receipts:
            frame = b'%s,"q":%d}\n' % (frame[:-2], self.q)
        self.window.append((self.q, frame, note))
        if not note:
            self.queue.popleft()
        return True

    def settle(self, q: int) -> None:
        """Frames up to a number need not be sent any more."""
        with self.lock:
            while self.window and self.window[0][0] <= q:
                self.sent += not self.window.popleft()[2]
                self.taken = max(0, self.taken - 1)
                self.heard = monotonic()
            self.fit()

    def transmit(self, data: bytes) -> Tuple[int, Optional[Exception]]:
        """Write; returns how many bytes the kernel took, and what broke, if anything did."""
        sock = cast(socket.socket, self.sock)
        written = 0
        try:
            if not self.receipts:
                # The kernel takes one write to a TCP peer that has gone without an error: lost.
                # The end-of-file of the peer, who never sends a byte to a plain client, tells
                # before.
                sock.settimeout(0.001 if self.tls else 0)
                try:
                    if not sock.recv(1, 0 if self.tls else socket.MSG_PEEK):
                        raise OSError("closed by the sidecar")
                except (BlockingIOError, socket.timeout):
                    pass
            view = memoryview(data)
            while written < len(data):
                sock.settimeout(self.patience(self.write_timeout))
                written += sock.send(view[written:], self.flags)
        except OSError as error:
            return written, error
        return written, None

    def receive(self) -> None:
        """Read what the sidecar has to say, for a moment; its long silence is an error."""
        sock = cast(socket.socket, self.sock)
        sock.settimeout(self.patience(0.001 if self.greeted and self.queue else _TICK))
        try:
            data = sock.recv(65536)
        except socket.timeout:
            if monotonic() - self.heard > _SILENCE:
                awaited = "receipt" if self.greeted else "welcome"
                raise OSError(f"no {awaited} for {_SILENCE:g} s") from None
            return
        if not data:
            raise OSError("closed by the sidecar")
        *lines, self.inbox = (self.inbox + data).split(b"\n")
        if len(self.inbox) > _MAX_FRAME_BYTES:
            raise OSError("what answers is no sidecar")
        for line in lines:
            self.heed(json.loads(line.decode()))

    def heed(self, answer: Dict[str, Any]) -> None:
        """Take a line of the sidecar; one of an unknown type means nothing."""
        kind = answer["type"]
        if kind == "error":
            raise OSError(f"refused by the sidecar: {answer['reason']}")
        if kind not in ("welcome", "ack"):
            return
        if type(answer["q"]) is not int:
            raise ValueError("a receipt without a number")
        self.settle(answer["q"])
        if kind == "ack":
            self.go_well()
        else:
            self.greeted = True
            self.heard = monotonic()
            self.happen("connected")

    def go_well(self) -> None:
        self.happen("taken")
        self.attempt, self.told, self.patient = 0, False, True

    def lose(self, error: Exception) -> None:
        """No connection: wait before the next try, full jitter, and tell once an outage."""
        self.patient = False
        self.hang_up()
        self.happen("lost")
        ceiling = min(_LAST_RETRY, _FIRST_RETRY * 2**self.attempt)
        self.attempt = min(self.attempt + 1, 16)
        # From urandom: a generator would draw in a forked child what it draws in the parent.
        self.retry_at = monotonic() + ceiling * int.from_bytes(os.urandom(4), "big") / 2**32
        if self.told:
            return
        self.told = True
        where = ":".join(
            part.decode() if isinstance(part, bytes) else str(part) for part in self.address
        )
        text = f"no connection to the sidecar at {where} ({error}); {self.size} messages can wait"
        self.say(text)
        if self.on_error is not None:
            try:
                self.on_error(text)
            except Exception as fault:  # the host's own code must not end the thread
                self.say(f"on_error raised {fault!r}")

    def hang_up(self, orderly: bool = False) -> None:
        """Close. In order it is, with receipts, by reading to the end-of-file: a close with unread
        bytes is a reset. In TLS an end without its alert would pass for a stream cut off."""
        sock, self.sock = self.sock, None
        self.greeted = False
        self.inbox = b""
        with self.lock:
            self.taken = 0
        if sock is None:
            return
        try:
            sock.settimeout(self.patience(self.write_timeout) if self.receipts else 0)
            if orderly and self.tls:
                sock = cast(Any, sock).unwrap()
            sock.shutdown(socket.SHUT_WR)
            while orderly and self.receipts and sock.recv(65536):
                pass
        except (OSError, ValueError):
            pass
        sock.close()

    def release_waiters(self) -> None:
        while self.waiters:
            self.waiters.pop().release()

    def own(self, kind: str, data: str = "") -> bytes:
        """A frame of the SDK's own; `sent` does not count it."""
        return f'{self.prefix}{int(time() * 1000)},"type":"{kind}"{data}}}\n'.encode()


_NOTE = (
    ',"data":{"level":"warn","msg":"messages dropped while the sidecar was away",'
    '"ctx":{"dropped":%d}}'
)

#: For the two hooks of the process, which are set by the first client; it keeps nothing alive.
_senders: "weakref.WeakSet[_Sender]" = weakref.WeakSet()
_hooks: List[Callable[[], None]] = []


def _enrol(sender: _Sender) -> None:
    _senders.add(sender)
    if not _hooks:
        _hooks.append(atexit.register(_at_exit))
        if _FORK_HOOK is not None:
            _FORK_HOOK(after_in_child=_after_fork)


def _after_fork() -> None:
    for sender in list(_senders):
        sender.reset()


def _at_exit() -> None:
    """Close all at once, each within its own close_timeout."""
    senders = list(_senders)
    for sender in senders:
        sender.finish(sender.close_timeout)
    for sender in senders:
        sender.join()


class Client:
    """A connection to the sidecar for one source of messages.

    The constructor does no I/O; the first message starts the thread, which connects, and connects
    again whenever it must. Where no address is given the environment is asked:
    `MONITORING_UNIX_SOCKET`, else `MONITORING_TCP_HOST` and `MONITORING_TCP_PORT`, else it is
    127.0.0.1:17000. `WAFERMON_DEBUG=1` writes outages and refusals to stderr.

    With delivery "ack" a message is kept until the sidecar has said that it is safe, and sent again
    where it has not: whatever is killed, the sidecar takes it in exactly once. A listener that does
    not answer is tried again and again; nothing is ever sent to it without receipts instead.

    A message that would not make a valid frame (over 65,515 bytes, NaN, a value that is not JSON)
    is refused: counted in `refused`, never sent. Dates, decimals, paths and UUIDs go as their text,
    numpy scalars as numbers. After a fork the child has a session, a buffer and counters of its
    own, and only the process that made the client says goodbye. A child that leaves by `os._exit`
    calls `flush` before.

    Args:
        src: the name of the sender, 1 to 128 characters without control characters.
        host: name or address of the sidecar.
        port: its TCP port.
        unix: path of its Unix socket; it wins over host and port.
        delivery: "ack", or "send": done when the kernel has a message, which takes no answer from
            the listener, and no secret. Up to 65,536 bytes are a valid frame then.
        secret: the shared secret, where the listener asks for one; else `MONITORING_SECRET`.
        tls_ca: file of the certificates that the sidecar's must be signed by; else
            `MONITORING_TLS_CA`. With it, TCP is always TLS; a Unix socket never is.
        buffer_messages: how many messages wait to be sent or, with "ack", to be acknowledged.
        overflow: what a full buffer drops: "drop_oldest" or "drop_newest". What is on its way is
            never dropped; where that fills the buffer alone, it is the newest.
        write_timeout: seconds that a connect or a write may stand still before a new connection is
            tried (so does a receipt that is 10 s late). The sender thread waits, never the caller.
        close_timeout: seconds that `close`, and the end of the interpreter, wait at most.
        goodbye: whether to say at the end that the sender is finished. A client that sent nothing,
            and a forked child, never do. For a command that a script runs for each message: what
            goes on after it is told by no connection.
        on_error: called with one line of text once an outage, in the sender thread; what it logs
            through this client is ignored.

    Raises:
        ValueError: an argument or a variable is unusable; the text says what was expected.

    Thread: any; one client serves all threads of a process.

    >>> with Client("db-loader", unix="/run/wafermon/wafermon.sock") as client:
    ...     client.log_progress("nightly-load", 42.5)
    """

    def __init__(
        self,
        src: str,
        *,
        host: Optional[str] = None,
        port: Optional[int] = None,
        unix: Optional[str] = None,
        delivery: str = "ack",
        secret: Optional[str] = None,
        tls_ca: Optional[str] = None,
        buffer_messages: int = 1000,
        overflow: str = "drop_oldest",
        write_timeout: float = 10.0,
        close_timeout: float = 2.0,
        goodbye: bool = True,
        on_error: Optional[Callable[[str], None]] = None,
    ) -> None:
        address = _address(host, port, unix)
        if not _is_name(src):
            raise ValueError(
                "src must be a text of 1 to 128 characters without control characters, such as "
                f"'db-loader', not {src!r}"
            )
        hello = _hello(delivery, secret)
        if overflow not in ("drop_oldest", "drop_newest"):
            raise ValueError(f"overflow must be 'drop_oldest' or 'drop_newest', not {overflow!r}")
        if type(buffer_messages) is not int or buffer_messages < 1:
            raise ValueError(f"buffer_messages must be 1 or more, not {buffer_messages!r}")
        if not (write_timeout > 0 and close_timeout >= 0):
            raise ValueError(
                "write_timeout must be above 0 and close_timeout 0 or more seconds, "
                f"not {write_timeout!r} and {close_timeout!r}"
            )
        self._prefix = f'{{"v":1,"src":{_quote(src)},"ts":'
        self._sender = sender = _Sender(
            address,
            _tls(tls_ca) if len(address) == 2 else None,
            hello,
            goodbye,
            self._prefix,
            buffer_messages,
            overflow,
            write_timeout,
            close_timeout,
            on_error,
        )
        self._put = sender.put
        self._remote = _TRACEPARENT.fullmatch(os.environ.get("TRACEPARENT", ""))
        self._measured = (sender.pid, process_time(), monotonic())
        _enrol(sender)
        weakref.finalize(self, sender.finish, close_timeout).atexit = False

    def log_event(self, level: str, msg: str, ctx: _Context = None) -> None:
        """Log an event.

        Args:
            level: debug, info, warn, error or fatal ("warning" and "critical" are understood).
            msg: the text; anything else is sent as its `str`.
            ctx: what belongs to it, as JSON values.

        >>> client.log_event("error", "no such lot", {"lot": "L1"})
        """
        try:
            body = _quote(msg if isinstance(msg, str) else str(msg))
            if ctx is not None:
                body += ',"ctx":' + _encode(ctx if type(ctx) is dict else dict(ctx))
            frame = (
                f"{self._prefix}{int(time() * 1000)}{_EVENTS.get(level) or _event_head(level)}"
                f"{body}}}{_END if _current.get() is None else _tail()}"
            ).encode()
            self._put(frame)
        except Exception as error:  # no verb raises
            self._sender.refuse(error)

    def log_metric(
        self,
        name: str,
        value: float,
        unit: Optional[str] = None,
        tags: _Context = None,
        kind: Optional[str] = None,
    ) -> None:
        """Log a value of a metric.

        Args:
            name: what is measured.
            value: a number; a decimal is taken as a float.
            unit: of the value, such as "ms".
            tags: what tells this series from others; the values go as text.
            kind: "gauge" (which the sidecar assumes), "counter" (the value is an increment) or
                "histogram" (one observation).

        >>> client.log_metric("load_time", 12.25, unit="ms", tags={"tool": "EQP07"})
        """
        try:
            data = {"name": name, "value": _number(value), "unit": unit, "kind": kind}
            if tags is not None:
                data["tags"] = {str(key): str(tags[key]) for key in tags}
        except Exception as error:
            self._sender.refuse(error)
        else:
            self.send("metric", _given(data))

    def log_progress(
        self,
        job_id: str,
        percent: float,
        status: Optional[str] = None,
        msg: Optional[str] = None,
    ) -> None:
        """Log how far a job is.

        Args:
            job_id: the job, the same text in all its messages.
            percent: 0 to 100.
            status: "running" (which the sidecar assumes), "done" or "failed".
            msg: a text beside it.

        >>> client.log_progress("nightly-load", 100, status="done", msg="12 files")
        """
        try:
            data = {"job_id": job_id, "percent": _number(percent), "status": status, "msg": msg}
        except Exception as error:
            self._sender.refuse(error)
        else:
            self.send("progress", _given(data))

    def log_resource(self, **values: Any) -> None:
        """Log resource use.

        Args:
            values: any of cpu (percent of one core), mem (bytes), disk and net (dicts of numbers).
                With none at all this process is measured: cpu since the last such call, resident
                memory, and the bytes it moved from and to disk where the system tells them.

        >>> client.log_resource()
        >>> client.log_resource(cpu=12.5, net={"sent_bytes": 20})
        """
        self.send("resource", values or self._measure())

    def heartbeat(self, interval_s: Optional[float] = None) -> None:
        """Say that the sender is alive, once.

        Args:
            interval_s: seconds until the next one is due.
        """
        self.send("heartbeat", None if interval_s is None else {"interval_s": interval_s})

    def send(self, type: str, data: _Context = None, **envelope: Any) -> None:
        """Send a message of any type; most other verbs are made of it.

        Args:
            type: event, metric, progress, resource, span, heartbeat or goodbye.
            data: its payload; only a heartbeat and a goodbye may have none.
            envelope: other top-level fields: ts (Unix milliseconds, else now), tid, sid and pid
                (else those of the span around the call), and any that the protocol does not know.

        >>> client.send("event", {"level": "info", "msg": "from the archive"}, ts=1697821234567)
        """
        try:
            if type not in _TYPES:
                raise ValueError(f"type must be one of {', '.join(sorted(_TYPES))}")
            if data is None and type not in ("heartbeat", "goodbye"):
                raise ValueError(f"a message of type {type} needs data")
            ts = envelope.pop("ts", None) if envelope else None
            if ts is None:
                ts = int(time() * 1000)
            elif ts.__class__ is not int or not 0 <= ts < 2**53:
                raise ValueError("ts must be Unix milliseconds, an integer")
            body = "" if data is None else ',"data":' + _encode(dict(data))
            tail = _envelope(type, envelope) if envelope or type == "span" else _tail()
            frame = f'{self._prefix}{ts},"type":"{type}"{body}{tail}'.encode()
            self._put(frame)
        except Exception as error:
            self._sender.refuse(error)

    def span(
        self, name: str, kind: Optional[str] = None, ctx: _Context = None, send_open: bool = False
    ) -> "Span":
        """A span for a `with` statement, or as a decorator; it begins when that is entered.

        Args:
            name: what is done.
            kind: a class of work, such as "query".
            ctx: what belongs to it, as JSON values.
            send_open: send it when it begins, too: it is seen while it lasts, and where a program
                was that is killed. A second message, so for what takes seconds.

        >>> with client.span("parse") as span:
        ...     client.log_event("info", "within it")
        >>> @client.span("load")
        ... async def load(path): ...
        """
        return Span(self, name, kind, ctx, send_open)

    def start_span(
        self, name: str, kind: Optional[str] = None, ctx: _Context = None, send_open: bool = False
    ) -> "Span":
        """Begin a span, with the arguments of `span`; it lasts until its `end`.

        >>> span = client.start_span("parse")
        >>> span.end()
        """
        return Span(self, name, kind, ctx, send_open)._begin()

    def traceparent(self) -> str:
        """The W3C trace context for a child process: of the span around the call, else the one that
        this process was given, else an empty text, which every reader ignores.

        >>> env = dict(os.environ, TRACEPARENT=client.traceparent())  # for subprocess.run
        """
        span = _innermost()
        if span is not None:
            return span.traceparent
        return self._remote.group() if self._remote else ""

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until every message is acknowledged, or with delivery "send" was handed to the
        kernel, `timeout` seconds at most.

        Returns:
            Whether that is so.
        """
        return self._sender.flush(timeout)

    def close(self, timeout: Optional[float] = None) -> int:
        """Send what is left, say goodbye, and end. Without a connection one is tried for until the
        time is up. A second call does nothing.

        Args:
            timeout: seconds to wait at most, else the close_timeout of the constructor.

        Returns:
            How many messages were not acknowledged, those that a full buffer dropped before among
            them: 0 says that all are safe. With delivery "send": how many were left over now.
        """
        self._sender.finish(self._sender.close_timeout if timeout is None else timeout)
        return self._sender.join()

    def __enter__(self) -> "Client":  # typing.Self came with 3.11
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def state(self) -> str:
        """CONNECTED, DISCONNECTED, OVERFLOW or CLOSED, as the sender last saw it."""
        return self._sender.state

    @property
    def sent(self) -> int:
        """Messages of the caller that the sidecar acknowledged (with delivery "send": that the
        kernel took whole)."""
        return self._sender.sent

    @property
    def dropped(self) -> int:
        """Messages lost to a full buffer, left over by `close`, or logged after it."""
        return self._sender.dropped

    @property
    def refused(self) -> int:
        """Messages that would not have made a valid frame."""
        return self._sender.refused

    @property
    def refusal(self) -> str:
        """Why the last of those was refused."""
        return self._sender.refusal

    def _measure(self) -> Dict[str, Any]:
        pid, cpu, clock = self._measured
        if pid != os.getpid():  # the CPU time of a child begins at its fork
            cpu, clock = 0.0, monotonic()
        self._measured = (os.getpid(), process_time(), monotonic())
        passed = self._measured[2] - clock
        percent = 100 * (self._measured[1] - cpu) / passed if passed > 0 else 0.0
        return dict(_memory(), cpu=round(percent, 1), **_disk())


class Span:
    """One span of a trace; `Client.span` and `Client.start_span` make it.

    From its begin to its end the messages of the same thread or task carry its ids, and spans that
    begin there are its children. A span outside of any is a child of `TRACEPARENT`, where the
    environment has one. Its frame is sent when it ends, and with `send_open` one when it begins; in
    a child forked within it, none.

    Attributes:
        tid: id of the trace, 32 hex digits.
        sid: id of the span, 16 hex digits.
        pid: id of the span around it, or None.

    Thread: any may end it; it encloses what runs in the thread or task that began it.
    """

    def __init__(
        self, client: Client, name: str, kind: Optional[str], ctx: _Context, send_open: bool
    ) -> None:
        self.tid = self.sid = self._flags = ""
        self.pid: Optional[str] = None
        self._client, self._name, self._kind, self._ctx = client, name, kind, ctx
        self._send_open = send_open
        self._live = False

    def _begin(self) -> "Span":
        around, remote = _innermost(), self._client._remote
        if around is not None:
            self.tid, self.pid, self._flags = around.tid, around.sid, around._flags
        elif remote is not None:
            self.tid, self.pid, self._flags = remote.groups()
        else:
            self.tid, self.pid, self._flags = os.urandom(16).hex(), None, "01"
        self.sid = os.urandom(8).hex()
        self._tail = f',"tid":"{self.tid}","sid":"{self.sid}"}}\n'
        self._around = around
        self._process = os.getpid()
        self._ts, self._clock = int(time() * 1000), monotonic()
        self._live = True
        _current.set(self)
        if self._send_open:
            self._send(None, "open", None)
        return self

    def end(self, status: str = "ok", ctx: _Context = None) -> None:
        """End it and send it; a second call does nothing.

        Args:
            status: "ok" or "error".
            ctx: added to that of its begin.
        """
        if not self._live:
            return
        self._live = False
        if _current.get() is self:
            _current.set(self._around)
        if self._process != os.getpid():
            return
        passed = round((monotonic() - self._clock) * 1000, 3)
        self._send(passed, status, ctx)

    def _send(self, passed: Optional[float], status: str, ctx: _Context) -> None:
        data: Dict[str, Any] = {
            "name": self._name, "duration_ms": passed, "status": status, "kind": self._kind,
        }  # fmt: skip
        ids = _given({"tid": self.tid, "sid": self.sid, "pid": self.pid})
        try:
            if self._ctx or ctx:
                data["ctx"] = dict(dict(self._ctx or {}), **(ctx or {}))
        except Exception as error:
            self._client._sender.refuse(error)
        else:
            self._client.send("span", _given(data), ts=self._ts, **ids)

    @property
    def traceparent(self) -> str:
        """Its W3C trace context, to hand to a child process."""
        return f"00-{self.tid}-{self.sid}-{self._flags}"

    def __enter__(self) -> "Span":
        return self if self._live else self._begin()

    def __exit__(self, kind: object, error: Optional[BaseException], trace: object) -> None:
        """An exception makes it an error, but for a sys.exit() that means success."""
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.end()
        else:
            self.end("error", {"error": _describe(error)})

    def __call__(self, func: _F) -> _F:
        """Decorate a function or a coroutine function: each call is a span of its own."""

        def fresh() -> Span:
            return Span(self._client, self._name, self._kind, self._ctx, self._send_open)

        if getattr(getattr(func, "__code__", None), "co_flags", 0) & _CO_COROUTINE:

            @functools.wraps(func)
            async def inner(*args: Any, **named: Any) -> Any:
                with fresh():
                    return await func(*args, **named)

        else:

            @functools.wraps(func)
            def inner(*args: Any, **named: Any) -> Any:
                with fresh():
                    return func(*args, **named)

        return cast(_F, inner)


def _innermost() -> Optional[Span]:
    """The span around the caller. One that another thread or task ended is passed over."""
    span = _current.get()
    while span is not None and not span._live:
        span = span._around
    return span


def _tail() -> str:
    """The end of a frame, with the ids of the span around the caller."""
    span = _innermost()
    return _END if span is None else span._tail


def _envelope(kind: str, fields: Dict[str, Any]) -> str:
    """The end of a frame, with the top-level fields that the caller gave.

    `q` is the sender's: a receipt that nobody reads turns a close into a reset.
    """
    fields = _given(fields)
    for name in ("v", "src", "q"):
        if name in fields:
            raise ValueError(f"{name} cannot be given here")
    for name in ("tid", "sid", "pid"):
        if name in fields and not _is_name(fields[name]):
            raise ValueError(f"{name} must be a text of 1 to 128 characters, no control characters")
    if kind == "span":
        if "tid" not in fields or "sid" not in fields:
            raise ValueError("a span needs tid and sid")
    elif "tid" not in fields:
        span = _innermost()
        if span is not None:
            fields = dict({"tid": span.tid, "sid": span.sid}, **fields)
    return f",{_encode(fields)[1:]}\n" if fields else _END


def _given(data: Dict[str, Any]) -> Dict[str, Any]:
    return {key: data[key] for key in data if data[key] is not None}


def _is_name(value: Any) -> bool:
    """The rule of protocol section 2 for src, tid, sid and pid."""
    return isinstance(value, str) and 0 < len(value) <= 128 and not _NOT_IN_NAMES.search(value)


def _number(value: Any) -> float:
    """A metric is a number and never a text that looks like one."""
    if isinstance(value, (str, bytes)):
        raise TypeError("a number is needed, not a text")
    return value if type(value) in (int, float) else float(value)


def _describe(error: BaseException) -> str:
    """One line about an exception, whatever its __str__ does."""
    try:
        text = f"{type(error).__name__}: {str(error)[:1000]}"
    except Exception:
        text = type(error).__name__
    return text.encode("utf-8", "replace").decode()


def _memory() -> Dict[str, Any]:
    try:
        with open("/proc/self/statm", "rb") as statm:
            return {"mem": int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")}
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"mem": peak * (1 if sys.platform == "darwin" else 1024)}


def _disk() -> Dict[str, Any]:
    try:
        with open("/proc/self/io") as io:
            counts = dict(line.split(": ") for line in io)
        return {"disk": {key: int(counts[key]) for key in ("read_bytes", "write_bytes")}}
    except (OSError, ValueError, KeyError):
        return {}


def _address(host: Optional[str], port: Optional[int], unix: Optional[str]) -> Tuple[Any, ...]:
    """Where the sidecar is: the arguments, else the environment, else the default."""
    setting = os.environ.get
    if unix is None and host is None and port is None:
        unix = setting("MONITORING_UNIX_SOCKET")
    if unix:
        if not hasattr(socket, "AF_UNIX") or len(os.fsencode(unix)) > 107:
            raise ValueError(f"unix must be a path of at most 107 bytes, not {unix!r}")
        return (os.fspath(unix),)
    number: Any = setting("MONITORING_TCP_PORT") or 17000 if port is None else port
    try:
        if isinstance(number, str):
            number = int(number)
        if type(number) is not int or not 1 <= number <= 65535:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"port (or MONITORING_TCP_PORT) must be a number from 1 to 65535, not {number!r}"
        ) from None
    name = host or setting("MONITORING_TCP_HOST") or "127.0.0.1"
    try:
        # As bytes: of a str, getaddrinfo would import the idna codec in the sender thread, and a
        # fork in the midst of that leaves a child in which the codec can never be imported.
        return (name.encode("ascii" if max(name) < "\x80" else "idna"), number)
    except UnicodeError:
        raise ValueError(f"host must be a host name or an address, not {name!r}") from None


def _hello(delivery: str, secret: Optional[str]) -> Optional[str]:
    """The data of a hello, for the session's id to be filled in; None sends plainly."""
    if delivery not in ("ack", "send"):
        raise ValueError(f"delivery must be 'ack' or 'send', not {delivery!r}")
    secret = secret or os.environ.get("MONITORING_SECRET")
    if delivery == "send":
        if secret:
            raise ValueError("a secret (or MONITORING_SECRET) needs delivery='ack'")
        return None
    if not secret:
        return ',"data":{"session":"%s"}'
    if not isinstance(secret, str) or _SURROGATE.search(secret):
        raise ValueError("secret (or MONITORING_SECRET) must be a text in UTF-8")  # never shown
    return ',"data":{"session":"%s","secret":' + _quote(secret).replace("%", "%%") + "}"


def _tls(ca: Optional[str]) -> Any:
    """The SSL context; None where no certificates are given."""
    ca = ca or os.environ.get("MONITORING_TLS_CA")
    if not ca:
        return None
    import ssl  # 10 ms of a short script

    "x".encode("idna")  # imports the codec now, and not in the sender thread: see _address()
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ValueError(
            f"tls_ca (or MONITORING_TLS_CA) must be a file of certificates, not {ca!r}: {error}"
        ) from None
