"""The Perl SDK against a real sidecar."""

import json
import os
import random
import shutil
import socket
import subprocess
import threading
import time

import pytest
from support import ROOT, eventually

from wafermon.backends import Store
from wafermon.delivery.journal import Journal
from wafermon.flow import Selection

pytestmark = pytest.mark.slow

if shutil.which("perl") is None:
    if os.environ.get("CI") == "true":
        pytest.fail("perl is missing, and this is CI")
    pytest.skip("there is no perl here", allow_module_level=True)

SCRIPT = r"""
use strict; use warnings; use WaferMon;
my $m = WaferMon->new(src => 'db-loader');
my $load = $m->start_span('load lot');
$m->log_event('info', "lot \x{6676} loaded", {lot => 'L1', dies => 512, id => '0042'});
my $parse = $m->start_span('parse');
$m->log_metric('yield', 0.93, unit => 'ratio', tags => {wafer => 7});
$parse->end;
$m->log_progress('nightly', 100, status => 'done');
$m->log_resource;
$load->end(status => 'error');
$m->heartbeat(interval_s => 30);
exit($m->close);
"""


def run(sidecar, script, **env):
    return subprocess.run(
        ["perl", "-I", str(ROOT / "perl" / "lib"), "-e", script], capture_output=True, timeout=60,
        env={**os.environ, "MONITORING_UNIX_SOCKET": sidecar.ready["unix"], **env},
    )


def messages(sidecar, count):
    eventually(lambda: sidecar.total("sidecar_backend_messages_total", outcome="delivered") == count)
    found = Store(str(sidecar.data / "store.db")).query(Selection())
    return [json.loads(line) for _, line, _ in found]


def test_of_a_script_that_is_killed_the_trace_shows_where_it_was(sidecar):
    script = r"""
use strict; use warnings; use WaferMon;
my $m = WaferMon->new(src => 'db-loader', delivery => 'send');
my $load = $m->start_span('load lot', send_open => 1);
my $parse = $m->start_span('parse', send_open => 1);
$m->start_span('quick')->end;
kill KILL => $$;
"""
    assert run(sidecar, script).returncode == -9
    messages(sidecar, 3)
    (brief,) = json.loads(sidecar.get("/api/traces"))["traces"]
    spans = json.loads(sidecar.get(f"/api/traces/{brief['tid']}"))["spans"]
    assert [(s["name"], s["status"], s["duration_ms"] is None) for s in spans] == [
        ("load lot", "open", True), ("parse", "open", True), ("quick", "ok", False),
    ]  # fmt: skip


def test_every_verb_is_accepted_and_stored(sidecar):
    done = run(sidecar, SCRIPT)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    found = messages(sidecar, 8)
    by_type = {m["type"]: m for m in found if m["type"] != "span"}
    spans = {m["data"]["name"]: m for m in found if m["type"] == "span"}
    assert sorted(by_type) == ["event", "goodbye", "heartbeat", "metric", "progress", "resource"]
    assert by_type["event"]["data"] == {
        "level": "info", "msg": "lot \u6676 loaded", "ctx": {"lot": "L1", "dies": 512, "id": "0042"},
    }
    load, parse = spans["load lot"], spans["parse"]
    assert (parse["pid"], parse["tid"]) == (load["sid"], load["tid"]) and "pid" not in load
    assert by_type["metric"]["sid"] == parse["sid"] and by_type["event"]["sid"] == load["sid"]
    assert by_type["metric"]["data"]["tags"] == {"wafer": "7"}
    assert load["data"]["status"] == "error"
    assert by_type["resource"]["data"]["mem"] > 1_000_000
    assert sidecar.total("sidecar_messages_rejected_total") == 0


def test_a_trace_goes_on_from_its_environment(sidecar):
    tid, sid = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    done = run(sidecar, "use WaferMon; my $m = WaferMon->new(src => 'x'); $m->start_span('s')->end;",
               TRACEPARENT=f"00-{tid}-{sid}-01")
    assert done.returncode == 0
    span = next(m for m in messages(sidecar, 2) if m["type"] == "span")
    assert (span["tid"], span["pid"]) == (tid, sid)


def test_a_script_of_one_line_that_just_ends_delivers(sidecar):
    assert run(sidecar, "use WaferMon; our $m = WaferMon->new(src => 'cron');"
                        " $m->log_event('warn', 'short') for 1..500; exit 3").returncode == 3
    found = messages(sidecar, 501)
    assert found[-1]["type"] == "goodbye" and "3" in found[-1]["data"]["reason"]


