"""The command `wafermon query`, and how messages are shown to people."""

import argparse
import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafermon.backends.store import StoreBackend
from wafermon.cli import query
from wafermon.cli.lines import PLAIN, Style, clipped, json_of, line_of, style_of, time_of, visible
from wafermon.flow.selection import Selection
from wafermon.testing import batch, frame, frames


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def fill(tmp_path, monkeypatch):
    """Store lines where the command looks for them by default."""
    monkeypatch.chdir(tmp_path)

    def write(lines):
        backend = StoreBackend(str(tmp_path / "wafermon-data" / "store.db"), max_age=10**10)
        backend.open()
        backend.write(batch(lines))
        backend.close()

    return write


@pytest.fixture
def run(capfdbinary):
    """Run the command; return exit status, stdout (bytes) and stderr."""

    def command(*arguments):
        parser = argparse.ArgumentParser()
        query.arguments(parser)
        status = query.run(parser.parse_args(arguments))
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return status, out, err.decode()

    return command


def shown(type, style=PLAIN, **fields):
    """What a line says behind time and source."""
    return line_of(json.loads(frame(type=type, **fields)), style).split("test", 1)[1].strip()


# -- the command -------------------------------------------------------------------------------


def test_module_convention():
    assert query.__doc__.splitlines()[0] == "show stored messages"
    assert "examples:" in query.EPILOG


def test_lines_for_people(fill, run):
    fill(frames(2))
    status, out, err = run()
    assert (status, err) == (0, "")
    assert out.decode().splitlines() == [
        "2023-11-14 22:13:20.001  test          event      info   1",
        "2023-11-14 22:13:20.002  test          event      info   2",
    ]


def test_json_is_byte_for_byte(fill, run):
    odd = [b'{ "v":1,"src":"\xc2\x9b","ts":1,"type":"event","data":{"\\u00e9":1.50} }\r\n']
    fill(odd + frames(2))
    assert run("--json") == (0, b"".join(odd + frames(2)), "")


def test_the_newest_by_default(fill, run):
    fill(frames(250))
    assert run("--json")[1] == b"".join(frames(100, first=151))
    assert run("--json", "--limit", "3")[1] == b"".join(frames(3, first=248))
    assert run("--json", "--limit", "0")[1] == b"".join(frames(250))


def test_filters(fill, run):
    fill(
        [
            frame(1, "db-1", type="metric", data={"name": "x", "value": 1}),
            frame(2, "db-2", data={"level": "error", "msg": "Lost"}),
            frame(3, "db-2", type="span", tid="t", sid="s"),
            frame(4, "etl", type="heartbeat"),
        ]
    )

    def numbers(*arguments):
        return [json.loads(x)["ts"] % 10 for x in run("--json", *arguments)[1].splitlines()]

    assert numbers("--src", "db-1", "--src", "e*") == [1, 4]
    assert numbers("--type", "metric,span", "--type", "heartbeat") == [1, 3, 4]
    assert numbers("--level", "WARN") == [2]
    assert numbers("--tid", "t") == [3]
    assert numbers("--text", "lost") == [2]
    assert numbers("--since", "1700000000002", "--until", "2023-11-14T22:13:20.004") == [2, 3]
    assert numbers("--src", "db-2", "--type", "event") == [2]


def test_another_place(fill, run, tmp_path):
    fill(frames(1))
    (tmp_path / "wafermon-data").rename(tmp_path / "there")
    assert run("--data", "there", "--json")[1] == frame(1)
    assert run("--store", "there/store.db", "--json")[1] == frame(1)


