"""`wafermon run` as a process: start, what arrives, what it says of itself, stop."""

import json
import os
import signal
import socket
import subprocess
import urllib.request

import pytest
from support import COMMAND, ROOT, eventually

from wafermon.backends import Store
from wafermon.backends.store_schema import StoreError
from wafermon.flow import Selection
from wafermon.testing import frame, frames


def stored(sidecar, **selection):
    store = Store(str(sidecar.data / "store.db"))
    try:
        return [line for _, line, _ in store.query(Selection(**selection))]
    except StoreError:
        return []  # its backend has not even made the file


def health(admin):
    with urllib.request.urlopen(f"http://{admin}/health", timeout=10) as answer:
        return json.load(answer)


def wafermon(*arguments, **more):
    return subprocess.run([*COMMAND, *arguments], cwd=ROOT, timeout=60,
                          capture_output=True, text=True, **more)


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_with_no_config_everything_is_in_the_store(sidecar, unix):
    sent = frames(1000, src="etl")
    sidecar.send(b"".join(sent), unix)
    eventually(lambda: sidecar.total("sidecar_backend_messages_total", outcome="delivered") == 1000)
    assert stored(sidecar) == [line.rstrip(b"\n") for line in sent]
    assert sidecar.stop()[0] == 0


def test_ready_file(sidecar):
    assert sidecar.ready["pid"] == sidecar.process.pid
    assert sorted(sidecar.ready) == ["admin", "pid", "tcp", "unix"]
    assert os.path.exists(sidecar.ready["unix"])
    assert sidecar.stop()[0] == 0
    assert not sidecar.ready_file.exists() and not os.path.exists(sidecar.ready["unix"])


def test_health(sidecar):
    health = json.loads(sidecar.get("/health"))
    assert health["status"] == "ok" and health["backends"]["store"]["status"] == "ok"


def test_the_core_metrics(sidecar):
    sidecar.send(b"".join(frames(7, src="etl")) + b"rubbish\n")
    eventually(lambda: sidecar.total("sidecar_backend_messages_total", outcome="delivered") == 7)
    with sidecar.connect():
        eventually(lambda: sidecar.total("sidecar_active_connections") == 1)
    metrics = sidecar.metrics()
    assert metrics['sidecar_messages_received_total{source="etl"}'] == 7
    assert metrics['sidecar_messages_routed_total{backend="store"}'] == 7
    assert metrics['sidecar_messages_dropped_total{reason="no_route"}'] == 0
    assert metrics['sidecar_messages_rejected_total{reason="invalid_json"}'] == 1
    assert metrics['sidecar_backend_latency_seconds_count{backend="store"}'] >= 1
    text = sidecar.get("/metrics").decode()
    assert "# TYPE sidecar_buffer_size gauge" in text


def test_a_stop_delivers_what_was_sent(start_sidecar):
    for number in (signal.SIGTERM, signal.SIGINT):
        sidecar = start_sidecar()
        sent = frames(20_000, src="etl")
        with sidecar.connect() as sock:
            sock.sendall(b"".join(sent))
            assert sidecar.stop(number)[0] == 0
        assert stored(sidecar) == [line.rstrip(b"\n") for line in sent]


def dead_config(folder, **sidecar):
    """A backend that can never be written, as nobody makes its folder: it is a file."""
    (folder / "blocked").write_text("")
    return {
        "sidecar": {"data_dir": str(folder / "data"), "tcp": {"port": 0},
                    "health": {"metrics_port": 0}, **sidecar},
        "backends": {"bad": {"type": "file", "path": str(folder / "blocked" / "x.jsonl")},
                     "good": {"type": "file", "path": str(folder / "good.jsonl")}},
    }


