"""The memory backend."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafermon.backends.memory import MemoryBackend
from wafermon.testing import BackendContract, batch, frames


class TestContract(BackendContract):
    sink = None

    def make(self, tmp_path):
        self.sink = MemoryBackend()
        return self.sink

    def read(self, tmp_path):
        return self.sink.lines


@given(st.lists(st.integers(0, 12), max_size=12), st.integers(1, 15))
def test_the_newest_stay_and_the_rest_is_counted(sizes, most):
    sink = MemoryBackend(max_messages=most)
    sent = []
    for size in sizes:
        more = frames(size, first=len(sent))
        sent += more
        sink.write(batch(more))
        assert [line + b"\n" for line in sink.lines] == sent[-most:]
        assert [message["data"]["msg"] for message in sink.messages] == [
            str(n) for n in range(len(sent))
        ][-most:]
    assert sink.written == len(sent)
    assert sink.evicted == max(0, len(sent) - most)


def test_wait_for():
    sink = MemoryBackend(max_messages=2)
    assert sink.wait_for(0) and not sink.wait_for(1, timeout=0)
    writer = threading.Thread(target=sink.write, args=(batch(frames(3)),))
    writer.start()
    assert sink.wait_for(3)
    writer.join()


def test_clear():
    sink = MemoryBackend()
    sink.write(batch(frames(3)))
    sink.clear()
    assert (sink.lines, sink.messages, sink.written, sink.evicted) == ([], [], 0, 0)


def test_max_messages_must_be_positive():
    with pytest.raises(ValueError, match="max_messages"):
        MemoryBackend(0)
