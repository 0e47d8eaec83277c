"""Raw lines on standard output or any open stream, as containers like it."""

from __future__ import annotations

import io
import os
import select
import stat
from typing import IO, Any, Optional, Union

from wafermon.delivery.backend import Backend
from wafermon.errors import RetryableError
from wafermon.message import Batch

_FDS = {"stdout": 1, "stderr": 2}
_READER_SECONDS = 10.0


class ConsoleBackend(Backend):
    """Writes the raw lines of each batch to a stream, byte for byte as they came.

    What a pipe has taken cannot be taken back. So a batch that was stopped in the middle goes on
    there when it is written again, and where another one comes instead, the torn line is ended
    first.

    A broken pipe is retryable, though it may never heal: it is no fault of the message, and as a
    permanent error each line would be dead-lettered one by one. Retried, the circuit breaker
    opens, the health page says so, and the policy of the route holds.

    Args:
        stream: "stdout" or "stderr", which are the file descriptors 1 and 2 whatever became of
            `sys.stdout`; or a file object, binary or text. It is never closed here.
        timeout: seconds to wait for the reader of a full pipe.

    Raises:
        ValueError: a stream that is none of these.

    Thread: owned by its delivery thread.

    >>> import io
    >>> stream = io.BytesIO()
    >>> ConsoleBackend(stream).write(Batch(b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n'))
    >>> stream.getvalue()
    b'{"v":1,"src":"a","ts":1,"type":"heartbeat"}\\n'
    """

    def __init__(
        self, stream: Union[str, IO[bytes], IO[str]] = "stdout", timeout: float = _READER_SECONDS
    ) -> None:
        if stream not in _FDS if isinstance(stream, str) else not hasattr(stream, "write"):
            raise ValueError(f"stream: expected 'stdout', 'stderr' or a file, got {stream!r}")
        self._given: Any = stream
        # A text stream over bytes has them beneath; its own encoding never touches the lines.
        self._stream: Any = getattr(stream, "buffer", stream)
        self._name = stream if isinstance(stream, str) else repr(stream)[:200]
        self._timeout = timeout
        # The batch being written, its bytes and how many of them went out: it outlives a failure.
        self._batch: Optional[Batch] = None
        self._raw = b""
        self._sent = 0
        self._in_line = False

    def write(self, batch: Batch) -> None:
        """Write a batch and flush it; beneath a pipe 4 KiB at a time, some 3 us each.

        Raises:
            RetryableError: the stream is closed, broken or full. The same batch object goes on
                where it was stopped.
        """
        if not len(batch):
            return
        try:
            fd = self._descriptor()
            if fd is None:
                text = isinstance(self._stream, io.TextIOBase)
                self._stream.write(batch.raw.decode("utf-8") if text else batch.raw)
                self._stream.flush()
                return
            if batch is not self._batch:
                # The end of a torn line makes a bad line for the reader, but spoils no other.
                self._raw = b"\n" + batch.raw if self._in_line else batch.raw
                self._batch, self._sent = batch, 0
            self._write_fd(fd)
            self._batch, self._raw = None, b""
        except (OSError, ValueError) as error:
            # ValueError is what Python says of a closed file object.
            raise RetryableError(f"{self._name}: {error}") from error

    def follow(self, other: Backend) -> None:
        """As `Backend.follow`."""
        if isinstance(other, ConsoleBackend):
            self._timeout = other._timeout

    def _descriptor(self) -> Optional[int]:
        """The file descriptor beneath the stream, where there is nothing between that matters.

        A compressing file has one, too, which is why only plain files count.
        """
        if isinstance(self._stream, str):
            return _FDS[self._stream]
        self._given.flush()  # what others have printed comes first
        plain = getattr(self._stream, "raw", self._stream)
        return plain.fileno() if isinstance(plain, io.FileIO) else None

    def _write_fd(self, fd: int) -> None:
        mode = os.fstat(fd).st_mode
        # A pipe that is said to be writable takes so much without blocking. More could hold this
        # thread for as long as the reader likes.
        step = select.PIPE_BUF if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else len(self._raw)
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        while self._sent < len(self._raw):
            if not poll.poll(self._timeout * 1000):
                raise TimeoutError(f"nobody has read for {self._timeout:g} s")
            self._sent += os.write(fd, self._raw[self._sent : self._sent + step])
            self._in_line = self._raw[self._sent - 1] != ord("\n")
