"""The correlator alone: a span tree out of a log file, whatever order its lines have.

    python3 examples/correlator.py < spans.jsonl
"""

import sys

from wafermon.flow import Correlator
from wafermon.wire import Decoder, encode


def span(sid, parent, name, start, duration, status="ok"):
    """A span message of a made-up trace."""
    message = {"v": 1, "src": name.split()[0], "ts": 1_700_000_000_000 + start, "type": "span",
               "tid": "4bf92f3577b34da6a3ce929d0e0e4736", "sid": sid,
               "data": {"name": name, "duration_ms": duration, "status": status}}  # fmt: skip
    return encode({**message, "pid": parent} if parent else message)


SAMPLE = b"".join(
    [
        span("c", "b", "db-loader insert", 25, 70, "error"),
        span("a", None, "file-receiver receive", 0, 120),
        span("d", "gone", "mailer send", 110, 5),  # its parent never reported
        span("b", "a", "queue-service wait", 10, 95),
    ]
)


def main(data=None):
    correlator = Correlator(max_traces=100, max_spans=10_000)
    batch = Decoder().feed(sys.stdin.buffer.read() if data is None else data)
    correlator.observe(batch, now=0.0)
    lines = []
    for tid in correlator.tids():
        lines.append(f"trace {tid}")
        for depth, node in correlator.trace(tid).walk():
            name, took = node.span.name, node.span.duration_ms
            lost = " (its parent is missing)" if node.orphan else ""
            error = " ERROR" if node.span.status == "error" else ""
            shown = "open" if took is None else f"{took} ms"
            lines.append(f"{'  ' * depth}- {name}: {shown}{lost}{error}")
    print("\n".join(lines))
    return lines


if __name__ == "__main__":
    main(SAMPLE if sys.stdin.isatty() else None)