def test_a_dead_backend_harms_no_other_and_is_counted_at_the_end(start_sidecar, tmp_path):
    sidecar = start_sidecar(config=dead_config(tmp_path, shutdown_timeout=0.5, journal={"enabled": False}))
    sidecar.send(b"".join(frames(500)))
    eventually(lambda: (tmp_path / "good.jsonl").exists()
               and (tmp_path / "good.jsonl").read_bytes().count(b"\n") == 500)
    health = json.loads(eventually(lambda: (b"degraded" in sidecar.get("/health")) and sidecar.get("/health")))
    assert health["backends"]["bad"]["status"] == "down"
    assert "x.jsonl" in health["backends"]["bad"]["error"]
    assert health["backends"]["good"]["status"] == "ok"
    status, err = sidecar.stop()
    assert status == 1 and "500 messages could not be delivered and are lost" in err


def test_with_a_journal_what_is_not_delivered_is_kept_for_the_next_start(start_sidecar, tmp_path):
    config = dead_config(tmp_path, shutdown_timeout=0.5)
    sidecar = start_sidecar(config=config)
    sidecar.send(b"".join(frames(500)))
    eventually(lambda: sidecar.total("sidecar_backend_queued_messages", backend="bad") == 500)
    status, err = sidecar.stop()
    assert status == 0 and "500 messages are left in the journal" in err
    (tmp_path / "blocked").unlink()
    sidecar = start_sidecar(config=config)
    eventually(lambda: (tmp_path / "blocked" / "x.jsonl").exists()
               and (tmp_path / "blocked" / "x.jsonl").read_bytes() == b"".join(frames(500)))
    assert (tmp_path / "good.jsonl").read_bytes() == b"".join(frames(500)), "and nothing twice"


def test_a_second_signal_cuts_the_stop_short(start_sidecar, tmp_path):
    sidecar = start_sidecar(config=dead_config(tmp_path, shutdown_timeout=3600, journal={"enabled": False}))
    sidecar.send(b"".join(frames(5)))
    eventually(lambda: sidecar.total("sidecar_backend_queued_messages") == 5)
    sidecar.process.terminate()
    eventually(lambda: not os.path.exists(sidecar.ready["unix"]))
    sidecar.process.send_signal(signal.SIGTERM)
    status, err = sidecar.stop()
    assert status == 1 and "a second signal" in err


def test_backpressure_holds_the_sender_and_loses_nothing(start_sidecar, tmp_path):
    """A queue of a few messages, a stream of many: TCP holds the rest back, all arrives."""
    config = {
        "sidecar": {"data_dir": str(tmp_path / "data"), "tcp": {"port": 0},
                    "health": {"metrics_port": 0}, "buffers": {"max_queue_size": 50}},
        "backends": {"out": {"type": "file", "path": str(tmp_path / "out.jsonl"),
                             "rotate": {"max_bytes": 0}}},
    }
    sidecar = start_sidecar(config=config)
    sent = b"".join(frames(50_000))
    sidecar.send(sent)
    eventually(lambda: (tmp_path / "out.jsonl").stat().st_size == len(sent))
    assert (tmp_path / "out.jsonl").read_bytes() == sent


def test_rejected_frames_are_dead_lettered(sidecar):
    sidecar.send(b"rubbish\n" + frame(1) + b"\xff\xfe\n" + b"x" * 100_000 + b"\n" + frame(2) + b"{")
    letters = sidecar.data / "dead-letters.jsonl"
    records = eventually(lambda: (r := letters.read_text().splitlines()) and len(r) == 4 and r)
    found = [json.loads(record) for record in records]
    assert [record["reason"] for record in found] == ["invalid_json", "invalid_json", "oversize", "truncated"]
    assert found[0]["line"] == "rubbish" and found[1]["base64"] == "//4="
    assert len(found[2]["line"]) == 1024 and found[3]["line"] == "{"
    eventually(lambda: len(stored(sidecar)) == 2)


