"""The command `wafermon explain`, and the tests that a configuration brings along."""

import argparse
import io
import json
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT, eventually

from wafermon.cli import explain, validate
from wafermon.errors import ConfigError
from wafermon.sidecar import parse
from wafermon.sidecar.build import rate_limit, router
from wafermon.sidecar.explain import Explainer
from wafermon.wire import Decoder

CONFIG = {
    "sidecar": {"redact": ["data.ctx.password"]},
    "backends": {"nas": {"type": "null"}, "store": {"type": "store"}},
    "routing": {
        "db-*": [
            {"backend": "nas", "types": ["event"], "level": "error", "redact": ["data.ctx.pin"]},
            {"backend": "store", "sample": 0.5},
        ],
        "quiet": [],
        "*": [{"backend": "store"}],
    },
}


def line(src="db-1", type="event", ts=1, **more):
    return json.dumps({"v": 1, "src": src, "ts": ts, "type": type, **more}).encode() + b"\n"


def event(level="error", ctx=None, **more):
    return line(data={"level": level, "msg": "m", "ctx": ctx or {}}, **more)


@pytest.fixture
def file(tmp_path):
    def write(document, name="w.json"):
        path = tmp_path / name
        path.write_text(json.dumps(document))
        return str(path)

    return write


@pytest.fixture
def run(file, tmp_path, capsys, monkeypatch):
    """Explain lines; exit status and stdout."""

    def command(lines, *arguments, config=CONFIG, stdin=False):
        parser = argparse.ArgumentParser()
        explain.arguments(parser)
        words = ["--config", file(config), *arguments]
        if stdin:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
        else:
            (tmp_path / "in.jsonl").write_bytes(lines)
            words.append(str(tmp_path / "in.jsonl"))
        status = explain.run(parser.parse_args(words))
        return status, capsys.readouterr().out

    return command


def test_words(run):
    secret = event(ctx={"password": "hunter2", "pin": [1, 2]})
    status, out = run(secret + event("info", tid="t2") + line("quiet", "heartbeat"))
    assert status == 0
    assert "hunter2" not in out
    lines = out.splitlines()
    assert lines[0] == "line 1: db-1 event: goes to nas (null), store (store)"
    assert lines[1] == "  hidden from everybody: data.ctx.password"
    assert lines[2] == "  routing.db-* counts, as it is more specific than *"
    assert lines[3] == '    [0] nas: yes: type is "event", data.level is "error"'
    assert lines[4] == "    [1] store: yes: takes everything, among the 0.5 of its sample"
    assert lines[5] == "  hidden from nas: data.ctx.pin"
    assert '    [0] nas: no: data.level is "info", wanted error or graver' in lines
    assert "line 3: quiet heartbeat: no_route: no entry of the routing sends this source anywhere" in lines


@pytest.mark.parametrize(
    "bad, reason",
    [
        (b"rubbish\n", "invalid_json"),
        (b"[1]\n", "not_object"),
        (b"{}\n", "bad_version"),
        (line(src=""), "bad_field"),
        (line(type="poem", data={}), "unknown_type"),
        (b"x" * 200_000 + b"\n", "oversize"),
        (b'{"v":1', "truncated"),
    ],
)
def test_a_bad_line_is_the_reject_it_would_be(run, bad, reason):
    _, out = run(event() + b"\n" + bad, "--json", stdin=True)
    first, second = map(json.loads, out.splitlines())
    assert (first["line"], second["line"]) == (1, 3)
    assert (second["outcome"], second["reject"], second["backends"]) == ("rejected", reason, [])
    assert second["reason"]


def test_json(run):
    _, out = run(event(ctx={"password": 1, "pin": 2}) + line(type="hello", data={"secret": "s3cret"}), "--json")
    told, hello = map(json.loads, out.splitlines())
    assert told["outcome"] == "routed" and told["entry"] == "db-*" and told["beaten"] == ["*"]
    assert [(r["backend"], r["sends"]) for r in told["rules"]] == [("nas", True), ("store", True)]
    assert told["redacted"] == ["data.ctx.password"]
    assert told["backends"][0] == {
        "name": "nas", "type": "null", "redacted": ["data.ctx.password", "data.ctx.pin"],
    }
    assert hello["outcome"] == "session" and "s3cret" not in out


def test_what_is_hidden_from_everybody_is_no_help_to_a_rule(run):
    config = {**CONFIG, "routing": {"*": [{"backend": "nas", "where": {"data.ctx.password": "a"}}]}}
    _, out = run(event(ctx={"password": "a"}), config=config)
    assert 'data.ctx.password is "[redacted]", wanted "a"' in out


def test_the_rate_limit_goes_by_the_time_in_the_messages(run):
    limited = {**CONFIG, "sidecar": {"buffers": {"rate_limit": {"per_source": 1, "burst": 2}}}}
    lines = b"".join(line("x", "heartbeat", ts) for ts in (1000, 1000, 1000, 2000, 2000))
    _, out = run(lines, "--json", config=limited)
    outcomes = [json.loads(told)["outcome"] for told in out.splitlines()]
    assert outcomes == ["routed", "routed", "rate_limited", "routed", "rate_limited"]
    assert rate_limit(parse({})) is None


