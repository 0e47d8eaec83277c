"""What `wafermon top` draws, without a terminal."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafermon.cli.lines import columns
from wafermon.cli.top_rows import spark
from wafermon.cli.top_screen import Quit, press
from wafermon.cli.top_view import BAD, VIEWS, WARN, Look, Snapshot, body, frame

NOW = 1_700_000_000_000
HOSTILE = "\x1b]0;x\x07\u202e<img src=x>\n工程"
PARTS = {
    "summary": {
        "now_ms": NOW, "version": "1.2", "status": "degraded", "reasons": ["backend nas is down"],
        "uptime_s": 3700.0, "messages": {"received_total": 1234567, "per_s": 12.5, "rejected_total": 1, "dropped_total": 2},
        "sources": {"live": 2, "late": 1, "missing": 0, "finished": 0}, "jobs": {"running": 1}, "alerts": {"firing": 1},
        "drops": [{"where": "nas", "reason": "overflow", "count": 7}], "memory_bytes": 50_000_000, "cpu_percent": 3.2,
    },
    "sources": {"now_ms": NOW, "total": 3, "sources": [
        {"src": "late-one", "state": "late", "last_seen_ms": NOW - 65_000, "per_s": 0.0, "rates": [0] * 60,
         "messages": 7, "dropped": 0, "by_type": {"event": 7}},
        {"src": HOSTILE, "state": "live", "last_seen_ms": NOW - 1000, "per_s": 12.0, "rates": [0, 1, 2] * 20,
         "messages": 1_000_000, "dropped": 3, "by_type": {"event": 999_999, "span": 1}},
        {"src": "etl", "state": "live", "last_seen_ms": NOW, "per_s": 1.0, "rates": None, "messages": 1},
    ]},
    "jobs": {"now_ms": NOW, "total": 1, "jobs": [
        {"job_id": "load", "src": "etl", "state": "running", "percent": 42.5, "msg": HOSTILE, "eta_s": 125.0, "reason": None},
    ]},
    "backends": {"now_ms": NOW, "backends": [
        {"name": "nas", "type": "file", "state": "down", "reason": "Input/output error", "queued_messages": 5000,
         "capacity_messages": 10_000, "queued_bytes": 1, "capacity_bytes": 1000, "oldest_s": 61.0, "per_s": None,
         "delivered": 9, "failed": 12, "dropped": {"overflow": 7}},
    ]},
    "alerts": {"now_ms": NOW, "alerts": [
        {"name": "silent", "state": "firing", "since_ms": NOW - 5000, "fired": 1, "message": "not heard", "kind": "x",
         "subject": "db-1"},
    ]},
}


def texts(lines):
    return [line.text for line in lines]


def test_the_whole_screen():
    lines = frame(Snapshot(PARTS), Look(), 150, 40, "127.0.0.1:17001")
    shown = texts(lines)
    assert len(lines) == 40
    assert shown[0] == (
        "wafermon 1.2  DEGRADED  up 1 h 1 min  12.5 msg/s  1,234,567 received  1 rejected  2 dropped  127.0.0.1:17001"
    )
    assert shown[1] == "backend nas is down"
    assert shown[2] == "sources: 2 live, 1 late   jobs: 1 running   alerts: 1 firing   memory 50 MB  cpu 3 %"
    assert shown[3].rstrip() == "[all]  sources   jobs   backends   alerts   drops"
    page = "\n".join(shown)
    assert "late   late-one" in page and "1 min 5 s" in page
    assert "[########............]  42.5 %  2 min 5 s" in page
    assert "down   nas      file  [##########..........]  50 %  5,000" in page
    assert "Input/output error; oldest 1 min 1 s; dropped 7 overflow" in page
    assert "firing  silent (db-1)" in page and "not heard" in page
    assert "nas    overflow  7" in page
    tones = {line.text.split()[0]: line.tone for line in lines if line.text}
    assert (tones["late"], tones["down"], tones["firing"]) == (WARN, BAD, BAD)
    assert shown[-1].startswith("q quit")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("width, height", [(1, 1), (10, 3), (20, 5), (80, 24), (300, 100), (0, 0)])
def test_it_fits_and_nothing_of_it_is_a_control_character(view, width, height):
    lines = frame(Snapshot(PARTS, fault=HOSTILE), Look(view=view, text=""), width, height)
    assert len(lines) <= height
    for text, _ in lines:
        assert text.isprintable() and columns(text) <= max(1, width)


def test_names_are_escaped():
    page = "\n".join(texts(frame(Snapshot(PARTS), Look(view="sources"), 200, 20)))
    assert "\\x1b]0;x\\x07\\u202e<img src=x>" in page


def test_scrolling_stops_at_both_ends():
    many = [{"src": f"s{i:03}", "state": "live"} for i in range(100)]
    said = Snapshot({"sources": {"total": 500, "sources": many}})
    look = Look(view="sources")
    first = texts(frame(said, look, 80, 20))
    assert first[-1].endswith("(84 more below)") and "s000" in first[2]
    press(look, "KEY_NPAGE", 15)
    assert "s014" in texts(frame(said, look, 80, 20))[1]
    press(look, "KEY_END", 15)
    last = texts(frame(said, look, 80, 20))
    assert last[-2] == "and 400 more" and look.top == 84
    press(look, "KEY_HOME", 15)
    press(look, "KEY_UP", 15)
    assert texts(frame(said, look, 80, 20)) == first
    assert texts(frame(said, look, 80, 50))[-1].endswith("(54 more below)")


def test_the_filter():
    look = Look()
    for key in "/n\tax":
        press(look, key, 10)
    assert look.typing and look.text == "nax" and look.view == "all"
    assert texts(frame(Snapshot(PARTS), look, 80, 24))[-1] == "filter: nax_"
    assert press(look, "KEY_BACKSPACE", 10) is True
    press(look, "s", 10)
    assert press(look, "\n", 10) is True and not look.typing
    page = "\n".join(texts(frame(Snapshot(PARTS), look, 120, 40)))
    assert "nas" in page and "late-one" not in page and "nothing with 'nas'" in page
    press(look, "\x1b", 10)
    assert look.text == ""


def test_keys():
    look = Look()
    seen = [look.view]
    for _ in VIEWS:
        assert press(look, "\t", 10)
        seen.append(look.view)
    assert seen == [*VIEWS, VIEWS[0]]
    press(look, "KEY_BTAB", 10)
    assert look.view == VIEWS[-1]
    assert press(look, "p", 10) is False and look.paused
    assert "PAUSED" in "\n".join(texts(frame(Snapshot(PARTS), look, 120, 40)))
    assert press(look, "KEY_F(9)", 10) is False
    with pytest.raises(Quit):
        press(look, "q", 10)


def test_what_is_not_there_is_said():
    assert "not known yet" in "\n".join(texts(body(Snapshot(), Look(), 80, 5)))
    gone = Snapshot({"summary": {}, "sources": None, "jobs": {"jobs": []}, "backends": {}, "alerts": None})
    page = "\n".join(texts(body(gone, Look(), 80, 5)))
    assert "this sidecar does not tell" in page and "wafermon send progress" in page
    lines = frame(Snapshot(PARTS, "refused", 65.0), Look(), 80, 24)
    assert lines[0] == ("NO ANSWER for 1 min 5 s, trying again: refused", BAD)
    assert "wafermon 1.2" in lines[1].text  # what was known stays


def test_spark():
    assert spark([0] * 60) == spark([]) == spark(None) == spark("x") == ""
    assert spark([0] * 57 + [1, 1, 1000]) == " " * 19 + "@"
    assert spark([1] * 3 + [0] * 54 + [1000] * 3)[0] == "."  # little is not nothing


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
KEYS = sorted({key for part in PARTS.values() for key in part} | {
    key for part in PARTS.values() for rows in part.values() if isinstance(rows, list) for row in rows
    if isinstance(row, dict) for key in row
})
odd = st.dictionaries(st.sampled_from(KEYS), anything | st.lists(st.dictionaries(st.sampled_from(KEYS), anything)), max_size=8)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(PARTS)), odd | anything, max_size=5), st.sampled_from(VIEWS), st.integers(0, 200))
def test_whatever_is_said_is_drawn(parts, view, width):
    parts = json.loads(json.dumps(parts))
    lines = frame(Snapshot(parts), Look(view=view, text="a"), width, 30)
    assert all(text.isprintable() for text, _ in lines)


NO_TOKEN = "/api/summary: it asks for a token, which goes by --token-file FILE (status 401)"


@pytest.mark.parametrize("view", VIEWS)
def test_a_small_screen_says_what_counts(view):
    shown = texts(frame(Snapshot(PARTS), Look(view=view), 40, 12))
    assert len(shown) == 12 and all(columns(text) <= 40 for text in shown)
    assert "DEGRADED" in shown[0] and f"[{view}]" in shown[3] and shown[-1].startswith("q quit  ? keys  tab view")
    for fault in (NO_TOKEN, "x" * 5_000):
        shown = texts(frame(Snapshot(fault=fault), Look(view=view), 40, 12))
        assert len(shown) == 12 and all(columns(text) <= 40 for text in shown) and f"[{view}]" in "".join(shown)
    assert "--token-file FILE" in " ".join(texts(frame(Snapshot(fault=NO_TOKEN), Look(view=view), 40, 12))[:3])


def test_the_keys_are_shown_until_the_next_key():
    look = Look(top=3)
    assert press(look, "?", 10) is False and look.helping and look.top == 0
    shown = "\n".join(texts(frame(Snapshot(PARTS), look, 40, 14)))
    assert all(word in shown for word in ("quit", "next view", "only what has this", "pause")) and "late-one" not in shown
    press(look, "p", 10)
    assert not look.helping and not look.paused
    press(look, "h", 10)
    with pytest.raises(Quit):
        press(look, "q", 10)
