"""show messages live, as they pass through the sidecar"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import sys
import urllib.parse
from collections.abc import Iterator

from wafermon.cli.ask import Admin, add_admin
from wafermon.cli.lines import json_of, line_of, style_of
from wafermon.cli.query import add_selection, selection_of

#: The stream sends at least an empty line each second.
SILENCE_SECONDS = 10.0

EPILOG = """\
Reads from the admin port of a running sidecar until Ctrl-C; costs the sidecar nothing while nobody
looks. For what has passed already: wafermon query.

examples:
  wafermon tail
  wafermon tail --src 'db-*' --type event --level warn
  wafermon tail --json | jq .data
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where, and the filters of `query` that make sense live."""
    add_admin(parser)
    add_selection(parser)
    parser.add_argument("--json", action="store_true", help="print the lines as JSON")


def run(options: argparse.Namespace) -> int:
    """Follow until interrupted."""
    host, port = options.admin
    style = style_of(sys.stdout)
    try:
        for line in _stream(options.admin, _query(options)):
            if line.startswith(b'{"missed"'):
                print(f"({json.loads(line)['missed']} messages came too fast)", file=sys.stderr)
            elif line:
                print(json_of(line) if options.json else line_of(json.loads(line), style))
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 0
    except (OSError, http.client.HTTPException) as error:
        print(f"wafermon tail: no sidecar answers at {host}:{port} ({error}); is it running? "
              "its admin address goes by --admin HOST:PORT", file=sys.stderr)
        return 1
    print("wafermon tail: the sidecar has stopped", file=sys.stderr)
    return 0


def _query(options: argparse.Namespace) -> str:
    wanted = selection_of(options)
    query = {
        "src": wanted.src,
        "type": wanted.types,
        "level": [wanted.level],
        "tid": [wanted.tid],
        "text": [wanted.text],
        "since_ms": [wanted.since_ms],
        "until_ms": [wanted.until_ms],
    }
    pairs = [(name, value) for name, values in query.items() for value in values]
    return urllib.parse.urlencode([pair for pair in pairs if pair[1] is not None])


def _stream(admin: Admin, query: str) -> Iterator[bytes]:
    connection = http.client.HTTPConnection(*admin, timeout=SILENCE_SECONDS)
    connection.request("GET", f"/tail?{query}", headers=admin.headers())
    answer = connection.getresponse()
    if answer.status != 200:
        raise OSError(answer.read(1000).decode("utf-8", "replace").strip())
    for line in answer:
        yield line.rstrip(b"\r\n")
