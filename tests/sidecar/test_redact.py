"""Redaction in a running sidecar: neither the journal nor a backend ever has the value."""

import json

import pytest
from support import eventually

from wafermon.errors import ConfigError
from wafermon.message import Batch
from wafermon.sidecar import build
from wafermon.sidecar.load import parse
from wafermon.testing import frame


def config_of(tmp_path, redact, path):
    return {
        "sidecar": {"data_dir": str(tmp_path / "data"), "tcp": {"port": 0},
                    "health": {"metrics_port": 0}, "redact": redact},
        "backends": {"out": {"type": "file", "path": str(path)}},
    }


def files_of(folder):
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


def test_what_is_redacted_is_nowhere(start_sidecar, tmp_path):
    (tmp_path / "blocked").write_text("")
    config = {
        "sidecar": {"data_dir": str(tmp_path / "data"), "tcp": {"port": 0},
                    "health": {"metrics_port": 0}, "redact": ["data.ctx.password"]},
        "routing": {"*": [{"backend": "out", "redact": ["data.ctx.user"]}, {"backend": "blocked"}]},
        "backends": {"out": {"type": "file", "path": str(tmp_path / "out.jsonl")},
                     "blocked": {"type": "file", "path": str(tmp_path / "blocked" / "x.jsonl")}},
    }
    sidecar = start_sidecar(config=config)
    ctx = {"password": "GEHEIM", "user": "MEIER", "lot": "L1"}
    sidecar.send(frame(1, data={"level": "info", "msg": "x", "ctx": ctx}))
    eventually(lambda: (tmp_path / "out.jsonl").exists() and (tmp_path / "out.jsonl").read_bytes())
    eventually(lambda: sidecar.total("sidecar_journal_messages_total", outcome="committed") == 1)
    assert sidecar.stop()[0] == 0
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert line["data"]["ctx"] == {"password": "[redacted]", "user": "[redacted]", "lot": "L1"}
    kept = files_of(tmp_path / "data")
    assert b"MEIER" in kept, "the rule hides it from its backend only"
    assert b"GEHEIM" not in kept


def test_neither_odd_frames_nor_bad_ones_carry_the_value(start_sidecar, tmp_path):
    out = tmp_path / "out.jsonl"
    sidecar = start_sidecar(config=config_of(tmp_path, ["data.ctx.password"], out))
    head = b'{"v":1,"src":"r","ts":1,"type":"event",'
    good = [
        (b'"data":{"ctx":{"password":"GEHEIM"}},"data":{"msg":"twice"}}', True),
        (b'"data":{"ctx":{"password":"GEHEIM"},"x":1e400}}', True),
        (b'"data":{"ctx":[{"p\\u0061ssword":"GEHEIM"}]}}', True),
        (b'"data":{"ctx":{},"x":1e400}}', False),
    ]
    bad = [
        b'{"v":1,"src":"r","ts":"x","type":"event","data":{"ctx":{"password":"GEHEIM"}}}',
        b'{"v":1,"src":"r","ts":1,"type":"event","data":{"ctx":{"password":"GEHEIM"},}}',
        b'{"v":1,"src":"r","ts":1,"type":"event","ctx":{"password":"GEHEIM"}}',
        b'{"ctx":{"password":"GEHEIM' + b"x" * 70_000,
    ]
    lines = [head + rest for rest, _ in good] + bad
    sidecar.send(b"\n".join(lines) + b'\n{"data":{"ctx":{"password":"GEHEIM')
    eventually(lambda: sidecar.total("sidecar_messages_rejected_total") == 5)
    eventually(lambda: out.exists() and out.read_bytes().count(b"\n") == 4)
    assert sidecar.stop()[0] == 0
    for line, (rest, hidden) in zip(out.read_bytes().splitlines(), good):
        assert line == head + (rest.replace(b'"GEHEIM"', b'"[redacted]"') if hidden else rest)
    letters = [json.loads(line) for line in (tmp_path / "data" / "dead-letters.jsonl").read_bytes().splitlines()]
    assert [(letter["reason"], letter["line"]) for letter in letters] == [
        ("bad_field", bad[0].replace(b"GEHEIM", b"[redacted]").decode()),
        ("invalid_json", f"[redacted: {len(bad[1])} bytes]"),
        ("bad_field", f"[redacted: {len(bad[2])} bytes]"),
        ("oversize", "[redacted: 1024 bytes]"),
        ("truncated", "[redacted: 34 bytes]"),
    ]
    assert b"GEHEIM" not in files_of(tmp_path / "data") + out.read_bytes()


def test_a_backlog_is_redacted_as_the_configuration_of_now_says(start_sidecar, tmp_path):
    (tmp_path / "blocked").write_text("")
    config = config_of(tmp_path, None, tmp_path / "blocked" / "x.jsonl")
    sidecar = start_sidecar(config=config)
    data = {"ctx": {"password": "GEHEIM", "lot": "L1"}}
    sidecar.send(b"".join(frame(number, data=data) for number in range(9)))
    eventually(lambda: sidecar.total("sidecar_journal_messages_total", outcome="committed") == 9)
    sidecar.stop()
    assert b"GEHEIM" in files_of(tmp_path / "data")
    out = tmp_path / "out.jsonl"
    start_sidecar(config=config_of(tmp_path, ["data.ctx.password"], out))
    eventually(lambda: out.exists() and out.read_bytes().count(b"\n") == 9)
    found = [json.loads(line)["data"]["ctx"] for line in out.read_bytes().splitlines()]
    assert found == [{"password": "[redacted]", "lot": "L1"}] * 9


def test_what_a_backend_gets_of_a_backlog_keeps_its_number_of_messages():
    router = build.router(parse({"sidecar": {"redact": ["data.pin"]}}, {}))
    lines = [frame(1, data={"pin": 1}), frame(2), frame(3, src="b", data={"pin": [2]})]
    part = build.part_for(router, "store", Batch(b"".join(lines)))
    assert [message["data"] for message in part.messages] == [
        {"pin": "[redacted]"}, {"level": "info", "msg": "2"}, {"pin": "[redacted]"}
    ]
    assert part.sources == {"test": 2, "b": 1} and part.lines[1] + b"\n" == lines[1]


@pytest.mark.parametrize("path", ["src", "v", "ts", "type", "tid", "q", "data", "data.", "ctx.password"])
def test_only_what_is_below_data_can_be_hidden(path):
    route = {"backend": "x", "redact": [path]}
    document = {"sidecar": {"redact": [path]}, "routing": {"*": [route]}, "backends": {"x": {"type": "null"}}}
    with pytest.raises(ConfigError) as caught:
        parse(document, {})
    expected = f'expected a dotted path below data such as data.ctx.password, got the string "{path}"'
    assert caught.value.faults == [
        f"sidecar.redact[0]: {expected}", f"routing.*[0].redact[0]: {expected}"
    ]
