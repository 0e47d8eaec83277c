"""The guide, command by command, in an empty folder with an empty environment."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import closing

import pytest
from documented import blocks, commands
from support import DEADLINE_SECONDS, ROOT

GUIDE = "docs/air-gapped.md"
_CHANGES = "would change the machine that tests"
_SYSTEMD = "needs a systemd that runs; the units are tested in tests/systemd"
_SELINUX = "needs SELinux"
CANNOT = {
    "install ": _CHANGES, "cp -p /opt": _CHANGES, "mv /opt": _CHANGES,
    "systemctl ": _SYSTEMD, "semanage ": _SELINUX, "restorecon ": _SELINUX, "ausearch ": _SELINUX,
}  # fmt: skip


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
    script = "\n".join(["set -eu", *commands(GUIDE, CANNOT), "wafermon-start", "wafermon-stop"])
    # As crontab has it: it knows HOME, and nothing of ~/bin.
    bare = f'PATH="{env["PATH"]}" ~/bin/wafermon-start'
    assert script.count("\nwafermon-start\n") == 4  # the last one when it runs already
    script = script.replace("\nwafermon-start\n", f"\n{bare}\n", 1)
    ports = {port: str(free_port()) for port in ("17000", "17001")}
    for port, free in ports.items():
        assert port in script
        script = script.replace(port, free)
    # Who asks at the ports that are the default has to be told of others here.
    for command, option in (("health", f"--admin 127.0.0.1:{ports['17001']}"),
                            ("send", f"--tcp 127.0.0.1:{ports['17000']}")):  # fmt: skip
        assert f"wafermon {command} " in script
        script = script.replace(f"wafermon {command}", f"wafermon {command} {option}")
    with open(folder / "said", "wb") as said:
        done = subprocess.run(["bash", "-c", script], cwd=folder / "carried", env=env, stdout=said,
                              stderr=said, stdin=subprocess.DEVNULL, timeout=2 * DEADLINE_SECONDS)  # fmt: skip
    text = (folder / "said").read_text()
    log = folder / "home" / "wafermon" / "log"
    assert done.returncode == 0, text + (log.read_text() if log.exists() else "")
    assert "\nok\n" in text and "this host " in text
    assert text.count("lot L1 loaded") == 2, "after the start, and after the way back"
    assert log.read_text().count("SIGTERM, stopping") == 3
    assert sorted(os.listdir(folder / "carried")) == ["SHA256SUMS", "wafermon.pyz"]
    assert pathlib.Path(folder / "home" / "wafermon" / "perl" / "WaferMon.pm").exists()


def test_another_python_is_given_the_words_of_the_unit():
    unit = (ROOT / "deploy" / "systemd" / "wafermon.service").read_text()
    (words,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    (drop_in,) = blocks(GUIDE, "ini")
    assert drop_in.splitlines() == ["[Service]", "ExecStart=", words.replace("=", "=/usr/bin/python3.11 ", 1)]
