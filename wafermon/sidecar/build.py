"""From a configuration to components: the only factory, used by `run` and by `validate`."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Mapping
from typing import Any, Callable, Optional

from wafermon.backends import (
    ClientTls,
    ConsoleBackend,
    FileBackend,
    ForwardBackend,
    HttpBackend,
    MemoryBackend,
    NullBackend,
    StoreBackend,
)
from wafermon.delivery import (
    Backend,
    BatchQueue,
    Breaker,
    DeadLetters,
    Journal,
    JournaledQueue,
    RateLimit,
    Retry,
    Route,
    Slots,
)
from wafermon.delivery.route import DeadLetter
from wafermon.errors import ConfigError
from wafermon.flow import Expected, JobTracker, Presence, Router, Rule
from wafermon.message import Batch
from wafermon.sidecar import alerting, schema

#: A backend that falls behind for longer than this is left to catch up from the journal.
LAG_AFTER_SECONDS = 0.1
#: What the dead letters may take on disk: the file and one older.
DEAD_LETTER_FILE_BYTES = 10_000_000


def _file(config: schema.File) -> Backend:
    rotate = config.rotate
    return FileBackend(
        config.path,
        rotate_bytes=rotate.max_bytes,
        rotate_every=rotate.every,
        keep=rotate.keep,
        compress=rotate.compress,
        fsync=config.fsync,
        fsync_interval=config.fsync_interval,
    )


def _store(config: schema.Store) -> Backend:
    return StoreBackend(config.path, max_age=config.max_age, max_bytes=config.max_bytes)


def _client_tls(config: Optional[schema.ClientTls]) -> Optional[ClientTls]:
    return None if config is None else ClientTls(**dataclasses.asdict(config))


def _forward(config: schema.Forward) -> Backend:
    return ForwardBackend(
        config.address,
        tls=_client_tls(config.tls),
        secret_file=config.secret_file,
        src=config.src,
        timeout=config.timeout,
    )


def _http(config: schema.Http) -> Backend:
    return HttpBackend(
        config.url,
        format=config.format,
        gzip=config.gzip,
        headers=config.headers,
        token_file=config.token_file,
        timeout=config.timeout,
        tls=_client_tls(config.tls),
    )


_BACKENDS: Mapping[type, Callable[..., Backend]] = {
    schema.File: _file,
    schema.Store: _store,
    schema.Console: lambda config: ConsoleBackend(config.stream, config.timeout),
    schema.Null: lambda config: NullBackend(),
    schema.Forward: _forward,
    schema.Http: _http,
    schema.Memory: lambda config: MemoryBackend(max_messages=config.max_messages),
}


def backends(config: schema.Config) -> dict[str, Backend]:
    """All backends of a configuration; nothing is opened.

    Raises:
        ConfigError: with each backend that cannot be made.
    """
    made, faults = {}, []
    for name, settings in config.backends.items():
        try:
            made[name] = _BACKENDS[type(settings)](settings)
        except ValueError as error:
            faults.append(f"backends.{name}: {error}")
    if faults:
        raise ConfigError(faults)
    return made


def router(config: schema.Config) -> Router:
    """The router of a configuration."""
    return Router(
        {
            source: [
                Rule(rule.backend, rule.types, rule.level, rule.where, rule.sample, rule.redact)
                for rule in rules
            ]
            for source, rules in config.routing.items()
        },
        redact=config.sidecar.redact,
    )


def journal(config: schema.Config, prepare: Callable[[], None]) -> Optional[Journal]:
    """The journal, not opened; None where it is off. `prepare` makes its folder."""
    settings = config.sidecar.journal
    if not settings.enabled:
        return None
    return Journal(
        os.path.join(config.sidecar.data_dir, "journal.db"),
        max_bytes=settings.max_bytes,
        drop_oldest=settings.when_full == "drop_oldest",
        sync=settings.sync,
        commit_interval=settings.commit_interval_ms / 1000,
        prepare=prepare,
    )


def queue(
    config: schema.Config,
    name: str,
    journal: Optional[Journal],
    dead_letter: Optional[DeadLetter] = None,
) -> BatchQueue:
    """The queue of one backend: each has its even share of the memory, so that a dead one cannot
    take what the others need."""
    buffers, buffer = config.sidecar.buffers, config.backends[name].buffer
    budget = config.sidecar.performance.max_memory_mb * 1_000_000
    bounds: dict[str, Any] = {
        "max_messages": buffer.max_messages or buffers.max_queue_size,
        "max_bytes": buffer.max_bytes or max(1, budget // max(1, len(config.backends))),
        "per_source": buffers.per_source_buffer,
        "when_full": buffer.when_full,
        "flush_messages": buffers.flush_batch_size,
        "flush_seconds": buffers.flush_interval,
    }
    if journal is None:
        return BatchQueue(**bounds)
    # A router of its own: what is read back is routed on the delivery thread.
    reroute = functools.partial(part_for, router(config), name)
    return JournaledQueue(
        journal, name, reroute, patience=LAG_AFTER_SECONDS, dead_letter=dead_letter, **bounds
    )


def part_for(router: Router, name: str, batch: Batch) -> Batch:
    """What one backend gets of a batch, which was kept under another configuration perhaps."""
    parts = [part for backend, part in router.route(router.clean(batch)) if backend == name]
    return Batch.join([part.packed() for part in parts]) if parts else Batch()


def routes(
    config: schema.Config,
    dead_letter: Optional[DeadLetter] = None,
    journal: Optional[Journal] = None,
    slots: Optional[Slots] = None,
) -> dict[str, Route]:
    """A route a backend, not started. The journal, where there is one, is open; the slots are those
    of routes that run already.

    Raises:
        ConfigError: as `backends`.
    """
    slots = slots or Slots(config.sidecar.performance.worker_threads)
    return {
        name: _route(config, name, backend, dead_letter, journal, slots)
        for name, backend in backends(config).items()
    }


def _route(
    config: schema.Config,
    name: str,
    backend: Backend,
    dead_letter: Optional[DeadLetter],
    journal: Optional[Journal],
    slots: Slots,
) -> Route:
    settings = config.backends[name]
    retry, breaker = settings.retry, settings.breaker
    dead_letter = dead_letter if settings.dead_letter else None
    return Route(
        name,
        backend,
        queue=queue(config, name, journal, dead_letter),
        retry=Retry(retry.initial, retry.max, retry.give_up_after or None),
        breaker=Breaker(failures=breaker.failures, probe_after=breaker.probe_after),
        slots=slots,
        timeout=settings.timeout,
        dead_letter=dead_letter,
    )


def rate_limit(
    config: schema.Config, clock: Callable[[], float] = time.monotonic
) -> Optional[RateLimit]:
    """The limit on what one source may send; None where there is none."""
    settings = config.sidecar.buffers.rate_limit
    if not settings.per_source:
        return None
    return RateLimit(settings.per_source, settings.burst, clock=clock)


def presence(config: schema.Config, now: float) -> Presence:
    """What follows the sources, from now on."""
    return Presence(now=now, **_presence(config))


def jobs(config: schema.Config, presence: Presence) -> JobTracker:
    """What follows the jobs of these sources."""
    return JobTracker(presence, **dataclasses.asdict(config.jobs))


def follow(config: schema.Config, presence: Presence, jobs: JobTracker, now: float) -> None:
    """Let those go on by another configuration, with all that they know. Loop thread."""
    presence.configure(now=now, **_presence(config))
    jobs.configure(**dataclasses.asdict(config.jobs))


def _presence(config: schema.Config) -> dict[str, Any]:
    settings = config.presence
    return {
        "expected": [Expected(one.src, one.every) for one in settings.expected],
        "missing_after": settings.missing_after,
        "max_sources": settings.max_sources,
    }


def dead_letters(config: schema.Config) -> DeadLetters:
    """The dead letters, in a capped file in the data folder; synced where receipts promise that.

    Raises:
        ConfigError: the data folder's name cannot be used.
    """
    path = os.path.join(config.sidecar.data_dir, "dead-letters.jsonl")
    journal = config.sidecar.journal
    fsync = "batch" if journal.enabled and journal.sync == "full" else "never"
    try:
        backend = FileBackend(path, rotate_bytes=DEAD_LETTER_FILE_BYTES, keep=1, fsync=fsync)
    except ValueError as error:
        raise ConfigError([f"sidecar.data_dir: {error}"]) from error
    return DeadLetters(backend)


def check(config: schema.Config) -> None:
    """Build all that can be built without touching the system: no secret and no certificate is
    read, which only the service itself may be able to.

    Raises:
        ConfigError: with every fault.
    """
    faults: list[str] = []
    for part in (routes, dead_letters, router, lambda config: alerting.check(config.alerts)):
        try:
            part(config)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
