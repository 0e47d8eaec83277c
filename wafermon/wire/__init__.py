"""Bytes to messages and back, without I/O, threads or a clock."""

from wafermon.wire.codec import Decoder, encode
from wafermon.wire.session import Session

__all__ = ["Decoder", "Session", "encode"]
