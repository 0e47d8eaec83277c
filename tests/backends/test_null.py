"""The null backend."""

from wafermon.backends.null import NullBackend
from wafermon.testing import BackendContract, batch, frames


class TestContract(BackendContract):
    def make(self, tmp_path):
        return NullBackend()

    def read(self, tmp_path):
        return None


def test_counts():
    sink = NullBackend()
    for count in (3, 0, 2):
        sink.write(batch(frames(count)))
    assert (sink.batches, sink.written) == (2, 5)
    assert sink.written_bytes == len(b"".join(frames(3) + frames(2)))
