"""The routes of another configuration in place of those that run."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import threading
import time
from typing import Optional

from wafermon.delivery import DeadLetters, Pipeline, Route, Slots
from wafermon.sidecar import build
from wafermon.sidecar.schema import Backend, Config, Delivery, Forward

log = logging.getLogger("wafermon.sidecar")

#: What belongs to queue and route, and not to the backend.
_OF_ROUTE = {field.name for field in dataclasses.fields(Delivery)}
#: What a link to another sidecar takes up, beside that, with the session that it has.
_OF_LINK = {"tls", "secret_file", "src"}
#: How often a wait for writes looks whether it is cut short.
_LOOK_SECONDS = 0.05


class Exchange:
    """Build the routes of a configuration beside the old ones, then put them in their place.

    A backend whose settings are equal keeps its route: object, queue, thread. So does one where
    only that changed which it can take up with a batch at hand: what belongs to queue and route,
    and all but the address of a link to another sidecar. One that changed otherwise has a new route
    that takes over queue and counts, once the old one has made the write at hand. One that is gone
    delivers what it has in the background. Two routes never write to one path: the
    later one waits until the earlier one has closed it.

    Args:
        pipeline: what it is about.
        old: the configuration that runs.
        new: the one that is to run.
        dead_letters: get what a backend refuses for good.
        slots: the bound on busy threads, old and new ones together.

    Raises:
        ConfigError: a route cannot be built; nothing has been touched.

    Thread: `swap` loop only, the rest the one that reloads; in the order of the methods.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        old: Config,
        new: Config,
        dead_letters: DeadLetters,
        slots: Slots,
    ) -> None:
        self._pipeline = pipeline
        self._old = old
        self._new = new
        self._before = dict(pipeline.routes)
        self._fresh = build.routes(new, dead_letters.refused, pipeline.journal, slots)
        self._router = build.router(new)
        common = self._fresh.keys() & self._before.keys()
        self._equal = {name for name in common if old.backends[name] == new.backends[name]}
        self._kept = {
            name for name in common if _goes_on(old.backends[name], new.backends[name])
        }
        self._changed = common - self._kept
        self._gone: list[Route] = []

    def __str__(self) -> str:
        groups = {
            "unchanged": self._equal,
            "changed": self._before.keys() & self._fresh.keys() - self._equal,
            "added": self._fresh.keys() - self._before.keys(),
            "removed": self._before.keys() - self._fresh.keys(),
        }
        return "; ".join(f"{word}: {', '.join(sorted(n))}" for word, n in groups.items() if n)

    def halt(self, timeout: float, cut: threading.Event) -> None:
        """Let those that have a successor make the write at hand, and end.

        Args:
            timeout: seconds; a write that takes longer hangs, and is left behind.
            cut: set, it waits no longer.
        """
        retired = self._pipeline.retired
        ends = [self._before[name] for name in self._changed]
        ends += [retired[name] for name in self._fresh.keys() & retired.keys()]
        for route in ends:
            route.halt()
        deadline = time.monotonic() + timeout
        for route in ends:
            while not route.wait(_LOOK_SECONDS):
                if cut.is_set() or time.monotonic() > deadline:
                    log.warning("backend %s: a write hangs; its new settings begin", route.name)
                    break

    def swap(self) -> None:
        """Route by the new configuration from the next batch on."""
        for name in self._kept - self._equal:
            self._before[name].follow(self._fresh[name])
        for name in self._equal:  # bounds that all share, and the routing
            self._before[name].queue.follow(self._fresh[name].queue)
        if self._old.sidecar.buffers.rate_limit != self._new.sidecar.buffers.rate_limit:
            self._pipeline.rate_limit = build.rate_limit(self._new)
        kept = {name: self._before[name] for name in self._kept}
        self._gone = self._pipeline.swap(self._router, {**self._fresh, **kept})

    def start(self, timeout: float) -> None:
        """Start those that are new, and let those that are gone drain.

        Args:
            timeout: seconds for these; they have threads of their own.
        """
        for name, route in self._fresh.items():
            if name not in self._kept:
                retired = self._pipeline.retired.values()
                route.start(after=[old for old in retired if _share(old, route)])
        for route in self._gone:
            drain = functools.partial(self._pipeline.retire, route, timeout)
            threading.Thread(target=drain, name=f"drain-{route.name}", daemon=True).start()


def _goes_on(old: Backend, new: Backend) -> bool:
    """Whether a backend can take up other settings as it runs."""
    if type(old) is not type(new):
        return False
    live = _OF_ROUTE | _OF_LINK if isinstance(new, Forward) else _OF_ROUTE
    names = {field.name for field in dataclasses.fields(new)} - live
    return all(getattr(old, name) == getattr(new, name) for name in names)


def _share(one: Route, other: Route) -> bool:
    """Whether two routes write to the same place."""
    place = _place(one)
    return place is not None and place == _place(other)


def _place(route: Route) -> Optional[str]:
    path: Optional[str] = getattr(route.backend, "path", None)
    return None if path is None else os.path.abspath(path)
