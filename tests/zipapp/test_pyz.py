"""wafermon.pyz alone: an empty folder, hardly any environment, whatever Python there is."""

import ast
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import zipfile

import pytest
from certificates import authority
from matrix import find
from support import DEADLINE_SECONDS, SidecarProcess, eventually

from wafermon.client import Client
from wafermon.testing import frames

TIMEOUT = 60
MAX_BYTES = 1_000_000


def run(*command, cwd=None, env=None):
    """With nothing in the environment but what is given."""
    return subprocess.run([str(word) for word in command], cwd=cwd, env=env or {}, timeout=TIMEOUT,
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)  # fmt: skip


def altered(pyz, path, change):
    """The same archive with another content: `change` is called with name and content of each."""
    with zipfile.ZipFile(pyz) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return path


def test_it_is_small(pyz):
    assert pyz.stat().st_size < MAX_BYTES


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7", "3.8"])
def test_an_old_python_is_refused_in_one_line(pyz, tmp_path, version):
    python = find(version, needs="os")
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    for arguments in (["run"], []):
        done = run(python, pyz, *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (78, "")
        (line,) = done.stderr.splitlines()
        assert "needs Python 3.9 or later" in line and f"this is {version}." in line and python in line


def test_the_start_is_spelled_as_python_2_spells_it(pyz):
    """For where there is no Python 2.7 to try; what a parser of 2.7 would stumble over."""
    with zipfile.ZipFile(pyz) as archive:
        source = archive.read("__main__.py")
    assert source.isascii()
    for node in ast.walk(ast.parse(source)):
        newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Nonlocal, ast.AsyncFunctionDef, ast.YieldFrom)
        assert not isinstance(node, newer), ast.dump(node)
        if isinstance(node, ast.arguments):
            assert not (node.kwonlyargs or node.posonlyargs)
            assert all(arg.annotation is None for arg in node.args)
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None
        if isinstance(node, ast.Raise):
            assert node.cause is None
        if isinstance(node, ast.Call) and node.args:
            assert not any(isinstance(arg, ast.Starred) for arg in node.args[:-1])


def test_every_command_is_there(pyz, tmp_path):
    done = run(sys.executable, pyz, "--help", cwd=tmp_path)
    assert done.returncode == 0 and "dead-letters" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("called", ["relative", "symlink", "itself"])
def test_however_it_is_called(pyz, tmp_path, called):
    """Each as somebody may call it, from a folder where nothing is left behind."""
    place, here = tmp_path / "a place", tmp_path / "here"
    place.mkdir()
    here.mkdir()
    shutil.copy(pyz, place)
    env = {}
    if called == "relative":
        command = [sys.executable, "../a place/wafermon.pyz"]
    elif called == "symlink":
        (here / "wafermon").symlink_to("../a place/wafermon.pyz")
        command = [sys.executable, "wafermon"]
    else:
        (here / "python3").symlink_to(sys.executable)
        env["PATH"] = str(here)
        command = [place / "wafermon.pyz"]
    done = run(*command, "version", "--verbose", cwd=here, env=env)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(pyz.read_bytes()).hexdigest() in done.stdout
    assert os.listdir(place) == ["wafermon.pyz"]


def test_from_a_place_that_nobody_may_write(pyz, tmp_path):
    os.umask(os.umask(0o022))
    (tmp_path / "wafermon.pyz").write_bytes(pyz.read_bytes())
    (tmp_path / "wafermon.pyz").chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        assert run(sys.executable, tmp_path / "wafermon.pyz", "sdk", cwd="/").returncode == 0
        assert os.listdir(tmp_path) == ["wafermon.pyz"]
    finally:
        tmp_path.chmod(0o755)


