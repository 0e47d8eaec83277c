"""Who is answered by the admin server: by the name that it is asked by, and by a token."""

from __future__ import annotations

import hashlib
import http.cookies
from collections.abc import Collection, Mapping
from typing import Optional

from wafermon.wire import Secret

#: What an address of this host may be called.
LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))
#: What needs no token: for who starts and stops the sidecar, and tells nothing else.
OPEN_PATHS = frozenset(("/livez", "/readyz"))


class Gate:
    """Decide on a request by its headers.

    Programs show the token as `Authorization: Bearer TOKEN`. A browser is opened once with
    `/?token=TOKEN`, and has a cookie from then on, which is made of the token and is not it.

    Args:
        token: what has to be shown; None for nothing.
        hosts: names by which the sidecar may be asked for, beside those of this host; None for
            any. A name that is not known is refused, so that a page from elsewhere cannot reach
            the sidecar by way of a name that it controls (DNS rebinding).

    Thread: any; it does not change.

    >>> gate = Gate("tell nobody but the fab")
    >>> gate.knows("localhost:17001"), gate.knows("evil.example")
    (True, False)
    >>> gate.admits("/health", {}), gate.admits("/livez", {})
    (False, True)
    >>> gate.admits("/health", {"authorization": "Bearer tell nobody but the fab"})
    True
    """

    def __init__(
        self, token: Optional[str] = None, hosts: Optional[Collection[str]] = frozenset()
    ) -> None:
        self._hosts = None if hosts is None else LOCAL_NAMES | {name.lower() for name in hosts}
        self._token = self._pass = None
        if token is not None:
            self._token = Secret(token)
            self._cookie = hashlib.sha256(f"cookie of wafermon: {token}".encode()).hexdigest()
            self._pass = Secret(self._cookie)

    def knows(self, host: str) -> bool:
        """Whether a `Host` header, with or without a port, names this sidecar."""
        name, _, port = host.rpartition(":")
        name = name if port.isdigit() else host
        return self._hosts is None or name.lower() in self._hosts

    def admits(self, path: str, headers: Mapping[str, str], port: int = 0) -> bool:
        """Whether a path may be answered.

        Args:
            path: without its query.
            headers: by their names in lower case.
            port: that the request came to: cookies are the same for all ports of a host.
        """
        if self._token is None or self._pass is None or path in OPEN_PATHS:
            return True
        kind, _, shown = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._token.matches(shown.strip()):
            return True
        return self._pass.matches(_cookies(headers.get("cookie", "")).get(f"wafermon-{port}"))

    def cookie(self, token: Optional[str], port: int) -> Optional[str]:
        """The `Set-Cookie` for a browser that shows the right token; None for a wrong one."""
        if self._token is None or not self._token.matches(token):
            return None
        return f"wafermon-{port}={self._cookie}; Path=/; HttpOnly; SameSite=Strict"


def _cookies(text: str) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in http.cookies.SimpleCookie(text).items()}
    except http.cookies.CookieError:
        return {}
