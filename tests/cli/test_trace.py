"""`wafermon trace` and `wafermon traces`: the drawing, and the commands against a real sidecar that
the Python and the Perl SDK talk to."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from support import ROOT, eventually

from wafermon.backends import StoreBackend
from wafermon.cli import main
from wafermon.cli.lines import Style
from wafermon.cli.tree import FINE, PLAIN, draw, pen_for
from wafermon.flow.trace import Note, Notes, Span, assemble
from wafermon.flow.trace_view import trace_object
from wafermon.testing import batch, frame

# -- the drawing -----------------------------------------------------------------------------------


def drawn(spans, width=72, pen=FINE, notes=None, **style):
    trace = assemble("t", [Span(*span) for span in spans], notes)
    return draw(trace_object(trace), Style(width, **style), pen)


def plain(lines):
    return [re.sub(" +", " ", re.sub("[█▒·]+$", "", line)).rstrip() for line in lines]


def test_what_is_wrong_is_named():
    lines = drawn([
        ("1", None, "a", "root", 0, 100.0),
        ("2", "1", "b", "fails", 10, 20.0, "error"),
        ("3", "1", "b", "early", -20, 5.0),
        ("4", "1", "b", "runs", 70, None, "open"),
        ("5", "lost", "c", "stray", 160, 5.0, "error"),
        ("6", "7", "d", "chicken", 170, 5.0), ("7", "6", "d", "egg", 171, 2.0),
    ], 110)  # fmt: skip
    assert plain(lines) == [
        "trace t 195 ms, 4 services, 7 spans, 2 errors, 1 orphan, 1 cycle, 1 open, 1 with a clock that differs",
        "├ a root 100 ms",
        "│ ├ b early (begins 20 ms before its parent) 5.0 ms",
        "│ ├ b fails (error) 20 ms",
        "│ │ (gap) 40 ms",
        "│ └ b runs (open)",
        "│ (gap) 60 ms",
        "├ c stray (error, parent missing) 5.0 ms",
        "└ d chicken (its own ancestor) 5.0 ms",
        " └ d egg 2.0 ms",
    ]


def test_full_bars_are_the_critical_path():
    lines = drawn([
        ("1", None, "a", "root", 0, 100.0), ("2", "1", "a", "beside", 0, 50.0),
        ("3", "1", "a", "last", 50, 50.0), ("4", "1", "a", "long", 5, 80.0),
    ], 60)  # fmt: skip
    bars = {line.split()[2]: line[line.index(" ms") + 3 :].strip()[0] for line in lines[1:]}
    assert bars == {"root": "█", "beside": "█", "last": "█", "long": "▒"}


def test_bars_stand_where_their_time_was():
    lines = drawn([("1", None, "a", "root", 1_000, 100.0), ("2", "1", "a", "end", 1_075, 25.0)], 60, PLAIN)
    whole, part = (line.rpartition("ms  ")[2] for line in lines[1:])
    assert len(whole) == len(part) and len(part.strip()) in (9, 10)


def test_warnings_and_errors_stand_below_their_span():
    notes = {"1": Notes(9, (
        Note(1, "a", "event", "info", "fine"), Note(2, "a", "event", "warn", "low\x1b[2J"),
        Note(3, "a", "event", "fatal", None),
    ))}  # fmt: skip
    lines = drawn([("1", None, "a", "x", 0, 10.0)], notes=notes, colour=True)
    assert lines[2].startswith("\x1b[33m") and "· warn: low\\x1b[2J" in lines[2]
    assert "fatal: event" in lines[3] and len(lines) == 4


@pytest.mark.parametrize("width", [0, 20, 40, 80, 200])
def test_it_keeps_within_the_width(width):
    spans = [(str(n), str(n - 1), "源" * 30, "n" * 300, n, 1.0) for n in range(1, 60)]
    for line in drawn([("0", None, "a", "root", 0, 9.0), *spans], width)[1:]:
        assert len(line) + line.count("源") <= (width or 100)


def test_marks_stay_where_names_are_cut():
    (_, line) = drawn([("0", "gone", "a" * 100, "b" * 100, 0, 9.0)], 60)
    assert "(parent missing)" in line


def test_what_a_terminal_would_obey_is_escaped():
    (_, line) = drawn([("1", None, "a\u202e", "x\x1b[2J\n", 0, 1.0)], 0, PLAIN)
    assert line.isprintable() and line.isascii()


def test_any_depth():
    lines = drawn([(str(n), str(n - 1) if n else None, "a", "n", n, 1.0) for n in range(3_000)], 80)
    assert len(lines) == 3_001 and "[2999] a" in lines[-1]
    assert "[10]" not in lines[11] and "[11]" in lines[12]


def test_nothing():
    assert drawn([]) == ["trace t  no end yet, 0 services, 0 spans"]


def test_characters_that_the_terminal_lacks_are_not_used():
    assert pen_for(io.TextIOWrapper(io.BytesIO(), "ascii")) is PLAIN
    assert pen_for(io.TextIOWrapper(io.BytesIO(), "utf-8")) is FINE


# -- out of a store --------------------------------------------------------------------------------

TID = "4bf92f3577b34da6a3ce929d0e0e4736"


def spans_of(tid=TID, first=0):
    def one(sid, pid, src, name, ms, **data):
        more = {"pid": pid} if pid else {}
        return frame(type="span", src=src, ts=first + ms, tid=tid, sid=sid, **more,
                     data={"name": name, "duration_ms": 10, **data})

    return [one("b", "a", "loader", "parse", 5, status="error"), one("a", None, "receiver", "lot", 0),
            frame(src="loader", ts=first + 6, tid=tid, sid="b", data={"level": "error", "msg": "torn"})]


@pytest.fixture
def store(tmp_path):
    path = str(tmp_path / "store.db")
    backend = StoreBackend(path)
    backend.write(batch([*spans_of(), *spans_of("other", 1_000), frame(src="x")]))
    backend.close()
    return path


def ran(capsys, *words):
    status = main(words)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("tid", [TID, TID[:8]])
def test_a_trace_out_of_the_store(store, capsys, tid):
    status, out, _ = ran(capsys, "trace", tid, "--store", store)
    assert status == 0 and out.startswith(f"trace {TID}  15 ms, 2 services, 2 spans, 1 error")
    assert "error: torn" in out and "error: receiver lot > loader parse" in out
    assert "not complete" not in out
    status, out, _ = ran(capsys, "trace", tid, "--store", store, "--json")
    assert [span["sid"] for span in json.loads(out)["spans"]] == ["a", "b"]


def test_a_trace_that_is_not_there(store, tmp_path, capsys):
    status, _, err = ran(capsys, "trace", "nobody\x1b", "--store", store)
    assert status == 1 and "no trace nobody\\x1b in" in err
    status, _, err = ran(capsys, "trace", "x", "--store", str(tmp_path / "none.db"))
    assert status == 1 and "none.db" in err


def test_an_answer_says_where_it_has_looked(start_sidecar, tmp_path):
    sidecar = start_sidecar(config=config(tmp_path))
    sidecar.send(spans_of()[0])
    eventually(lambda: json.loads(sidecar.get("/api/traces"))["total"] == 1, "a trace")
    status, _, err = wafermon(sidecar, "trace", "nobody")
    assert status == 1 and f"no trace nobody in the sidecar at {sidecar.ready['admin']}" in err
    assert "store" in err and "also looks" not in err


def test_messages_without_a_known_span(tmp_path, capsys):
    path = str(tmp_path / "store.db")
    backend = StoreBackend(path)
    backend.write(batch([
        *spans_of(), frame(type="event", src="lonely", ts=1, tid=TID, sid="no", data={"level": "fatal", "msg": "boom\x1b[2J"}),
        frame(type="event", src="only", ts=2, tid="events-only", data={"level": "error", "msg": "alone"}),
    ]))
    backend.close()
    status, out, _ = ran(capsys, "trace", TID, "--store", path)
    assert status == 0 and "1 message of no known span (1 error)" in out and "2 error events" in out
    assert "fatal  lonely  boom\\x1b[2J" in out and "\x1b" not in out
    status, out, _ = ran(capsys, "trace", "events-", "--store", path)
    assert status == 0 and "error  only  alone" in out and "0 spans" in out
    for words in (["--errors"], ["--src", "only"]):
        _, out, _ = ran(capsys, "traces", "--store", path, *words)
        assert "events-only" in out and "1 error events" in out
    assert TID in ran(capsys, "traces", "--store", path, "--src", "lonely")[1]
    _, out, _ = ran(capsys, "trace", TID, "--store", path, "--json")
    assert [(e["src"], e["level"]) for e in json.loads(out)["loose"]] == [("lonely", "fatal")]


def test_a_name_in_a_list_is_cut(tmp_path, capsys):
    path = str(tmp_path / "store.db")
    backend = StoreBackend(path)
    backend.write(batch([frame(type="span", src="a", ts=1, tid="t", sid="s", data={"name": "n" * 60_000, "duration_ms": 1, "status": "error"})]))
    backend.close()
    line = ran(capsys, "traces", "--store", path)[1].splitlines()[1]
    assert len(line) < 300 and line.endswith("n…, 1 failed")


def test_parents_may_be_among_what_is_left_out():
    trace = assemble("t", [Span("a", "gone", "x", "y", 0, 1.0)], left_out=3)
    assert "(parent missing or left out)" in draw(trace_object(trace), Style(100))[1]


def test_a_beginning_that_several_have(tmp_path, capsys):
    path = str(tmp_path / "store.db")
    backend = StoreBackend(path)
    backend.write(batch([*spans_of("abc1"), *spans_of("abc2")]))
    backend.close()
    status, _, err = ran(capsys, "trace", "abc", "--store", path)
    assert status == 1 and "2 traces begin with abc: abc1, abc2" in err


def test_a_list_out_of_the_store(store, capsys):
    status, out, _ = ran(capsys, "traces", "--store", store)
    header, newest, oldest = out.splitlines()
    assert status == 0 and header.split()[0] == "TRACE"
    assert newest.startswith("other") and oldest.startswith(TID) and "1 failed" in oldest
    assert "receiver +1" in oldest
    for words, lines in ((["--limit", "1"], 3), ([TID[:6]], 2), (["--min-ms", "16"], 1),
                         (["--src", "loader", "--errors"], 3), (["--src", "x"], 1)):
        _, out, _ = ran(capsys, "traces", "--store", store, *words)
        assert len(out.splitlines()) == lines, words
    assert ran(capsys, "traces", "--store", store, "nothing")[1] == "no such trace\n"


# -- a sidecar that runs ---------------------------------------------------------------------------

PYTHON = """
import os, subprocess, sys
from wafermon.client import Client
with Client("receiver") as client:
    with client.span("receive lot"):
        with client.span("check"):
            client.log_event("warn", "one file is late")
        env = dict(os.environ, TRACEPARENT=client.traceparent())
        subprocess.run(sys.argv[1:], env=env, check=True, timeout=30)
