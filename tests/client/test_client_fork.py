"""Forks, short scripts and the end of the interpreter, with every Python that is at hand."""

import json
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import warnings

import pytest

from wafermon import client as module
from wafermon.client import CLOSED, DISCONNECTED, Client

TIMEOUT = 60
SOURCE = pathlib.Path(module.__file__)


@pytest.fixture(autouse=True)
def forks_with_threads():
    """Since 3.12 Python warns of a fork beside threads; that is what is tested here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def fork(body):
    """Run `body` in a child that leaves without atexit; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        body()
        code = 0
    finally:
        os._exit(code)


def reap(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def numbers(listener, who):
    return [int(m.split()[1]) for m in listener.messages() if m.split()[0] == who]


def test_parent_and_child_deliver_their_own(listener):
    client = Client("a", buffer_messages=10_000, **listener.where)
    for i in range(50):
        client.log_event("info", f"parent {i}")

    def child():
        assert (client.sent, client.dropped, client.state) == (0, 0, DISCONNECTED)
        for i in range(50):
            client.log_event("info", f"child {i} {'x' * 20_000}")
        assert client.flush(TIMEOUT)
        assert client.sent == 50
        assert client.close() == 0

    pid = fork(child)
    for i in range(50, 100):
        client.log_event("info", f"parent {i} {'x' * 20_000}")
    reap(pid)
    client.log_event("info", "parent 100")
    assert client.close(TIMEOUT) == 0
    listener.wait(lambda it: it.ended == 2)  # one connection each
    assert numbers(listener, "parent") == list(range(101))
    assert numbers(listener, "child") == list(range(50))
    assert len(listener.of("goodbye")) == 1


@pytest.mark.parametrize("delivery", ["send"])  # an own test has it with receipts
def test_child_does_not_send_what_waits_in_the_parent(listen):
    listener = listen(recv_buffer=4096, reading=False)
    client = Client("a", **listener.where)
    for i in range(400):
        client.log_event("info", f"parent {i} {'x' * 30_000}")
    assert not client.flush(0)

    def child():
        client.log_event("info", "child 0")
        assert client.flush(TIMEOUT)

    reap(fork(child))
    listener.read()
    assert client.close(TIMEOUT) == 0
    listener.wait(lambda it: it.ended == 2)
    assert numbers(listener, "parent") == list(range(400))
    assert numbers(listener, "child") == [0]


def test_unused_in_the_child(listen):
    listener = listen()
    client = Client("a", **listener.where)
    client.log_event("info", "parent 0")

    def child():
        assert client.close() == 0
        assert client.state == CLOSED

    reap(fork(child))
    client.log_event("info", "parent 1")
    client.close()
    listener.wait(lambda it: it.ended == 1)
    assert len(listener.received) == 1
    assert numbers(listener, "parent") == [0, 1]


def test_closed_before_the_fork(listen):
    client = Client("a", **listen().where)
    client.log_event("info", "x")
    client.close()

    def child():
        client.log_event("info", "late")
        assert (client.state, client.dropped, client.close()) == (CLOSED, 1, 0)

    reap(fork(child))


def test_span_around_a_fork_is_sent_once(listen):
    listener = listen()
    client = Client("a", **listener.where)
    with client.span("outer") as span:

        def child():
            client.log_event("info", "child 0")
            span.end()
            assert client.flush(TIMEOUT)

        reap(fork(child))
    client.close()
    listener.wait(lambda it: it.ended == 2)
    assert len(listener.of("span")) == 1
    assert listener.of("event")[0]["sid"] == span.sid


def test_storm_of_threads_and_forks(listener):
    """Forks come while threads log: no lock stays held, no line is torn."""
    client = Client("a", buffer_messages=1_000_000, **listener.where)
    done = threading.Event()
    counts = {}

    def work(name):
        count = 0
        while not done.is_set():
            client.log_event("info", f"t{name} {count}", {"pad": "x" * 300})
            count += 1
            done.wait(0.0002)
        counts[name] = count

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for one in threads:
        one.start()
    pids = []
    for number in range(25):

        def child(number=number):
            for i in range(10):
                client.log_event("info", f"c{number} {i}", {"pad": "y" * 3000})
            assert client.flush(TIMEOUT)

        pids.append(fork(child))
    for pid in pids:
        reap(pid)
    done.set()
    for one in threads:
        one.join()
    assert client.close(TIMEOUT) == 0
    listener.wait(lambda it: it.ended == 26)
    for name in range(4):
        assert numbers(listener, f"t{name}") == list(range(counts[name]))
    for number in range(25):
        assert numbers(listener, f"c{number}") == list(range(10))
    assert len(listener.of("goodbye")) == 1


def test_child_without_the_hook_of_3_7(listen, monkeypatch):
    """Where Python has no fork hook each call looks at the pid."""
    listener = listen()
    client = Client("a", **listener.where)
    client.log_event("info", "parent 0")
    monkeypatch.setattr(module, "_FORK_HOOK", None)
    monkeypatch.setattr(module, "_after_fork", lambda: None)
    monkeypatch.setattr(module, "_senders", set())

    def child():
        client.log_event("info", "child 0")
        assert client.flush(TIMEOUT)

    reap(fork(child))
    client.close()
    listener.wait(lambda it: it.ended == 2)
    assert (numbers(listener, "parent"), numbers(listener, "child")) == ([0], [0])


def log_in_worker(client, count):
    for i in range(count):
        client.log_event("info", f"worker {i}")


def test_multiprocessing_worker_delivers(listen):
    """A worker ends by os._exit, without atexit; nobody calls flush."""
    listener = listen()
    client = Client("a", **listener.where)
    client.log_event("info", "parent 0")
    process = multiprocessing.get_context("fork").Process(target=log_in_worker, args=(client, 200))
    process.start()
    process.join(TIMEOUT)
    assert process.exitcode == 0
    client.close()
    listener.wait(lambda it: it.ended == 2)
    assert numbers(listener, "worker") == list(range(200))
    assert len(listener.of("goodbye")) == 1


# -- scripts --------------------------------------------------------------------------------


def interpreter(version):
    """A Python of that version, from pyenv or the PATH."""
    found = sorted((pathlib.Path.home() / ".pyenv" / "versions").glob(version + ".*/bin/python3"))
    path = str(found[-1]) if found else shutil.which("python" + version)
    probe = [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    if (
        path is None
        or subprocess.run(probe, capture_output=True).stdout.strip() != version.encode()
    ):
        pytest.skip(f"no Python {version} here")
    return path


@pytest.fixture(params=["3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"])
def run(request, tmp_path):
    """Run a script beside a lone copy of the client; it may neither print nor fail."""
    python = interpreter(request.param)
    shutil.copy(SOURCE, tmp_path / "sdk.py")

    def run(script, listener=None, code=0, **env):
        if listener:
            way = f"sdk.Client(delivery={listener.where['delivery']!r}, src="
            assert "sdk.Client(" in script
            script = script.replace("sdk.Client(", way)
        (tmp_path / "script.py").write_text(script)
        port = listener.where["port"] if listener else 1
        done = subprocess.run(
            [python, "-W", "error::ResourceWarning", "script.py"],
            cwd=tmp_path,
            env=dict(os.environ, MONITORING_TCP_PORT=str(port), **env),
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")

    return run


def test_script_that_logs_once_and_ends(run, listen):
    listener = listen()
    run("import sdk; sdk.Client('script').log_event('info', 'only')", listener)
    listener.wait(lambda it: it.ended == 1)
    assert [frame["type"] for frame in listener.frames()] == ["event", "goodbye"]


def test_script_that_fails_keeps_its_code(run, listen):
    listener = listen()
    run("import sdk, sys; c = sdk.Client('s'); c.log_event('info', 'x'); sys.exit(3)", listener, 3)
    listener.wait(lambda it: it.ended == 1)
    assert len(listener.frames()) == 2


def test_script_without_a_sidecar(run):
    run("import sdk; sdk.Client('script', close_timeout=0.1).log_event('info', 'x')")


def test_first_message_at_exit(run, listen):
    """Since 3.12 no thread can be started then: the caller's own sends."""
    listener = listen()
    run(
        "import atexit, sdk\n"
        "c = sdk.Client('script')\n"
        "atexit.register(c.log_event, 'info', 'late')\n",
        listener,
    )
    listener.wait(lambda it: it.ended == 1)
    assert listener.messages() == ["late"]


def test_script_with_a_busy_thread(run, listen):
    """A daemon thread logs while the interpreter ends."""
    listener = listen()
    run(
        "import sdk, threading\n"
        "c = sdk.Client('script', buffer_messages=100)\n"
        "def work():\n"
        "    while True:\n"
        "        c.log_event('info', 'x', {'a': 1})\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "c.flush()\n",
        listener,
    )
    listener.wait(lambda it: it.ended == 1)
    assert listener.of("goodbye")


def test_script_that_forks(run, listen):
    """Both end by the ordinary way out; the child speaks, but does not say goodbye."""
    listener = listen()
    run(
        "import os, sdk, sys, warnings\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"
        "c = sdk.Client('script')\n"
        "c.log_event('info', 'parent 0')\n"
        "pid = os.fork()\n"
        "c.log_event('info', 'parent 1' if pid else 'child 0')\n"
        "if pid:\n"
        "    assert os.waitpid(pid, 0)[1] == 0\n",
        listener,
    )
    listener.wait(lambda it: it.ended == 2)
    assert numbers(listener, "parent") == [0, 1]
    assert numbers(listener, "child") == [0]
    assert len(listener.of("goodbye")) == 1


def test_spans_across_processes(run, listen):
    listener = listen()
    run(
        "import os, sdk, subprocess, sys\n"
        "c = sdk.Client(sys.argv[1] if sys.argv[1:] else 'parent')\n"
        "with c.span('work'), c.span('step'):\n"
        "    if not sys.argv[1:]:\n"
        "        env = dict(os.environ, TRACEPARENT=c.traceparent())\n"
        "        subprocess.check_call([sys.executable, __file__, 'child'], env=env)\n",
        listener,
    )
    listener.wait(lambda it: it.ended == 2)
    spans = {(one["src"], one["data"]["name"]): one for one in listener.of("span")}
    assert spans["child", "work"]["pid"] == spans["parent", "step"]["sid"]
    assert spans["child", "step"]["pid"] == spans["child", "work"]["sid"]
    assert len({one["tid"] for one in spans.values()}) == 1


def test_spans_nest_by_thread(run, listen):
    """In 3.6, too, which has no context variables."""
    listener = listen()
    run(
        "import sdk, threading\n"
        "c = sdk.Client('script')\n"
        "def work():\n"
        "    with c.span('thread'):\n"
        "        c.log_event('info', 'x')\n"
        "with c.span('main'):\n"
        "    t = threading.Thread(target=work); t.start(); t.join()\n"
        "    with c.span('inner'):\n"
        "        c.log_event('info', 'y')\n",
        listener,
    )
    listener.wait(lambda it: it.ended == 1)
    spans = {one["data"]["name"]: one for one in listener.of("span")}
    events = {one["data"]["msg"]: one for one in listener.of("event")}
    assert "pid" not in spans["thread"]
    assert spans["inner"]["pid"] == spans["main"]["sid"]
    assert events["x"]["sid"] == spans["thread"]["sid"]
    assert events["y"]["sid"] == spans["inner"]["sid"]


def test_importing_does_nothing():
    """No thread, no environment, no hook before the first client; nothing of wafermon."""
    script = (
        "import atexit, json, sys, threading\n"
        f"sys.path.insert(0, {str(SOURCE.parent)!r})\n"
        "before = atexit._ncallbacks()\n"
        "import client\n"
        "known = [m for m in sys.modules if m.startswith('wafermon')]\n"
        "print(json.dumps([threading.active_count(), atexit._ncallbacks() - before, known]))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, check=True)
    assert json.loads(done.stdout)[::2] == [1, []]
