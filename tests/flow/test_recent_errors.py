"""The last errors of a source are found without decoding what holds none."""

from wafermon.flow import RecentErrors
from wafermon.flow.recent_errors import BYTES_PER_SECOND, MAX_ERRORS, MAX_TEXT
from wafermon.testing import batch, frame


def event(src="a", level="error", msg="m", ts=1, **more):
    return frame(src=src, ts=ts, data={"level": level, "msg": msg}, **more)


def told(errors, src="a"):
    return [(error.ts, error.level, error.msg) for error in errors.of(src)]


def test_the_newest_come_first_and_few_are_kept():
    errors = RecentErrors()
    errors.observe(batch([event(ts=n, msg=f"m{n}", level=["error", "fatal"][n % 2]) for n in range(9)]), 0.0)
    assert [ts for ts, _, _ in told(errors)] == [8, 7, 6, 5, 4][:MAX_ERRORS]
    assert told(errors)[0] == (8, "error", "m8") and errors.of("b") == []


def test_what_only_looks_like_one_is_none():
    errors = RecentErrors()
    errors.observe(batch([
        event(level="info", msg='"error"'), frame(src="a", type="metric", data={"name": "x", "value": 1, "level": "error"}),
        frame(src="a", type="span", tid="t", sid="1", data={"name": "x", "duration_ms": 1, "status": "error"}),
        frame(type="heartbeat", src="fatal"),
    ]), 0.0)  # fmt: skip
    assert errors.of("a") == []


def test_texts_and_sources_are_bounded_and_odd_payloads_pass():
    errors = RecentErrors(max_sources=2)
    errors.observe(batch([event("a", msg="x" * 1000, tid="t1"), event("b", msg=["odd"]), event("c")]), 0.0)
    assert errors.of("a") == []
    assert told(errors, "b") == [(1, "error", "")] and told(errors, "c") == [(1, "error", "m")]
    errors.observe(batch([event("b", msg="x" * 1000, tid="t1")]), 0.0)
    newest = errors.of("b")[0]
    assert (len(newest.msg), newest.tid) == (MAX_TEXT, "t1")


def test_what_comes_faster_is_seen_in_samples():
    errors = RecentErrors()
    large = batch([event(msg="x" * 10_000)] * 20)
    for _ in range(2 * BYTES_PER_SECOND // len(large.raw)):
        errors.observe(large, 10.0)
    passed_over = errors.passed_over
    assert passed_over > 0
    errors.observe(batch([event(ts=2)]), 11.0)
    assert errors.passed_over == passed_over and told(errors)[0] == (2, "error", "m")
