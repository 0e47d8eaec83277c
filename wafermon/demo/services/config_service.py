"""config-service: serves the sections of a settings file over HTTP, as `key=value` lines.

usage: config_service.py SETTINGS

It prints the address that it got, and ends when its standard input does.

To see here: a span whose parent came with a request, and not with the environment.
"""

import configparser
import http.server
import os
import select
import socketserver
import sys
import time

from wafermon.client import Client

BEAT_S = 5.0

client = Client("config-service")


class Handler(http.server.BaseHTTPRequestHandler):
    """One question: `GET /limits`, with the caller's trace context in the header `traceparent`."""

    def do_GET(self) -> None:
        """Answer with a section."""
        began, clock = int(time.time() * 1000), time.monotonic()
        section = self.path.strip("/")
        settings = configparser.ConfigParser(interpolation=None)
        settings.read(sys.argv[1], encoding="utf-8")
        known = settings.has_section(section)
        pairs = settings.items(section) if known else []
        body = "".join(f"{key}={value}\n" for key, value in pairs).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        took = (time.monotonic() - clock) * 1000
        self.tell(f"serve {section}", began, took, "ok" if known else "error")

    def tell(self, name: str, began: int, took: float, status: str) -> None:
        """Send a span below the caller's."""
        try:
            _, tid, parent, _ = self.headers.get("traceparent", "").split("-")
        except ValueError:
            return  # the caller is not part of a trace
        sid = os.urandom(8).hex()
        data = {"name": name, "duration_ms": round(took, 3), "status": status, "kind": "http"}
        client.send("span", data, ts=began, tid=tid, sid=sid, pid=parent)
        client.send(
            "event", {"level": "debug", "msg": f"served {self.path}"}, ts=began, tid=tid, sid=sid
        )

    def log_message(self, *_: object) -> None:
        """Keep quiet: the events say it."""


def main() -> None:
    """Serve until standard input ends."""
    server = socketserver.TCPServer(("127.0.0.1", 0), Handler)
    print("config-service: ready at {}:{}".format(*server.server_address[:2]), flush=True)
    client.log_event("info", "ready", {"port": server.server_address[1]})
    due, served = 0.0, 0
    while True:
        if time.monotonic() >= due:
            due = time.monotonic() + BEAT_S
            client.heartbeat(interval_s=BEAT_S)
            client.log_resource()
        ready, _, _ = select.select([server, sys.stdin], [], [], BEAT_S)
        if server in ready:
            server.handle_request()
            served += 1
            client.log_metric("requests", 1, kind="counter")
        elif ready:
            break
    server.server_close()
    client.log_event("info", "ending", {"served": served})
    client.close()
    print(
        f"config-service: sent {client.sent} messages,"
        f" dropped {client.dropped}, refused {client.refused}"
    )


if __name__ == "__main__":
    main()
