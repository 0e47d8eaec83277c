"""Reload: what asks for it, what became of it, and what a running sidecar cannot change."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional

from wafermon.errors import ConfigError
from wafermon.observe import Family, family
from wafermon.sidecar.schema import Config
from wafermon.sidecar.watch_file import FileWatch

log = logging.getLogger("wafermon.sidecar")

#: What is taken up at the start only.
RESTART = (
    "sidecar.data_dir",
    "sidecar.journal",
    "sidecar.performance.processes",
    "sidecar.performance.worker_threads",
    "sidecar.health.host",
    "sidecar.health.metrics_port",
)


def needs_restart(old: Config, new: Config) -> list[str]:
    """A fault for each key that differs and cannot be changed while the sidecar runs.

    >>> from wafermon.sidecar.load import parse
    >>> needs_restart(parse({}), parse({"sidecar": {"journal": {"sync": "normal"}}}))
    ['sidecar.journal.sync: needs a restart']
    """
    keys = [key for path in RESTART for key in _differing(path, _at(old, path), _at(new, path))]
    return [f"{key}: needs a restart" for key in keys]


def _at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def _differing(path: str, old: Any, new: Any) -> Iterator[str]:
    if dataclasses.is_dataclass(old):
        for field in dataclasses.fields(old):
            name = field.name
            yield from _differing(f"{path}.{name}", getattr(old, name), getattr(new, name))
    elif old != new:
        yield path


class Loaded:
    """Which configuration is in force, since when, and what is wrong with the one in the file.

    Args:
        clock: Unix seconds.

    Thread: one writer; `shown` and `collect` any.

    >>> loaded = Loaded(clock=lambda: 7.0)
    >>> loaded.took("9f0c", "ok")
    >>> loaded.refused(["backends.nas.path: missing"])
    >>> loaded.shown()["config"], loaded.shown()["config_fault"]
    ('stale', 'backends.nas.path: missing')
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._sha256 = ""
        self._time = clock()
        self._checked = self._time
        #: Why the file is not what runs, and since when; None while it is.
        self._stale: Optional[tuple[str, float]] = None
        self.reloads = {"ok": 0, "failed": 0, "unchanged": 0}

    def begin(self, sha256: str) -> None:
        """What the sidecar was started with."""
        self._sha256, self._time = sha256, self._clock()

    def took(self, sha256: str, result: str) -> None:
        """A configuration is in force: `ok`, or `unchanged` where it was so before."""
        self._checked = self._clock()
        if result == "ok":
            self._time = self._checked
        self._sha256, self._stale = sha256, None
        self.reloads[result] += 1

    def refused(self, faults: Sequence[str]) -> None:
        """A configuration was not taken: the one before stays."""
        since = self._clock() if self._stale is None else self._stale[1]
        self._stale = ("; ".join(faults), since)
        self.reloads["failed"] += 1

    def shown(self) -> dict[str, object]:
        """The part of `/health` that tells of it."""
        stale = self._stale
        state: dict[str, object] = {
            "config": "ok" if stale is None else "stale",
            "config_sha256": self._sha256,
            "config_loaded_ms": int(self._time * 1000),
        }
        if stale is not None:
            state.update(config_fault=stale[0], config_stale_since_ms=int(stale[1] * 1000))
        return state

    def collect(self) -> list[Family]:
        """Yield its counters."""
        return [
            family(
                "sidecar_config_reloads_total",
                "counter",
                "Times that the configuration was read again, by what became of it.",
                self.reloads,
                "result",
            ),
            family(
                "sidecar_config_last_success_timestamp_seconds",
                "gauge",
                "When the configuration was last read without a fault, in Unix seconds.",
                {"": self._checked},
            ),
            family(
                "sidecar_config_stale",
                "gauge",
                "Whether the file has faults, and the configuration before it runs on (1).",
                {"": int(self._stale is not None)},
            ),
        ]


class Reloader:
    """Read the configuration again when somebody asks, or when its file is another one.

    However often it is asked while a reload runs, one more follows. What fails is logged, a line a
    fault, and leaves everything as it was.

    Args:
        read: gives the configuration anew, or raises ConfigError.
        find: gives the path of the file, None where there is none.

    Thread: `request` and `stop` any. All else happens on a thread of its own, which may block for
    as long as the file system does; nobody waits for it.
    """

    def __init__(
        self,
        read: Callable[[], Config],
        find: Callable[[], Optional[str]],
    ) -> None:
        self._read = read
        self._watch = FileWatch(find)
        self._asked = threading.Event()
        self._ending = False
        #: What became of it.
        self.loaded = Loaded()

    def first(self) -> Config:
        """Read the configuration to start with.

        Raises:
            ConfigError: with every fault.
        """
        self.loaded.begin(self._watch.remember())
        return self._read()

    def request(self) -> None:
        """Reload soon. Also before `start`: it is done then."""
        self._asked.set()

    def start(
        self,
        apply: Callable[[Config], bool],
        poll: Callable[[], float],
        around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """Watch the file, and do what is asked.

        Args:
            apply: puts a configuration in force and tells whether anything differed; ConfigError or
                OSError where that is not possible, and then nothing may have changed.
            poll: gives the seconds between two looks at the file; 0 for none.
            around: makes a context for each reload, also for one that fails.
        """
        arguments = (apply, poll, around)
        threading.Thread(target=self._run, args=arguments, name="reload", daemon=True).start()

    def stop(self) -> None:
        """Begin no reload any more. Twice is harmless."""
        self._ending = True
        self._asked.set()

    def _run(
        self,
        apply: Callable[[Config], bool],
        poll: Callable[[], float],
        around: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        while not self._ending:
            asked = self._asked.wait(poll() or None)
            self._asked.clear()
            if not self._ending and (asked or self._watch.settled()):
                with around():
                    self._reload(apply)

    def _reload(self, apply: Callable[[Config], bool]) -> None:
        content = self._watch.remember()  # before it is read: a change in between is seen later
        try:
            result = "ok" if apply(self._read()) else "unchanged"
        except ConfigError as error:
            faults = list(error.faults)
        except OSError as error:
            faults = [error.strerror or str(error)]
        except Exception as error:
            log.exception("a reload failed")
            faults = [repr(error)]
        else:
            self.loaded.took(content, result)
            return
        if self._ending:
            return
        for fault in faults:
            log.error("config: %s", fault)
        log.error("config: not reloaded, the one before goes on")
        self.loaded.refused(faults)
