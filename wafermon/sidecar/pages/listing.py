"""What all pages with a list have in common: how many are shown, and how they are written."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Callable, Optional, TypeVar

from wafermon.net import Request, Response

T = TypeVar("T")

#: Items of one answer unless it is asked for fewer or more.
LIMIT = 1_000


def listing(
    request: Request,
    name: str,
    found: Sequence[T],
    shown: Callable[[T], Any],
    sorts: Optional[Mapping[str, Callable[[T], Any]]] = None,
    **more: object,
) -> Response:
    """What was found as JSON, made piece by piece: to encode it at once would keep the
    interpreter, and so the loop, for a tenth of a second.

    Args:
        request: its `limit` bounds the list, its `sort` orders all of it before.
        name: the key of the list.
        found: all there is, in order.
        shown: makes of an item what JSON can say.
        sorts: what it may be sorted by, by name: the text, the number or None of an item.
        more: further keys.

    >>> listing(Request({"limit": ["1"]}), "jobs", [1, 2], str, evicted=0).body[24:]
    b'"total":2,"evicted":0,"jobs":["1"]}\\n'
    """
    limit = request.last("limit") or str(LIMIT)
    if not (limit.isascii() and limit.isdigit() and len(limit) < 10):
        return refusal(f"limit: expected a number, got {limit[:60]!r}")
    try:
        found = _sorted(found, request.last("sort"), sorts or {})
    except ValueError as error:
        return refusal(str(error))
    head = {"now_ms": int(time.time() * 1000), "total": len(found), **more}
    items: Iterable[str] = (compact(shown(one)) for one in found[: int(limit)])
    body = f'{compact(head)[:-1]},"{name}":[{",".join(items)}]}}\n'
    return Response(body.encode("ascii"), "application/json")


def _sorted(
    found: Sequence[T], sort: Optional[str], sorts: Mapping[str, Callable[[T], Any]]
) -> Sequence[T]:
    """The biggest first by `per_s`, the smallest first by `per_s:up`; who has no value is last."""
    if not sort:
        return found
    name, _, direction = sort.partition(":")
    if name not in sorts or direction not in ("", "up", "down"):
        names = ", ".join(sorts) or "nothing"
        raise ValueError(f"sort: expected one of {names}, and :up or :down, got {sort[:60]!r}")
    valued = [(sorts[name](one), one) for one in found]
    known = [pair for pair in valued if pair[0] is not None]
    known.sort(key=lambda pair: pair[0], reverse=direction != "up")
    return [one for _, one in known] + [one for value, one in valued if value is None]


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
