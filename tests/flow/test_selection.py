"""Selections, and times as people write them."""

import json
import time

import pytest

from wafermon.flow.selection import Selection, event_rank, parse_time
from wafermon.message import Batch
from wafermon.testing import batch, frame, frames

NOW = 1_769_868_303.0  # 2026-01-31 14:05:03 UTC


def passes(selection, line):
    line = line.rstrip(b"\n")
    return selection.matches(json.loads(line), line)


def said(message, ensure_ascii=False):
    data = {"level": "info", "msg": message}
    fields = {"v": 1, "src": "a", "ts": 1, "type": "event", "data": data}
    return json.dumps(fields, ensure_ascii=ensure_ascii).encode()


@pytest.mark.parametrize(
    ("asked", "src", "wanted"),
    [
        ("db", "db", True),
        ("db", "db2", False),
        ("db*", "db2", True),
        ("*", "工程", True),
        ("d?", "db", True),
        ("d?", "d工", True),
        ("d?", "d", False),
        ("DB", "db", False),
        ("job[3]", "job[3]", True),
        ("job[3]*", "job[3] x", True),
        ("job[3]*", "job3", False),
        ("a.c", "abc", False),
        ("a.*", "a.c", True),
        ("a|b", "a", False),
    ],
)
def test_src(asked, src, wanted):
    assert passes(Selection(src=(asked,)), frame(src=src)) is wanted
    assert passes(Selection(src=("nobody", asked)), frame(src=src)) is wanted


def test_types():
    wanted = Selection(types=("span", "metric"))
    assert passes(wanted, frame(type="metric"))
    assert not passes(wanted, frame(type="event"))


@pytest.mark.parametrize(
    ("level", "wanted"),
    [("debug", False), ("info", False), ("warn", True), ("error", True), ("fatal", True)]
    + [(odd, False) for odd in ("WARN", "warning", "", None, 3, ["warn"], {"a": 1})],
)
def test_level(level, wanted):
    assert passes(Selection(level="warn"), frame(data={"level": level, "msg": ""})) is wanted


def test_a_level_lets_only_events_pass():
    assert not passes(Selection(level="debug"), frame(type="metric", data={"level": "fatal"}))
    assert not passes(Selection(level="debug"), b'{"src":"a","ts":1,"type":"heartbeat"}')
    assert event_rank({"type": "heartbeat"}) == -1


def test_tid():
    assert passes(Selection(tid="t1"), frame(tid="t1"))
    assert not passes(Selection(tid="t1"), frame(tid="T1"))
    assert not passes(Selection(tid="t1"), frame())


def test_the_time_span_is_half_open():
    span = Selection(since_ms=10, until_ms=20)
    assert [passes(span, frame(ts=ts)) for ts in (9, 10, 19, 20)] == [False, True, True, False]
    assert passes(Selection(since_ms=0), frame(ts=0))


@pytest.mark.parametrize("ensure_ascii", [True, False])
@pytest.mark.parametrize(
    ("text", "message", "wanted"),
    [
        ("TIMEOUT", "a timeout", True),
        ("time out", "a timeout", False),
        ("é", "CAFÉ", True),
        ("straße", "STRASSE", True),
        ("工程", "工程", True),
        (r"c:\tmp", r"C:\tmp\x", True),
        ('say "hi"', 'say "hi"', True),
        ("", "", True),
        ("\n", "a\nb", True),
        ("\n", "a", False),
    ],
)
def test_text(text, message, wanted, ensure_ascii):
    line = said(message, ensure_ascii)
    assert passes(Selection(text=text), line) is wanted
    if wanted:
        assert Selection(text=text).may_match(frame() + line + b"\n" + frame())


def test_the_line_is_searched_as_it_is_written():
    assert passes(Selection(text='"LEVEL": "info", '), said(""))


def test_an_escaped_slash_is_found():
    assert passes(Selection(text="a/b"), said("a/b").replace(b"/", rb"\/"))


def test_a_text_in_no_line_is_known_without_decoding():
    assert not Selection(text="nowhere").may_match(b"".join(frames(10)))
    assert not Selection(text="näher").may_match(b"".join(frames(10)))


def test_a_message_nested_as_deep_as_any_parser_takes():
    deep = said("x").replace(b'"x"', b"[" * 900 + rb'"\""' + b"]" * 900)

    def deeper(levels):
        if levels:
            return deeper(levels - 1)
        return Selection(text="no such").matches(message, deep)

    message = json.loads(deep)
    assert deeper(200) is False


def test_select():
    mixed = batch([frame(n, src=f"s{n % 3}") for n in range(9)])
    mixed.received_ms = 7
    chosen = Selection(src=("s1",)).select(mixed)
    assert [message["src"] for message in chosen.messages] == ["s1"] * 3
    assert chosen.raw == frame(1, "s1") + frame(4, "s1") + frame(7, "s1")
    assert chosen.received_ms == 7
    assert Selection().select(mixed) is mixed
    assert len(Selection(src=("none",)).select(mixed)) == 0
    assert len(Selection().select(Batch())) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"types": ("evnt",)}, ValueError, "expected one of event, goodbye, heartbeat"),
        ({"types": ("hello",)}, ValueError, "expected one of"),
        ({"level": "warning"}, ValueError, "expected one of debug, info, warn, error, fatal"),
        ({"limit": -1}, ValueError, "expected 0"),
        ({"src": "db"}, TypeError, "expected a tuple"),
    ],
)
def test_what_cannot_be_meant(arguments, error, words):
    with pytest.raises(error, match=words):
        Selection(**arguments)


@pytest.fixture
def berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("now", NOW),
        ("90s", NOW - 90),
        ("10m", NOW - 600),
        (" 2h ", NOW - 7200),
        ("7d", NOW - 7 * 86_400),
        ("1w", NOW - 7 * 86_400),
        ("1h30m", NOW - 5400),
        ("1.5h", NOW - 5400),
        ("250ms", NOW - 0.25),
        ("99999999w", 0),
        ("2026-01-31", NOW - 15 * 3600 - 303),
        ("2026-01-31T15:05", NOW - 3),
        ("2026-01-31 15:05:03", NOW),
        ("2026-01-31T15:05:03.250", NOW + 0.25),
        ("2026-01-31T14:05:03Z", NOW),
        ("2026-01-31T14:05:03+00:00", NOW),
        ("15:05", NOW - 3),
        ("9:05:03", NOW - 6 * 3600),
        ("2026-07-01T12:00", 1_782_900_000),  # summer time
        ("1769868303", NOW),
        ("1769868303.5", NOW + 0.5),
        ("1769868303250", NOW + 0.25),
    ],
)
def test_times(text, seconds):
    assert parse_time(text, NOW) == round(seconds * 1000)


@pytest.mark.parametrize(
    "text",
    ["", " ", "yesterday", "10 m", "10x", "-5m", "m", "2026-13-01", "25:00", "1:5", "٣m"]
    + ["20", "9" * 20, "nan", "1e9", "99999-01-01", "15:05Z15", "10m\n20"],
)
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match="is no time") as caught:
        parse_time(text, NOW)
    for example in ("10m", "2026-01-31", "Unix"):
        assert example in str(caught.value)


def test_a_bare_number_is_asked_for_its_unit():
    with pytest.raises(ValueError, match=r"did you mean 10m\?"):
        parse_time("10", NOW)
