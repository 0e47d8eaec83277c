"""The tree of exceptions.

A bad line is a `Reject` value and a full queue a return value: neither is an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional


class WafermonError(Exception):
    """Root of all that this package raises on purpose."""


class ConfigError(WafermonError):
    """A configuration that cannot be used; carries every fault at once.

    Args:
        faults: one text a fault, each begins with its path in the file (`sidecar.tcp.port: ...`).
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


class ProtocolError(WafermonError):
    """The peer broke the contract on the wire in a way that ends its connection."""


class AuthError(ProtocolError):
    """The peer did not show the secret that the listener asks for."""


class BackendError(WafermonError):
    """A backend could not take a batch."""


class RetryableError(BackendError):
    """The same batch may succeed later.

    Args:
        message: what happened, for the log and `/health`.
        retry_after: seconds that the backend asked to wait, where it said so.
    """

    def __init__(self, message: str, retry_after: Optional[float] = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(BackendError):
    """The same batch will never succeed: the worker splits it until the guilty line is alone."""


class JournalError(WafermonError):
    """The journal cannot be read."""


class ClientClosed(WafermonError):
    """Something was asked of a client that has been closed."""


class NoAnswer(WafermonError):
    """A sidecar that was asked something gave no answer that can be used.

    Args:
        message: what to do about it, for the user.
        status: the HTTP status of its refusal, 0 where there was none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
