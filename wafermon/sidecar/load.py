"""Find, read and check a configuration; every fault is told at once, with its path in the file.

>>> parse({"sidecar": {"tcp": {"prot": 17000}}})
Traceback (most recent call last):
wafermon.errors.ConfigError: sidecar.tcp.prot: unknown key, did you mean 'port'?
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Mapping as AnyMapping
from typing import Any, Optional, Union

from wafermon.errors import ConfigError
from wafermon.flow.pattern import is_pattern
from wafermon.net.listener import MAX_SOCKET_PATH_BYTES
from wafermon.sidecar.fields import key_of
from wafermon.sidecar.formats import Trap, read_document
from wafermon.sidecar.interpolate import interpolate
from wafermon.sidecar.kinds import Kind, Section, Several, Shape, Table, Variant
from wafermon.sidecar.schema import Config, File, Store
from wafermon.sidecar.schema_alerts import BackendDown, wrong_rules
from wafermon.sidecar.schema_tests import Case
from wafermon.sidecar.words import did_you_mean, quoted, shown

#: Where a configuration is looked for last.
SEARCHED = tuple(f"/etc/wafermon/wafermon.{ending}" for ending in ("yaml", "toml", "json"))

_ANY_HOST = frozenset(("0.0.0.0", "::"))  # noqa: S104 - compared with, not bound

#: What a fault leaves in place of a value; a dataclass is never built from it.
_INVALID: Any = object()
_PLAIN_KEY = re.compile(r"[\w.*?-]{1,60}")


def find_config(
    option: Optional[str], environ: Mapping[str, str], searched: Sequence[str] = SEARCHED
) -> Optional[str]:
    """Say which file holds the configuration.

    Args:
        option: value of `--config`; it wins.
        environ: `CONFIG_FILE` comes next, then `WAFERMON_CONFIG`; empty ones do not count.
        searched: the first of these that exists comes last.

    Returns:
        A path, which need not exist where a user named it; None where all is to be as by default.

    >>> find_config(None, {"CONFIG_FILE": "", "WAFERMON_CONFIG": "/srv/w.json"})
    '/srv/w.json'
    """
    named = option or environ.get("CONFIG_FILE") or environ.get("WAFERMON_CONFIG")
    return named or next(filter(os.path.exists, searched), None)


def load(path: Union[str, os.PathLike[str]], environ: Optional[Mapping[str, str]] = None) -> Config:
    """Read a file: JSON, TOML or YAML, by its ending.

    Args:
        path: the file.
        environ: for `${VAR}` in it; that of the process where it is not given.

    Raises:
        ConfigError: with every fault; one of the whole file begins with the file's path.
    """
    return parse(read_document(os.fspath(path)), environ)


def parse(document: object, environ: Optional[Mapping[str, str]] = None) -> Config:
    """Check a document of dicts, lists and scalars and make a Config of it.

    Args:
        document: what a parser made of a file.
        environ: for `${VAR}` in its strings; that of the process where it is not given.

    Raises:
        ConfigError: with every fault.

    >>> config = parse({"sidecar": {"tcp": {"port": "${PORT}"}}}, {"PORT": "17100"})
    >>> config.sidecar.tcp.port, sorted(config.backends)
    (17100, ['store'])
    """
    reader = _Reader(os.environ if environ is None else environ)
    config = reader.value("", Section(Config), document)
    if isinstance(config, Config):
        reader.faults += _dangling(config)
        # Only of values that are all as the user wrote them, none a default for a faulty one.
        if not reader.faults:
            reader.faults += [*_clashes(config), *_exposed(config), *wrong_rules(config.alerts)]
    if reader.faults or not isinstance(config, Config):
        raise ConfigError(reader.faults)
    return config


class _Reader:
    """Walks a document along the kinds of the schema and collects faults.

    Thread: used by one thread, for one document.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.faults: list[str] = []

    def value(self, path: str, kind: Kind, raw: object) -> Any:
        """Read what stands at a path, or note the fault and return `_INVALID`."""
        if isinstance(kind, Several):
            return self.several(path, kind, raw)
        if not isinstance(kind, (Section, Variant, Shape, Table)):
            return self.scalar(path, kind, raw)
        found = self.mapping(path, {} if raw is None and isinstance(kind, Section) else raw)
        if isinstance(kind, Table):
            # Empty where it is none: with the default, names would be looked for in a wrong table.
            return self.table(path, kind, found or {})
        if found is None:
            return _INVALID
        if isinstance(kind, Variant):
            return self.variant(path, kind, found)
        if isinstance(kind, Shape):
            return self.shape(path, kind, found)
        return self.section(path, kind.cls, found)

    def fault(self, path: str, text: str) -> Any:
        """Note a fault; the value to go on with."""
        self.faults.append(f"{path or 'top level'}: {text}")
        return _INVALID

    def mapping(self, path: str, raw: object) -> Optional[dict[str, object]]:
        """The entries with keys of text; a key of another kind or one that stands twice is a
        fault, and so is, with None, what is no mapping at all."""
        if not isinstance(raw, AnyMapping):
            self.fault(path, f"expected a mapping, got {shown(raw)}")
            return None
        for key in getattr(raw, "repeated", ()):
            self.fault(_join(path, key), "the key stands here more than once")
        entries = {}
        for key, value in raw.items():
            if isinstance(key, Trap):
                self.fault(path, f"YAML reads the key {key.shown} as {key.why}: quote it")
            elif isinstance(key, str):
                entries[key] = value
            else:
                self.fault(path, f"expected keys of text, got {shown(key)}: quote it")
        return entries

    def section(self, path: str, cls: Any, entries: Mapping[str, object]) -> Any:
        """An instance of a class of the schema; a faulty value is left to its default."""
        fields = {key_of(field): field for field in dataclasses.fields(cls)}
        for key in entries:
            if key not in fields:
                known = f", expected one of {', '.join(fields)}" if fields else ""
                self.fault(_join(path, key), f"unknown key{did_you_mean(key, fields) or known}")
        values = {}
        for name, field in fields.items():
            kind, place = field.metadata["kind"], _join(path, name)
            if name in entries and not _left_out(field, entries[name]):
                values[name] = self.value(place, kind, entries[name])
            elif _required(field):
                values[name] = self.fault(place, f"missing, expected {kind.expected}")
        usable = {name: value for name, value in values.items() if value is not _INVALID}
        if any(_required(fields[name]) for name in values.keys() - usable.keys()):
            return _INVALID
        return cls(**{fields[name].name: value for name, value in usable.items()})

    def variant(self, path: str, kind: Variant, entries: Mapping[str, object]) -> Any:
        """An instance of the class that the entry `type` names."""
        rest = dict(entries)
        if "type" not in rest:
            return self.fault(_join(path, "type"), f"missing, expected {kind.type.expected}")
        name = self.scalar(_join(path, "type"), kind.type, rest.pop("type"))
        return _INVALID if name is _INVALID else self.section(path, kind.types[name], rest)

    def shape(self, path: str, kind: Shape, entries: Mapping[str, object]) -> Any:
        """An instance of the class whose telling key is among the entries."""
        found = [key for key in kind.classes if key in entries]
        if len(found) == 1:
            return self.section(path, kind.classes[found[0]], entries)
        if found:
            return self.fault(path, f"expected just one of the keys {', '.join(found)}")
        hints = (did_you_mean(key, kind.classes) for key in entries)
        hint = next(filter(None, hints), "")
        return self.fault(path, f"expected one of the keys {', '.join(kind.classes)}{hint}")

    def table(self, path: str, kind: Table, entries: Mapping[str, object]) -> Any:
        """A dict of all entries, also the faulty ones, so that their names are known."""
        for key in entries:
            try:
                kind.key.read(key)
            except ValueError:
                self.fault(_join(path, key), f"as a key expected {kind.key.expected}")
        return {key: self.value(_join(path, key), kind.item, entries[key]) for key in entries}

    def several(self, path: str, kind: Several, raw: object) -> Any:
        """A tuple of all items, also the faulty ones, so that their indexes hold."""
        if kind.alone and not isinstance(raw, (list, tuple, AnyMapping)):
            return (self.value(path, kind.item, raw),)
        if not isinstance(raw, (list, tuple)) or not (raw or kind.empty):
            got = "an empty one" if isinstance(raw, (list, tuple)) else shown(raw)
            return self.fault(path, f"expected {kind.expected}, got {got}")
        return tuple(self.value(f"{path}[{i}]", kind.item, item) for i, item in enumerate(raw))

    def scalar(self, path: str, kind: Kind, raw: object) -> Any:
        """A single value, with variables replaced and converted."""
        if isinstance(raw, Trap):
            return self.fault(path, f"YAML reads {raw.shown} as {raw.why}: quote it")
        text = raw
        try:
            if isinstance(raw, str):
                text = interpolate(raw, self.environ)
        except ValueError as error:
            return self.fault(path, str(error))
        replaced = isinstance(raw, str) and text != raw
        try:
            return kind.parse(str(text)) if replaced else kind.read(raw)
        except ValueError as error:
            if str(error) and not replaced and kind.explains:
                return self.fault(path, str(error))
            # What came out of the environment is not shown, it may be a secret.
            got = f"what {quoted(str(raw))} stands for" if replaced else shown(raw)
            return self.fault(path, f"expected {kind.expected}, got {got}{_hint(kind, raw)}")


