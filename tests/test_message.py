"""Batches: parts, joins and halves hold the same lines as the whole."""

import json

from hypothesis import given
from hypothesis import strategies as st

from wafermon.message import Batch, level_rank
from wafermon.testing import frame

batches = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 99)), min_size=1, max_size=12
).map(lambda pairs: Batch(b"".join(frame(n, src=src) for src, n in pairs), received_ms=5))


@given(batches)
def test_lines_messages_and_counts_agree(batch):
    assert len(batch) == len(batch.lines) == len(batch.messages)
    assert [json.loads(line) for line in batch.lines] == batch.messages
    assert sum(batch.sources.values()) == len(batch)


@given(batches)
def test_by_source_is_a_partition_in_order(batch):
    parts = batch.by_source()
    for source, part in parts.items():
        assert part.lines == [ln for ln, m in zip(batch.lines, batch.messages) if m["src"] == source]
        assert part.sources == {source: len(part)} and part.received_ms == 5


@given(st.lists(batches, min_size=1, max_size=5))
def test_join_is_the_sum(several):
    whole = Batch.join([batch.packed() for batch in several])
    assert whole.raw == b"".join(batch.raw for batch in several)
    plain = Batch(whole.raw)
    assert whole.sources == plain.sources and len(whole) == len(plain)
    assert {s: p.raw for s, p in whole.by_source().items()} == {
        s: p.raw for s, p in plain.by_source().items()
    }


@given(batches)
def test_halves_are_the_whole(batch):
    if len(batch) > 1:
        first, second = batch.split(len(batch) // 2)
        assert first.raw + second.raw == batch.raw and len(first) and len(second)


def test_level_rank_takes_anything():
    assert [level_rank(x) for x in ("debug", "fatal", "loud", None, [], 1)] == [0, 4, -1, -1, -1, -1]


def test_what_is_told_by_type():
    lines = [
        b'{"v":1,"src":"a","ts":1,"type":"event","data":{"level":"info","msg":"x"}}',
        b'{"v":1,"src":"a","ts":2,"type":"heartbeat"}',
        b'{"v":1,"src":"a","ts":3,"type":"event","tid":"t","data":{"level":"info","msg":"y"}}',
        b'{"v":1,"src":"b","ts":4,"type":"heartbeat"}',
    ]
    told = Batch(b"\n".join(lines) + b"\n").told
    assert {kind: [m["ts"] for m in found] for kind, found in told.items()} == {
        "heartbeat": [2, 4], "event": [3],
    }
