"""TLS for the sender: it sends to a relay on a Unix socket, which encrypts.

The relay reads 64 KiB at once and both calls that take time are C, so it is not the limit.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator

from bench import BenchError
from bench.addresses import dial

_BLOCK_BYTES = 65_536
_MAKE = [
    *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=bench"),
    *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
]


def certificate(folder: str) -> tuple[str, str]:
    """Make a certificate that vouches for itself; the paths of it and of its key.

    Raises:
        BenchError: there is no openssl command.
    """
    cert, key = (os.path.join(folder, name) for name in ("cert.pem", "key.pem"))
    try:
        subprocess.run([*_MAKE, "-keyout", key, "-out", cert], capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise BenchError(f"TLS needs the openssl command: {error}") from error
    return cert, key


@contextlib.contextmanager
def relay(folder: str, address: str) -> Iterator[str]:
    """Forward what comes to a Unix socket over TLS, a connection each; the socket's path.

    Args:
        folder: where the socket is put.
        address: `HOST:PORT` of the receiver. Its certificate is not looked at.
    """
    path = os.path.join(folder, "relay.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        accepting = threading.Thread(target=_accept, args=(listener, address), daemon=True)
        accepting.start()
        try:
            yield path
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _accept(listener: socket.socket, address: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    threads = []
    with contextlib.suppress(OSError):  # the listener was shut down
        while True:
            source = listener.accept()[0]
            plain = dial(address)
            sink = context.wrap_socket(plain)
            threads.append(threading.Thread(target=_forward, args=(source, sink), daemon=True))
            threads[-1].start()
    for thread in threads:
        thread.join()


def _forward(source: socket.socket, sink: ssl.SSLSocket) -> None:
    with source, sink, contextlib.suppress(OSError):
        while data := source.recv(_BLOCK_BYTES):
            sink.sendall(data)
        sink.unwrap()
