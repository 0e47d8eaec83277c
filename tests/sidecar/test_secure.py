"""The way in, guarded: a real sidecar with TLS, secrets, listed users and passed sockets."""

import json
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import threading

import pytest
from certificates import authority
from support import COMMAND, ROOT, eventually

from wafermon.errors import ConfigError
from wafermon.sidecar import parse
from wafermon.sidecar.listeners import listens
from wafermon.sidecar.secrets import Credentials
from wafermon.testing import frames

SECRET = "a secret that only the fab knows"
HELLO = json.dumps({"v": 1, "src": "a", "ts": 1, "type": "hello",
                    "data": {"secret": SECRET, "session": "s"}}).encode() + b"\n"


def config(folder, tcp=None, unix=None):
    return {
        "sidecar": {
            "data_dir": str(folder / "data"),
            "tcp": {"port": 0, **(tcp or {})},
            "unix": unix or {},
            "health": {"metrics_port": 0},
        },
        "backends": {"out": {"type": "file", "path": str(folder / "out.jsonl")}},
    }


def faults(tcp=None, unix=None):
    with pytest.raises(ConfigError) as caught:
        parse({"sidecar": {"tcp": tcp or {}, "unix": unix or {}}}, {})
    return caught.value.faults


TLS = {"cert": "c.pem"}
AUTH = {"secret_file": "s"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
@pytest.mark.parametrize("more", [{}, {"auth": AUTH}, {"tls": TLS}], ids=str)
def test_on_this_host_alone_everything_may_be_bound(host, more):
    assert parse({"sidecar": {"tcp": {"host": host, **more}}}, {})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "sidecar.fab.example"])
def test_what_others_can_reach_is_guarded(host):
    def is_fine(**more):
        return parse({"sidecar": {"tcp": {"host": host, **more}}}, {})

    for more in ({}, {"tls": TLS}):
        assert [f.partition(":")[0] for f in faults({"host": host, **more})] == ["sidecar.tcp.host"]
        assert is_fine(insecure=True, **more)
    assert is_fine(tls=TLS, auth=AUTH)
    assert is_fine(tls={**TLS, "client_ca": "ca.pem"})
    for insecure in (False, True):
        more = {"host": host, "auth": AUTH, "insecure": insecure}
        assert [f.partition(":")[0] for f in faults(more)] == ["sidecar.tcp.auth"]


def test_who_reads_is_guarded_as_who_writes():
    def health(host, **more):
        return parse({"sidecar": {"health": {"host": host, **more}}}, {})

    for host in ("127.0.0.1", "::1", "localhost"):
        assert health(host)
    for host in ("0.0.0.0", "::", "192.0.2.7", "sidecar.fab.example"):
        with pytest.raises(ConfigError, match="sidecar.health.insecure: true") as caught:
            health(host)
        assert [f.partition(":")[0] for f in caught.value.faults] == ["sidecar.health.host"]
        assert health(host, insecure=True)


def test_what_is_required():
    assert faults({"tls": {"key": "k"}, "auth": {}}, {"auth": {"timeout": 0}}) == [
        "sidecar.tcp.tls.cert: missing, expected a path",
        "sidecar.tcp.auth.secret_file: missing, expected a path",
        "sidecar.unix.auth.secret_file: missing, expected a path",
        'sidecar.unix.auth.timeout: expected a duration from 100ms to 1h, such as 30 or "5m",'
        " got the integer 0",
    ]


def test_every_file_and_user_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        listens(parse({"sidecar": {
            "tcp": {"tls": {"cert": "/nowhere/c.pem"}, "auth": {"secret_file": "/nowhere/s"}},
            "unix": {"auth": {"secret_file": "/dev/null"}, "allow_uids": ["nobody-at-all", 7]},
        }}, {}))
    assert caught.value.faults == [
        "sidecar.tcp.tls.cert: /nowhere/c.pem: No such file or directory",
        "sidecar.tcp.auth.secret_file: /nowhere/s: No such file or directory",
        "sidecar.unix.auth.secret_file: /dev/null: expected one line of 1 to 1024 characters",
        "sidecar.unix.allow_uids[0]: there is no user 'nobody-at-all'",
    ]


