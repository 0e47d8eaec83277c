"""The configuration as frozen dataclasses: the one place that knows its keys.

Each field carries its kind, default, unit and one sentence of meaning in its metadata; the loader
and the reference walk them generically, so a new key is one line here.

A `Config` is immutable. It can be compared with another one, whole or part by part, and built in
code with plain arguments as well as read from a file:

>>> config = Config(Sidecar(data_dir="/srv/w"), {"nas": File(path="/mnt/{src}.jsonl")})
>>> config.sidecar.tcp.port, config.sidecar.unix.path, config.routing["*"][0].backend
(17000, '/srv/w/sidecar.sock', 'nas')
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Optional, Union

from wafermon.message import LEVELS, MAX_NAME_CHARS, ROUTED_TYPES
from wafermon.sidecar.kinds import (
    Account,
    Bytes,
    Choice,
    Flag,
    Integer,
    Kind,
    Mode,
    Number,
    Scalar,
    Seconds,
    Section,
    Several,
    Table,
    Template,
    Text,
    Variant,
)

_DAY = 86_400
_MANY = 10_000_000  # no queue holds more messages than this
_PATH = Text("a path")
_HOST = Text("a host name or an address", r"\S{1,255}")
#: Stands in metric labels and in names of files, hence no blanks and no slashes.
_NAME = Text(
    "a backend's name of up to 64 letters, digits and . _ -", r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
)
_SOURCE = Text(
    f"a source's name of up to {MAX_NAME_CHARS} characters, or a pattern of such",
    f".{{1,{MAX_NAME_CHARS}}}",
)

# What both listeners have.
_MAX_CONNECTIONS = (
    Integer(1, 1_000_000),
    100,
    "More peers than this are not accepted.",
    "connections",
)
_READ_TIMEOUT = (Seconds(0, _DAY), 30, "How long a begun frame may stay unfinished; 0 = for ever.")
_IDLE_TIMEOUT = (
    Seconds(0, 365 * _DAY),
    0,
    "A peer that is silent this long is disconnected; 0 = never.",
)


def setting(kind: Kind, default: Any, doc: str, unit: str = "") -> Any:
    """A field of the schema.

    Args:
        kind: what it accepts.
        default: as it would stand in a file; `...` where the key is required. None means that
            null may stand in the file, which is the same as leaving the key out.
        doc: one sentence of meaning.
        unit: what a number counts, where the kind does not know.
    """
    metadata = {"kind": kind, "doc": doc, "unit": unit or kind.unit, "default": default}
    if default is ...:
        return dataclasses.field(metadata=metadata)
    if default is None:
        nothing: Any = () if isinstance(kind, Several) else None
        return dataclasses.field(default=nothing, metadata={**metadata, "nullable": True})
    return dataclasses.field(default=kind.read(default), metadata=metadata)


def section(cls: Any, doc: str) -> Any:
    """A field that is a section of its own, with all the defaults of its class."""
    return dataclasses.field(default_factory=cls, metadata={"kind": Section(cls), "doc": doc})


def table(key: Text, item: Kind, doc: str, default: Any = dict) -> Any:
    """A field that is a mapping with keys of the user's; `default` makes it where it is empty."""
    metadata = {"kind": Table(key, item), "doc": doc, "unit": "", "default": None}
    return dataclasses.field(default_factory=default, metadata=metadata)


def in_data_dir(name: str, doc: str) -> Any:
    """A path that is `<data_dir>/<name>` unless given; `Config` fills it in."""
    metadata = {"kind": _PATH, "doc": doc, "unit": "", "default": f"<data_dir>/{name}"}
    return dataclasses.field(default="", metadata={**metadata, "nullable": True})