def test_no_store(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run()
    assert (status, out) == (1, b"")
    assert "./wafermon-data/store.db: no store there. Start the sidecar" in err
    assert os.listdir(tmp_path) == []


def test_nothing_found_teaches(fill, run):
    fill([])
    assert run() == (
        0,
        b"",
        "No messages yet in ./wafermon-data/store.db. "
        "Is a source sending, and routed to the store?\n",
    )
    fill([frame(n, src=f"s{n}\u202e") for n in range(9)])
    status, out, err = run("--src", "db")
    assert (status, out) == (0, b"")
    assert "of that --src and --type" in err
    assert r"s0\u202e, s1\u202e" in err
    assert err.endswith(", ...\n")
    assert "9 messages" in run("--src", "s*", "--level", "fatal")[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--since", "yesterday"], "expected an age (90s, 10m, 2h"),
        (["--until", "10"], "did you mean 10m?"),
        (["--type", "evnt"], "expected one of event, goodbye"),
        (["--level", "warning"], "choose from"),
        (["--limit", "-1"], "expected a whole number, 0 for all"),
        (["--limit", "100%d"], "'100%d': expected a whole number"),
        (["--data", "x", "--store", "y"], "not allowed with"),
    ],
)
def test_bad_arguments(run, capfdbinary, arguments, words):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert words in capfdbinary.readouterr().err.decode()


def test_a_time_span_of_nothing(run):
    status, _, err = run("--since", "1h", "--until", "2h")
    assert status == 2
    assert "--since to be before --until" in err


def test_the_filters_without_a_limit():
    parser = argparse.ArgumentParser()
    query.add_selection(parser)
    assert query.selection_of(parser.parse_args([])) == Selection()
    options = parser.parse_args(["--src", "a,b", "--type", "span, event", "--level", "warn"])
    assert query.selection_of(options) == Selection(("a,b",), ("span", "event"), "warn")


COMMAND = """
import argparse, sys
from wafermon.cli import query
parser = argparse.ArgumentParser()
query.arguments(parser)
sys.exit(query.run(parser.parse_args()))
"""


def process(*arguments, **more):
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environ.update(more.pop("environ", {}))
    command = [sys.executable, "-c", COMMAND, *arguments]
    return subprocess.Popen(command, env=environ, **more)


@pytest.mark.parametrize("arguments", [["--limit", "0"], ["--limit", "0", "--json"], []])
def test_a_reader_that_has_seen_enough(fill, arguments):
    fill(frames(5000))
    pipe = subprocess.PIPE
    with process(*arguments, stdout=pipe, stderr=pipe) as child:
        child.stdout.readline()
        child.stdout.close()
        assert (child.stderr.read(), child.wait()) == (b"", 0)


def test_a_locale_without_the_letters(fill):
    fill([frame(src="工程")])
    environ = {"PYTHONIOENCODING": "ascii"}
    with process(stdout=subprocess.PIPE, environ=environ) as child:
        assert rb"\u5de5\u7a0b" in child.stdout.read()
    assert child.returncode == 0


def on_terminal(*arguments, **environ):
    """What arrives at a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    environ = {"TERM": "xterm", "NO_COLOR": "", **environ}
    with process(*arguments, stdout=theirs, environ=environ) as child:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError), open(ours, "rb", 0) as terminal:
            while True:
                chunk = terminal.read(4096)
                if not chunk:
                    break
                seen += chunk
    assert child.returncode == 0
    return seen.decode()


EVIL = frame(1, src="\x85a\u202e", data={"level": "error", "msg": "\x1b]0;x\x07\x9b2J\r\n"})


def test_nothing_from_the_wire_reaches_a_terminal_unescaped(fill):
    evil = frame(2).replace(b'"v"', b'\r\t"v"').replace(b'"2"', '"\x7f\x9b2J"'.encode())
    fill([json.dumps(json.loads(EVIL)).encode() + b"\n", evil])
    for arguments in ([], ["--json"]):
        seen = on_terminal(*arguments, NO_COLOR="1")
        assert set(re.findall(r"[^ -~]", seen)) <= {"\r", "\n", "…"}
        assert seen.count("\r") == seen.count("\n") == 2
    seen = on_terminal("--json", NO_COLOR="1").splitlines()
    assert json.loads(seen[1])["data"]["msg"] == "\x7f\x9b2J"


def test_colour_on_a_terminal_only(fill):
    fill([frame(data={"level": "error", "msg": "x"})])
    assert on_terminal().startswith("\x1b[31m")
    assert "\x1b" not in on_terminal(NO_COLOR="1")
    assert "\x1b" not in on_terminal(TERM="dumb")


# -- a message as a line -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data", "wanted"),
    [
        ("event", {"level": "warn", "msg": "low", "ctx": {"free": 3, "on": "/"}},
         "warn   low  free=3  on=/"),
        ("event", {"level": "odd", "msg": {"a": 1}}, 'odd    {"a":1}'),
        ("event", {"msg": "no level"}, '{"msg":"no level"}'),
        ("metric", {"name": "rows", "value": 1.5, "unit": "1/s", "tags": {"t": "a"}},
         "rows=1.5 1/s  t=a"),
        ("metric", {"name": "rows", "value": 12}, "rows=12"),
        ("metric", {"name": "rows", "value": 12, "tags": [1]},
         '{"name":"rows","value":12,"tags":[1]}'),
        ("progress", {"job_id": "lot 7", "percent": 42}, "lot 7  42.0 %  running"),
        ("progress", {"job_id": "j", "percent": 100, "status": "done", "msg": "all"},
         "j  100.0 %  done  all"),
        ("progress", {"job_id": "j", "percent": "x"}, '{"job_id":"j","percent":"x"}'),
        ("resource", {"cpu": 12.34, "mem": 3 * 2**30, "disk": {"read": 1}},
         'cpu=12.3%  mem=3.0 GiB  disk={"read":1}'),
        ("resource", {"mem": 512}, "mem=512 B"),
        ("resource", {"mem": 10**18}, "mem=909494.7 TiB"),
        ("resource", {"mem": 10**400}, '{"mem":1' + "0" * 400 + "}"),
        ("span", {"name": "load", "duration_ms": 12.34}, "load  12.3 ms  ok"),
        ("span", {"name": "load", "status": "open", "ctx": {"n": 1}}, "load  open  n=1"),
        ("span", {"name": "load"}, '{"name":"load"}'),
        ("heartbeat", {"interval_s": 30}, "next in 30 s"),
        ("heartbeat", {}, ""),
        ("heartbeat", {"up": 3}, "up=3"),
        ("goodbye", {"reason": "done"}, "done"),
        ("goodbye", {}, ""),
    ],
)  # fmt: skip
def test_what_a_message_says(kind, data, wanted):
    if wanted.startswith('{"mem":1000'):
        data = json.loads(json.dumps(data)[:-1] + "}")
    assert re.sub(r"^\w+\s*", "", shown(kind, data=data), count=1) == wanted


def test_data_left_out():
    message = {"v": 1, "src": "a", "ts": 0, "type": "goodbye"}
    assert line_of(message) == "1970-01-01 00:00:00.000  a             goodbye"


def test_the_trace_id_is_shown():
    assert shown("goodbye", data={}, tid="t\x07").endswith(r"tid=t\x07")


def test_a_time_that_no_calendar_reaches():
    assert time_of(2**53 - 1) == "9007199254740991       "
    assert len(time_of(0)) == 23


def test_a_message_nested_deeply():
    data = json.loads('{"level":"info","msg":' + "[" * 900 + "]" * 900 + "}")
    message = {"v": 1, "src": "a", "ts": 0, "type": "event", "data": data}

    def deeper(levels):
        return deeper(levels - 1) if levels else line_of(message)

    assert "info" in deeper(200) or "..." in deeper(200)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
fields = st.sampled_from(
    "level msg ctx name value unit tags kind job_id percent status cpu mem disk net duration_ms "
    "interval_s reason other".split()
)


@given(
    st.sampled_from(["event", "metric", "progress", "resource", "span", "heartbeat", "goodbye"]),
    st.dictionaries(fields, values, max_size=4),
    st.text(min_size=1, max_size=9),
    st.integers(0, 2**53 - 1),
)
def test_every_message_is_one_printable_line(kind, data, name, ts):
    message = {"v": 1, "src": name, "ts": ts, "type": kind, "data": data, "tid": name}
    assert line_of(message).isprintable()
    assert line_of(message, Style(0, True, True)).replace("\x1b", "").isprintable()
    for width in (10, 40, 80):
        line = line_of(message, Style(width, False, True))
        assert line.isprintable()
        assert len(line) <= width


@given(st.text())
def test_json_for_a_terminal_is_the_same_json(text):
    raw = json.dumps({"a": text}, ensure_ascii=False)
    shown = json_of(raw.encode("utf-8", "surrogatepass"))
    assert shown.isprintable()
    if not re.search("[\ud800-\udfff]", text):
        assert json.loads(shown) == {"a": text}


def test_clipped():
    assert clipped("abc", 3) == "abc"
    assert clipped("abcd", 3) == "ab…"
    assert clipped("工程工程", 8) == "工程工程"
    assert clipped("工程工程", 7) == "工程工…"
    assert clipped("工程工程", 6) == "工程…"
    assert clipped("e\u0301" * 4, 4) == "e\u0301" * 4
    assert clipped("abc", 1) == "…"


def test_visible():
    assert visible("plain é 工") == "plain é 工"
    assert visible("\x1b[2J\u2028\U000e0001") == r"\x1b[2J\u2028\U000e0001"


def test_a_terminal_without_a_size():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert style_of(Terminal(), {}) == Style(0, True, True)
    assert style_of(Terminal(), {"NO_COLOR": "1"}) == Style(0, False, True)
