"""The console backend on pipes, files and stream objects."""

import gzip
import io
import os
import sys
import threading

import pytest

from wafermon.backends.console import ConsoleBackend
from wafermon.errors import RetryableError
from wafermon.testing import BackendContract, batch, frames


class TestContract(BackendContract):
    def make(self, tmp_path):
        stream = open(tmp_path / "out", "ab")
        self.streams = [*getattr(self, "streams", []), stream]
        return ConsoleBackend(stream)

    def read(self, tmp_path):
        return (tmp_path / "out").read_bytes().split(b"\n")[:-1]

    def test_close_lets_go_of_all_descriptors(self, tmp_path):
        """The stream is not its own: what it must do is leave it open."""
        sink = self.make(tmp_path)
        sink.close()
        assert not self.streams[0].closed

    @pytest.fixture(autouse=True)
    def close_streams(self):
        yield
        for stream in self.streams:
            stream.close()


class TestContractInMemory(BackendContract):
    def make(self, tmp_path):
        self.stream = io.BytesIO()
        return ConsoleBackend(self.stream)

    def read(self, tmp_path):
        return self.stream.getvalue().split(b"\n")[:-1]


@pytest.mark.parametrize(("name", "fd"), [("stdout", 1), ("stderr", 2)])
def test_by_name(capfd, name, fd):
    sink = ConsoleBackend(name)
    sink.open()
    sink.write(batch(frames(3)))
    sink.close()
    assert capfd.readouterr()[fd - 1].encode() == b"".join(frames(3))
    os.fstat(fd)  # still open


def test_what_was_printed_before_comes_first(tmp_path):
    with open(tmp_path / "out", "w", encoding="latin-1") as stream:
        print("first", file=stream)
        ConsoleBackend(stream).write(batch(frames(1, src="工")))
        print("last", file=stream)
    assert (tmp_path / "out").read_bytes() == b"first\n" + frames(1, src="工")[0] + b"last\n"


def test_text_without_bytes_beneath():
    stream = io.StringIO()
    ConsoleBackend(stream).write(batch(frames(1, src="工")))
    assert stream.getvalue().encode() == frames(1, src="工")[0]


def test_a_compressing_file_compresses(tmp_path):
    with gzip.open(tmp_path / "out.gz", "wb") as stream:
        ConsoleBackend(stream).write(batch(frames(3)))
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()) == b"".join(frames(3))


def test_a_closed_stream_is_retryable(tmp_path):
    for stream in (io.BytesIO(), open(tmp_path / "out", "wb")):
        stream.close()
        with pytest.raises(RetryableError, match="closed"):
            ConsoleBackend(stream).write(batch(frames(1)))


def test_a_full_device_is_retryable():
    with open("/dev/full", "wb") as stream, pytest.raises(RetryableError, match="No space"):
        ConsoleBackend(stream).write(batch(frames(1)))


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    with open(writer, "wb", buffering=0) as stream:
        yield reader, stream


def read_all(reader):
    with open(reader, "rb") as stream:
        return stream.read()


def test_a_broken_pipe_is_retryable(pipe):
    reader, stream = pipe
    os.close(reader)
    sink = ConsoleBackend(stream)
    for _ in range(2):
        with pytest.raises(RetryableError, match="Broken pipe"):
            sink.write(batch(frames(1)))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_pauses_gets_each_byte_once(pipe, blocking):
    reader, stream = pipe
    os.set_blocking(stream.fileno(), blocking)
    sink = ConsoleBackend(stream, timeout=0.01)
    big = batch(frames(5000))
    with pytest.raises(RetryableError, match="nobody has read"):
        sink.write(big)
    got = []
    thread = threading.Thread(target=lambda: got.append(read_all(reader)))
    thread.start()
    sink._timeout = 30.0
    sink.open()
    sink.write(big)
    sink.write(batch(frames(2)))
    stream.close()
    thread.join()
    assert got == [big.raw + b"".join(frames(2))]


@pytest.mark.timeout(60)
def test_a_line_torn_by_a_batch_that_was_given_up_is_ended(pipe):
    reader, stream = pipe
    sink = ConsoleBackend(stream, timeout=0.01)
    big = batch(frames(5000))
    for given_up in (big, batch(frames(1)), batch(frames(1))):
        with pytest.raises(RetryableError):
            sink.write(given_up)
    got = []
    thread = threading.Thread(target=lambda: got.append(read_all(reader)))
    thread.start()
    sink._timeout = 30.0
    sink.write(batch(frames(2)))
    stream.close()
    thread.join()
    lines = got[0].split(b"\n")
    assert [line + b"\n" for line in lines[-3:-1]] == frames(2)
    assert lines[:-4] == big.lines[: len(lines) - 4] and big.lines[len(lines) - 4].startswith(
        lines[-4]
    )


def test_a_stream_that_cannot_work():
    for wrong in ("stdin", None, 1):
        with pytest.raises(ValueError, match="stdout"):
            ConsoleBackend(wrong)
    assert ConsoleBackend(sys.stdout).idle() is None
