"""Redaction in a running sidecar: neither the journal nor a backend ever has the value."""

import json

from support import eventually

from wafermon.testing import frame


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
    kept = b"".join(p.read_bytes() for p in (tmp_path / "data").iterdir() if p.is_file())
    assert b"MEIER" in kept, "the rule hides it from its backend only"
    assert b"GEHEIM" not in kept
