"""`wafermon top` against a real sidecar: in tmux, in a pty, and in a pipe."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time

import pytest
from support import DEADLINE_SECONDS, ROOT, SidecarProcess, eventually

#: What a source may be called, and what a message may say.
NAME, MSG = "evil\u202e<b>\u200b", "\x1b]0;owned\x07more"


def line(**more):
    return json.dumps({"v": 1, "ts": int(time.time() * 1000), **more}).encode() + b"\n"


def progress(percent=40.0, msg="rows"):
    return line(src="etl", type="progress", data={"job_id": "load", "percent": percent, "msg": msg})


def top(sidecar, *more):
    return [sys.executable, "-m", "wafermon", "top", "--admin", sidecar.ready["admin"], *more]


@pytest.fixture
def tmux(tmp_path):
    """A terminal of 100 x 30 that can be typed into and read; a server of its own."""
    if shutil.which("tmux") is None:
        assert os.environ.get("CI") != "true", "tmux is missing, and this is CI"
        pytest.skip("there is no tmux here")

    class Tmux:
        def __call__(self, *words):
            done = subprocess.run(
                ["tmux", "-S", str(tmp_path / "tmux"), "-f", "/dev/null", *words],
                capture_output=True, timeout=DEADLINE_SECONDS, check=True,
                # Not what the C library has: there readline may have put the size of our terminal.
                env={k: v for k, v in os.environ.items() if k not in ("LINES", "COLUMNS")},
            )
            return done.stdout.decode("utf-8", "replace")

        def start(self, command, env=()):
            shell = f"{' '.join(command)}; echo left with $?; stty -a; cat"
            settings = [word for pair in env for word in ("-e", pair)]
            # Its own locale, whatever that of the machine is: names may be of any script.
            self("-u", "new-session", "-d", "-x", "100", "-y", "30", "-c", str(ROOT), *settings, "env", "LC_ALL=C.UTF-8", "sh", "-c", shell)

        def keys(self, *names):
            self("send-keys", *names)

        @property
        def screen(self):
            return self("capture-pane", "-p")

        def shows(self, *words):
            try:
                eventually(lambda: all(word in self.screen for word in words), str(words))
            except AssertionError as error:
                raise AssertionError(f"{error}:\n{self.screen}") from None

    made = Tmux()
    yield made
    if (tmp_path / "tmux").exists():
        made("kill-server")


@pytest.mark.slow
def test_a_screen_that_is_looked_at(sidecar, tmux):
    sidecar.send(progress() + line(src=NAME, type="heartbeat"))
    sidecar.send(line(src="工程", type="heartbeat"))
    tmux.start(top(sidecar, "--interval", "0.2"))
    tmux.shows("[all]", "evil\\u202e<b>\\u200b", "工程", "load", "[########............]  40.0 %", "store")
    assert "OK" in tmux.screen.splitlines()[0]

    sidecar.send(progress(70.0, MSG))
    tmux.shows("70.0 %", "\\x1b]0;owned\\x07more")

    tmux.keys("Tab", "Tab")
    tmux.shows("[jobs]")
    assert "BACKENDS" not in tmux.screen

    tmux.keys("/", "n", "o", "n", "e")
    tmux.shows("filter: none_", "nothing with 'none'")
    tmux.keys("Escape")
    tmux.shows("70.0 %", "q quit")

    tmux.keys("p")
    tmux.shows("PAUSED")
    sidecar.send(progress(90.0))
    tmux.keys("Tab")
    tmux.shows("[backends]")
    tmux.keys("p", "BTab")
    tmux.shows("[jobs]", "90.0 %")

    tmux.keys("?")
    tmux.shows("view before it")
    tmux.keys("x")
    tmux.shows("90.0 %")

    tmux("resize-window", "-x", "50", "-y", "10")
    tmux.shows("[jobs]", "q quit")
    eventually(lambda: len(tmux.screen.rstrip("\n").splitlines()) == 10, "ten lines")
    assert all(len(text) <= 50 for text in tmux.screen.splitlines())
    tmux("resize-window", "-x", "120", "-y", "40")
    tmux.shows("q quit  ? keys  tab view")

    tmux.keys("q")
    tmux.shows("left with 0")
    assert " echo " in tmux.screen.replace("\n", " ") and "-echo " not in tmux.screen


@pytest.mark.slow
def test_a_sidecar_that_goes_and_comes_back(start_sidecar, tmux, tmp_path):
    def start(port):
        config = {"sidecar": {"data_dir": str(tmp_path / "data"), "tcp": {"port": 0}, "health": {"metrics_port": port}}}
        return start_sidecar(config=config)

    first = start(0)
    first.send(progress())
    tmux.start(top(first, "--interval", "0.1"))
    tmux.shows("load", "40.0 %")
    first.stop()
    tmux.shows("NO ANSWER for", "trying again", "40.0 %")  # what was known stays
    second = start(int(first.ready["admin"].rpartition(":")[2]))
    second.send(progress(55.0))
    tmux.shows("55.0 %")
    assert "NO ANSWER" not in tmux.screen
    tmux.keys("q")
    tmux.shows("left with 0")


class Terminal:
    """A program in a pty: what it wrote, and how it left the terminal."""

    def __init__(self, command, env=None):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            command, stdin=self.slave, stdout=self.slave, stderr=subprocess.PIPE, cwd=ROOT,
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(env or {})},
        )
        os.set_blocking(self.master, False)
        self.said = b""

    def read(self):
        try:
            self.said += os.read(self.master, 65_536)
        except BlockingIOError:
            pass
        return self.said

    def until(self, words):
        eventually(lambda: words in self.read(), words)

    def end(self):
        """Its exit status and what it said on stderr; the terminal has to be as it was."""
        eventually(lambda: (self.read(), self.process.poll())[1] is not None, "its end")
        self.read()
        try:
            assert termios.tcgetattr(self.slave) == self.before
            return self.process.returncode, self.process.stderr.read().decode()
        finally:
            self.process.stderr.close()
            os.close(self.master)
            os.close(self.slave)


LEFT = b"\x1b[?1049l"  # the other screen of an xterm is given up


@pytest.mark.slow
def test_it_leaves_the_terminal_as_it_was(sidecar):
    sidecar.send(progress())
    for leave, status in (
        (lambda t: os.write(t.master, b"q"), 0),
        (lambda t: t.process.send_signal(signal.SIGTERM), 128 + signal.SIGTERM),
        (lambda t: t.process.send_signal(signal.SIGINT), 128 + signal.SIGINT),
    ):
        terminal = Terminal(top(sidecar))
        terminal.until(b"load")
        assert LEFT not in terminal.said
        leave(terminal)
        assert terminal.end() == (status, "")
        assert LEFT in terminal.said


def test_it_leaves_the_terminal_as_it_was_when_it_fails(sidecar):
    code = (
        "import sys; from wafermon.cli import main, top_screen\n"
        "def frame(*_): raise ZeroDivisionError('a fault of our own')\n"
        "top_screen.frame = frame\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    terminal = Terminal([sys.executable, "-c", code, *top(sidecar)[3:]])
    status, err = terminal.end()
    assert status == 1 and "a fault of our own" in err
    assert LEFT in terminal.said


def test_colour_is_a_choice(sidecar):
    sidecar.send(line(src="etl", type="progress", data={"job_id": "load", "percent": 1, "status": "failed"}))
    eventually(lambda: b"failed" in sidecar.get("/api/jobs"), "the failure")
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        terminal = Terminal(top(sidecar), env)
        terminal.until(b"failed")
        os.write(terminal.master, b"q")
        assert terminal.end()[0] == 0
        assert bool(re.search(rb"\x1b\[31m|\x1b\[1;31m|\x1b\[0;1;31m|\x1b\[31;", terminal.said)) is coloured


def test_a_dumb_terminal_gets_lines(sidecar):
    sidecar.send(progress())
    eventually(lambda: b"load" in sidecar.get("/api/jobs"), "the job")
    terminal = Terminal(top(sidecar, "--interval", "0.1"), {"TERM": "dumb"})
    terminal.until(b"load")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end()[0] == 128 + signal.SIGINT
    assert b"\x1b" not in terminal.said


def test_an_unknown_terminal_is_told(sidecar):
    terminal = Terminal(top(sidecar), {"TERM": "no-such\x1b"})
    status, err = terminal.end()
    assert status == 1
    assert "cannot show it" in err and "--plain" in err and "\x1b" not in err


def test_in_a_pipe_it_prints_lines(sidecar):
    sidecar.send(progress(msg=MSG) + line(src=NAME, type="heartbeat"))
    eventually(lambda: b"load" in sidecar.get("/api/jobs"), "the job")
    done = subprocess.run(top(sidecar, "--once"), capture_output=True, cwd=ROOT, timeout=60, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("wafermon ") and "SOURCES" in lines and "JOBS" in lines
    assert any(re.match(r"running +load +etl +\[########\.+\] +40\.0 %", text) for text in lines)
    assert "evil\\u202e<b>\\u200b" in done.stdout and "\\x1b]0;owned\\x07more" in done.stdout
    assert all(text.isprintable() for text in lines)

    done = subprocess.run(top(sidecar, "--once", "--json"), capture_output=True, cwd=ROOT, timeout=60)
    told = json.loads(done.stdout)
    assert told["fault"] is None and told["jobs"]["jobs"][0]["job_id"] == "load"

    with subprocess.Popen(top(sidecar, "--interval", "0.1"), stdout=subprocess.PIPE, cwd=ROOT) as process:
        for _ in range(2):
            while b"JOBS" not in process.stdout.readline():
                assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(timeout=30) == 128 + signal.SIGINT


@pytest.fixture
def guarded(tmp_path):
    """A sidecar that asks for the token in `tmp_path / "token"`."""
    token = tmp_path / "token"
    token.write_text("tell nobody but the fab\n")
    token.chmod(0o600)
    health = {"metrics_port": 0, "token_file": str(token)}
    made = SidecarProcess(tmp_path, config={"sidecar": {"data_dir": str(tmp_path / "data"), "tcp": {"port": 0}, "health": health}})
    yield made
    made.stop()


def test_who_has_no_token_is_told_what_to_do(guarded, tmp_path):
    done = subprocess.run(top(guarded, "--once"), capture_output=True, cwd=ROOT, timeout=60, encoding="utf-8")
    assert done.returncode == 1 and "--token-file FILE" in done.stderr and not done.stdout
    words = top(guarded, "--once", "--token-file", str(tmp_path / "token"))
    done = subprocess.run(words, capture_output=True, cwd=ROOT, timeout=60, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "") and "SOURCES" in done.stdout


def test_a_small_terminal_says_that_a_token_is_asked_for(guarded):
    terminal = Terminal(top(guarded), {"LINES": "12", "COLUMNS": "40"})
    terminal.until(b"--token-file FILE")
    os.write(terminal.master, b"q")
    assert terminal.end() == (0, "")


def test_nobody_there():
    words = [sys.executable, "-m", "wafermon", "top", "--admin", "127.0.0.1:1", "--once"]
    done = subprocess.run(words, capture_output=True, cwd=ROOT, timeout=60, text=True)
    assert done.returncode == 1 and "is it running?" in done.stderr
    done = subprocess.run([*words, "--interval", "x"], capture_output=True, cwd=ROOT, timeout=60, text=True)
    assert done.returncode == 2 and "expected seconds from 0.1 to 3600" in done.stderr
