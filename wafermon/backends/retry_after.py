"""What a server asks for in `Retry-After`."""

from __future__ import annotations

import email.utils
import re
from datetime import timezone
from typing import Optional


def retry_after(header: Optional[str], now: float) -> Optional[float]:
    """Seconds to wait; None where there is no header, or one that says nothing.

    Args:
        header: seconds, or a date as in RFC 9110 section 10.2.3.
        now: Unix seconds.

    >>> retry_after("120", 0.0), retry_after("Thu, 01 Jan 1970 00:00:30 GMT", 10.0)
    (120.0, 20.0)
    >>> retry_after("soon", 0.0) is None
    True
    """
    if header is None:
        return None
    if re.fullmatch("[0-9]{1,9}", header.strip()):
        return float(header)
    try:
        date = email.utils.parsedate_to_datetime(header)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max(0.0, date.timestamp() - now)
