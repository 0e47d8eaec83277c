"""The log tells whose frames are rejected, and why, without a flood."""

import json
import logging
import re

import pytest
from support import SidecarProcess, eventually

from wafermon.message import Reason, Reject
from wafermon.net.rejections import MAX_SENDERS, PAUSE_SECONDS, SOON_SECONDS, Rejections


class Loop:
    """Its one timer, gone off by hand."""

    def __init__(self):
        self.timers = []

    def call_later(self, seconds, callback):
        self.timers.append((seconds, callback))
        return callback

    def go_on(self):
        (_, callback), *self.timers = self.timers
        callback()


@pytest.fixture
def loop(caplog):
    caplog.set_level(logging.WARNING, "wafermon.net")
    return Loop()


def bad(*lines, reason=Reason.BAD_FIELD):
    return [Reject(reason, line) for line in lines]


def test_a_flood_is_a_line_soon_and_a_line_a_minute(loop, caplog):
    rejections = Rejections(loop)
    for _ in range(1000):
        rejections.note("etl", "127.0.0.1", bad(*[b"{}"] * 20))
    rejections.note("etl", "127.0.0.1", bad(b"x", reason=Reason.INVALID_JSON))
    assert [seconds for seconds, _ in loop.timers] == [SOON_SECONDS] and not caplog.messages
    loop.go_on()
    assert caplog.messages == ["20001 frames of etl from 127.0.0.1 were rejected: 20000 bad_field, 1 invalid_json"]
    rejections.note("etl", "127.0.0.1", bad(b"{}"))
    assert [seconds for seconds, _ in loop.timers] == [PAUSE_SECONDS]
    loop.go_on()
    assert caplog.messages[1:] == ["1 frames of etl from 127.0.0.1 were rejected: 1 bad_field"]
    loop.go_on()
    assert not loop.timers and len(caplog.messages) == 2, "nothing came for a minute"
    rejections.note("etl", "127.0.0.1", bad(b"{}"))
    assert [seconds for seconds, _ in loop.timers] == [SOON_SECONDS]


@pytest.mark.parametrize(("line", "named"), [
    (b'{"v":2,"src":"etl","ts":1}', "etl"), (b'{"v":2,"src" : "\xe6\xb8\xa9", ', "温"), (b"rubbish", "a source without a name"),
    (b'{"src":"a\\u0000b"}', "a source without a name"), (b'{"src":"' + b"x" * 129 + b'"}', "a source without a name"),
    (b'{"src":"a\nb"}', "a source without a name"), (b" " * 2_000 + b'{"src":"etl"}', "a source without a name"),
])  # fmt: skip
def test_who_has_brought_no_message_is_who_he_says_he_is(loop, caplog, line, named):
    rejections = Rejections(loop)
    rejections.note("", "", bad(line))
    rejections.tell()
    assert caplog.messages == [f"1 frames of {named} from somebody were rejected: 1 bad_field"]


def test_senders_are_bounded(loop, caplog):
    rejections = Rejections(loop)
    for n in range(1000):
        rejections.note(f"s{n}", "192.0.2.7", bad(b"{}"))
    rejections.tell()
    assert len(caplog.messages) == MAX_SENDERS + 1
    assert caplog.messages[-1].startswith(f"{1000 - MAX_SENDERS} frames of _other from _other")


def test_the_log_of_a_sidecar_names_who_sends_rubbish(tmp_path):
    sidecar = SidecarProcess(tmp_path)
    try:
        evil = json.dumps({"v": 2, "src": "a\u202eb"}, ensure_ascii=False).encode() + b"\n"
        sidecar.send(evil * 20_000)
        eventually(lambda: sidecar.total("sidecar_messages_rejected_total") == 20_000)
        said = sidecar.stop()[1]
    finally:
        sidecar.process.kill()
        sidecar.process.communicate()
    counts = re.findall(r'msg="(\d+) frames of a\\u202eb from 127.0.0.1 were rejected: \1 bad_version"', said)
    assert sum(map(int, counts)) == 20_000 and len(counts) <= 2, said
