"""What a call of the Python SDK costs its caller, with a live listener in another process.

    python bench/sdk_python.py [--calls 200000] [--tcp] [--pause 0]

Prints p50, p99 and p99.9 in microseconds (the clock's own cost, about 0.1, included) and counts.
"""

import argparse
import multiprocessing
import os
import socket
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from wafermon.client import Client


def swallow(server):
    """Listener process: read one connection to its end."""
    peer, _ = server.accept()
    while peer.recv(65536):
        pass


def measure(call, calls, pause):
    """Sorted times of single calls, in microseconds."""
    clock, times = time.perf_counter, []
    for _ in range(calls):
        before = clock()
        call()
        times.append((clock() - before) * 1e6)
        if pause:
            time.sleep(pause)
    return sorted(times)


def main():
    """Run the calls one kind after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--tcp", action="store_true", help="TCP and not a Unix socket")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two calls")
    options = parser.parse_args()
    print(f"{'':28} {'p50':>8} {'p99':>8} {'p99.9':>8} {'sent':>9} {'dropped':>8}")
    ctx = {"lot": "L1", "rows": 12}
    for name, verb, arguments in (
        ("log_event", "log_event", ("info", "file loaded")),
        ("log_event with ctx", "log_event", ("info", "file loaded", ctx)),
        ("log_metric", "log_metric", ("rows", 1200)),
        ("log_event within a span", "log_event", ("info", "file loaded")),
    ):
        with tempfile.TemporaryDirectory() as folder:
            server = socket.socket(socket.AF_INET if options.tcp else socket.AF_UNIX)
            server.bind(("127.0.0.1", 0) if options.tcp else os.path.join(folder, "s"))
            server.listen(1)
            reader = multiprocessing.Process(target=swallow, args=(server,))
            reader.start()
            if options.tcp:
                client = Client("bench", port=server.getsockname()[1])
            else:
                client = Client("bench", unix=os.path.join(folder, "s"))
            server.close()
            client.log_event("info", "warm")
            client.flush()
            if "span" in name:
                client.start_span("bench")
            call = getattr(client, verb)
            times = measure(lambda: call(*arguments), options.calls, options.pause)  # noqa: B023
            client.close(30)
            reader.join()
            at = [times[int(len(times) * part)] for part in (0.5, 0.99, 0.999)]
            columns = " ".join(f"{value:8.2f}" for value in at)
            print(f"{name:28} {columns} {client.sent:9} {client.dropped:8}")


if __name__ == "__main__":
    main()
