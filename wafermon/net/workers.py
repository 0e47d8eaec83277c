"""Worker processes that decode: the costliest step, taken off the process that owns all the rest.

The owner keeps the connections, and every block that a worker has not answered. So a worker that
is killed, or hangs, costs nobody a message or a connection: the owner decodes the block itself.

All are forked from a nursery, which is forked first: before there are threads that a fork would
cut in half, and with all modules imported, so that it does not matter what becomes of the files
that they came from.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import logging
import marshal
import os
import signal
import socket
import struct
import time
from typing import Any, Callable, NamedTuple, NoReturn, Optional

from wafermon.message import Batch
from wafermon.net.loop import EventLoop
from wafermon.observe import Family, family
from wafermon.wire.blocks import BlockDecoder

#: Blocks that wait for one worker; with two it has the next one at hand when it has answered.
MAX_WAITING = 4
#: A worker that has not answered for this long is replaced.
HANG_SECONDS = 5.0
#: Between the loss of a worker and its replacement.
HIRE_SECONDS = 0.2
_LENGTH = struct.Struct(">I")
_READ_BYTES = 65_536
#: Room of a link for blocks: by default three have it, and a worker waits for the fourth.
_LINK_BYTES = 1 << 20

log = logging.getLogger("wafermon.net")

#: Called with what a worker made of a block; None: the owner has to look at it itself.
Done = Callable[[Optional[Batch]], None]


class _Task(NamedTuple):
    block: bytes
    done: Done
    since: float


class _Worker:
    """The owner's end of a worker."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.pid = 0
        self.tasks: collections.deque[_Task] = collections.deque()
        self.unsent = bytearray()
        self.received = bytearray()


class Workers:
    """Decode blocks in other processes.

    Life cycle: `start` before the process has threads, `serve` once the loop may be used, `stop`.

    Args:
        count: how many.
        loop: answers come on its thread.

    Thread: loop only, but `start` and `stop` the owner's and `collect` any.

    >>> loop = EventLoop()
    >>> workers = Workers(1, loop)
    >>> workers.start()
    >>> workers.serve()
    >>> def done(batch):
    ...     print(len(batch), batch.sources, batch.numbers)
    ...     loop.stop()
    >>> workers.submit(b'{"v":1,"src":"a","ts":1,"type":"heartbeat","q":7}\\n', done)
    True
    >>> loop.run()
    1 {'a': 1} [7]
    >>> workers.stop()
    >>> loop.close()
    """

    def __init__(self, count: int, loop: EventLoop) -> None:
        self._count = count
        self._loop = loop
        self._nursery: Optional[socket.socket] = None
        self._nursery_pid = 0
        self._workers: list[_Worker] = []
        self._stopped = False
        #: Workers that ended, or were ended, while they were wanted.
        self.lost = 0
        #: Blocks that workers answered for.
        self.answered = 0

    @property
    def pids(self) -> list[int]:
        """Those of the workers that have reported."""
        return [worker.pid for worker in self._workers if worker.pid]

    def start(self) -> None:
        """Fork the nursery.

        Raises:
            OSError: there can be no further process.
        """
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if not pid:
            _run_nursery(theirs)
        theirs.close()
        ours.setblocking(False)
        self._nursery, self._nursery_pid = ours, pid

    def serve(self) -> None:
        """Have the workers forked, and see to it that they answer."""
        for _ in range(self._count):
            self._hire()
        self._loop.call_later(HANG_SECONDS / 5, self._look_after)

    def submit(self, block: bytes, done: Done) -> bool:
        """Have a block of whole lines decoded.

        Args:
            done: called on the loop thread; blocks of one worker are answered in order.

        Returns:
            False where all workers have enough to do; `done` is not called then.
        """
        worker = self._idlest()
        if worker is not None and len(worker.tasks) >= MAX_WAITING:
            # It may have answered already: the loop looks once a turn, which can be as many blocks.
            for one in list(self._workers):
                self._read(one)
            worker = self._idlest()
        if worker is None or len(worker.tasks) >= MAX_WAITING:
            return False
        self._loop.hurried = True
        head = _LENGTH.pack(len(block))
        sent = 0
        if not worker.unsent:
            try:
                sent = worker.link.sendmsg([head, block])
            except BlockingIOError:
                pass
            except OSError:
                return False  # nothing was sent; if it has ended, that is about to be read
        worker.tasks.append(_Task(block, done, self._loop.clock()))
        if sent < len(head) + len(block):
            worker.unsent += (head + block)[sent:]
            self._watch(worker)
        return True

    def _idlest(self) -> Optional[_Worker]:
        return min(self._workers, key=lambda worker: len(worker.tasks), default=None)

    def _watch(self, worker: _Worker) -> None:
        writing = (lambda: self._write(worker)) if worker.unsent else None
        self._loop.watch(worker.link, lambda: self._read(worker), writing)

    def _write(self, worker: _Worker) -> None:
        try:
            sent = worker.link.send(worker.unsent)
        except BlockingIOError:
            return
        except OSError:
            self._lose(worker)
            return
        del worker.unsent[:sent]
        if not worker.unsent:
            self._watch(worker)

    def _read(self, worker: _Worker) -> None:
        if worker not in self._workers:
            return  # it was lost in writing to it, in this very turn
        try:
            data = worker.link.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose(worker)
            return
        received = worker.received
        received += data
        while len(received) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(received)[0]
            if len(received) < end:
                return
            answer = marshal.loads(received[_LENGTH.size : end])  # noqa: S302 - our own child's
            del received[:end]
            if type(answer) is int:
                worker.pid = answer
            else:
                task = worker.tasks.popleft()
                self.answered += 1
                _tell(task, None if answer is None else Batch.described(task.block, *answer))

    def _hire(self) -> None:
        """Have a worker forked; where that cannot be for now, try again."""
        if self._stopped or self._nursery is None:
            return
        try:
            ours, theirs = socket.socketpair()
        except OSError:  # no descriptors
            self._loop.call_later(HIRE_SECONDS, self._hire)
            return
        with theirs:
            try:
                socket.send_fds(self._nursery, [b"\0"], [theirs.fileno()])
            except BlockingIOError:  # it is stopped, and has been asked often enough
                ours.close()
                self._loop.call_later(HANG_SECONDS, self._hire)
                return
            except OSError as error:
                ours.close()
                log.error("no further worker processes: %s; this one does their work", error)
                self._let_nursery_go()
                return
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LINK_BYTES)
        worker = _Worker(ours)
        self._workers.append(worker)
        self._watch(worker)

    def _let_nursery_go(self) -> None:
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None
        if self._nursery_pid:
            _see_off(self._nursery_pid)
            self._nursery_pid = 0

    def _lose(self, worker: _Worker) -> None:
        """A worker has ended: do here what it has not done, and have another one."""
        self._workers.remove(worker)
        self._loop.remove_reader(worker.link)
        worker.link.close()
        self.lost += 1
        log.error("worker process %s has ended; what it had is decoded here", worker.pid or "")
        self._loop.call_later(HIRE_SECONDS, self._hire)
        for task in worker.tasks:
            _tell(task, None)

    def _look_after(self) -> None:
        """Replace who hangs."""
        late = self._loop.clock() - HANG_SECONDS
        for worker in list(self._workers):
            if worker.tasks and worker.tasks[0].since < late:
                log.error("worker process %s does not answer and is replaced", worker.pid or "")
                if worker.pid:
                    with contextlib.suppress(OSError):
                        os.kill(worker.pid, signal.SIGKILL)
                self._lose(worker)
        if not self._stopped:
            self._loop.call_later(HANG_SECONDS / 5, self._look_after)

    def stop(self) -> None:
        """Let all of them end; the loop does not run any more. Twice is harmless."""
        self._stopped = True
        for worker in self._workers:
            worker.link.close()
            if worker.pid:
                with contextlib.suppress(OSError):
                    os.kill(worker.pid, signal.SIGCONT)  # one that is stopped has to see it
        self._workers = []
        self._let_nursery_go()

    def collect(self) -> list[Family]:
        """Yield its counters."""
        return [
            family(
                "sidecar_worker_processes",
                "gauge",
                "Worker processes that are there and ready.",
                {"": len(self.pids)},
            ),
            family(
                "sidecar_worker_processes_lost_total",
                "counter",
                "Worker processes that ended, or hung, and were replaced.",
                {"": self.lost},
            ),
            family(
                "sidecar_worker_blocks_total",
                "counter",
                "Blocks that worker processes answered.",
                {"": self.answered},
            ),
        ]


