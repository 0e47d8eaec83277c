"""How long /metrics takes while messages come in: `python3 -m bench.scrape`."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
import urllib.request

from bench.loadgen import LoadGenerator
from bench.receiver import Receiver, receiver

CONNECTIONS, SOURCES_EACH = 4, 50
RATE, SECONDS, SPAN_SHARE = 200_000, 10, 10
PAUSE_SECONDS = 0.25


def scrapes(target: Receiver, ended: threading.Event) -> tuple[list[float], int]:
    """Milliseconds of each scrape until the load has ended, and the bytes of the last page."""
    took, size = [], 0
    url = f"http://{target.address('admin')}/metrics"
    while not ended.wait(PAUSE_SECONDS):
        began = time.perf_counter()
        with urllib.request.urlopen(url, timeout=10) as page:
            size = len(page.read())
        took.append((time.perf_counter() - began) * 1000)
    return took, size


def main() -> None:
    """Load a sidecar, scrape it meanwhile, print what that took."""
    with tempfile.TemporaryDirectory() as folder, receiver() as target:
        sender, ended, rates = LoadGenerator(folder), threading.Event(), []
        frames = RATE * SECONDS

        def load() -> None:
            try:
                began, end = sender.run(
                    target.address("tcp"), frames, write_bytes=16_384, rate=RATE,
                    span_share=SPAN_SHARE, connections=CONNECTIONS, sources=SOURCES_EACH,
                )  # fmt: skip
                rates.append(frames / (end - began))
            finally:
                ended.set()

        thread = threading.Thread(target=load)
        thread.start()
        took, size = scrapes(target, ended)
        thread.join()
        most = max(took)
        print(
            f"{CONNECTIONS * SOURCES_EACH} sources, {rates[0]:,.0f} msg/s, one in {SPAN_SHARE} "
            "a span: "
            f"{len(took)} scrapes of {size:,} bytes, median {statistics.median(took):.1f} ms, "
            f"most {most:.1f} ms"
        )


if __name__ == "__main__":
    main()