def test_without_receipts_it_works_as_before(sidecar):
    script = "use WaferMon; my $m = WaferMon->new(src => 'x', delivery => 'send');" \
             " $m->log_event('info', $_) for 1 .. 20; exit($m->close)"
    assert run(sidecar, script).returncode == 0
    found = messages(sidecar, 21)
    assert not any("q" in m for m in found) and found[-1]["type"] == "goodbye"


def test_the_session_is_opened_and_forgotten(sidecar):
    script = "use WaferMon; our $m = WaferMon->new(src => 'x'); $m->log_event('info', 1); exit($m->close)"
    assert run(sidecar, script).returncode == 0
    assert [m["q"] for m in messages(sidecar, 2)] == [1, 2]
    assert sidecar.total("sidecar_messages_rejected_total") == 0
    sidecar.stop()
    assert marks(sidecar.data) == {}


@pytest.fixture
def stuck(start_sidecar, tmp_path):
    """Start, again and again, a sidecar of which nothing leaves: what it took is in its journal."""
    (tmp_path / "file").write_text("")
    config = {
        "sidecar": {
            "data_dir": str(tmp_path / "data"), "tcp": {"port": 0}, "health": {"metrics_port": 0},
            "shutdown_timeout": 2,
        },
        "backends": {"out": {"type": "file", "path": str(tmp_path / "file" / "no-folder")}},
    }

    def start():
        sidecar = start_sidecar(config=config)
        sidecar.data = tmp_path / "data"
        return sidecar

    return start


def opened(data):
    journal = Journal(str(data / "journal.db"))
    journal.open()
    return journal


def marks(data):
    journal = opened(data)
    journal.close()
    return journal.marks


def journalled(data):
    """Every message in the journal, in order."""
    journal, found, after = opened(data), [], 0
    while entries := journal.read(after):
        after = entries[-1].seq
        for entry in entries:
            found += map(json.loads, entry.batch.raw.splitlines())
    journal.close()
    return found


def kill(sidecar):
    sidecar.process.kill()
    sidecar.process.wait(30)


def start_script(sidecar, script, **env):
    return subprocess.Popen(
        ["perl", "-I", str(ROOT / "perl" / "lib"), "-e", script], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "MONITORING_UNIX_SOCKET": sidecar.ready["unix"], **env},
    )


#: Each message is logged until it is accepted; a line tells of every 2,000.
LOAD = r"""
use strict; use warnings; use WaferMon; $| = 1;
my $m = WaferMon->new(src => 'load', overflow => 'drop_newest');
for my $n (1 .. 10_000) {
    select undef, undef, undef, 0.002 until $m->log_metric('n', $n);
    print "$n\n" if $n % 2_000 == 0;
}
print $m->close(60), "\n";
"""


def test_kill_9_of_the_sidecar_loses_nothing_and_doubles_nothing(stuck):
    sidecar = stuck()
    client = start_script(sidecar, LOAD)
    for n in (2_000, 4_000, 6_000, 8_000, 10_000):
        assert client.stdout.readline() == f"{n}\n"
        kill(sidecar)
        sidecar = stuck()
    assert client.communicate(timeout=60)[0] == "0\n"  # all of them acknowledged
    kill(sidecar)
    found = [m for m in journalled(sidecar.data) if m["data"].get("msg") != "messages dropped"]
    assert [m["data"].get("value") for m in found] == [*range(1, 10_001), None]
    assert found[-1]["type"] == "goodbye"


def test_with_the_oldest_dropped_close_tells_how_many(stuck):
    script = LOAD.replace("overflow => 'drop_newest'", "buffer => 100").replace(
        "print $m->close(60)", "print $m->close(60), ' ', $m->dropped")
    sidecar = stuck()
    client = start_script(sidecar, script)
    for n in (2_000, 4_000, 6_000, 8_000, 10_000):
        assert client.stdout.readline() == f"{n}\n"
        if n in (2_000, 6_000):
            kill(sidecar)
            sidecar = stuck()
    left, dropped = map(int, client.communicate(timeout=60)[0].split())
    kill(sidecar)
    found = [m["data"]["value"] for m in journalled(sidecar.data) if m["type"] == "metric"]
    reported = [m["data"]["ctx"]["dropped"] for m in journalled(sidecar.data) if m["type"] == "event"]
    assert found == sorted(set(found))
    # Where all that is left is on its way, the newest is refused, and the script tries again.
    # One whose receipt a kill has swallowed may be dropped and be there: no more than a buffer a kill.
    assert 10_000 <= len(found) + left <= 10_000 + 2 * 100 and left <= dropped
    assert sum(reported) <= dropped


