"""When a certificate ends: what an operator has to know in time."""

from __future__ import annotations

import calendar
import re
import ssl
import time

_CERTIFICATE = re.compile(
    "-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)


def expiry(pem: str) -> float:
    """When the first certificate of a file ends, in Unix seconds.

    The `ssl` module tells this of a peer's certificate only, so it is read here: the fifth part of
    a certificate is its validity, and the second half of that is the end (RFC 5280, 4.1).
    """
    found = _CERTIFICATE.search(pem)
    der = ssl.PEM_cert_to_DER_cert(found[0] if found else pem)
    at = _value(der, _value(der, 0)[0])[0]
    if der[at] == 0xA0:  # the version, which the oldest ones lack
        at = _value(der, at)[1]
    for _ in ("serial number", "signature", "issuer"):
        at = _value(der, at)[1]
    start, end = _value(der, _value(der, _value(der, at)[0])[1])
    text = der[start:end].decode("ascii")
    if len(text) == len("YYMMDDhhmmssZ"):
        text = ("19" if text[:2] >= "50" else "20") + text
    return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))


def _value(der: bytes, at: int) -> tuple[int, int]:
    """Where the value of the element at `at` begins and ends."""
    length, at = der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, at = int.from_bytes(der[at : at + size], "big"), at + size
    return at, at + length
