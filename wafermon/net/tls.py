"""TLS on the loop: certificates, the handshake, and a transport that works like a socket.

The bytes go through memory (`SSLObject`) and not through `SSLSocket`: one `recv` of 64 KiB then
brings four records, nothing that is decrypted hides from `select` for long, and an end-of-file is
seen as what it is, without OpenSSL writing an alert to a peer that only sends.
"""

from __future__ import annotations

import socket
import ssl
from typing import Callable, Optional

from wafermon.net.certificate import expiry
from wafermon.net.connection import READ_BYTES, Truncated
from wafermon.net.loop import EventLoop


class Tls:
    """What a listener needs to speak TLS 1.2 or later; the files are read once.

    Args:
        cert: path of the certificate in PEM, with those between it and the root after it.
        key: path of its private key, not encrypted; by default it is in the file of `cert`.
        client_ca: path of the certificates that sign those of clients; a client must then show one.
        handshake_timeout: seconds.

    Raises:
        ValueError: a file cannot be used; the text begins with the argument's name.

    Thread: any one builds it; then the loop.
    """

    def __init__(
        self,
        cert: str,
        key: Optional[str] = None,
        client_ca: Optional[str] = None,
        *,
        handshake_timeout: float = 5.0,
    ) -> None:
        self.handshake_timeout = handshake_timeout
        pem = _read("cert", cert)
        if key is not None:
            _read("key", key)
        self.context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A ticket is a byte that a client that only sends never reads: its close becomes a reset
        # that loses what it had just sent (3.8 % of 3 MB arrived with tickets).
        context.num_tickets = 0
        context.options |= ssl.OP_NO_RENEGOTIATION
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(cert, key, password=lambda: b"")
        except ssl.SSLError as error:
            raise ValueError(_explained(error, cert, key)) from error
        if client_ca is not None:
            _read("client_ca", client_ca)
            try:
                context.load_verify_locations(client_ca)
            except ssl.SSLError as error:
                raise ValueError(f"client_ca: {client_ca} holds no certificate in PEM") from error
            context.verify_mode = ssl.CERT_REQUIRED
        #: When the certificate ends, in Unix seconds.
        self.expires = expiry(pem)

    def greet(
        self, loop: EventLoop, sock: socket.socket, done: Callable[[Handshake, str], None]
    ) -> Handshake:
        """Begin the handshake with a peer that was just accepted; `start` it then."""
        return Handshake(self, loop, sock, done)


class Handshake:
    """A peer that is agreeing on keys.

    Args:
        tls: of the listener.
        loop: watches the socket, and the time.
        sock: non-blocking.
        done: is called once at the end, with an empty reason where `transport` may be used, else
            with `tls_failed` or `tls_timeout`, or what `close` was given.

    Thread: loop only.
    """

    def __init__(
        self,
        tls: Tls,
        loop: EventLoop,
        sock: socket.socket,
        done: Callable[[Handshake, str], None],
    ) -> None:
        self.transport = TlsSocket(sock, tls.context)
        #: What went wrong, in words.
        self.error = ""
        self.began = loop.clock()
        self._loop = loop
        self._done = done
        self._timer = loop.call_later(tls.handshake_timeout, lambda: self.close("tls_timeout"))
        self._ended = False

    def start(self) -> None:
        """Say hello."""
        self._step()

    def _step(self) -> None:
        try:
            agreed = self.transport.handshake()
        except OSError as error:
            self.error = getattr(error, "reason", None) or error.strerror or str(error)
            self.close("tls_failed")
            return
        if agreed:
            self._end("")
        elif self.transport.flushed:
            self._loop.watch(self.transport, self._step, None)
        else:
            self._loop.watch(self.transport, None, self._step)

    def close(self, reason: str) -> None:
        """Give it up. Twice is harmless."""
        if not self._ended:
            self._end(reason)
            self.transport.close()

    def _end(self, reason: str) -> None:
        self._ended = True
        self._timer.cancel()
        self._loop.watch(self.transport, None, None)
        self._done(self, reason)