def test_hostile_input_is_counted_and_memory_stays_flat(sidecar):
    def peak():
        with open(f"/proc/{sidecar.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

    good = frame(1)
    sidecar.send(good)
    eventually(lambda: len(stored(sidecar)) == 1)
    before = peak()
    sidecar.send(good + b"[" * 1000 + b"]" * 1000 + b"\n" + good + b"[" * 60_000 + b"\n" + good)
    sidecar.send(good + b'{"v":' + b"9" * 4301 + b"}\n" + good)
    with sidecar.connect() as sock:
        sock.sendall(good)
        for _ in range(200):
            sock.sendall(b"x" * 1_000_000)
        sock.sendall(b"\n" + good)
    sidecar.send(os.urandom(200_000) + b"\n" + good)
    eventually(lambda: len(stored(sidecar)) == 9)
    eventually(lambda: sidecar.total("sidecar_messages_rejected_total", reason="oversize") == 1)
    assert peak() - before < 20_000  # KiB, after 200 MB of rubbish


def test_tail_and_send_and_query(sidecar):
    tail = subprocess.Popen(
        [*COMMAND, "tail", "--admin", sidecar.ready["admin"], "--type", "event",
         "--json"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    try:
        # It shows what passes from when it is connected, so send until it does.
        def sent_and_seen():
            done = wafermon("send", "event", "--src", "etl", "--unix", sidecar.ready["unix"],
                            "level=warn", "msg=:42", "ctx.lot=L1", "ctx.n=7")
            assert (done.returncode, done.stderr) == (0, "")
            os.set_blocking(tail.stdout.fileno(), False)
            return tail.stdout.readline()

        line = json.loads(eventually(sent_and_seen))
        assert line["data"] == {"level": "warn", "msg": "42", "ctx": {"lot": "L1", "n": 7}}
    finally:
        tail.send_signal(signal.SIGINT)
        tail.communicate(timeout=20)
    assert tail.returncode == 130
    eventually(lambda: stored(sidecar, level="warn"))
    asked = wafermon("query", "--data", str(sidecar.data), "--src", "e*", "--level", "warn")
    assert asked.returncode == 0 and "lot=L1" in asked.stdout


def test_tail_ends_with_the_sidecar_and_says_so(sidecar):
    tail = subprocess.Popen(
        [*COMMAND, "tail", "--admin", sidecar.ready["admin"]],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    try:  # it looks once it has shown something
        os.set_blocking(tail.stdout.fileno(), False)
        eventually(lambda: sidecar.send(frame(1)) or tail.stdout.readline())
        os.set_blocking(tail.stdout.fileno(), True)
        sidecar.stop()
    except BaseException:
        tail.kill()
        raise
    _, err = tail.communicate(timeout=20)
    assert tail.returncode == 0 and "has stopped" in err


def test_send_says_when_nobody_is_there(tmp_path):
    done = wafermon("send", "event", "--src", "x", "--unix", str(tmp_path / "none"), "msg=x", "--timeout", "0.2")
    assert done.returncode == 1 and "no sidecar acknowledged the message" in done.stderr
    assert wafermon("tail", "--admin", "127.0.0.1:1").returncode == 1


def test_send_is_not_content_with_a_kernel_that_took_it(tmp_path):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        port = deaf.getsockname()[1]
        done = wafermon("send", "event", "--src", "x", "--tcp", f"127.0.0.1:{port}", "msg=x",
                        "--timeout", "0.3")
    assert done.returncode == 1 and "no sidecar acknowledged the message" in done.stderr


def test_what_send_says_is_safe_survives_a_kill(start_sidecar, tmp_path):
    config = dead_config(tmp_path)
    sidecar = start_sidecar(config=config)
    done = wafermon("send", "event", "--src", "x", "--tcp", sidecar.ready["tcp"], "msg=kept")
    assert (done.returncode, done.stderr) == (0, "")
    sidecar.process.kill()
    sidecar.process.wait()
    (tmp_path / "blocked").unlink()
    sidecar = start_sidecar(config=config)
    eventually(lambda: (tmp_path / "blocked" / "x.jsonl").exists()
               and b'"kept"' in (tmp_path / "blocked" / "x.jsonl").read_bytes())


@pytest.mark.parametrize(
    "words, said",
    [
        (["--data", "no json"], "--data is not JSON"),
        (["--data", "[1]"], "expected a JSON object"),
        (["noequals"], "expected KEY=VALUE, got 'noequals'"),
        (["a=1", "a.b=2"], "a is no object"),
    ],
)
def test_send_says_what_it_expects(words, said):
    done = wafermon("send", "event", "--src", "x", *words)
    assert done.returncode == 2 and said in done.stderr


def test_version():
    done = wafermon("version")
    assert done.returncode == 0 and done.stdout.startswith("wafermon ")


def test_a_port_that_is_taken(sidecar, tmp_path):
    done = wafermon("run", "--data", str(tmp_path / "other"), "--tcp", sidecar.ready["tcp"],
                    "--admin", "127.0.0.1:0")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and f"cannot listen on {sidecar.ready['tcp']}" in done.stderr
    done = wafermon("run", "--data", str(tmp_path / "other"), "--tcp", "127.0.0.1:0",
                    "--admin", sidecar.ready["admin"])
    assert done.returncode == 1 and "(admin)" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "other" / "sidecar.sock").exists()
    done = wafermon("run", "--data", str(sidecar.data), "--tcp", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert done.returncode == 1 and "another sidecar uses it" in done.stderr
    sidecar.send(frame(1), unix=True)
    eventually(lambda: len(stored(sidecar)) == 1)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = wafermon("run", "--data", str(tmp_path / "file" / "data"), "--tcp", "127.0.0.1:0")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "cannot use the data folder" in done.stderr


def test_a_bad_config_tells_every_fault(tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text('{"sidecar": {"tcp": {"prot": 1, "port": "x"}}, "backends": {"f": {"type": "file", "path": "{oops}"}}}')
    done = wafermon("run", "--config", str(bad))
    assert done.returncode == 78
    assert "did you mean 'port'" in done.stderr and "sidecar.tcp.port" in done.stderr
    assert wafermon("validate", str(bad)).returncode == 78
    bad.write_text('{"backends": {"f": {"type": "file", "path": "{oops}"}}}')
    for command in (["validate", str(bad)], ["run", "--config", str(bad)]):
        done = wafermon(*command)
        assert done.returncode == 78 and "backends.f.path: unknown field {oops}" in done.stderr


def test_options_win_over_the_config(start_sidecar, tmp_path):
    config = {"sidecar": {"data_dir": str(tmp_path / "a"), "tcp": {"port": 1, "read_timeout": 7},
                          "health": {"metrics_port": 1}}}
    sidecar = start_sidecar("--data", str(tmp_path / "b"), "--tcp", "127.0.0.1:0", "--admin", "127.0.0.1:0",
                            "--unix", str(tmp_path / "u.sock"), config=config)
    assert sidecar.ready["unix"] == str(tmp_path / "u.sock")
    assert (tmp_path / "b").is_dir() and not (tmp_path / "a").exists()


def test_what_a_config_routes(start_sidecar, tmp_path):
    config = {
        "sidecar": {"data_dir": str(tmp_path / "data"), "tcp": {"port": 0}, "health": {"metrics_port": 0}},
        "routing": {"etl": [{"backend": "warn", "level": "warn"}, {"backend": "all"}], "loader-*": [{"backend": "all"}]},
        "backends": {"warn": {"type": "file", "path": str(tmp_path / "warn.jsonl")},
                     "all": {"type": "file", "path": str(tmp_path / "{src}" / "{type}.jsonl")}},
    }
    sidecar = start_sidecar(config=config)
    info, warn = frame(1, src="etl"), frame(2, src="etl", data={"level": "warn", "msg": "x"})
    span = frame(3, src="loader-1", type="span", tid="t", sid="s")
    sidecar.send(info + warn + span + frame(4, src="nobody"))
    eventually(lambda: sidecar.total("sidecar_backend_messages_total", outcome="delivered") == 4)
    assert (tmp_path / "warn.jsonl").read_bytes() == warn
    assert (tmp_path / "etl" / "event.jsonl").read_bytes() == info + warn
    assert (tmp_path / "loader-1" / "span.jsonl").read_bytes() == span
    assert sidecar.total("sidecar_messages_dropped_total", reason="no_route") == 1


def test_a_frame_that_nests_as_deep_as_the_parser_takes_stops_nobody(sidecar):
    """The store decodes in a thread of its own, where less of the stack may be left."""
    for depth in range(930, 1000, 3):
        deep = frame(1, data={"x": 0}).replace(b"0", b"[" * depth + b"]" * depth)
        sidecar.send(frame(1) + deep + frame(2))
    count = len(range(930, 1000, 3))
    eventually(lambda: len(stored(sidecar, level="info")) == 2 * count)
    assert json.loads(sidecar.get("/health"))["status"] == "ok"


def test_a_stop_tells_of_senders_that_it_had_to_cut_off(start_sidecar, tmp_path):
    config = dead_config(tmp_path, shutdown_timeout=1.5, buffers={"max_queue_size": 10},
                         journal={"enabled": False})
    sidecar = start_sidecar(config=config)
    with sidecar.connect() as sock:
        sock.sendall(b"".join(frames(50)))
        eventually(lambda: sidecar.total("sidecar_backend_queued_messages", backend="bad") == 50)
        sock.sendall(b"".join(frames(50)))
        status, err = sidecar.stop()
    assert status == 1 and "1 connections were closed with data unread" in err


def test_a_stderr_that_nobody_reads_stops_nothing(tmp_path):
    """With something to log, too: what is left of that in the buffer must not make it fail."""
    reader, writer = os.pipe()
    ready, config = tmp_path / "ready", tmp_path / "config.json"
    config.write_text("{}")
    process = subprocess.Popen(
        [*COMMAND, "run", "--data", str(tmp_path / "data"), "--tcp",
         "127.0.0.1:0", "--admin", "127.0.0.1:0", "--ready-file", str(ready), "--config", str(config)],
        cwd=ROOT, stderr=writer, env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    os.close(writer)
    os.close(reader)
    try:
        eventually(lambda: ready.exists() or process.poll() is not None)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(json.loads(ready.read_text())["unix"])
            sock.sendall(b"".join(frames(500)))
        config.write_text("rubbish")
        process.send_signal(signal.SIGHUP)
        admin = json.loads(ready.read_text())["admin"]
        eventually(lambda: health(admin)["config"] == "stale")
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    assert not ready.exists()
    assert len(list(Store(str(tmp_path / "data" / "store.db")).query(Selection()))) == 500


def test_a_ready_file_that_is_gone_or_cannot_be_written(start_sidecar, tmp_path):
    sidecar = start_sidecar()
    sidecar.ready_file.unlink()
    assert sidecar.stop()[0] == 0
    done = wafermon("run", "--data", str(tmp_path / "x"), "--tcp", "127.0.0.1:0", "--admin",
                    "127.0.0.1:0", "--ready-file", "/nope/ready")
    assert done.returncode == 1 and "cannot write the ready file /nope/ready" in done.stderr


def test_send_belongs_to_the_trace_of_its_environment(sidecar):
    tid, sid = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    env = {**os.environ, "TRACEPARENT": f"00-{tid}-{sid}-01",
           "MONITORING_UNIX_SOCKET": sidecar.ready["unix"]}
    assert wafermon("send", "event", "--src", "x", "msg=x", env=env).returncode == 0
    assert wafermon("send", "span", "--src", "x", "name=n", "duration_ms=1", env=env).returncode == 0
    event, span = map(json.loads, eventually(lambda: (s := stored(sidecar)) and len(s) == 2 and s))
    assert (event["tid"], event["sid"]) == (tid, sid)
    assert (span["tid"], span["pid"]) == (tid, sid) and span["sid"] not in (sid, "")
    done = wafermon("send", "event", "--src", "x", "value=NaN", env=env)
    assert done.returncode == 2 and "cannot be sent" in done.stderr and "65,536" not in done.stderr


def test_metrics_name_each_series_once(start_sidecar, tmp_path):
    sidecar = start_sidecar(config=dead_config(tmp_path, shutdown_timeout=0.2))
    names = [ln.rpartition(" ")[0] for ln in sidecar.get("/metrics").decode().splitlines() if ln[0] != "#"]
    assert len(names) == len(set(names))