def _hint(kind: Kind, raw: object) -> str:
    if isinstance(raw, str):
        return did_you_mean(raw, kind.choices)
    if raw is None and "null" in kind.choices:
        return ': quote it, "null"'
    return ": quote it" if kind.textual and type(raw) in (bool, int, float) else ""


def _join(path: str, key: object) -> str:
    if not isinstance(key, str):
        step = shown(key)
    else:
        step = key if _PLAIN_KEY.fullmatch(key) else quoted(key)
    return f"{path}.{step}" if path else step


def _required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _left_out(field: dataclasses.Field[Any], raw: object) -> bool:
    """Tell whether a value means the default: null where it may, an empty table of free keys."""
    if isinstance(field.metadata["kind"], Table):
        return raw is None or raw == {}
    return raw is None and field.metadata.get("nullable", False)


def _dangling(config: Config) -> Iterator[str]:
    """Routes to backends that do not exist, and tests that name such."""
    named = [
        (f"{_join('routing', source)}[{i}].backend", getattr(route, "backend", None))
        for source, routes in config.routing.items()
        for i, route in enumerate(routes if isinstance(routes, tuple) else ())
    ]
    named += [
        (f"{_join('alerts', name)}.backend", rule.backend)
        for name, rule in config.alerts.items()
        if isinstance(rule, BackendDown) and not is_pattern(rule.backend)
    ]
    for i, case in enumerate(config.tests):
        names = (*case.backends, *case.redacted) if isinstance(case, Case) else ()
        named += [(f"tests[{i}]", name) for name in dict.fromkeys(names)]
    for place, name in named:
        if not isinstance(name, str) or not config.backends or name in config.backends:
            continue  # what is no name is another fault
        hint = did_you_mean(name, config.backends) or f", there is {', '.join(config.backends)}"
        yield f"{place}: no backend is called '{name}'{hint}"