@pytest.mark.parametrize(
    "raw, secret",
    [(b"x" * 16, "x" * 16), (b"sixteen chars ok\n", "sixteen chars ok"),
     (b"  blanks are kept \r\n", "  blanks are kept "), ("schlüssel-schlüssel\n".encode(),) * 2],
)
def test_a_secret_is_one_line(tmp_path, raw, secret, caplog):
    path = tmp_path / "secret"
    path.write_bytes(raw)
    path.chmod(0o600)
    wanted = secret if isinstance(secret, str) else secret.decode().strip()
    assert Credentials().secret(str(path)) == wanted
    assert not caplog.records


@pytest.mark.parametrize("raw", [b"", b"\n", b"two\nlines", b"x\n\n", b"\xff\xfe" * 9, b"x" * 9999])
def test_what_is_no_secret_is_refused_and_never_shown(tmp_path, raw):
    path = tmp_path / "secret"
    path.write_bytes(raw)
    with pytest.raises(ValueError) as caught:
        Credentials().secret(str(path))
    assert str(caught.value).startswith(f"{path}: ") and "two" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_careless_secret_is_taken_with_a_warning(tmp_path, caplog):
    path = tmp_path / "secret"
    path.write_text("short\n")
    path.chmod(0o644)
    assert Credentials().secret(str(path)) == "short"
    assert "everybody may read it" in caplog.text and "at least 16 characters" in caplog.text
    assert '"short"' not in caplog.text and "'short'" not in caplog.text


def test_a_bare_name_is_a_credential_of_systemd_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "fab").write_text("passed by systemd")
    (tmp_path / "fab").write_text("in the working folder")
    (tmp_path / "other").write_text("another, not passed")
    credentials = Credentials(str(tmp_path / "credentials"))
    assert credentials.secret("fab") == "passed by systemd"
    assert credentials.secret("./fab") == "in the working folder"
    assert credentials.secret("other") == "another, not passed"
    assert Credentials().secret("fab") == "in the working folder"


def test_a_sidecar_with_tls_and_a_secret(start_sidecar, tmp_path):
    ca = authority()
    cert, key = ca.issue()
    passed = tmp_path / "credentials"
    passed.mkdir()
    (passed / "fab").write_text(SECRET + "\n")
    (passed / "fab").chmod(0o600)
    (passed / "key.pem").write_bytes(pathlib.Path(key).read_bytes())
    sidecar = start_sidecar(
        config=config(tmp_path, tcp={
            "tls": {"cert": cert, "key": "key.pem"}, "auth": {"secret_file": "fab"},
        }),
        env={"CREDENTIALS_DIRECTORY": str(passed)},
    )

    def connect():
        return ca.client().wrap_socket(sidecar.connect(), server_hostname="localhost")

    with connect() as sock, sock.makefile("rb") as reader:
        numbered = frames(1)[0].replace(b'{"v":1', b'{"v":1,"q":1')
        sock.sendall(HELLO + numbered)
        assert json.loads(reader.readline())["type"] == "welcome"
        assert json.loads(reader.readline()) == {"v": 1, "type": "ack", "q": 1, "level": "disk"}
    for bad in (HELLO.replace(b"only", b"ONLY"), HELLO[:-2] + b"\n", b"rubbish " + HELLO):
        with connect() as sock:
            sock.sendall(bad)
            assert json.loads(sock.recv(200))["reason"] == "auth"
    with connect() as sock:
        sock.sendall(HELLO[:-1])  # cut off
    eventually(lambda: sidecar.total("sidecar_connections_ended_total", reason="truncated") == 2)
    expires = sidecar.total("sidecar_tls_certificate_expiry_timestamp_seconds")
    assert expires == ssl.cert_time_to_seconds(_end_of(cert))
    eventually(lambda: (tmp_path / "out.jsonl").exists())
    shown = sidecar.get("/metrics") + sidecar.get("/health")
    status, said = sidecar.stop()
    assert status == 0, said
    found = [said.encode(), shown, *(
        path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
        and path.parent != passed and path.suffix != ".sock"
    )]
    assert all(SECRET.encode() not in text for text in found), "it is nowhere"
    assert any(b'"q":1' in text for text in found), "though everything was looked at"


