"""The codec alone: bytes in, batches and rejects out. No socket, no thread, no clock.

    python3 examples/codec.py < messages.jsonl
"""

import sys

from wafermon.wire import Decoder, encode


def main(stream=None):
    decoder = Decoder()
    accepted = rejected = 0
    if stream is None:
        stream = iter(lambda: sys.stdin.buffer.read1(65536), b"")
    for chunk in stream:  # cut anywhere, even within a character
        batch = decoder.feed(chunk)
        for message, line in zip(batch.messages, batch.lines):
            accepted += 1
            print(f"{message['src']:12} {message['type']:9} {len(line)} bytes")
        for reject in batch.rejects:
            rejected += 1
            print(f"rejected, {reject.reason.value}: {reject.line[:60]!r}", file=sys.stderr)
    rejected += len(decoder.close().rejects)  # a frame that was cut off
    return accepted, rejected


def sample():
    """Two messages and a line that is none, cut in an unlucky place."""
    message = {"v": 1, "src": "etl", "ts": 1700000000000, "type": "event", "data": {"msg": "hi"}}
    stream = encode(message) + b"what is this?\n" + encode({**message, "type": "metric"})
    return [stream[:10], stream[10:90], stream[90:]]


if __name__ == "__main__":
    main(sample() if sys.stdin.isatty() else None)
