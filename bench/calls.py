"""Time each call of the Python SDK, or of what one would write without it.

    python3 -m bench.calls sdk|bare PORT CALLS BURST

Prints `{"us":[...],"sent":N,"dropped":N}`. `bare` is `json.dumps` and a blocking write.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Callable

from wafermon.client import Client

CONTEXT = {"lot": "L1234.7", "tool": "EQP07", "rows": 12_345, "seconds": 1.25}


def timed(call: Callable[[], object], calls: int, burst: int) -> list[float]:
    """Microseconds of each call. They come in bursts: what follows is left the time it needs."""
    passed: list[float] = []
    while len(passed) < calls:
        for _ in range(burst):
            began = time.perf_counter_ns()
            call()
            passed.append((time.perf_counter_ns() - began) / 1000)
        time.sleep(0.002)
    return passed


def sdk(port: int, calls: int, burst: int) -> dict[str, object]:
    """By `Client.log_event`."""
    client = Client("bench", host="127.0.0.1", port=port)
    passed = timed(lambda: client.log_event("info", "file loaded", CONTEXT), calls, burst)
    client.close(10)
    return {"us": passed, "sent": client.sent, "dropped": client.dropped}


def bare(port: int, calls: int, burst: int) -> dict[str, object]:
    """By hand."""
    with socket.create_connection(("127.0.0.1", port)) as sock:

        def call() -> None:
            data = {"level": "info", "msg": "file loaded", "ctx": CONTEXT}
            stamp = int(time.time() * 1000)
            message = {"v": 1, "src": "bench", "ts": stamp, "type": "event", "data": data}
            sock.sendall(json.dumps(message).encode() + b"\n")

        passed = timed(call, calls, burst)
    return {"us": passed, "sent": len(passed), "dropped": 0}


if __name__ == "__main__":
    for name in [name for name in os.environ if name.startswith("MONITORING_")]:
        del os.environ[name]
    print(json.dumps({"sdk": sdk, "bare": bare}[sys.argv[1]](*map(int, sys.argv[2:]))))
