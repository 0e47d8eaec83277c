"""What an alert sets off beside its event: a command, and a POST. On threads of their own."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import IO, Callable, NamedTuple, Optional, cast

from wafermon.backends import HttpBackend
from wafermon.backends.dial import shown
from wafermon.errors import PermanentError, RetryableError
from wafermon.flow.alerts import Change
from wafermon.message import Batch
from wafermon.observe import Family, family

#: What one rule has still to do; more is dropped and counted.
MAX_WAITING = 100
#: What a command says is read to its end, and this much of it is told where it fails.
SAID_BYTES = 1_000
TRIES = 3
#: Before the second try; before the third it is twice as long.
RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 30.0
#: How often a thread that waits for a command looks whether it should end.
_LOOK_SECONDS = 0.1
_OK, _FAILED, _TIMED_OUT, _DROPPED = "ok", "failed", "timed_out", "dropped"

log = logging.getLogger("wafermon.sidecar")


class Told(NamedTuple):
    """A change of an alert, and the event that tells it."""

    change: Change
    event: Batch


class ActionError(Exception):
    """An action failed; `result` is what it counts as."""

    def __init__(self, text: str, result: str = _FAILED) -> None:
        super().__init__(text)
        self.result = result


#: Does what there is to do, or raises ActionError. The event is set when it should end at once.
Action = Callable[[Told, threading.Event], None]


class Outcomes:
    """How actions ended, all rules together. Thread: any."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys((_OK, _FAILED, _TIMED_OUT, _DROPPED), 0)
        self._lock = threading.Lock()

    def add(self, result: str) -> None:
        """Count one."""
        with self._lock:
            self._counts[result] += 1

    def collect(self) -> list[Family]:
        """Yield the counter."""
        return [
            family(
                "sidecar_alert_actions_total",
                "counter",
                "Commands and posts that alerts set off, by how they ended.",
                self._counts,
                "result",
            )
        ]


class Runner:
    """One action of one rule: once at a time, in order, on a thread that is there while there is
    something to do.

    Args:
        name: of the alert, for the log.
        action: what to do.
        outcomes: where it is counted.

    Thread: any; only `wait` waits.
    """

    def __init__(self, name: str, action: Action, outcomes: Outcomes) -> None:
        self._name, self._action, self._outcomes = name, action, outcomes
        self._lock = threading.Lock()
        self._waiting: collections.deque[Told] = collections.deque()
        self._idle = threading.Event()
        self._idle.set()
        self._ending = threading.Event()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return self._idle.is_set()

    def put(self, told: Told) -> None:
        """Do it once for this change, when those before are done."""
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                self._outcomes.add(_DROPPED)
                return
            self._waiting.append(told)
            if not self.is_idle or self._ending.is_set():
                return
            thread = threading.Thread(target=self._run, name=f"alert-{self._name}", daemon=True)
            try:
                thread.start()
                self._idle.clear()
            except RuntimeError:  # no more threads to be had; the next change tries again
                log.exception("alert %s: no thread for its action", self._name)

    def stop(self) -> None:
        """End what runs; what waits is left undone."""
        self._ending.set()

    def wait(self, timeout: float) -> None:
        """Wait at most so many seconds until there is nothing to do."""
        self._idle.wait(timeout)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._ending.is_set():
                    self._idle.set()
                    return
                told = self._waiting.popleft()
            self._outcomes.add(self._result(told))

    def _result(self, told: Told) -> str:
        try:
            self._action(told, self._ending)
        except ActionError as error:
            log.error("alert %s: %s", self._name, error)
            return error.result
        except Exception:
            log.exception("alert %s: an action failed by a fault of our own", self._name)
            return _FAILED
        return _OK


def post(url: str, timeout: float) -> Action:
    """POST the event, a JSON object; three tries where the server may yet take it.

    Args:
        url: where to.
        timeout: seconds for each try.

    Raises:
        ValueError: a url that can never work.
    """
    headers = {"Content-Type": "application/json"}
    backend = HttpBackend(url, headers=headers, timeout=timeout)

    def run(told: Told, ending: threading.Event) -> None:
        with contextlib.closing(backend):
            for attempt in range(1, TRIES + 1):
                try:
                    backend.write(told.event)
                    return
                except PermanentError as error:
                    raise ActionError(f"not posted: {error}") from error
                except RetryableError as error:
                    if attempt == TRIES:
                        raise ActionError(f"not posted in {TRIES} tries: {error}") from error
                    asked = error.retry_after or RETRY_SECONDS * attempt
                    if ending.wait(min(asked, _LONGEST_RETRY_SECONDS)):
                        raise ActionError("not posted: the sidecar ends") from error

    return run


def command(words: Sequence[str], timeout: float) -> Action:
    """Run a command without a shell, with what there is to tell in its environment.

    It and all that it has started is killed when it takes too long; what it says is thrown away,
    but for the first bytes in the log where it fails.

    Args:
        words: the program, as PATH finds it, and its arguments.
        timeout: seconds.
    """

    def run(told: Told, ending: threading.Event) -> None:
        try:
            process = subprocess.Popen(  # noqa: S603 - the words are the user's own
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment(told.change)},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise ActionError(f"exec: {words[0]} cannot be run: {error}") from error
        status, said = _wait(process, timeout, ending)
        text = f"exec: {words[0]} ended with {status}"
        if status is None and ending.is_set():
            text = f"exec: {words[0]} was killed, as the sidecar ends"
        elif status is None:
            text = f"exec: {words[0]} was killed, it took over {timeout:g} s"
        if status != 0:
            text += f"; it said: {shown(said.decode('utf-8', 'replace'))}" if said else ""
            late = status is None and not ending.is_set()
            raise ActionError(text, _TIMED_OUT if late else _FAILED)

    return run


def environment(change: Change) -> dict[str, str]:
    """What a command finds in its environment."""
    words = {
        "NAME": change.name,
        "KIND": change.kind,
        "SUBJECT": change.subject,
        "STATE": change.state,
        "MESSAGE": change.message,
        "VALUE": "" if change.value is None else f"{change.value:.12g}",
        "SINCE_MS": f"{change.since * 1000:.0f}",
    }
    return {f"WAFERMON_ALERT_{name}": word for name, word in words.items()}


def _wait(
    process: subprocess.Popen[bytes], timeout: float, ending: threading.Event
) -> tuple[Optional[int], bytes]:
    """Read what a command says until it ends, or has to.

    Returns:
        Its exit status, None where it was killed; and the first bytes.
    """
    deadline, said, more = time.monotonic() + timeout, bytearray(), True
    with cast(IO[bytes], process.stdout) as pipe:
        fd = pipe.fileno()
        status = process.poll()
        while status is None and not ending.is_set() and time.monotonic() < deadline:
            if more:
                more = _read(fd, said, _LOOK_SECONDS)
            else:
                ending.wait(_LOOK_SECONDS)
            status = process.poll()
        if status is not None and more:
            _read(fd, said, 0)  # no more than is there: what it has started may go on
    if status is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
    return status, bytes(said)


def _read(fd: int, said: bytearray, seconds: float) -> bool:
    """Wait for something to read, and read it; whether more may come."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(seconds * 1000):
        return True
    chunk = os.read(fd, 65_536)
    said += chunk[: SAID_BYTES - len(said)]
    return bool(chunk)