def test_nothing_of_a_message_reaches_the_terminal_as_it_is(run):
    hostile = "\x9b2J\u202e\U0001f600"
    config = {**CONFIG, "routing": {"*": [{"backend": "nas", "where": {"data.ctx.tool": "a"}}]}}
    _, out = run(event(src="db\u202e", ctx={"tool": hostile}), config=config)
    assert all(part.isprintable() for part in out.splitlines())
    _, out = run(event(src="db\u202e", ctx={"tool": hostile}), "--json")
    assert out.isascii()


def test_faults(run, file, capsys):
    assert run(b"", config={"sidecar": 7})[0] == 78
    parser = argparse.ArgumentParser()
    explain.arguments(parser)
    assert explain.run(parser.parse_args(["/no/such", "--config", file({})])) == 1
    assert "/no/such: No such file" in capsys.readouterr().err


def test_a_pipe_is_explained_line_by_line(file):
    """Each as it comes: behind `tail` it shows what passes."""
    with subprocess.Popen(
        [sys.executable, "-m", "wafermon", "explain", "--config", file(CONFIG)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:
        process.stdin.write(line("quiet", "heartbeat"))
        process.stdin.flush()
        assert b"no_route" in process.stdout.readline()
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def test_what_is_explained_is_what_a_sidecar_does(start_sidecar, tmp_path):
    """The same config and the same lines: each backend holds what was foretold."""
    path = tmp_path / "nas.jsonl"
    config = {
        "sidecar": {
            "data_dir": str(tmp_path / "d"), "redact": ["data.ctx.password"],
            "tcp": {"port": 0}, "health": {"metrics_port": 0},
        },
        "backends": {"nas": {"type": "file", "path": str(path)}, "void": {"type": "null"}},
        "routing": {"db-*": [{"backend": "nas", "level": "error", "redact": ["data.ctx.pin"]}],
                    "*": [{"backend": "nas", "sample": 0.5}]},
    }
    lines = [
        event(level, {"password": "p", "pin": ts}, src=src, ts=ts)
        for ts, (level, src) in enumerate((lv, s) for lv in ("info", "error") for s in ("db-1", "x", "y"))
    ]
    explainer = Explainer(parse(config))
    fates = [fate for _, fate in explainer.lines([*lines, b"rubbish\n"])]
    sidecar = start_sidecar(config=config)
    sidecar.send(b"".join(lines) + b"rubbish\n")
    eventually(lambda: sidecar.total("sidecar_messages_received_total") == len(lines), "arrival")
    sidecar.stop()
    got = {m["ts"]: m for m in map(json.loads, path.read_text().splitlines())}
    assert [fate.outcome for fate in fates][-1] == "rejected"
    assert {fate.message["ts"] for fate in fates if "nas" in fate.backends} == set(got)
    for fate in fates:
        if "nas" in fate.backends:
            ctx = got[fate.message["ts"]]["data"]["ctx"]
            hidden = [f"data.ctx.{key}" for key, value in ctx.items() if value == "[redacted]"]
            assert sorted(hidden) == fate.backends["nas"]


paths = st.sampled_from(["data.a", "data.b.c", "data.b"])
rules = st.fixed_dictionaries(
    {"backend": st.sampled_from(["x", "y"])},
    optional={
        "level": st.sampled_from(["info", "error"]),
        "where": st.dictionaries(paths, st.sampled_from([1, "a*", True, "[redacted]"]), min_size=1, max_size=2),
        "sample": st.sampled_from([0, 0.5]),
        "redact": st.lists(paths, min_size=1, max_size=2),
    },
)
values = st.recursive(st.sampled_from([1, True, "ab", None]), lambda v: st.lists(v, max_size=2) | st.dictionaries(st.sampled_from("abc"), v, max_size=2), max_leaves=4)


@given(
    st.dictionaries(st.sampled_from(["s", "s*", "*"]), st.lists(rules, max_size=3), max_size=3),
    st.lists(paths, max_size=1),
    st.lists(st.dictionaries(st.sampled_from(["a", "b", "level"]), values, max_size=3), min_size=1, max_size=4),
)
def test_a_fate_is_what_the_router_does(routing, redact, payloads):
    document = {"backends": {"x": {"type": "null"}, "y": {"type": "null"}}, "routing": routing}
    if redact:
        document["sidecar"] = {"redact": redact}
    config = parse(document)
    lines = b"".join(line("s1" if i % 2 else "s", ts=i, data=p) for i, p in enumerate(payloads))
    told = list(Explainer(config).fates(Decoder().feed(lines)))
    real = router(config)
    batch = real.clean(Decoder().feed(lines))
    parts = {name: {m["ts"]: m for m in map(json.loads, part.lines)} for name, part in real.route(batch)}
    for i, fate in enumerate(told):
        assert set(fate.backends) == {name for name, part in parts.items() if i in part}
        assert set(fate.ruling.backends) == set(fate.backends)
        for name in fate.backends:
            same = payloads[i] == parts[name][i]["data"]
            assert same is (not fate.backends[name]) or "[redacted]" in json.dumps(payloads[i])


# -- tests in a configuration ------------------------------------------------------------------


def case(**more):
    return {"messages": [{"src": "db-1", "type": "event", "data": {"level": "error", "ctx": {"password": "p"}}}],
            "backends": ["nas", "store"], **more}


@pytest.fixture
def validated(file, capsys):
    def command(tests, *arguments):
        parser = argparse.ArgumentParser()
        validate.arguments(parser)
        path = file({**CONFIG, "tests": tests})
        status = validate.run(parser.parse_args([*(arguments or ["--test"]), path]))
        out, err = capsys.readouterr()
        return status, out.splitlines()[1:], err.splitlines()

    return command


def test_tests_that_pass(validated):
    tests = [
        case(name="errors"), case(redacted={"nas": ["data.ctx.password"]}),
        {"messages": [{"src": "quiet", "type": "heartbeat"}], "backends": []},
    ]
    assert validated(tests) == (
        0, ["tests[0] errors: ok", "tests[1]: ok", "tests[2]: ok", "3 tests, 0 failed"], []
    )


def test_tests_that_fail_say_what_differs_and_why(validated):
    tests = [
        case(name="all", backends=["nas"]),
        case(messages=[{"src": "x", "type": "heartbeat"}], backends=["nas", "store"]),
        case(messages=[{"src": "db-1", "type": "metric", "data": {}}], backends=["nas"]),
        case(redacted={"nas": ["data.ctx.pin"], "store": []}),
        case(messages=[{"src": "db-1", "type": "poem"}]),
    ]
    status, out, _ = validated(tests)
    assert status == 1
    assert out == [
        "tests[0] all: FAILED",
        "  messages[0]: + store gets it, by routing.db-*[1]",
        "tests[1]: FAILED",
        "  messages[0]: - nas does not get it: routing.* has no rule for it",
        "tests[2]: FAILED",
        '  messages[0]: - nas does not get it: routing.db-*[0]: type is "metric", wanted event',
        "  messages[0]: + store gets it, by routing.db-*[1]",
        "tests[3]: FAILED",
        "  messages[0]: - data.ctx.pin is not hidden from nas",
        "  messages[0]: + data.ctx.password is hidden from nas",
        "  messages[0]: + data.ctx.password is hidden from store",
        "tests[4]: FAILED",
        "  messages[0]: is rejected (unknown_type): there is no such type; it goes to the dead letters",
        "5 tests, 5 failed",
    ]


def test_without_the_option_tests_are_only_checked(validated):
    assert validated([case(backends=[])], "--") == (0, [], [])
    status, _, faults = validated([case(backends=["nsa"]), {"backends": []}], "--")
    assert status == 78
    assert faults[:2] == [
        "tests[1].messages: missing, expected a list, each a message: a mapping such as "
        "{src: etl, type: heartbeat}",
        "tests[0]: no backend is called 'nsa', did you mean 'nas'?",
    ]


def test_without_tests_one_is_shown(validated, tmp_path):
    status, out, _ = validated(None)
    assert status == 0 and out[0].startswith("there are no tests in it")
    yaml = pytest.importorskip("yaml")
    example = yaml.safe_load("\n".join(out[1:]))
    assert validated(example["tests"])[0] == 0
    assert parse(example).tests[0].backends == ("store",)


@pytest.mark.parametrize("text, fault", [
    ("{a: 017}", 'YAML reads 017 as an octal number: quote it'),
    ("{1: 2}", 'expected keys of text, got "1": quote it'),
    ("{a: !!binary aGk=}", "JSON has no bytes: quote it"),
    ("{a: 1, a: 2}", 'the key "a" stands twice'),
    ("7", "expected a message: a mapping such as {src: etl, type: heartbeat}, got the integer 7"),
])
def test_a_message_is_what_json_can_say(text, fault):
    pytest.importorskip("yaml")
    from wafermon.sidecar.yaml_format import read

    with pytest.raises(ConfigError) as caught:
        parse(read(f"tests: [{{messages: [{text}], backends: []}}]"))
    assert caught.value.faults == [f"tests[0].messages[0]: {fault}"]


def test_the_tests_of_the_document(file, capsys):
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "docs" / "testing-config.md").read_text("utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S)
    rules = [{"backend": "nas", "level": "error", "redact": ["data.ctx.password"]}, {"backend": "store"}]
    document = {**CONFIG, "sidecar": {}, "routing": {"db-*": rules, "noisy-job": []}, **yaml.safe_load(block)}
    parser = argparse.ArgumentParser()
    validate.arguments(parser)
    assert validate.run(parser.parse_args(["--test", file(document)])) == 0
    assert "2 tests, 0 failed" in capsys.readouterr().out


def test_run_ignores_tests(start_sidecar, tmp_path):
    config = {"sidecar": {"data_dir": str(tmp_path / "d"), "tcp": {"port": 0}, "health": {"metrics_port": 0}},
              "tests": [{"messages": [{"src": "${NOT_SET}", "type": "event"}], "backends": []}]}
    assert start_sidecar(config=config).stop()[0] == 0
