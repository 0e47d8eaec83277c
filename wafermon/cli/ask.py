"""How a command asks a sidecar that runs: one GET of its admin port."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any, Optional

from wafermon.cli.lines import visible
from wafermon.cli.run import host_and_port
from wafermon.errors import NoAnswer
from wafermon.sidecar.secrets import Credentials

#: A page takes milliseconds; a sidecar that is stopped or starved takes for ever.
TIMEOUT_SECONDS = 10.0


class Admin(tuple[str, int]):
    """Host and port of a sidecar, with the token that it asks for, if any."""

    token: Optional[str] = None

    def headers(self) -> dict[str, str]:
        """What goes along; a sidecar on loopback is called by that name, whatever was typed."""
        local = {"Host": "localhost"} if self[0] in ("127.0.0.1", "::1", "localhost") else {}
        return local if self.token is None else {**local, "Authorization": f"Bearer {self.token}"}


class _Put(argparse.Action):
    """Set one half of `options.admin`, in whichever order the options stand."""

    def __call__(
        self, parser: object, options: argparse.Namespace, value: Any, option: object = None
    ) -> None:
        admin = Admin(options.admin if isinstance(value, str) else value)
        admin.token = value if isinstance(value, str) else options.admin.token
        options.admin = admin


def add_admin(parser: argparse.ArgumentParser) -> None:
    """Add `--admin HOST:PORT` and `--token-file FILE`; both are in `options.admin`, an `Admin`."""
    parser.add_argument(
        "--admin",
        metavar="HOST:PORT",
        type=host_and_port,
        action=_Put,
        default=Admin(("127.0.0.1", 17001)),
        help="admin address of the sidecar (default 127.0.0.1:17001)",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=_token,
        action=_Put,
        dest="admin",
        default=argparse.SUPPRESS,
        help="holds the token that the sidecar asks for (sidecar.health.token_file)",
    )


def _token(path: str) -> str:
    try:
        return Credentials().secret(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def fetch(
    admin: tuple[str, int],
    path: str,
    query: Mapping[str, object] = {},
    timeout: float = TIMEOUT_SECONDS,
) -> Any:
    """Ask for a page that answers in JSON.

    Args:
        admin: host and port, as `options.admin` has them.
        path: of the page, what comes from a user quoted by `urllib.parse.quote(text, safe="")`.
        query: parameters; those that are None are left out, a list stands once for each value.
        timeout: seconds that nothing may come for.

    Returns:
        What the page said, decoded. Its strings may hold anything: print them by
        `wafermon.cli.lines.visible`.

    Raises:
        NoAnswer: nobody answers, or not in JSON, or says no; in the text are its own words.
            Uncaught it ends the command: `main` prints the text, and the exit status is 1.

    Thread: any; blocks for `timeout` at most between two bytes.

    >>> fetch(("127.0.0.1", 1), "/api/jobs")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    wafermon.errors.NoAnswer: no sidecar answers at 127.0.0.1:1 (...); is it running? ...
    """
    body = read(admin, path, query, timeout)
    value = _decoded(body)
    if value is None:
        raise NoAnswer(_refusal(200, path, body), 200)
    return value


def read(
    admin: tuple[str, int],
    path: str,
    query: Mapping[str, object] = {},
    timeout: float = TIMEOUT_SECONDS,
) -> bytes:
    """As `fetch`, of a page that answers in another format.

    Raises:
        NoAnswer: nobody answers, or says no.

    Thread: any, as `fetch`.
    """
    host, port = admin
    headers = (admin if isinstance(admin, Admin) else Admin(admin)).headers()
    asked = {name: value for name, value in query.items() if value is not None}
    words = urllib.parse.urlencode(asked, doseq=True)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    with contextlib.closing(connection):
        try:
            connection.request("GET", f"{path}?{words}" if words else path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(
                f"no sidecar answers at {host}:{port} ({error}); is it running? its admin "
                "address goes by --admin HOST:PORT"
            ) from error
    if answer.status != 200:
        raise NoAnswer(_refusal(answer.status, path, body), answer.status)
    return body


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _refusal(status: int, path: str, body: bytes) -> str:
    """What a page said in place of what it was asked for, for a terminal."""
    value = _decoded(body)
    if isinstance(value, dict) and isinstance(value.get("error"), str):
        said = value["error"]
    else:
        said = (body[:1000].decode("utf-8", "replace").strip().splitlines() or ["nothing"])[0]
    if status == 401:
        said = "it asks for a token, which goes by --token-file FILE"
    if status == 404 and "no such page" in said:
        said = "an older sidecar, or no sidecar at all: it has no such page"
    return f"{visible(path)}: {visible(said)} (status {status})"