def _exposed(config: Config) -> Iterator[str]:
    """What may not be bound where others than this host can reach it."""
    tcp, health = config.sidecar.tcp, config.sidecar.health
    if not (health.insecure or health.token_file or is_loopback(health.host)):
        yield (
            f"sidecar.health.host: at {health.host} others than this host can read every message"
            " (/tail): listen on 127.0.0.1, or set sidecar.health.token_file, or else"
            " sidecar.health.insecure: true"
        )
    if is_loopback(tcp.host):
        return
    if tcp.auth is not None and tcp.tls is None:
        yield (
            f"sidecar.tcp.auth: at {tcp.host} the secret would pass in the clear: set"
            " sidecar.tcp.tls, or listen on 127.0.0.1"
        )
    elif not tcp.insecure and (tcp.tls is None or (tcp.auth or tcp.tls.client_ca) is None):
        yield (
            f"sidecar.tcp.host: at {tcp.host} others than this host can write: set sidecar.tcp.tls,"
            " and sidecar.tcp.auth or sidecar.tcp.tls.client_ca, or else sidecar.tcp.insecure: true"
        )


def is_loopback(host: str) -> bool:
    """Whether an address is one that only this host can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _clashes(config: Config) -> Iterator[str]:
    """Parts that are fine alone and not together."""
    sidecar = config.sidecar
    tcp, health, folder = sidecar.tcp, sidecar.health, os.path.abspath(sidecar.data_dir)
    hosts = {tcp.host, health.host}
    if tcp.port and tcp.port == health.metrics_port and (len(hosts) == 1 or hosts & _ANY_HOST):
        yield f"sidecar.health.metrics_port: {tcp.port} is also sidecar.tcp.port"
    if os.path.exists(folder) and not os.path.isdir(folder):
        yield f"sidecar.data_dir: expected a folder, {quoted(sidecar.data_dir)} is none"
    if len(os.fsencode(os.path.abspath(sidecar.unix.path))) > MAX_SOCKET_PATH_BYTES:
        yield (
            f"sidecar.unix.path: expected a path of at most {MAX_SOCKET_PATH_BYTES} bytes, as the "
            "system takes no longer one for a socket"
        )
    owners = {
        os.path.join(folder, "dead-letters.jsonl"): "the dead letters have",
        os.path.abspath(sidecar.unix.path): "the Unix socket has",
    }
    for name, backend in config.backends.items():
        if isinstance(backend, (File, Store)):
            path = os.path.abspath(backend.path)
            if path in owners:
                yield f"backends.{name}.path: {owners[path]} the same file"
            owners.setdefault(path, f"backend '{name}' has")