class TlsSocket:
    """A connection inside TLS, read and written like a non-blocking socket.

    `recv` raises `Truncated` where the stream ends without the closing alert. `send` takes all or,
    with BlockingIOError, nothing yet: it is to be called again with the same bytes.

    Thread: loop only.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._cipher = b""  # what the socket has still to take
        self._taken = 0  # bytes of a `send` that are in there
        self._alerted = False  # the peer has said that it will send no more
        self._fault: Optional[OSError] = None
        self._written = False  # the peer has asked for bytes, so it reads

    @property
    def flushed(self) -> bool:
        """Whether the socket has taken all there was."""
        return not self._cipher

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return self._sock.fileno()

    def handshake(self) -> bool:
        """Go on until the keys are agreed on.

        Returns:
            Whether they are; if not, the socket has to be readable, or writable where it is not
            `flushed`.

        Raises:
            OSError: they cannot be.
        """
        try:
            while True:
                try:
                    self._object.do_handshake()
                    agreed = True
                except ssl.SSLWantReadError:
                    agreed = False
                finally:
                    self._flush()  # the alert, too, that says what was wrong
                if agreed:
                    return True
                data = self._sock.recv(READ_BYTES)
                if not data:
                    raise ConnectionResetError(0, "the peer has left")
                self._incoming.write(data)
        except (BlockingIOError, InterruptedError):
            return False

    def pending(self) -> int:
        """Whether `recv` has something to tell that `select` does not show."""
        return self._incoming.pending or int(self._alerted or self._fault is not None)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Decrypt what is there, of at most `size` bytes of the socket's; with MSG_PEEK only look
        at these."""
        if flags & socket.MSG_PEEK:
            return self._sock.recv(size, flags)
        if not self.pending():
            cipher = self._sock.recv(size)
            if not cipher:
                raise Truncated(0, "the stream ended without a closing alert")
            self._incoming.write(cipher)
        data = self._decrypt()
        if data or self._alerted:
            return data
        # Or else the rest of the record is on its way.
        raise BlockingIOError if self._fault is None else self._fault

    def _decrypt(self) -> bytes:
        """All of it: what OpenSSL keeps is not seen by `select`."""
        parts = []
        try:
            while not self._alerted and self._fault is None:
                part = self._object.read(READ_BYTES)
                parts.append(part)
                self._alerted = not part
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._fault = error  # what came before it is whole, and goes first
        if self._outgoing.pending:
            self._answer()
        return b"".join(parts)

    def _answer(self) -> None:
        """Send what the peer has asked OpenSSL for, such as new keys, if it reads at all."""
        try:
            self._flush()
        except (BlockingIOError, InterruptedError):
            if len(self._cipher) > READ_BYTES:
                raise ConnectionAbortedError(0, "the peer does not read what it asks for") from None

    def send(self, data: bytes) -> int:
        """Encrypt and send."""
        if not self._taken:
            self._written = True
            self._taken = self._object.write(data)
        self._flush()
        taken, self._taken = self._taken, 0
        return taken

    def _flush(self) -> None:
        self._cipher += self._outgoing.read()
        while self._cipher:
            self._cipher = self._cipher[self._sock.send(self._cipher) :]

    def close(self) -> None:
        """End it, with a closing alert where the peer reads: that one knows then that it is all."""
        if self._written or self._alerted:
            try:
                self._object.unwrap()
            except ssl.SSLError:
                pass  # it does not wait for the peer's alert
            try:
                self._flush()
            except OSError:
                pass  # nobody is there any more
        self._sock.close()


def _read(name: str, path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{name}: {path}: {error.strerror}") from error


def _explained(error: ssl.SSLError, cert: str, key: Optional[str]) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"key: {key or cert} does not belong to the certificate {cert}"
    where = f"{cert} and {key}" if key else f"{cert}, with its key,"
    reason = error.reason or str(error)
    return f"cert: {where} cannot be used: {reason} (wanted: PEM, the key not encrypted)"
