"""The guide, command by command, in an empty folder with an empty environment."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import closing

import pytest
from support import DEADLINE_SECONDS, ROOT

#: In place of a time that may be too short here.
ARRIVED = "until wafermon query --store ~/wafermon/data/store.db | grep -q L1; do sleep 0.1; done\n"
GUIDE = ROOT / "docs" / "air-gapped.md"


def free_port():
    with closing(socket.create_server(("127.0.0.1", 0))) as sock:
        return sock.getsockname()[1]


@pytest.fixture
def host(pyz, tmp_path):
    """What was carried over, in a folder of its own, and the environment of a shell there."""
    for name in ("home", "carried", "bin"):
        (tmp_path / name).mkdir()
    shutil.copy(pyz, tmp_path / "carried" / "wafermon.pyz")
    with open(tmp_path / "carried" / "SHA256SUMS", "w") as file:
        subprocess.run(["sha256sum", "wafermon.pyz"], cwd=tmp_path / "carried", stdout=file, check=True)
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)
    yield tmp_path, {"HOME": str(tmp_path / "home"), "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    pid = tmp_path / "home" / "wafermon" / "pid"
    if pid.exists():
        try:
            os.kill(int(pid.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            pass


def test_every_command_of_the_guide(host):
    folder, env = host
    blocks = re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text("utf-8"), re.M | re.S)
    script = "\n".join(["set -eu", *blocks, "wafermon-stop"])
    for port in ("17000", "17001"):
        assert port in script
        script = script.replace(port, str(free_port()))
    script = script.replace("sleep 1\n", ARRIVED)
    script = script.replace("wafermon send event", 'wafermon send --unix "$HOME/wafermon/data/sidecar.sock" event')
    with open(folder / "said", "wb") as said:
        done = subprocess.run(["bash", "-c", script], cwd=folder / "carried", env=env, stdout=said,
                              stderr=said, stdin=subprocess.DEVNULL, timeout=2 * DEADLINE_SECONDS)  # fmt: skip
    text = (folder / "said").read_text()
    log = folder / "home" / "wafermon" / "log"
    assert done.returncode == 0, text + (log.read_text() if log.exists() else "")
    assert text.count("lot L1 loaded") == 2, "after the start, and after the way back"
    assert log.read_text().count("SIGTERM, stopping") == 3
    assert sorted(os.listdir(folder / "carried")) == ["SHA256SUMS", "wafermon.pyz"]
    assert pathlib.Path(folder / "home" / "wafermon" / "perl" / "WaferMon.pm").exists()
