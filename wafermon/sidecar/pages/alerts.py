"""`/api/alerts`: what is wrong now, and what was told last."""

from __future__ import annotations

import time
from typing import Callable, Optional

from wafermon.flow.alerts import Alerts
from wafermon.net import Page, Request, Response


def alerts(book: Alerts, wall: Callable[[], float] = time.time) -> Page:
    """`/api/alerts`: all alerts, those that fire first, and the last 100 that were told, the newest
    first. A rule that is about several subjects has a row for each that is not ok; names are those
    of rules, and `subject` is null where a rule is about one thing only.

    `?limit=` bounds the rows, 1,000 by default.
    """

    def page(request: Request) -> Response:
        limit = request.last("limit") or "1000"
        if not (limit.isascii() and limit.isdigit() and len(limit) < 10):
            return Response.json({"error": "limit: expected a number of rows"}, 400)
        rows = book.rows()
        return Response.json(
            {
                "now_ms": _ms(wall()),
                "total": len(rows),
                "alerts": [
                    {
                        "name": row.name,
                        "kind": row.kind,
                        "subject": row.subject or None,
                        "state": row.state,
                        "since_ms": _ms(row.since),
                        "message": row.message,
                        "value": None if row.value is None else round(row.value, 3),
                        "fired": row.fired,
                        "last_fired_ms": _ms(row.last_fired),
                    }
                    for row in rows[: int(limit)]
                ],
                "recent": [
                    {
                        "name": change.name,
                        "subject": change.subject or None,
                        "state": change.state,
                        "at_ms": _ms(change.at),
                        "message": change.message,
                    }
                    for change in reversed(list(book.recent))
                ],
            }
        )

    return page


def _ms(seconds: Optional[float]) -> Optional[int]:
    return None if seconds is None else round(seconds * 1000)