def _tell(task: _Task, batch: Optional[Batch]) -> None:
    """Whatever becomes of one answer, the next is told, too."""
    try:
        task.done(batch)
    except Exception:
        log.exception("a fault of our own with what a worker process answered")


def _see_off(pid: int, seconds: float = 1.0) -> None:
    """Wait for a child that is about to end; one that does not is killed."""
    until = time.monotonic() + seconds
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return
            time.sleep(0.005)


# -- in the children ---------------------------------------------------------------------------


def _run_nursery(control: socket.socket) -> NoReturn:
    """Fork a worker for each descriptor that comes, until the owner is gone."""
    try:
        _leave_owner(control.fileno())
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            if not message:
                break
            for descriptor in descriptors:  # none where there was no room for it
                with socket.socket(fileno=descriptor) as link, contextlib.suppress(OSError):
                    # Where there can be no process now, the owner reads the link's end, and asks
                    # again.
                    if not os.fork():
                        control.close()
                        _work(link)
    finally:
        os._exit(0)


def _leave_owner(keep: int) -> None:
    """Keep nothing of the owner's: no lock, no socket, no signal.

    A signal that goes to the whole group, or to all of a service, is the owner's to act on: it
    still needs us while it stops. We end when it closes the link, or is gone.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    for name in os.listdir("/dev/fd"):  # closerange() would try a billion where that is the limit
        if int(name) > 2 and int(name) != keep:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _work(link: socket.socket) -> NoReturn:
    """Decode until the owner is gone."""
    try:
        gc.disable()  # nothing here lives longer than a block
        decoder = BlockDecoder()
        link.sendall(_packed(os.getpid()))
        while True:
            (size,) = _LENGTH.unpack(_receive(link, _LENGTH.size))
            link.sendall(_packed(_describe(decoder.decode(_receive(link, size)))))
    except OSError:
        pass
    finally:
        os._exit(0)


def _receive(link: socket.socket, size: int) -> bytes:
    data = link.recv(size, socket.MSG_WAITALL)
    if len(data) < size:
        raise ConnectionError("the owner is gone")
    return data


def _describe(batch: Optional[Batch]) -> Any:
    """What the owner wants to know of a block; None where it has to look itself."""
    if batch is None or batch.hellos or batch.goodbyes:
        return None
    numbers = batch.numbers if batch.numbered else None
    return len(batch), batch.sources, numbers, list(batch.telling_at)


def _packed(answer: Any) -> bytes:
    data = marshal.dumps(answer)
    return _LENGTH.pack(len(data)) + data
