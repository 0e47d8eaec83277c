"""What all pages with a list have in common: how many are shown, and how they are written."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Callable, Optional, TypeVar

from wafermon.net import Request, Response

T = TypeVar("T")

#: Items of one answer unless it is asked for fewer or more.
LIMIT = 1_000


def listing(
    request: Request, name: str, found: Sequence[T], shown: Callable[[T], Any], **more: object
) -> Response:
    """What was found as JSON, made piece by piece: to encode it at once would keep the
    interpreter, and so the loop, for a tenth of a second.

    Args:
        request: its `limit` bounds the list.
        name: the key of the list.
        found: all there is, in order.
        shown: makes of an item what JSON can say.
        more: further keys.

    >>> listing(Request({"limit": ["1"]}), "jobs", [1, 2], str, evicted=0).body[24:]
    b'"total":2,"evicted":0,"jobs":["1"]}\\n'
    """
    limit = request.last("limit") or str(LIMIT)
    if not (limit.isascii() and limit.isdigit() and len(limit) < 10):
        return refusal(f"limit: expected a number, got {limit[:60]!r}")
    head = {"now_ms": int(time.time() * 1000), "total": len(found), **more}
    items: Iterable[str] = (compact(shown(one)) for one in found[: int(limit)])
    body = f'{compact(head)[:-1]},"{name}":[{",".join(items)}]}}\n'
    return Response(body.encode("ascii"), "application/json")


def wanted_state(request: Request, states: Collection[str]) -> Optional[str]:
    """The `state` that a request asks for, None for any.

    Raises:
        ValueError: there is no such state.
    """
    state = request.last("state")
    if state is None or state in states:
        return state
    raise ValueError(f"state: expected one of {', '.join(states)}, got {state[:60]!r}")


def refusal(words: str) -> Response:
    """An answer to what cannot be answered."""
    return Response(f"{words}\n".encode("ascii", "backslashreplace"), status=400)


def compact(value: object) -> str:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":"))
