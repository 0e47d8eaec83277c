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
from wafermon.sidecar.fields import section, setting, table
from wafermon.sidecar.kinds import (
    Account,
    Bytes,
    Choice,
    Flag,
    Integer,
    Mode,
    Number,
    Scalar,
    Seconds,
    Secret,
    Section,
    Several,
    Shape,
    Template,
    Text,
    Variant,
)
from wafermon.sidecar.schema_alerts import ALERT_NAME, RULES, AlertRule
from wafermon.sidecar.schema_jobs import Jobs
from wafermon.sidecar.schema_observe import Logging, UserMetrics
from wafermon.sidecar.schema_presence import Presence
from wafermon.sidecar.schema_tests import Case
from wafermon.sidecar.schema_traces import Traces

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

_FIELD = Text("a dotted path below data such as data.ctx.password", r"data(\.[^.]+)+")

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


def in_data_dir(name: str, doc: str) -> Any:
    """A path that is `<data_dir>/<name>` unless given; `Config` fills it in."""
    metadata = {"kind": _PATH, "doc": doc, "unit": "", "default": f"<data_dir>/{name}"}
    return dataclasses.field(default="", metadata={**metadata, "nullable": True})


@dataclass(frozen=True)
class Tls:
    """The certificate of the TCP listener, which speaks TLS 1.2 or later then."""

    cert: str = setting(
        _PATH, ..., "The certificate in PEM, followed by those between it and its root."
    )
    key: Optional[str] = setting(
        _PATH, None, "Its private key, not encrypted; null = it is in the file of `cert`."
    )
    client_ca: Optional[str] = setting(
        _PATH, None, "A client must show a certificate signed by one in this file; null = need not."
    )
    handshake_timeout: float = setting(
        Seconds(0.1, 3_600), 5, "How long a peer may take to agree on keys."
    )


@dataclass(frozen=True)
class Auth:
    """The secret that the first frame, a `hello`, must show."""

    secret_file: str = setting(
        _PATH,
        ...,
        "A file with the secret in one line; a bare name is looked for in $CREDENTIALS_DIRECTORY"
        " first.",
    )
    timeout: float = setting(Seconds(0.1, 3_600), 5, "How long a peer may take to show it.")


_AUTH = (Section(Auth), None, "The secret that a peer must show; null = none.")


@dataclass(frozen=True)
class Tcp:
    """The TCP listener."""

    host: str = setting(_HOST, "127.0.0.1", "Address to listen on.")
    port: int = setting(Integer(0, 65_535), 17_000, "Port to listen on; 0 takes any free one.")
    max_connections: int = setting(*_MAX_CONNECTIONS)
    read_timeout: float = setting(*_READ_TIMEOUT)
    idle_timeout: float = setting(*_IDLE_TIMEOUT)
    keepalive: bool = setting(
        Flag(), True, "Let the kernel find peers that have vanished, in 2 minutes."
    )
    tls: Optional[Tls] = setting(Section(Tls), None, "The certificate; null = no TLS.")
    auth: Optional[Auth] = setting(*_AUTH)
    insecure: bool = setting(
        Flag(),
        False,
        "Allow an address that is not loopback without TLS, or without a secret and client"
        " certificates.",
    )


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
    auth: Optional[Auth] = setting(*_AUTH)
    allow_uids: tuple[Union[str, int], ...] = setting(
        Several(Account("a user's name or number")),
        None,
        "Users who may connect; null = all who can open the socket.",
    )


@dataclass(frozen=True)
class RateLimit:
    """How much one source may send; more is dropped on the way in, and counted."""

    per_source: float = setting(
        Number(0, _MANY), 0, "In the long run; 0 = no limit.", "messages/s"
    )
    burst: int = setting(Integer(1, _MANY), 1_000, "At once.", "messages")


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
    rate_limit: RateLimit = section(RateLimit, "How much one source may send.")


@dataclass(frozen=True)
class Journal:
    """What makes a receipt true: every message is committed here before it is acknowledged."""

    enabled: bool = setting(Flag(), True, "Off, receipts say `memory`, and a crash loses queues.")
    max_bytes: int = setting(Bytes(1_000_000, 10**15), "1GB", "Raw bytes that it may hold.")
    sync: str = setting(
        Choice("full", "normal"),
        "full",
        "`full` survives a power failure, `normal` the death of the process only; then receipts say"
        " `memory`.",
    )
    commit_interval_ms: float = setting(
        Number(0, 1_000), 5, "Time between two commits at the least.", "ms"
    )
    when_full: str = setting(
        Choice("block", "drop_oldest"),
        "block",
        "`block` pauses reading until a route has caught up, `drop_oldest` drops and counts.",
    )
    force: bool = setting(Flag(), False, "Allow it on a network file system, which may corrupt it.")


