"""`/tail`: the live stream behind `wafermon tail`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Optional

from wafermon.delivery import Tail, View
from wafermon.flow import Selection
from wafermon.net import Page, Request, Response

#: How often a silent stream sends an empty line, so that a viewer who left is noticed.
BEAT_SECONDS = 1.0


class _Stream:
    """Lines as they pass, until the viewer leaves or the sidecar stops."""

    def __init__(self, tail: Tail, view: View, selection: Selection) -> None:
        self._tail = tail
        self._view = view
        self._selection = selection

    def __iter__(self) -> Iterator[bytes]:
        while not self._tail.closed:
            batch = self._view.next(BEAT_SECONDS)
            if self._view.missed:
                missed, self._view.missed = self._view.missed, 0
                yield json.dumps({"missed": missed}).encode("ascii") + b"\n"
            yield self._selection.select(batch).raw if batch else b"\n"

    def close(self) -> None:
        """The viewer has left."""
        self._view.close()


def stream(tail: Tail) -> Page:
    """`/tail`: JSON lines as they pass, by `?src=&type=&level=&tid=&text=&since_ms=&until_ms=`;
    `src` and `type` may stand several times."""

    def page(request: Request) -> Response:
        try:
            selection = selection_of(request)
        except ValueError as error:
            return Response(f"{error}\n".encode(), status=400)
        view = tail.view()
        if view is None:
            return Response(b"too many look already, try again later\n", status=503)
        return Response(_Stream(tail, view, selection), "application/x-ndjson")

    return page


def selection_of(request: Request) -> Selection:
    """The filters of a query string.

    Raises:
        ValueError: one of them is no such filter.
    """
    query = request.query
    last = {name: values[-1] for name, values in query.items()}
    return Selection(
        src=tuple(query.get("src", ())),
        types=tuple(query.get("type", ())),
        level=last.get("level"),
        tid=last.get("tid"),
        text=last.get("text"),
        since_ms=_milliseconds("since_ms", last),
        until_ms=_milliseconds("until_ms", last),
    )


def _milliseconds(name: str, query: Mapping[str, str]) -> Optional[int]:
    text = query.get(name)
    if text is None or (text.isascii() and text.isdigit()):
        return None if text is None else int(text)
    raise ValueError(f"{name}: expected Unix milliseconds, got {text[:60]!r}")