def test_modules_that_come_late_come_wherever_the_process_has_gone(pyz, tmp_path):
    shutil.copy(pyz, tmp_path / "wafermon.pyz")
    code = """
import os, runpy, sys
sys.argv = ["wafermon.pyz", "version"]
sys.path.insert(0, "wafermon.pyz")
runpy.run_path("wafermon.pyz")["main"]()
os.chdir("/")
os.remove(sys.argv[0])
assert sys.path[0] == sys.argv[0]
import pkgutil
import wafermon.net.server, wafermon.sdk
try:
    import wafermon.net.none
except ModuleNotFoundError:
    print(len(wafermon.sdk.files("perl")["WaferMon.pm"]) > 9999)
from wafermon.net import Request
from wafermon.sidecar.pages.dashboard import dashboard
print(dashboard()[1](Request(rest="app.js")).status)
try:
    pkgutil.get_data("wafermon", "none")
except OSError as error:
    print(error)
"""
    done = run(sys.executable, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:3] == ["True", "200"]
    assert done.stdout.splitlines()[-1] == str(tmp_path / "wafermon.pyz" / "wafermon" / "none")


def test_it_is_the_library_too(pyz, tmp_path):
    code = "import wafermon.client, wafermon.net, yaml; print(wafermon.__file__)"
    shutil.copy(pyz, tmp_path)
    done = run(sys.executable, "-c", code, cwd=tmp_path, env={"PYTHONPATH": "wafermon.pyz"})
    assert done.stdout == f"{tmp_path}/wafermon.pyz/wafermon/__init__.py\n", done.stderr
    done = run(sys.executable, "-m", "wafermon", "version", "--verbose", cwd=tmp_path,
               env={"PYTHONPATH": str(pyz)})  # fmt: skip
    assert f"file       {pyz}\n" in done.stdout


def test_it_tells_its_digests(pyz, tmp_path):
    with zipfile.ZipFile(pyz) as archive:
        assert archive.testzip() is None
        names = sorted(archive.namelist())
        archive.extractall(tmp_path)
    listed = run("/usr/bin/sha256sum", *names, cwd=tmp_path).stdout
    done = run(sys.executable, pyz, "version", "--verbose")
    facts = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert facts["sha256"] == hashlib.sha256(pyz.read_bytes()).hexdigest()
    assert facts["contents"].endswith(hashlib.sha256(listed.encode()).hexdigest())
    assert facts["contents"].startswith(f"{len(names)} files")
    assert sys.executable in facts["python"] and "Linux" in facts["platform"]