@dataclass(frozen=True)
class Tcp:
    """The TCP listener."""

    host: str = setting(_HOST, "127.0.0.1", "Address to listen on.")
    port: int = setting(Integer(0, 65_535), 17_000, "Port to listen on; 0 takes any free one.")
    max_connections: int = setting(*_MAX_CONNECTIONS)
    read_timeout: float = setting(*_READ_TIMEOUT)
    idle_timeout: float = setting(*_IDLE_TIMEOUT)
    keepalive: bool = setting(Flag(), True, "Let the kernel find peers that have vanished.")


@dataclass(frozen=True)
class Unix:
    """The listener on a Unix socket."""

    path: str = in_data_dir("sidecar.sock", "Where the socket is.")
    mode: int = setting(Mode(), "0660", "Permissions of the socket, in quotes.")
    group: Union[str, int, None] = setting(
        Account("a group's name or number"),
        None,
        "Group of the socket; null = that of the process.",
    )
    owner: Union[str, int, None] = setting(
        Account("a user's name or number"), None, "Owner of the socket; null = that of the process."
    )
    max_connections: int = setting(*_MAX_CONNECTIONS)
    read_timeout: float = setting(*_READ_TIMEOUT)
    idle_timeout: float = setting(*_IDLE_TIMEOUT)


@dataclass(frozen=True)
class Buffers:
    """The queue that each backend has."""

    max_queue_size: int = setting(
        Integer(1, _MANY), 10_000, "How much waits for one backend.", "messages"
    )
    per_source_buffer: int = setting(
        Integer(1, _MANY), 1_000, "How much of one source waits for one backend.", "messages"
    )
    flush_interval: float = setting(
        Seconds(0, 3_600), 5, "The longest that a batch waits to be filled."
    )
    flush_batch_size: int = setting(
        Integer(1, 1_000_000), 100, "A batch this full is handed over at once.", "messages"
    )


@dataclass(frozen=True)
class Performance:
    """How much of the host the sidecar may use."""

    worker_threads: int = setting(
        Integer(1, 1_000), 4, "How many backends are written to at once.", "threads"
    )
    max_memory_mb: int = setting(
        Integer(1, 1 << 20), 512, "Bound of what waits in all the queues together.", "MB"
    )
    gc_interval: float = setting(
        Seconds(1, _DAY),
        60,
        "How often garbage is collected, in place of Python's automatic passes.",
    )


@dataclass(frozen=True)
class Health:
    """The HTTP listener for metrics and health, and the checks behind it."""

    host: str = setting(_HOST, "127.0.0.1", "Address to listen on.")
    metrics_port: int = setting(
        Integer(0, 65_535), 17_001, "Port to listen on; 0 takes any free one."
    )
    health_check_interval: float = setting(
        Seconds(0.1, _DAY),
        10,
        "How often the loop proves that it runs, and a deleted Unix socket is made anew.",
    )


@dataclass(frozen=True)
class Sidecar:
    """The process itself."""

    data_dir: str = setting(
        _PATH, "./wafermon-data", "Folder of what the sidecar keeps, on a local disk."
    )
    tcp: Tcp = section(Tcp, "The TCP listener.")
    unix: Unix = section(Unix, "The listener on a Unix socket.")
    buffers: Buffers = section(Buffers, "The queue that each backend has.")
    performance: Performance = section(Performance, "How much of the host may be used.")
    health: Health = section(Health, "Metrics and health over HTTP.")
    shutdown_timeout: float = setting(
        Seconds(0, 3_600), 10, "How long a stop may take to deliver what is queued."
    )


@dataclass(frozen=True)
class Route:
    """One way from a source to a backend, and what takes it."""

    backend: str = setting(_NAME, ..., "Name of a backend.")
    types: tuple[str, ...] = setting(
        Several(Choice(*sorted(ROUTED_TYPES))), None, "Only messages of these types."
    )
    level: Optional[str] = setting(
        Choice(*LEVELS), None, "Only events of this level or a graver one."
    )
    where: Mapping[str, tuple[Any, ...]] = table(
        Text("a dotted path such as data.ctx.tool", r"[^.]+(\.[^.]+)*"),
        Several(Scalar(), alone=True),
        "Only messages that have, at each of these dotted paths, the value or one of the values;"
        " a text may be a pattern.",
    )
    sample: float = setting(Number(0, 1), 1, "Only this share of the messages.")


