"""`wafermon dead-letters`: what it shows, and what it sends again."""

import json
import os
import socket
import subprocess

import pytest
from certificates import authority
from support import COMMAND, ROOT, eventually

from wafermon.cli import main
from wafermon.testing import frames

RECORDS = [
    {"time": 1_700_000_000_000, "reason": "invalid_json", "line": "rub\x1b[2Jbish"},
    {"time": 1_700_000_100_000, "reason": "oversize", "base64": "/wo="},
    {"time": 1_700_000_200_000, "reason": "too sour", "backend": "nas",
     "line": frames(1, first=1)[0].decode().strip()},
]


@pytest.fixture
def folder(tmp_path):
    old = tmp_path / "dead-letters@20231114T221320.jsonl"
    old.write_text(json.dumps(RECORDS[0]) + "\n")
    now = tmp_path / "dead-letters.jsonl"
    now.write_text("".join(json.dumps(r) + "\n" for r in RECORDS[1:]) + '{"time":1,"rea')
    return tmp_path


def listed(capsys, folder, *options):
    assert main(["dead-letters", "list", "--data", str(folder), *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_list_shows_all_of_them_safely(capsys, folder):
    lines = listed(capsys, folder)
    assert len(lines) == 3 and "\x1b" not in "".join(lines)
    assert "invalid_json  rub\\x1b[2Jbish" in lines[0]
    assert "oversize" in lines[1] and "xff" in lines[1]
    assert "nas: too sour" in lines[2]


@pytest.mark.parametrize("options, places", [
    (["--reason", "sour"], [2]),
    (["--backend", "nas"], [2]),
    (["--since", "1700000100"], [1, 2]),
    (["--limit", "2"], [1, 2]),
    (["--reason", "nothing"], []),
])  # fmt: skip
def test_filters(capsys, folder, options, places):
    lines = listed(capsys, folder, "--json", *options)
    assert [json.loads(line) for line in lines] == [RECORDS[i] for i in places]


def test_without_a_folder(capsys, tmp_path):
    assert main(["dead-letters", "list", "--data", str(tmp_path / "no")]) == 1
    assert "--data" in capsys.readouterr().err


def test_replay_gives_a_sidecar_what_is_valid(start_sidecar, folder):
    out = folder / "out.jsonl"
    sidecar = start_sidecar(config={
        "sidecar": {"data_dir": str(folder / "data"), "tcp": {"port": 0},
                    "health": {"metrics_port": 0}},
        "backends": {"out": {"type": "file", "path": str(out)}},
    })  # fmt: skip
    marked = frames(1, first=2, q=7, x=1.50)[0].decode().strip()  # with a number of its session
    many = [{"time": 1, "reason": "r", "line": line.decode().strip()}
            for line in frames(1000, first=3, pad="x" * 600)]  # fmt: skip
    with open(folder / "dead-letters@20200101T000000.jsonl", "w") as file:
        for record in [{"time": 1, "reason": "r", "line": marked}, *many]:
            file.write(json.dumps(record) + "\n")
    tcp = "{}:{}".format(*sidecar.tcp)
    done = subprocess.run(
        [*COMMAND, "dead-letters", "replay", "--data", str(folder),
         "--tcp", tcp], cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "1002 of 1002 sent again, 2 skipped as no valid frames\n"
    eventually(lambda: out.exists() and len(out.read_bytes().splitlines()) == 1002)
    numbers = {json.loads(line)["ts"] for line in out.read_bytes().splitlines()}
    assert numbers == {1_700_000_000_000 + i for i in range(1, 1003)}


def test_replay_to_nobody_says_so(capsys, folder):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    assert main(["dead-letters", "replay", "--data", str(folder), "--tcp", f"127.0.0.1:{port}"]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("0 of 1 sent again") and "refused" in said.err


def test_replay_over_tls_with_a_secret(start_sidecar, folder, tmp_path):
    """By the same variables as `send`; without them it says what is missing."""
    cert, key = authority().issue()
    secret = tmp_path / "secret"
    secret.write_text("sesame")
    secret.chmod(0o600)
    sidecar = start_sidecar(config={
        "sidecar": {"data_dir": str(folder / "data"), "health": {"metrics_port": 0},
                    "tcp": {"port": 0, "tls": {"cert": cert, "key": key},
                            "auth": {"secret_file": str(secret)}}},
        "backends": {"out": {"type": "file", "path": str(folder / "out.jsonl")}},
    })  # fmt: skip
    guarded = {"MONITORING_SECRET": "sesame", "MONITORING_TLS_CA": authority().path}

    def replay(env):
        return subprocess.run(
            [*COMMAND, "dead-letters", "replay", "--data", str(folder),
             "--tcp", sidecar.ready["tcp"]], cwd=ROOT, env={**os.environ, **env},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    done = replay({**guarded, "MONITORING_SECRET": "wrong"})
    assert done.returncode == 1 and '"reason":"auth"' in done.stderr
    done = replay(guarded)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "1 of 1 sent again, 2 skipped as no valid frames\n"
    eventually(lambda: (folder / "out.jsonl").exists()
               and (folder / "out.jsonl").read_bytes().count(b"\n") == 1)
    done = replay({**guarded, "MONITORING_TLS_CA": authority().issue()[0]})
    assert done.returncode == 1 and "CERTIFICATE_VERIFY_FAILED" in done.stderr