def test_its_own_yaml_is_used(pyz, tmp_path):
    """And not one that happens to be installed."""
    (tmp_path / "yaml.py").write_text("raise RuntimeError('another')")
    (tmp_path / "w.yaml").write_text("sidecar: {tcp: {port: 017}}")
    done = run(sys.executable, pyz, "validate", tmp_path / "w.yaml", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 78 and "017" in done.stderr and "another" not in done.stderr
    facts = run(sys.executable, pyz, "version", "--verbose").stdout
    assert f"pyyaml     6.0.3, {pyz}/yaml\n" in facts


def config_of(folder):
    return {
        "sidecar": {
            "data_dir": str(folder / "data"),
            "tcp": {"port": 0},
            "health": {"metrics_port": 0},
            "performance": {"processes": 2},
        },
        "backends": {
            "file": {"type": "file", "path": str(folder / "out.jsonl")},
            "faulty": {"type": "null"},
        },
        "routing": {"*": [{"backend": "file"}], "bad": [{"backend": "faulty"}]},
    }


MISFORTUNES = {
    "rubbish": lambda path, other: path.write_bytes(b"\xff\0(\r\n" * (path.stat().st_size // 5)),
    "cut": lambda path, other: os.truncate(path, 1000),
    "moved": lambda path, other: path.rename(path.with_name("old.pyz")),
    "another": lambda path, other: shutil.copy(other, path),
    "upgrade": lambda path, other: other.replace(path),
}


class Load(threading.Thread):
    """A script that logs all the time, from before something happens until well after it."""

    def __init__(self, path):
        super().__init__()
        self.client = Client("load", unix=path)
        self.logged, self.enough, self.unsent = 0, threading.Event(), None

    def run(self):
        while not self.enough.wait(0.0005):  # as fast as it can go is too fast for any buffer
            self.client.log_event("info", str(self.logged))
            self.logged += 1
        self.unsent = self.client.close(timeout=DEADLINE_SECONDS)


def child_of(pid):
    return int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text())


@pytest.mark.parametrize("what", MISFORTUNES)
def test_whatever_becomes_of_the_file(pyz, tmp_path, what):
    """A sidecar that runs from it goes on: a lost worker, a fault and its traceback, a reload that
    needs modules which had no use before; and it loses nothing of what is sent all the time."""
    fault = b"\n\ndef write(self, batch):\n    1 / 0  # as it was\n\n\nNullBackend.write = write\n"
    program = altered(pyz, tmp_path / "wafermon.pyz", lambda name, content: (
        content + fault if name == "wafermon/backends/null.py" else content))
    other = altered(pyz, tmp_path / "other.pyz", lambda name, content: b"1 / 0  # another\n")
    config = config_of(tmp_path)
    sidecar = SidecarProcess(tmp_path, config=config, program=[sys.executable, str(program)],
                             root="/", env={"PYTHONPATH": ""})  # fmt: skip
    load = Load(sidecar.ready["unix"])
    try:
        eventually(lambda: sidecar.total("sidecar_worker_processes") == 1, "a worker")
        load.start()
        eventually(lambda: sidecar.total("sidecar_messages_received_total", source="load"), "the load")
        MISFORTUNES[what](program, other)
        os.kill(child_of(child_of(sidecar.process.pid)), signal.SIGKILL)  # a child of the nursery
        eventually(lambda: sidecar.total("sidecar_worker_processes_lost_total") == 1, "the loss")
        eventually(lambda: sidecar.total("sidecar_worker_processes") == 1, "another worker")
        sidecar.send(b"".join(frames(1000, src="b")))
        sidecar.send(frames(1, src="bad")[0])
        eventually(lambda: "ZeroDivision" in (
            json.loads(sidecar.get("/health"))["backends"]["faulty"].get("error") or ""), "the fault")
        cert, key = authority().issue()
        config["sidecar"]["tcp"]["tls"] = {"cert": cert, "key": key}
        (tmp_path / "config.json").write_text(json.dumps(config))
        sidecar.process.send_signal(signal.SIGHUP)
        eventually(lambda: sidecar.total("sidecar_config_reloads_total", result="ok") == 1, "the reload")
        load.enough.set()
        load.join(2 * DEADLINE_SECONDS)
        assert load.unsent == 0
        sidecar.check_conservation()
    finally:
        load.enough.set()
        status, err = sidecar.stop()
    assert "Traceback" in err and "1 / 0  # as it was" in err and "ZeroDivisionError" in err
    assert "another" not in err and "zipimport" not in err
    assert (tmp_path / "out.jsonl").read_bytes().count(b'"src":"b"') == 1000
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines() if b'"src":"load"' in line]
    said = [int(message["data"]["msg"]) for message in written if message["type"] == "event"]
    assert sorted(said) == list(range(load.logged)), "once each"
    assert status == 0, err


def test_a_copy_that_is_cut_short_says_so(pyz, tmp_path):
    """Whatever Python makes of it, it must not run half."""
    (tmp_path / "w.pyz").write_bytes(pyz.read_bytes()[:-100_000])
    done = run(sys.executable, tmp_path / "w.pyz", "version")
    assert done.returncode != 0 and done.stdout == ""
    content = bytearray(pyz.read_bytes())
    with zipfile.ZipFile(pyz) as archive:
        content[archive.getinfo("wafermon/cli/version.py").header_offset + 200] ^= 1
    (tmp_path / "w.pyz").write_bytes(content)
    done = run(sys.executable, tmp_path / "w.pyz", "version")
    assert done.returncode != 0 and done.stdout == ""
