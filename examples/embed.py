"""A server and a router in a program of your own: no sidecar, no config, no signal handlers.

    python3 examples/embed.py
"""

import socket

from wafermon.backends import FileBackend, MemoryBackend
from wafermon.client import Client
from wafermon.delivery import Pipeline, Route
from wafermon.flow import Router, Rule
from wafermon.net import EventLoop, Listen, Server, TcpAddress


def main(path="/tmp/errors.jsonl"):
    memory = MemoryBackend(max_messages=1000)
    routes = {
        "memory": Route("memory", memory),
        "errors": Route("errors", FileBackend(path)),
    }
    router = Router(
        {
            "db-*": [Rule("memory"), Rule("errors", types=["event"], level="error")],
            "*": [Rule("memory")],
        }
    )
    loop = EventLoop()
    # call_soon lets a queue that has run low wake the connections that wait for it.
    pipeline = Pipeline(router, routes, call_soon=loop.call_soon)
    listen = Listen(TcpAddress("127.0.0.1", 0), max_connections=50)
    with pipeline, Server([listen], pipeline, loop=loop) as server:
        host, _, port = server.addresses[0].rpartition(":")
        with Client("db-loader", host=host, port=int(port)) as client:
            client.log_event("info", "loading", {"lot": "L1"})
            client.log_event("error", "die 17 out of range")
        # Any socket will do: a message is one line of JSON.
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(b'{"v":1,"src":"nc","ts":1700000000000,"type":"heartbeat"}\n')
    # Leaving `with` took everything that had arrived, and delivered it.
    for message in memory.messages:
        print(message["src"], message["type"], message.get("data", {}).get("msg", ""))
    print("received:", dict(pipeline.received))
    return memory.messages


if __name__ == "__main__":
    main()
