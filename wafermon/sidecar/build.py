"""From a configuration to components: the only factory, used by `run` and by `validate`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Callable, Optional

from wafermon.backends import (
    ConsoleBackend,
    FileBackend,
    MemoryBackend,
    NullBackend,
    StoreBackend,
)
from wafermon.delivery import Backend, BatchQueue, Route, Slots
from wafermon.delivery.route import DeadLetter
from wafermon.errors import ConfigError
from wafermon.flow import Router, Rule
from wafermon.net import Listen, TcpAddress, UnixAddress
from wafermon.sidecar import schema

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


_BACKENDS: Mapping[type, Callable[..., Backend]] = {
    schema.File: _file,
    schema.Store: _store,
    schema.Console: lambda config: ConsoleBackend(config.stream),
    schema.Null: lambda config: NullBackend(),
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
                Rule(rule.backend, rule.types, rule.level, rule.where, rule.sample)
                for rule in rules
            ]
            for source, rules in config.routing.items()
        }
    )


def queue(config: schema.Config) -> BatchQueue:
    """The queue of one backend: each has its even share of the memory, so that a dead one cannot
    take what the others need."""
    buffers = config.sidecar.buffers
    budget = config.sidecar.performance.max_memory_mb * 1_000_000
    return BatchQueue(
        max_messages=buffers.max_queue_size,
        max_bytes=max(1, budget // max(1, len(config.backends))),
        per_source=buffers.per_source_buffer,
        flush_messages=buffers.flush_batch_size,
        flush_seconds=buffers.flush_interval,
    )


def routes(config: schema.Config, dead_letter: Optional[DeadLetter] = None) -> dict[str, Route]:
    """A route a backend, not started.

    Raises:
        ConfigError: as `backends`.
    """
    slots = Slots(config.sidecar.performance.worker_threads)
    return {
        name: Route(name, backend, queue=queue(config), slots=slots, dead_letter=dead_letter)
        for name, backend in backends(config).items()
    }


def dead_letter_route(config: schema.Config) -> Route:
    """Where dead letters go: a capped file in the data folder, and a queue that never waits.

    Raises:
        ConfigError: the data folder's name cannot be used.
    """
    path = os.path.join(config.sidecar.data_dir, "dead-letters.jsonl")
    try:
        backend = FileBackend(path, rotate_bytes=DEAD_LETTER_FILE_BYTES, keep=1)
    except ValueError as error:
        raise ConfigError([f"sidecar.data_dir: {error}"]) from error
    return Route("dead-letters", backend, queue=BatchQueue(max_bytes=4 << 20), drop_when_full=True)


def listens(config: schema.Config) -> list[Listen]:
    """The TCP and the Unix listener, in this order; nothing is bound."""
    tcp, unix = config.sidecar.tcp, config.sidecar.unix
    return [
        Listen(
            TcpAddress(tcp.host, tcp.port),
            max_connections=tcp.max_connections,
            read_timeout=tcp.read_timeout,
            idle_timeout=tcp.idle_timeout,
            keepalive=tcp.keepalive,
        ),
        Listen(
            UnixAddress(unix.path, mode=unix.mode, owner=unix.owner, group=unix.group),
            max_connections=unix.max_connections,
            read_timeout=unix.read_timeout,
            idle_timeout=unix.idle_timeout,
        ),
    ]


def check(config: schema.Config) -> None:
    """Build all that can be built without touching the system.

    Raises:
        ConfigError: with every fault.
    """
    routes(config)
    dead_letter_route(config)
    router(config)
    listens(config)
