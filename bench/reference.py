"""What the sidecar is compared with: the least that Python can do with the same bytes.

    python3 -m bench.reference loads|blocks|sieve OUTPUT READY_FILE

`loads` is the obvious program: receive, one `json.loads` a line, write. `blocks` decodes a read by
one parse and looks at each envelope, `sieve` only recognises it, both by the project's own decoder;
then they write: no queue, no route, no counters.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
from typing import Callable

from wafermon.wire import Decoder
from wafermon.wire.blocks import BlockDecoder

LOADS, BLOCKS, SIEVE = "loads", "blocks", "sieve"
_READ_BYTES = 65_536

Feed = Callable[[bytes], bytes]


def loads() -> Feed:
    """Take bytes, give whole lines; each line is parsed."""
    rest = b""

    def feed(data: bytes) -> bytes:
        nonlocal rest
        lines = (rest + data).split(b"\n")
        rest = lines.pop()
        for line in lines:
            json.loads(line)
        return b"\n".join(lines) + b"\n" if lines else b""

    return feed


class _Parser(BlockDecoder):
    """Parse every block."""

    decode = BlockDecoder.parse


def blocks() -> Feed:
    """Take bytes, give whole lines; a read is parsed at once."""
    decoder = Decoder(blocks=_Parser())
    return lambda data: decoder.feed(data).raw


def sieve() -> Feed:
    """Take bytes, give whole lines; a read is parsed only where that is needed."""
    decoder = Decoder()
    return lambda data: decoder.feed(data).raw


def serve(make_feed: Callable[[], Feed], output: int, ready_file: str) -> None:
    """Read all connections, for ever."""
    tcp = socket.create_server(("127.0.0.1", 0))
    path = f"{ready_file}.sock"
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(path)
    unix.listen()
    selector = selectors.DefaultSelector()
    for listener in (tcp, unix):
        selector.register(listener, selectors.EVENT_READ)
    with open(f"{ready_file}.new", "w", encoding="utf-8") as file:
        json.dump({"tcp": f"127.0.0.1:{tcp.getsockname()[1]}", "unix": path}, file)
    os.rename(file.name, ready_file)
    while True:
        for key, _ in selector.select():
            sock: socket.socket = key.fileobj  # type: ignore[assignment]
            if key.data is None:
                selector.register(sock.accept()[0], selectors.EVENT_READ, make_feed())
                continue
            data = sock.recv(_READ_BYTES)
            if not data:
                selector.unregister(sock)
                sock.close()
            lines = key.data(data)
            if lines:
                os.write(output, lines)


def main(kind: str, output: str, ready_file: str) -> None:
    """Serve one of them."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    serve({LOADS: loads, BLOCKS: blocks, SIEVE: sieve}[kind], file, ready_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