"""
PERL = r"""
use strict; use warnings; use WaferMon;
my $m = WaferMon->new(src => 'db-loader');
my $load = $m->start_span('load lot');
my $parse = $m->start_span('parse');
$m->log_event('error', "row 7 is \x{6676} torn");
$parse->end(status => 'error');
$load->end;
exit($m->close);
"""
perl = pytest.mark.skipif(
    shutil.which("perl") is None and os.environ.get("CI") != "true", reason="there is no perl here"
)


def wafermon(sidecar, *words):
    done = subprocess.run(
        [sys.executable, "-m", "wafermon", *words, "--admin", sidecar.ready["admin"]],
        capture_output=True, text=True, timeout=60, cwd=sidecar.folder, encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
    )
    return done.returncode, done.stdout, done.stderr


def config(folder, **traces):
    return {
        "sidecar": {"data_dir": str(folder / "sidecar-0/wafermon-data"), "tcp": {"port": 0}, "health": {"metrics_port": 0}},
        "backends": {"file": {"type": "file", "path": str(folder / "traces.jsonl"), "fsync": "batch"},
                     "store": {"type": "store"}},
        "routing": {"wafermon.traces": [{"backend": "file"}], "*": [{"backend": "store"}]},
        "traces": {"quiet": 0.3, **traces},
    }


@perl
@pytest.mark.slow
def test_one_trace_of_a_python_and_a_perl_script(start_sidecar, tmp_path):
    keep = {"errors": True, "slower_than_ms": 0, "share": 0}
    sidecar = start_sidecar(config=config(tmp_path, route=True, keep=keep))
    env = {**os.environ, "MONITORING_UNIX_SOCKET": sidecar.ready["unix"], "PYTHONPATH": str(ROOT)}
    perl_script = ["perl", "-I", str(ROOT / "perl/lib"), "-e", PERL]
    subprocess.run([sys.executable, "-c", PYTHON, *perl_script], env=env, check=True, timeout=60)
    sidecar.send(b"".join(spans_of("fine", 5)[1:2]))  # without an error: not to be routed

    def known():
        found = json.loads(sidecar.get("/api/traces"))
        return found if [t["complete"] for t in found["traces"]] == [True, True] else None

    (fine, one) = eventually(known, "two complete traces")["traces"]
    assert fine["tid"] == "fine" and one["name"] == "receive lot"
    assert (one["spans"], one["errors"], one["error_events"], one["orphans"]) == (4, 1, 1, 0)
    assert one["services"] == ["db-loader", "receiver"]

    status, out, _ = wafermon(sidecar, "traces", "--errors")
    assert status == 0 and one["tid"] in out and "fine" not in out
    status, out, err = wafermon(sidecar, "trace", one["tid"][:10])
    assert status == 0, err
    assert "2 services, 4 spans, 1 error" in out
    assert "db-loader  parse (error)" in out
    assert "one file is late" in out and "row 7 is 晶 torn" in out
    assert "error: receiver receive lot > db-loader load lot > db-loader parse" in out

    line = eventually(lambda: (tmp_path / "traces.jsonl").read_bytes()
                      if (tmp_path / "traces.jsonl").exists() else None, "the trace in the file")
    (message,) = map(json.loads, line.splitlines())
    assert (message["src"], message["tid"]) == ("wafermon.traces", one["tid"])
    assert message["data"]["level"] == "error" and len(message["data"]["ctx"]["spans"]) == 4
    assert sidecar.total("sidecar_traces_total", outcome="sampled") == 1
    assert sidecar.total("sidecar_service_calls_total", client="receiver", server="db-loader") == 1
    services = json.loads(sidecar.get("/api/services"))
    assert {(s["src"], s["name"]) for s in services["services"]} >= {("receiver", "receive lot"), ("db-loader", "parse")}
    assert services["edges"] == [{"from": "receiver", "to": "db-loader", "calls": 1, "errors": 0}]

    sidecar.stop()
    status, out, _ = wafermon(sidecar, "trace", one["tid"][:10])  # nobody answers: the store does
    assert status == 0 and "2 services, 4 spans, 1 error" in out


def test_commands_without_anybody_to_ask(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["traces"], ["trace", "abc"]):
        status, _, err = ran(capsys, *words, "--admin", "127.0.0.1:1")
        assert status == 1 and "no sidecar answers at 127.0.0.1:1" in err


def test_pages_of_a_sidecar(start_sidecar, tmp_path):
    sidecar = start_sidecar(config=config(tmp_path))
    status, out, _ = wafermon(sidecar, "traces")
    assert status == 0 and "wafermon send span" in out  # an empty list teaches
    sidecar.send(b"".join([*spans_of(), *spans_of("4bf9-other", 50), *spans_of("<img src=x>/é", 99)]))
    eventually(lambda: json.loads(sidecar.get("/api/traces"))["total"] == 3, "three traces")
    for query, tids in (("src=loader", 3), ("src=nobody", 0), ("min_ms=15", 3), ("min_ms=16", 0),
                        ("errors=1", 3), ("q=OTHER", 1), ("q=%3Cimg", 1)):
        assert json.loads(sidecar.get(f"/api/traces?{query}"))["total"] == tids, query
    found = json.loads(sidecar.get("/api/traces?limit=1"))
    assert found["total"] == found["remembered"] == 3 and len(found["traces"]) == 1
    one = json.loads(sidecar.get(f"/api/traces/{TID}"))
    assert [s["sid"] for s in one["spans"]] == ["a", "b"] and one["error_path"] == ["a", "b"]
    assert json.loads(sidecar.get("/api/traces/%3Cimg%20src%3Dx%3E%2F%C3%A9"))["tid"] == "<img src=x>/é"
    assert json.loads(sidecar.get(f"/api/traces/{TID[:6]}"))["tid"] == TID
    for path, code, words in (("/api/traces/4bf9", 404, "2 traces begin"), ("/api/traces/no", 404, "no trace no"),
                              ("/api/traces?min_ms=nan", 400, "min_ms"),
                              ("/api/traces?errors=maybe", 400, "errors"), ("/api/traces?limit=x", 400, "limit"),
                              ("/api/services?limit=-1", 400, "limit")):
        with pytest.raises(Exception, match=str(code)) as refused:
            sidecar.get(path)
        with contextlib.closing(refused.value) as answer:
            assert words in answer.read().decode()


def test_bounds_change_while_it_runs(start_sidecar, tmp_path):
    before = config(tmp_path)
    sidecar = start_sidecar(config=before)
    sidecar.send(b"".join(line for n in range(30) for line in spans_of(f"t{n}", n)))
    eventually(lambda: json.loads(sidecar.get("/api/traces"))["total"] == 30, "the traces")
    before["traces"]["max_traces"] = 4
    (sidecar.folder / "config.json").write_text(json.dumps(before))
    sidecar.process.send_signal(1)
    eventually(lambda: json.loads(sidecar.get("/api/traces"))["total"] == 4, "the new bound")
    assert json.loads(sidecar.get("/api/traces"))["evicted"]["traces"] == 26