def test_kill_9_of_the_client_keeps_what_was_acknowledged(stuck):
    sidecar = stuck()
    client = start_script(sidecar, r"""
        use strict; use warnings; use WaferMon; $| = 1;
        my $m = WaferMon->new(src => 'load', overflow => 'drop_newest');
        for (my $n = 1;; $n++) {
            select undef, undef, undef, 0.002 until $m->log_metric('n', $n);
            print $m->sent, "\n" if $n % 500 == 0;
        }
    """)
    acknowledged = 0
    while acknowledged < 3_000:
        acknowledged = int(client.stdout.readline())
    client.kill()
    *more, _ = client.communicate()[0].split("\n")  # the last one may be cut off
    acknowledged = int(more[-1]) if more else acknowledged
    kill(sidecar)
    found = journalled(sidecar.data)
    values = [m["data"]["value"] for m in found if m["type"] == "metric"]
    assert values == [*range(1, len(values) + 1)] and len(found) >= acknowledged


def test_a_sidecar_that_stops_at_the_same_time_has_all(stuck):
    sidecar = stuck()
    client = start_script(sidecar, LOAD)
    assert client.stdout.readline() == "2000\n"
    sidecar.process.terminate()
    sidecar.process.wait(30)
    sidecar = stuck()
    assert client.communicate(timeout=60)[0].split("\n")[-2] == "0"
    kill(sidecar)
    found = [m["data"]["value"] for m in journalled(sidecar.data) if m["type"] == "metric"]
    assert found == [*range(1, 10_001)]


def test_a_secret(start_sidecar, tmp_path):
    (tmp_path / "secret").write_text("tell nobody\n")
    sidecar = start_sidecar(config={
        "sidecar": {
            "data_dir": str(tmp_path / "data"), "tcp": {"port": 0}, "health": {"metrics_port": 0},
            "unix": {"auth": {"secret_file": str(tmp_path / "secret")}},
        },
    })
    script = "use WaferMon; my $m = WaferMon->new(src => 'x', on_error => sub { print \"$_[1]\\n\" });" \
             " $m->log_event('info', $_) for 1 .. 3; exit $m->close(0.5)"
    sidecar.data = tmp_path / "data"
    done = run(sidecar, script, MONITORING_SECRET="tell nobody")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert len(messages(sidecar, 4)) == 4
    done = run(sidecar, script, MONITORING_SECRET="wrong")
    assert done.returncode == 3 and done.stdout.count(b"wrong secret") == 1
    assert run(sidecar, script, MONITORING_SECRET="").returncode == 3
    assert len(messages(sidecar, 4)) == 4  # and nothing was sent in plain


class Fitful(threading.Thread):
    """A sidecar that reads now and then, as little as a frame or as much as there is, and
    acknowledges what it has read whole."""

    def __init__(self, path, seed):
        super().__init__(daemon=True)
        self.rng = random.Random(seed)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.values = []

    def run(self):
        sock, _ = self.listener.accept()
        with self.listener, sock:
            rest, held = b"", 0
            while data := sock.recv(self.rng.choice((500, 5000))):
                *lines, rest = (rest + data).split(b"\n")
                for message in map(json.loads, lines):
                    if message["type"] == "hello":
                        sock.sendall(b'{"v":1,"type":"welcome","q":0,"level":"disk"}\n')
                    elif message["q"] > held:
                        held = message["q"]
                        self.values.append(message["data"].get("value"))
                if lines and held:
                    sock.sendall(b'{"v":1,"type":"ack","q":%d,"level":"disk"}\n' % held)
                time.sleep(self.rng.choice((0, 0, 0.005)))  # its fits, nothing that is waited for


@pytest.mark.parametrize("seed", range(4))
def test_what_was_numbered_and_never_sent_is_not_taken_for_acknowledged(tmp_path, seed):
    """The kernel is full when a frame has its number, and it is dropped before it could go."""
    path = str(tmp_path / "s.sock")
    server = Fitful(path, seed)
    server.start()
    script = r"""
        use strict; use warnings; use WaferMon;
        my $m = WaferMon->new(src => 'load', buffer => 20, write_timeout => 0);
        my $taken = grep { $m->log_metric('n', $_, unit => 'x' x ($_ * 37 % 300)) } 1 .. 20_000;
        my $left = $m->close(60);
        print "$taken $left\n";
    """
    done = subprocess.run(
        ["perl", "-I", str(ROOT / "perl" / "lib"), "-e", script], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "MONITORING_UNIX_SOCKET": path}, timeout=100, check=True,
    )
    server.join(30)
    taken, left = map(int, done.stdout.split())
    got = [value for value in server.values if value is not None]
    assert got == sorted(set(got))
    assert len(got) + left == taken
