"""Bytes to messages and back, without I/O, threads or a clock."""

from wafermon.wire.codec import Decoder, encode
from wafermon.wire.session import Secret, Session
from wafermon.wire.sessions import SessionTable

__all__ = ["Decoder", "Secret", "Session", "SessionTable", "encode"]