def _end_of(cert):
    return subprocess.run(
        ["openssl", "x509", "-enddate", "-noout", "-in", cert], capture_output=True, check=True,
    ).stdout.decode().strip().partition("=")[2]


def test_only_listed_users(start_sidecar, tmp_path):
    sidecar = start_sidecar(config=config(tmp_path, unix={"allow_uids": [os.getuid() + 1]}))
    with sidecar.connect(unix=True) as sock:
        try:
            sock.sendall(b"".join(frames(1)))
            assert sock.recv(1) == b""
        except (ConnectionResetError, BrokenPipeError):
            pass
    eventually(lambda: sidecar.total("sidecar_connections_ended_total", reason="user") == 1)
    assert sidecar.total("sidecar_messages_received_total") == 0


PARENT = """
import os, subprocess, sys
for index, fd in enumerate(map(int, sys.argv[1].split(","))):
    os.dup2(fd, 3 + index, inheritable=True)
count = str(len(sys.argv[1].split(",")))
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=count)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def test_a_restart_on_passed_sockets_refuses_no_connection(tmp_path):
    """As under systemd: one process after the other, a client that connects all the while."""
    path = tmp_path / "s.sock"
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(path))
    unix.listen(1000)
    tcp = socket.create_server(("127.0.0.1", 0), backlog=1000)
    # Well above the numbers that they get in the child, so that none is overwritten.
    fds = [os.dup2(sock.fileno(), 60 + i) for i, sock in enumerate((tcp, unix))]
    settings = config(tmp_path, tcp={"port": tcp.getsockname()[1]}, unix={"path": str(path)})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(settings))
    ready = tmp_path / "ready"
    stop, sent, connected = threading.Event(), [0, 0], [0, 0]

    def client(index, family, address):
        while not stop.is_set():
            with socket.socket(family) as sock:
                sock.settimeout(30)
                sock.connect(address)
                connected[index] += 1
                try:
                    sock.sendall(b"".join(frames(2)))
                    sock.shutdown(socket.SHUT_WR)
                    assert sock.recv(1) == b""
                except ConnectionError:
                    continue  # it was slow to begin, and the old one ended meanwhile
            sent[index] += 2

    clients = [
        threading.Thread(target=client, args=(0, socket.AF_INET, tcp.getsockname())),
        threading.Thread(target=client, args=(1, socket.AF_UNIX, str(path))),
    ]
    for thread in clients:
        thread.start()
    try:
        for turn in range(3):
            process = subprocess.Popen(
                [sys.executable, "-c", PARENT, ",".join(map(str, fds)), *COMMAND[1:], "run",
                 "--config", str(file), "--ready-file", str(ready)],
                pass_fds=fds, cwd=ROOT, stderr=subprocess.PIPE,
            )
            eventually(lambda p=process: ready.exists() or p.poll() is not None)
            before = list(sent)
            eventually(lambda b=before: all(now > then for now, then in zip(sent, b)))
            if turn == 2:
                stop.set()
                for thread in clients:
                    thread.join(30)
            process.terminate()
            said = process.communicate(timeout=30)[1].decode()
            assert process.returncode == 0, said
            assert "cannot" not in said and "WARNING" not in said
    finally:
        stop.set()
        process.kill()
        for fd in fds:
            os.close(fd)
        tcp.close()
        unix.close()
    assert path.exists(), "whoever made the file removes it"
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert 2 * sum(connected) >= len(lines) >= sum(sent) > 0
