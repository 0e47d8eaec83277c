"""What is lost when a receiver is killed or stopped under load, and started again at once.

The sender never stops. Where its connection breaks it connects again and goes on, as a simple
logger does: what the kernel has taken is gone. With receipts it sends again what none came for.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import socket
import time
from typing import Optional

from bench import BenchError
from bench.addresses import dial
from bench.loadgen import CONNECTIONS, FRAME_BYTES, Tally, tally
from bench.peers.contender import Contender
from bench.receiver import Receiver, running

#: The sender wakes up this often and sends what is due.
TICK_SECONDS = 0.002
#: The file counts as complete once it has not grown for this long.
QUIET_SECONDS = 3.0
_LIMIT_SECONDS = 120.0
_FIRST_MS = 1_700_000_000_000


def frame(connection: int, number: int, q: int) -> bytes:
    """As `loadgen.c` makes it; with a receipt asked for where `q` is not 0."""
    head = (
        f'{{"v":1,"src":"bench-{connection}-0","ts":{_FIRST_MS + number},"type":"event","data":'
        f'{{"level":"info","msg":"wafer loaded","ctx":{{"n":{number},"lot":"L1234567",'
        f'"tool":"EQP07","yield":0.9731,"rows":1200,"p":"'
    )
    tail = f'"}}}},"q":{q}}}\n' if q else '"}}}\n'
    return (head + "x" * (FRAME_BYTES - len(head) - len(tail)) + tail).encode("ascii")


class Stream:
    """One connection, whatever becomes of it, and the frames that go over it.

    Args:
        connection: its number.
        frames: how many in all.
        receipts: whether to ask for receipts.
    """

    def __init__(self, connection: int, frames: int, receipts: bool) -> None:
        self._connection = connection
        self._frames = frames
        self._receipts = receipts
        self._sock: Optional[socket.socket] = None
        self._replies = b""
        self._greeted = False
        #: Of the frame that was sent in part only.
        self._rest = b""
        #: Frames that were handed over, and of these those that a receipt is awaited for.
        self.sent = 0
        self._unsafe: collections.deque[bytes] = collections.deque()

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.sent == self._frames and not self._unsafe and not self._rest

    def go_on(self, address: str, due: int) -> None:
        """Send all that is due, as far as that is possible without waiting.

        Args:
            address: of the receiver.
            due: so many frames, from the first on.
        """
        try:
            if self._sock is None:
                self._connect(address)
            if self._receipts:
                self._read()
            if self._greeted:
                self._send(min(due, self._frames))
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def close(self) -> None:
        """Close; what was sent in part goes again, whole."""
        if self._sock is not None:
            self._sock.close()
        self._sock, self._greeted, self._replies = None, False, b""
        if self._rest and not self._receipts:
            self.sent -= 1
        self._rest = b""

    def _connect(self, address: str) -> None:
        self._sock = dial(address)
        self._sock.setblocking(False)
        self._greeted = not self._receipts
        if self._receipts:
            hello = {"v": 1, "src": f"bench-{self._connection}-0", "ts": 1, "type": "hello"}
            data = {"session": f"session-{self._connection}"}
            self._sock.sendall(json.dumps({**hello, "data": data}).encode() + b"\n")

    def _send(self, due: int) -> None:
        assert self._sock is not None
        while self._rest or self.sent < due:
            if not self._rest:
                self._rest = self._next(due)
            self._rest = self._rest[self._sock.send(self._rest) :]

    def _next(self, due: int) -> bytes:
        made = frame(self._connection, self.sent, self.sent + 1 if self._receipts else 0)
        if self._receipts:
            self._unsafe.append(made)
        self.sent += 1
        return made

    def _read(self) -> None:
        """Take the receipts that are there; a welcome says from where to go on."""
        assert self._sock is not None
        with contextlib.suppress(BlockingIOError):
            while data := self._sock.recv(65_536):
                self._replies += data
            raise ConnectionResetError("closed by the receiver")
        *lines, self._replies = self._replies.split(b"\n")
        for line in lines:
            reply = json.loads(line)
            for _ in range(reply["q"] - (self.sent - len(self._unsafe))):
                self._unsafe.popleft()
            if reply["type"] == "welcome":
                self._greeted = True
                self._rest = b"".join(self._unsafe)


def run(contender: Contender, folder: str, number: int, frames: int, rate: int) -> Tally:
    """Send; at half of it end the receiver by a signal, and start it again once it is gone.

    Args:
        contender: whom to.
        folder: for its files.
        number: of the signal.
        frames: in all.
        rate: a second.

    Raises:
        BenchError: it did not go on within two minutes.
    """
    program = contender.program(folder, "tcp")
    streams = [Stream(n, frames // CONNECTIONS, contender.receipts) for n in range(CONNECTIONS)]
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(running(program, folder))
        address, began, signalled, again = target.address("tcp"), time.monotonic(), False, False
        while not (again and all(stream.done for stream in streams)):
            passed = time.monotonic() - began
            if passed > _LIMIT_SECONDS + frames / rate:
                raise BenchError(f"the sender could not go on:\n{target.log()}")
            if not signalled and sum(stream.sent for stream in streams) >= frames // 2:
                target.signal(number)
                signalled = True
            elif signalled and not again and target.ended:
                target = stack.enter_context(running(program, folder))
                again = True
            for stream in streams:
                stream.go_on(address, int(passed * rate) // CONNECTIONS)
            time.sleep(TICK_SECONDS)
        _wait_until_quiet(target)
        for stream in streams:
            stream.close()
        target.end()
    return tally(target.output, frames // CONNECTIONS * CONNECTIONS)


def _wait_until_quiet(target: Receiver) -> None:
    seen, since = -1, time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        size = os.path.getsize(target.output) if os.path.exists(target.output) else 0
        if size != seen:
            seen, since = size, time.monotonic()
        time.sleep(0.05)


#: Ways to end, by the words of the table.
ENDS = {"killed with -9": signal.SIGKILL, "stopped with TERM": signal.SIGTERM}
