"""Who is let in: secrets, lock-out, users; and what is kept of those who are not."""

import json
import os

import pytest
from net_host import Host
from support import eventually

from wafermon.net import Lockout
from wafermon.testing import FakeClock, frames
from wafermon.wire import Secret

SECRET = "a secret of the fab"
REFUSED = b'{"v":1,"type":"error","reason":"auth"}\n'


def hello(secret=SECRET, **more):
    data = {"secret": secret, **more}
    message = {"v": 1, "src": "a", "ts": 1, "type": "hello", "data": data}
    return json.dumps(message).encode() + b"\n"


def answer(host, data, unix=False):
    with host.connect(unix) as sock:
        try:
            sock.sendall(data)
            return sock.recv(200)
        except (ConnectionResetError, BrokenPipeError):
            return b""  # closed unread


def test_the_right_secret_opens(tmp_path):
    with Host(tmp_path, secret=Secret(SECRET)) as host, host.connect() as sock:
        sock.sendall(hello() + frames(1)[0])
        assert b'"welcome"' in sock.recv(200)
        eventually(lambda: host.outlet.all == frames(1)[0])


@pytest.mark.parametrize(
    "first",
    [
        hello("wrong"),
        frames(1)[0],
        hello()[:-2] + b"\n",
        hello()[:-1],  # and then silence
        b'{"secret":"' + SECRET.encode() * 6000,
        b"\xff" + hello(),
        frames(1)[0] + hello(),
        hello(SECRET.upper()),
        b"",
    ],
    ids=["wrong", "none", "no JSON", "unfinished", "oversize", "no UTF-8", "late", "case", "silent"],
)
def test_nothing_is_processed_or_kept_of_others(tmp_path, first):
    with Host(tmp_path, secret=Secret(SECRET), auth_timeout=0.2) as host:
        got = answer(host, first + (b"" if first[-1:] != b"\n" else b"".join(frames(3))))
        assert got in (REFUSED, b""), "or it was reset, for what it sent on unread"
        eventually(lambda: host.server.ended["auth"] == 1)
        assert host.outlet.all == b"" and host.outlet.rejects == []


def test_what_was_cut_off_before_the_secret_is_not_kept(tmp_path):
    with Host(tmp_path, secret=Secret(SECRET)) as host:
        with host.connect() as sock:
            sock.sendall(hello()[:-1])
        eventually(lambda: host.server.ended["eof"] == 1)
        assert host.outlet.rejects == []


def test_after_a_few_wrong_secrets_an_address_is_not_listened_to(tmp_path):
    clock = FakeClock()
    lockout = Lockout(failures=3, seconds=60, clock=clock)
    with Host(tmp_path, secret=Secret(SECRET), lockout=lockout) as host:
        for _ in range(2):
            assert answer(host, hello("wrong")) == REFUSED
        assert b"welcome" in answer(host, hello()), "which clears the count"
        for _ in range(3):
            assert answer(host, hello("wrong")) == REFUSED
        assert answer(host, hello("wrong")) == answer(host, hello()) == b"", "right or wrong"
        eventually(lambda: host.server.ended["locked_out"] == 2)
        assert b"welcome" in answer(host, hello(), unix=True), "another origin"
        clock.advance(60)
        assert b"welcome" in answer(host, hello())


def test_connections_of_before_are_locked_out_too(tmp_path):
    """Else as many can be opened beforehand, and each is one more guess."""
    with Host(tmp_path, secret=Secret(SECRET), lockout=Lockout(failures=3)) as host:
        socks = [host.connect() for _ in range(8)]
        eventually(lambda: host.server.connections == 8)
        for sock in socks[:3]:
            sock.sendall(hello("wrong"))
            assert sock.recv(200) == REFUSED
        judged = []
        matches = Secret.matches
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Secret, "matches", lambda *a: judged.append(a) or matches(*a))
            for sock, secret in zip(socks[3:], ("wrong", SECRET, "wrong", SECRET, SECRET)):
                sock.sendall(hello(secret) + frames(1)[0])
                assert sock.recv(200) == REFUSED, "right or wrong"
        for sock in socks:
            sock.close()
        eventually(lambda: host.server.ended["locked_out"] == 5)
        assert host.server.ended["auth"] == 3 and judged == []
        assert answer(host, hello()) == b"", "no right secret has cleared it"
        assert host.outlet.all == b""


def test_on_a_unix_socket_it_is_the_user_who_is_locked_out(tmp_path):
    lockout = Lockout(failures=1)
    with Host(tmp_path, secret=Secret(SECRET), lockout=lockout) as host:
        answer(host, hello("wrong"), unix=True)
        assert lockout.holds(f"user {os.getuid()}")
        assert answer(host, hello(), unix=True) == b""


def test_silence_is_no_wrong_secret(tmp_path):
    with Host(tmp_path, secret=Secret(SECRET), auth_timeout=0.05) as host:
        assert answer(host, b"") == REFUSED
        assert len(host.server.lockout) == 0


def test_the_table_of_the_locked_out_is_bounded_and_forgets():
    clock = FakeClock()
    lockout = Lockout(failures=2, seconds=60, max_origins=3, clock=clock)
    for origin in "abcd":
        lockout.note(origin, right=False)
        lockout.note(origin, right=False)
    assert len(lockout) == 3
    assert [lockout.holds(origin) for origin in "abcd"] == [False, True, True, True]
    clock.advance(59)
    assert lockout.holds("d")
    clock.advance(1)
    assert not lockout.holds("d")
    lockout.note("d", right=False)
    assert not lockout.holds("d"), "it begins anew"


def test_only_listed_users_may_connect(tmp_path):
    me = os.getuid()
    with Host(tmp_path, allow_uids=frozenset((me,))) as host, host.connect(unix=True) as sock:
        sock.sendall(frames(1)[0])
        eventually(lambda: host.outlet.all == frames(1)[0])
    with Host(tmp_path, allow_uids=frozenset((me + 1,))) as host:
        assert answer(host, frames(1)[0], unix=True) == b""
        eventually(lambda: host.server.ended["user"] == 1)
        assert host.outlet.all == b""
        with host.connect() as sock:
            sock.sendall(frames(1)[0])
            eventually(lambda: host.outlet.all == frames(1)[0])
