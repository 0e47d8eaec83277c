"""send one message from a shell script"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from typing import Any

from wafermon.cli.run import host_and_port
from wafermon.cli.seconds import seconds
from wafermon.client import Client
from wafermon.message import ROUTED_TYPES
from wafermon.net import TcpAddress

EPILOG = """\
KEY=VALUE makes the message's data: a VALUE that is JSON (a number, true, {...}) is taken as such,
anything else as text; KEY=:TEXT is always text. A dotted key goes deeper: ctx.lot=L1.

Where the sidecar is: MONITORING_UNIX_SOCKET, else MONITORING_TCP_HOST and MONITORING_TCP_PORT, else
127.0.0.1:17000; or --tcp, --unix. MONITORING_SECRET and MONITORING_TLS_CA (a file of certificates)
are for a listener that asks for them. With TRACEPARENT set, the message belongs to that trace.

exit status: 0 it is safe with the sidecar, 1 no sidecar has acknowledged it, 2 wrong use

examples:
  wafermon send event --src etl level=info msg="lot loaded" ctx.lot=L1
  wafermon send metric --src etl name=rows value=1200
  wafermon send progress --src etl job_id=nightly percent=40
  wafermon send event --src etl --data '{"level":"warn","msg":"slow"}'
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The type, the source, the data."""
    parser.add_argument("type", metavar="TYPE", choices=sorted(ROUTED_TYPES), help="message type")
    parser.add_argument("--src", required=True, help="source: the name of the script")
    parser.add_argument("--data", metavar="JSON", help="the whole data object")
    parser.add_argument("--tid", help="trace id")
    parser.add_argument("--sid", help="span id")
    parser.add_argument("--pid", help="id of the parent span")
    parser.add_argument("--tcp", metavar="HOST:PORT", type=host_and_port, help="sidecar's address")
    parser.add_argument("--unix", metavar="PATH", help="sidecar's socket")
    parser.add_argument(
        "--timeout", type=seconds(0, 3_600), default=2.0, help="seconds (default 2)"
    )
    parser.add_argument("pairs", metavar="KEY=VALUE", nargs="*")


def run(options: argparse.Namespace) -> int:
    """Send it and say so where the sidecar does not say that it is safe."""
    try:
        data = _data(options)
        client = _client(options)
    except ValueError as error:
        print(f"wafermon send: {error}", file=sys.stderr)
        return 2
    client.send(options.type, data, **_ids(options, client.traceparent()))
    refused, reason = client.refused, client.refusal
    left = client.close(options.timeout)
    if refused:
        print(f"wafermon send: this cannot be sent: {reason}", file=sys.stderr)
        return 2
    if left:
        where = "the configured address (see --help)"
        if options.unix or options.tcp:
            where = options.unix or str(TcpAddress(*options.tcp))
        print(f"wafermon send: no sidecar acknowledged the message at {where}", file=sys.stderr)
        return 1
    return 0


def _ids(options: argparse.Namespace, traceparent: str) -> dict[str, str]:
    """The ids that were given, else those of the trace that the environment names; a span of it
    is a new child of the span there."""
    ids = {name: getattr(options, name) for name in ("tid", "sid", "pid")}
    if traceparent and ids["tid"] is None:
        _, ids["tid"], around, _ = traceparent.split("-")
        if options.type == "span":
            ids["pid"] = ids["pid"] or around
        else:
            ids["sid"] = ids["sid"] or around
    if options.type == "span" and ids["sid"] is None:
        ids["sid"] = secrets.token_hex(8)
    return {name: value for name, value in ids.items() if value}


def _client(options: argparse.Namespace) -> Client:
    if options.tcp is None:
        return Client(options.src, unix=options.unix, goodbye=False)
    host, port = options.tcp
    return Client(options.src, host=host, port=port, goodbye=False)


def _data(options: argparse.Namespace) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if options.data is not None:
        try:
            given = json.loads(options.data)
        except ValueError as error:
            raise ValueError(f"--data is not JSON: {error}") from error
        if not isinstance(given, dict):
            raise ValueError("--data: expected a JSON object such as '{\"msg\":\"hi\"}'")
        data = given
    for pair in options.pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"expected KEY=VALUE, got {pair!r}")
        _set(data, key.split("."), _value(text))
    return data


def _value(text: str) -> Any:
    if text.startswith(":"):
        return text[1:]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _set(data: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        inner = data.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ValueError(f"{'.'.join(path)}: {key} is no object")
        data = inner
    data[path[-1]] = value
