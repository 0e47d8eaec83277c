"""The lines that the sidecar itself writes: one an event, harmless, and not too many."""

import io
import json
import logging
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from support import ROOT, eventually

from wafermon.cli.log_lines import BURST, MAX_MESSAGES, WINDOW_SECONDS, LogLines, is_journal
from wafermon.testing import FakeClock, frames

EVIL = 'a "b"\n\x1b[2J\x9b \u202e\u2028\\n\t=é'


@pytest.fixture
def logger():
    """A logger of its own, with no handler."""
    logger = logging.Logger("wafermon.test", logging.DEBUG)
    yield logger
    for handler in logger.handlers:
        handler.close()


def written(logger, **more):
    stream, clock = io.StringIO(), FakeClock(0.0)
    lines = LogLines(stream, clock=clock, **more)
    logger.addHandler(lines)
    return stream, clock, lines


@pytest.mark.parametrize("journal", [False, True])
def test_a_line_of_text(logger, journal):
    stream, _, _ = written(logger, journal=journal)
    logger.error("it said %s", EVIL)
    (line,) = stream.getvalue().splitlines(keepends=True)
    head = r"<3>" if journal else r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
    assert re.fullmatch(head + r'level=error part=test msg=".*"\n', line)
    assert line[:-1].isprintable() and r'a \"b\"\n\u001b[2J\x9b \u202e\u2028\\n\t=é' in line


@pytest.mark.parametrize("journal", [False, True])
def test_a_line_of_json(logger, journal):
    stream, _, lines = written(logger, journal=journal)
    lines.follow("json", "info")
    logger.warning("it said %s", EVIL)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("<4>{") == journal and line.isascii() and line.isprintable()
    told = json.loads(line.partition(">")[2] if journal else line)
    assert told["msg"] == f"it said {EVIL}" and told["level"] == "warning" and ("time" in told) != journal


def test_a_traceback_is_part_of_the_line(logger):
    stream, _, _ = written(logger)
    try:
        raise ValueError(EVIL)
    except ValueError:
        logger.exception("failed")
    logger.error("no traceback", exc_info=False)
    first, second = stream.getvalue().splitlines()
    assert 'trace="Traceback (most recent call last):\\n' in first and "ValueError" in first and first.isprintable()
    assert "trace=" not in second


def test_a_flood_becomes_a_count(logger):
    stream, clock, lines = written(logger)
    for number in range(1000):
        logger.warning("connection from %s refused", number)
    logger.warning("something else")
    assert len(stream.getvalue().splitlines()) == BURST + 1
    clock.advance(WINDOW_SECONDS + 1)
    logger.warning("connection from %s refused", "the next")
    told = stream.getvalue().splitlines()[BURST + 1:]
    assert len(told) == 2 and "connection from the next refused" in told[1]
    assert f"connection from 999 refused ({1000 - BURST} like this were left out in 61 s)" in told[0]
    clock.advance(WINDOW_SECONDS + 1)
    lines.flush()
    assert len(stream.getvalue().splitlines()) == BURST + 3, "nothing was left out"


def test_what_was_counted_is_told_at_the_end(logger):
    stream, _, lines = written(logger)
    for _ in range(BURST + 5):
        logger.error("again")
    lines.close()
    lines.close()
    assert "again (5 like this were left out in 0 s)" in stream.getvalue().splitlines()[-1]


def test_the_messages_that_are_counted_are_bounded(logger):
    stream, _, lines = written(logger)
    for number in range(MAX_MESSAGES * 2):
        logger.error(f"made by hand {number}")
    assert len(lines._floods) == MAX_MESSAGES and len(stream.getvalue().splitlines()) == MAX_MESSAGES * 2


def test_a_record_at_fault_or_a_stream_at_fault_stops_nothing(logger, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    stream, _, _ = written(logger)
    logger.error("%d", "no number")
    logger.error("x" * 100_000)
    first, second = stream.getvalue().splitlines()
    assert "%d ('no number',)" in first and len(second) < 5_000
    stream.close()
    logger.error("into nothing")

    class Worse(Exception):
        def __repr__(self):
            raise ValueError

    logger.addHandler(LogLines(None))
    logger.error("%d", Worse())


def test_the_journal_is_known_by_its_descriptor(tmp_path):
    with open(tmp_path / "x", "wb") as file:
        status = os.fstat(file.fileno())
        assert is_journal(file.fileno(), {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not is_journal(file.fileno(), {"JOURNAL_STREAM": "8:1"}) and not is_journal(file.fileno(), {})
    assert not is_journal(99_999, {"JOURNAL_STREAM": "8:1"})


def test_a_sidecar_that_runs_in_the_journal(tmp_path):
    """Its stderr is a file here; what matters is that the variable names it."""
    log = tmp_path / "stderr"
    with open(log, "wb") as stderr:
        status = os.fstat(stderr.fileno())
        process = subprocess.Popen(
            [sys.executable, "-m", "wafermon", "run", "--data", str(tmp_path / "data"), "--tcp", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
            stderr=stderr, cwd=ROOT, env={**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
        )
    try:
        eventually(lambda: b"listening" in pathlib.Path(log).read_bytes())
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    lines = log.read_text().splitlines()
    assert lines[0].startswith('<6>level=info part=run msg="listening on tcp 127.0.0.1:')
    assert lines[-1] == '<6>level=info part=run msg="SIGTERM, stopping"'


def test_format_and_level_are_as_configured_and_follow_a_reload(start_sidecar, tmp_path):
    document = {
        "sidecar": {"data_dir": str(tmp_path / "data"), "tcp": {"port": 0}, "health": {"metrics_port": 0},
                    "logging": {"format": "json", "level": "error"}},
        "backends": {"out": {"type": "file", "path": str(tmp_path / "out.jsonl")}},
    }  # fmt: skip
    sidecar = start_sidecar(config=document)
    sidecar.send(frames(1)[0])
    document["sidecar"]["logging"] = {"format": "text", "level": "info"}
    (sidecar.folder / "config.json").write_text(json.dumps(document))
    sidecar.process.send_signal(signal.SIGHUP)
    eventually(lambda: sidecar.total("sidecar_config_reloads_total", result="ok") == 1)
    document["sidecar"]["logging"] = {"format": "json"}
    (sidecar.folder / "config.json").write_text(json.dumps(document))
    sidecar.process.send_signal(signal.SIGHUP)
    eventually(lambda: sidecar.total("sidecar_config_reloads_total", result="ok") == 2)
    status, said = sidecar.stop()
    assert status == 0
    first, second = said.splitlines()
    assert re.search(r'level=warning part=sidecar msg="configuration reloaded', first)
    assert json.loads(second)["msg"] == "SIGTERM, stopping"
