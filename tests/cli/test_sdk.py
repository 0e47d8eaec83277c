"""`wafermon sdk`: what it unpacks is what a script needs."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from matrix import find
from support import COMMAND, ROOT, eventually

SCRIPTS = {
    "perl": "use WaferMon; my $m = WaferMon->new(src => 'from-the-sdk'); $m->log_event('info', 'x'); exit $m->close",
    "python": "from wafermon.client import Client\nwith Client('from-the-sdk') as m: m.log_event('info', 'x')",
}


def sdk(*arguments, cwd=ROOT):
    return subprocess.run([*COMMAND, "sdk", *map(str, arguments)], cwd=cwd, timeout=60,
                          capture_output=True, text=True)  # fmt: skip


def test_which_there_are():
    done = sdk()
    assert done.returncode == 0 and done.stderr == ""
    for language in SCRIPTS:
        assert f"\n{language} " in f"\n{done.stdout}"


@pytest.mark.parametrize("language", SCRIPTS)
def test_a_script_can_use_what_is_unpacked(tmp_path, sidecar, language):
    folder = tmp_path / "lib" / language
    done = sdk(language, folder)
    assert done.returncode == 0 and done.stderr == ""
    for line in done.stdout.splitlines()[:-1]:
        assert pathlib.Path(line).is_relative_to(folder) and pathlib.Path(line).is_file()
    if language == "perl":
        if shutil.which("perl") is None:
            pytest.skip("there is no perl here")
        command = ["perl", f"-I{folder}", "-e", SCRIPTS[language]]
    else:
        command = [find("3.6", needs="os") or sys.executable, "-c", SCRIPTS[language]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, text=True, env={
        "MONITORING_UNIX_SOCKET": sidecar.ready["unix"], "PYTHONPATH": str(folder)})  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    eventually(lambda: sidecar.total("sidecar_messages_received_total", source="from-the-sdk"), "the message")


def test_the_files_are_replaced(tmp_path):
    (tmp_path / "WaferMon.pm").write_text("old")
    assert sdk("perl", tmp_path).returncode == 0
    assert "package WaferMon" in (tmp_path / "WaferMon.pm").read_text()
    assert sorted(os.listdir(tmp_path)) == ["README.md", "WaferMon.pm"]


@pytest.mark.parametrize("arguments, status, said", [
    (["perl"], 2, "wafermon sdk perl DIR"),
    (["cobol", "x"], 2, "perl"),
    (["perl", "/proc/none"], 1, "/proc/none"),
])
def test_what_cannot_be_done(tmp_path, arguments, status, said):
    done = sdk(*arguments, cwd=tmp_path if "-m" not in COMMAND else ROOT)
    assert done.returncode == status and said in done.stderr and "Traceback" not in done.stderr
