"""look at the dead letters, and send them again

Dead letters are what was rejected on the way in, and what a backend refused for good.
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import glob
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

from wafermon.backends.dial import Address, ClientTls, TimedSocket
from wafermon.cli.lines import clipped, json_of, style_of, time_of, visible
from wafermon.cli.query import DEFAULT_DATA
from wafermon.cli.run import host_and_port
from wafermon.flow.selection import parse_time
from wafermon.message import Message
from wafermon.net import TcpAddress
from wafermon.wire import Decoder, encode

EPILOG = """\
list      the newest last, one a line: when, why, whose backend, and the line itself
replay    send the original lines to a running sidecar, which routes them as everything else: every
          backend of their route gets them. What is no valid frame is skipped. They stay in the
          file; a second replay sends them again.

Where the sidecar is: --tcp or --unix, else sidecar.sock in --data. MONITORING_SECRET and
MONITORING_TLS_CA (a file of certificates) are for a listener that asks for them, as with `send`.

exit status: 0; 1 where nothing can be read, or not all that could be sent was taken; 2 wrong use

examples:
  wafermon dead-letters list --since 1h
  wafermon dead-letters list --reason bad_field --json | jq .line
  wafermon dead-letters replay --backend archive --tcp 127.0.0.1:17000
"""

#: So many bytes go out before a receipt is waited for.
CHUNK_BYTES = 256 << 10
#: A sidecar that says nothing for so long has gone.
SILENCE_SECONDS = 10.0
_SOURCE = "wafermon.dead-letters"


class Letter(NamedTuple):
    """One record of the file.

    Attributes:
        record: as it stands there, without its line end.
        time: when it died, in Unix milliseconds.
        reason: why.
        backend: who refused it; empty for what was rejected on the way in.
        line: the original bytes.
    """

    record: bytes
    time: int
    reason: str
    backend: str
    line: bytes


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add = parser.add_argument
    add("action", choices=("list", "replay"))
    add("--data", metavar="DIR", default=DEFAULT_DATA,
        help=f"the sidecar's data_dir (default {DEFAULT_DATA})")  # fmt: skip
    add("--reason", metavar="TEXT", help="only those with this in their reason")
    add("--backend", metavar="NAME", help="only what this backend refused")
    add("--since", metavar="TIME", type=_time, help="10m, 2h, 7d, 2026-01-31T14:05, ...")
    add("--limit", metavar="N", type=_limit, default=0, help="only the newest N (default all)")
    add("--json", action="store_true", help="list: print the records as they are")
    add("--tcp", metavar="HOST:PORT", type=host_and_port, help="replay: sidecar's address")
    add("--unix", metavar="PATH", help="replay: sidecar's socket")


def run(options: argparse.Namespace) -> int:
    """List them or send them again."""
    chosen: collections.deque[Letter] = collections.deque(maxlen=options.limit or None)
    try:
        chosen.extend(letter for letter in _letters(options.data) if _is_chosen(letter, options))
        if options.action == "replay":
            return _replay(chosen, options)
        _list(chosen, options.json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing at the exit either
    except OSError as error:
        print(f"wafermon dead-letters: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


# -- reading -----------------------------------------------------------------------------------


def _letters(folder: str) -> Iterator[Letter]:
    """All records, oldest first; what a killed sidecar left half written is passed over."""
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder}: no such folder; the sidecar's goes by --data DIR")
    path = os.path.join(folder, "dead-letters.jsonl")
    rotated = glob.glob(os.path.join(glob.escape(folder), "dead-letters@*.jsonl"))
    for name in [*sorted(rotated), path]:
        # A file may be rotated away meanwhile, and grows while its letters are replayed.
        with contextlib.suppress(FileNotFoundError), open(name, "rb") as file:
            left = os.fstat(file.fileno()).st_size
            for record in file:
                left -= len(record)
                letter = _letter(record.rstrip(b"\n")) if left >= 0 else None
                if letter is not None:
                    yield letter


def _letter(record: bytes) -> Optional[Letter]:
    try:
        fields = json.loads(record)
        line = fields.get("line")
        raw = base64.b64decode(fields["base64"]) if line is None else line.encode("utf-8")
        return Letter(record, int(fields["time"]), fields["reason"], fields.get("backend", ""), raw)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_chosen(letter: Letter, options: argparse.Namespace) -> bool:
    return (
        (options.reason is None or options.reason in letter.reason)
        and (options.backend is None or options.backend == letter.backend)
        and (options.since is None or letter.time >= options.since)
    )


def _list(letters: collections.deque[Letter], as_json: bool) -> None:
    style = style_of(sys.stdout)
    if hasattr(sys.stdout, "reconfigure"):  # a locale that lacks a letter must not end the list
        sys.stdout.reconfigure(errors="backslashreplace")
    for letter in letters:
        if as_json:
            print(json_of(letter.record))
            continue
        why = f"{letter.backend}: {letter.reason}" if letter.backend else letter.reason
        line = letter.line.decode("utf-8", "backslashreplace")
        text = f"{time_of(letter.time)}  {visible(why)}  {visible(line)}"
        print(clipped(text, style.width) if style.width else text)
    sys.stdout.flush()
    if not letters:
        print("no dead letters", file=sys.stderr)


# -- sending again -----------------------------------------------------------------------------


def _replay(letters: collections.deque[Letter], options: argparse.Namespace) -> int:
    messages, skipped = [], 0
    for letter in letters:
        found = Decoder().feed(letter.line + b"\n").messages
        messages += found
        skipped += not found
    taken = 0
    try:
        if messages:
            with _connect(options) as sock:
                for held in _send(sock, messages):
                    taken = held
    except (OSError, ValueError) as error:
        print(f"wafermon dead-letters: the sidecar did not take them all: {error}", file=sys.stderr)
    print(f"{taken} of {len(messages)} sent again, {skipped} skipped as no valid frames")
    return 0 if taken == len(messages) else 1


def _connect(options: argparse.Namespace) -> TimedSocket:
    deadline = time.monotonic() + SILENCE_SECONDS
    if options.tcp is None:
        address = Address(options.unix or os.path.join(options.data, "sidecar.sock"))
        return address.connect(deadline)
    authorities = os.environ.get("MONITORING_TLS_CA")
    address = Address(str(TcpAddress(*options.tcp)))
    return address.connect(deadline, ClientTls(ca=authorities) if authorities else None)


def _send(sock: TimedSocket, messages: list[Message]) -> Iterator[int]:
    """Send messages in a session of their own; yield how many the sidecar has, as it says so."""
    answers = sock.makefile("rb")
    sock.sendall(encode(_hello()))
    _answer(answers.readline(), "welcome")
    chunk, size = [], 0
    for number, message in enumerate(messages, 1):
        chunk.append(encode({**message, "q": number}))  # in place of the number of another session
        size += len(chunk[-1])
        if size >= CHUNK_BYTES or number == len(messages):
            sock.deadline = time.monotonic() + SILENCE_SECONDS
            sock.sendall(b"".join(chunk))
            chunk, size, held = [], 0, 0
            while held < number:
                held = _answer(answers.readline(), "ack")
                sock.deadline = time.monotonic() + SILENCE_SECONDS
                yield held


def _hello() -> dict[str, Any]:
    data = {"session": secrets.token_hex(16)}
    if os.environ.get("MONITORING_SECRET"):
        data["secret"] = os.environ["MONITORING_SECRET"]
    stamp = int(time.time() * 1000)
    return {"v": 1, "src": _SOURCE, "ts": stamp, "type": "hello", "data": data}


def _answer(line: bytes, kind: str) -> int:
    """The number of an answer of this type."""
    if not line:
        raise ConnectionResetError("it closed the connection")
    answer = json.loads(line)
    if answer.get("type") != kind:
        raise ValueError(f"it answered {visible(line[:200].decode('utf-8', 'replace').strip())}")
    return int(answer["q"])


def _time(text: str) -> int:
    try:
        return parse_time(text, time.time())
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)