@dataclass(frozen=True)
class Performance:
    """How much of the host the sidecar may use."""

    processes: int = setting(
        Integer(1, 64),
        1,
        "How many share the decoding: the one that owns everything, and workers for the rest.",
        "processes",
    )
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
    insecure: bool = setting(
        Flag(),
        False,
        "Allow an address that is not loopback without a token: whoever reaches it reads every "
        "message at `/tail`.",
    )
    token_file: Optional[str] = setting(
        _PATH,
        None,
        "Holds the token that whoever asks has to show; null = none. It passes in the clear, "
        "unless a proxy with TLS stands before it.",
    )
    hosts: tuple[str, ...] = setting(
        Several(_HOST),
        None,
        "Names by which it may be asked for, beside those of this host, such as that of a proxy; "
        "null = no others, and any where it does not listen on loopback.",
    )


@dataclass(frozen=True)
class Reload:
    """When the configuration is read again; SIGHUP does it at any time."""

    poll: float = setting(
        Seconds(0, _DAY), 5, "How often the file is looked at for a change; 0 = never."
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
    journal: Journal = section(Journal, "What makes a receipt true.")
    performance: Performance = section(Performance, "How much of the host may be used.")
    health: Health = section(Health, "Metrics and health over HTTP.")
    reload: Reload = section(Reload, "When the configuration is read again.")
    logging: Logging = section(Logging, "How the sidecar itself logs.")
    user_metrics: UserMetrics = section(UserMetrics, "What is kept of what sources measure.")
    redact: tuple[str, ...] = setting(
        Several(_FIELD),
        None,
        "Values at these dotted paths, also in lists, are replaced by `[redacted]`, before anything"
        " is kept; of a rejected frame that they do not fit just the size is.",
    )
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
    redact: tuple[str, ...] = setting(
        Several(_FIELD), None, "Values at these dotted paths are hidden from this backend."
    )


@dataclass(frozen=True)
class Buffer:
    """The queue of one backend."""

    max_messages: Optional[int] = setting(
        Integer(1, _MANY),
        None,
        "How much waits for it; null = `sidecar.buffers.max_queue_size`.",
        "messages",
    )
    max_bytes: Optional[int] = setting(
        Bytes(1, 10**12),
        None,
        "How many raw bytes wait for it; null = an even share of `max_memory_mb`.",
    )
    when_full: str = setting(
        Choice("block", "drop_newest", "drop_oldest", "sample"),
        "block",
        "`block` loses nothing: the rest waits in the journal, and without one reading pauses;"
        " `drop_newest` and `drop_oldest` drop and count; `sample` keeps a tenth of what comes,"
        " traces whole, from three quarters on. Heartbeats, goodbyes, errors and fatals go last.",
    )


@dataclass(frozen=True)
class Retry:
    """How a write that failed is tried again: the delay doubles each time, and is random."""

    initial: float = setting(Seconds(0.001, 3_600), 0.1, "The longest first delay.")
    max: float = setting(
        Seconds(0.001, _DAY),
        30,
        "The longest delay; a `Retry-After` that asks for more is followed, up to an hour.",
    )
    give_up_after: float = setting(
        Seconds(0, 365 * _DAY), 0, "A batch that fails for so long is dropped; 0 = never."
    )


@dataclass(frozen=True)
class Breaker:
    """When a backend is left in peace: one batch is tried then, and not before a pause."""

    failures: int = setting(
        Integer(1, 1_000_000), 5, "Failures in a row that open the circuit.", "writes"
    )
    probe_after: float = setting(
        Seconds(0, 3_600), 1, "The shortest pause before a probe; `retry` may make it longer."
    )


@dataclass(frozen=True)
class Delivery:
    """What every backend has. A backend's class has it as its first base, and its own keys in the
    second one: a dataclass takes the fields of its bases from the last to the first."""

    buffer: Buffer = section(Buffer, "Its queue.")
    retry: Retry = section(Retry, "How a write that failed is tried again.")
    breaker: Breaker = section(Breaker, "When it is left in peace.")
    timeout: float = setting(
        Seconds(0.1, 3_600),
        10,
        "A call that takes longer hangs, says /health; one to a network or a pipe is ended.",
    )
    dead_letter: bool = setting(
        Flag(), True, "Keep what it refuses for good in the dead letters; else drop and count it."
    )


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
class _File:
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
class File(Delivery, _File):
    """JSON lines in files."""

    type: ClassVar[str] = "file"


@dataclass(frozen=True)
class _Store:
    path: str = in_data_dir("store.db", "The database file, on a local disk.")
    max_age: float = setting(Seconds(1, 36_500 * _DAY), "7d", "Older messages are deleted.")
    max_bytes: int = setting(
        Bytes(1_000_000, 10**15), "2GB", "The oldest messages are deleted beyond this."
    )


@dataclass(frozen=True)
class Store(Delivery, _Store):
    """The SQLite database that the dashboard and queries read."""

    type: ClassVar[str] = "store"


@dataclass(frozen=True)
class _Console:
    stream: str = setting(Choice("stdout", "stderr"), "stdout", "Which stream.")


@dataclass(frozen=True)
class Console(Delivery, _Console):
    """JSON lines on a standard stream."""

    type: ClassVar[str] = "console"


@dataclass(frozen=True)
class Null(Delivery):
    """Nowhere: messages are counted and gone."""

    type: ClassVar[str] = "null"


@dataclass(frozen=True)
class _Memory:
    max_messages: int = setting(
        Integer(1, _MANY), 10_000, "How many are kept; the oldest go first.", "messages"
    )


@dataclass(frozen=True)
class Memory(Delivery, _Memory):
    """The last messages, in memory."""

    type: ClassVar[str] = "memory"


@dataclass(frozen=True)
class ClientTls:
    """How to be sure of a server, and how to prove who calls."""

    ca: Optional[str] = setting(
        _PATH, None, "Authorities to trust, a file in PEM; null = those of the system."
    )
    cert: Optional[str] = setting(_PATH, None, "Certificate to show, with its chain, in PEM.")
    key: Optional[str] = setting(_PATH, None, "Its key; null = it is in `cert`.")
    server_name: Optional[str] = setting(
        _HOST, None, "Name that the server's certificate must have; null = that of the address."
    )


@dataclass(frozen=True)
class _Forward:
    address: str = setting(
        Text("`host:port` or the path of a Unix socket"), ..., "Where the other sidecar listens."
    )
    tls: Optional[ClientTls] = setting(Section(ClientTls), None, "TLS; null = none.")
    secret_file: Optional[str] = setting(
        _PATH, None, "Holds the secret that it asks for; read at each connection."
    )
    src: Optional[str] = setting(
        Text("a source's name", f".{{1,{MAX_NAME_CHARS}}}"),
        None,
        "Name of this link; null = `wafermon.forward/` and the host's name.",
    )


@dataclass(frozen=True)
class Forward(Delivery, _Forward):
    """Another sidecar."""

    type: ClassVar[str] = "forward"


@dataclass(frozen=True)
class _Http:
    url: str = setting(Text("an address that begins with http:// or https://"), ..., "Where to.")
    format: str = setting(
        Choice("lines", "array"), "lines", "JSON lines, or one JSON array a batch."
    )
    gzip: bool = setting(Flag(), False, "Compress the body.")
    headers: Mapping[str, str] = table(
        Text("a header's name", r"[!-9;-~]{1,200}"),
        Secret("text", r".{0,4096}"),
        "Headers to send along; their values are never shown.",
    )
    token_file: Optional[str] = setting(
        _PATH, None, "Holds a bearer token; read at each batch, so a new one counts at once."
    )
    tls: Optional[ClientTls] = setting(
        Section(ClientTls), None, "What https trusts and shows; null = by the system's authorities."
    )


@dataclass(frozen=True)
class Http(Delivery, _Http):
    """POST to an HTTP server."""

    type: ClassVar[str] = "http"

    def __repr__(self) -> str:
        """Without what may be secret."""
        return f"Http(url={self.url.partition('?')[0]!r})"


Backend = Union[File, Store, Console, Null, Memory, Forward, Http]
#: The class of each `type` of backend.
BACKENDS: dict[str, type[Any]] = {
    cls.type: cls for cls in (File, Store, Console, Null, Memory, Forward, Http)
}


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
    presence: Presence = section(Presence, "When a source is late, and when it is missing.")
    jobs: Jobs = section(Jobs, "What is made of `progress` messages.")
    traces: Traces = section(Traces, "What is remembered of traces, and whether they are routed.")
    alerts: Mapping[str, AlertRule] = table(
        ALERT_NAME, Shape(RULES), "What is told when it goes wrong and when that is over, by name."
    )
    tests: tuple[Case, ...] = setting(
        Several(Section(Case)),
        None,
        "Messages and who has to get them, for `wafermon validate --test`; `run` only checks them.",
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
