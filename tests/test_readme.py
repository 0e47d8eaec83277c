"""The commands of the README, as they stand, in an empty folder with an empty environment."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing

import pytest
from documented import commands
from support import DEADLINE_SECONDS, ROOT, eventually

pytestmark = pytest.mark.slow  # a dozen processes, one after the other

CANNOT = {
    "make test": "it is what runs this",
    "pip install .": "needs an index to build with; `make matrix` installs the wheel",
}
#: Those that go on until they are interrupted.
ENDLESS = ("python3 -m wafermon demo", "wafermon run", "wafermon tail", "wafermon top")
#: Ports that are taken here are free elsewhere, so the program is told of others; nothing else differs.
PYTHON = """#!/bin/sh
case "$3" in
    run|demo) set -- "$@" --tcp 127.0.0.1:{tcp} --admin 127.0.0.1:{admin} ;;
    send) set -- "$@" --tcp 127.0.0.1:{tcp} ;;
    tail|jobs|traces|top|health) set -- "$@" --admin 127.0.0.1:{admin} ;;
esac
exec {python} "$@"
"""


class Clone:
    """A folder with a fresh clone, as far as it is needed, and a shell in it."""

    def __init__(self, folder):
        self.folder, self.running = folder, []
        with closing(socket.create_server(("127.0.0.1", 0))) as tcp, closing(socket.create_server(("127.0.0.1", 0))) as admin:
            self.tcp, self.admin = tcp.getsockname()[1], admin.getsockname()[1]
        for name in ("wafermon", "perl"):
            if (ROOT / name).is_dir():
                (folder / name).symlink_to(ROOT / name)
        (folder / "bin").mkdir()
        self.program("python3", PYTHON.format(tcp=self.tcp, admin=self.admin, python=sys.executable))
        self.program("wafermon", '#!/bin/sh\nexec python3 -m wafermon "$@"\n')

    def program(self, name, text):
        (self.folder / "bin" / name).write_text(text)
        (self.folder / "bin" / name).chmod(0o755)

    def start(self, line):
        # Not in the background of a shell, which would have it ignore SIGINT.
        process = subprocess.Popen(["bash", "-c", f"exec {line}"], cwd=self.folder, stdin=subprocess.DEVNULL, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env())  # fmt: skip
        self.running.append((line, process))
        return process

    def run(self, line):
        done = subprocess.run(["bash", "-euc", line], cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=DEADLINE_SECONDS, env=self.env())  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), line
        return done.stdout

    def env(self):
        return {"PATH": f"{self.folder / 'bin'}:/usr/bin:/bin"}

    def interrupt(self, line, process):
        """Ctrl-C; what it had said."""
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=2 * DEADLINE_SECONDS)
        assert process.returncode in (0, 128 + signal.SIGINT, -signal.SIGINT), (line, err)
        return out

    def is_well(self):
        try:
            return self.run("wafermon health") == "ok\n"
        except AssertionError:
            return False

    def close(self):
        for _, process in self.running:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def clone(tmp_path):
    made = Clone(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_every_command_of_the_readme(clone):
    demo, run, plain = commands("README.md", CANNOT)
    (line,) = filter(None, demo.splitlines())
    assert line.startswith(ENDLESS)
    process = clone.start(line)
    eventually(lambda: clone.is_well() or process.poll() is not None, "the demo")
    assert "queue-service" in clone.interrupt(line, process)

    for line in run.splitlines():
        if not line.startswith(ENDLESS):
            said = clone.run(line)
            if "wafermon query" in line:
                eventually(lambda line=line, said=said: "L1 is late" in (said + clone.run(line)), line)
        elif line.startswith("wafermon run"):
            clone.start(line)
            eventually(clone.is_well, "the sidecar")
        else:
            clone.start(line)
    clone.run(plain.replace("/17000", f"/{clone.tcp}"))
    eventually(lambda: '"cron"' in clone.run("wafermon query --json --src cron"), "the message of the shell")
    ended = [clone.interrupt(line, process) for line, process in reversed(clone.running[1:])]
    assert "etl" in ended[0], "what wafermon top has seen"
    assert json.loads(clone.run("wafermon query --json --src etl").splitlines()[0])["data"]["ctx"] == {"tool": "EQP07"}
    assert sorted(os.listdir(clone.folder)) == sorted({"bin", "wafermon-data", *(n for n in ("perl", "wafermon") if (ROOT / n).is_dir())})