@dataclass(frozen=True)
class Rotate:
    """When a file is set aside and a new one begun."""

    max_bytes: int = setting(Bytes(0, 10**15), "100MB", "Rotate a file this big; 0 = never.")
    every: Optional[str] = setting(
        Choice("hour", "day"), None, "Rotate when a new hour or day begins; null = never."
    )
    keep: int = setting(Integer(1, 100_000), 10, "How many rotated files are kept.", "files")
    compress: str = setting(Choice("none", "gzip"), "none", "What is done to a rotated file.")


@dataclass(frozen=True)
class File:
    """JSON lines in files."""

    type: ClassVar[str] = "file"

    path: str = setting(
        Template("a path"),
        ...,
        "The file; `{src} {type} {date} {hour} {host} {pid}` in it are filled in.",
    )
    rotate: Rotate = section(Rotate, "When a file is set aside and a new one begun.")
    fsync: str = setting(
        Choice("never", "batch", "interval"), "never", "When data is forced to the disk."
    )
    fsync_interval: float = setting(
        Seconds(0.01, 3_600), 1, "How often, where `fsync` is `interval`."
    )


@dataclass(frozen=True)
class Store:
    """The SQLite database that the dashboard and queries read."""

    type: ClassVar[str] = "store"

    path: str = in_data_dir("store.db", "The database file, on a local disk.")
    max_age: float = setting(Seconds(1, 36_500 * _DAY), "7d", "Older messages are deleted.")
    max_bytes: int = setting(
        Bytes(1_000_000, 10**15), "2GB", "The oldest messages are deleted beyond this."
    )


@dataclass(frozen=True)
class Console:
    """JSON lines on a standard stream."""

    type: ClassVar[str] = "console"

    stream: str = setting(Choice("stdout", "stderr"), "stdout", "Which stream.")


@dataclass(frozen=True)
class Null:
    """Nowhere: messages are counted and gone."""

    type: ClassVar[str] = "null"


@dataclass(frozen=True)
class Memory:
    """The last messages, in memory."""

    type: ClassVar[str] = "memory"

    max_messages: int = setting(
        Integer(1, _MANY), 10_000, "How many are kept; the oldest go first.", "messages"
    )


Backend = Union[File, Store, Console, Null, Memory]
#: The class of each `type` of backend.
BACKENDS: dict[str, type[Any]] = {cls.type: cls for cls in (File, Store, Console, Null, Memory)}


def _default_backends() -> Mapping[str, Backend]:
    return {"store": Store()}


@dataclass(frozen=True)
class Config:
    """A whole configuration, settled: every default is filled in, also those that hang on others.

    An empty `routing` means that every message goes to every backend.
    """

    sidecar: Sidecar = section(Sidecar, "The process itself.")
    backends: Mapping[str, Backend] = table(
        _NAME, Variant(BACKENDS), "Where messages go, by name.", _default_backends
    )
    routing: Mapping[str, tuple[Route, ...]] = table(
        _SOURCE, Several(Section(Route), empty=True), "Which messages go where, by source."
    )

    def __post_init__(self) -> None:
        """Fill in what depends on another part."""
        put, folder = object.__setattr__, self.sidecar.data_dir
        unix = _placed(self.sidecar.unix, folder, "sidecar.sock")
        put(self, "sidecar", dataclasses.replace(self.sidecar, unix=unix))
        backends = {
            name: _placed(backend, folder, "store.db") if isinstance(backend, Store) else backend
            for name, backend in self.backends.items()
        }
        put(self, "backends", backends)
        if not self.routing:
            put(self, "routing", {"*": tuple(Route(backend=name) for name in backends)})


def _placed(part: Any, folder: str, name: str) -> Any:
    return part if part.path else dataclasses.replace(part, path=os.path.join(folder, name))
