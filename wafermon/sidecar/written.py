"""A configuration as a document again: every key with its value, as it would stand in a file."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wafermon.flow.redact import REDACTED, Redactor
from wafermon.message import Batch
from wafermon.sidecar.fields import key_of
from wafermon.sidecar.interpolate import MASK
from wafermon.sidecar.kinds import (
    Bytes,
    Kind,
    Mode,
    Seconds,
    Secret,
    Several,
    Table,
    Text,
    Variant,
    Word,
)
from wafermon.sidecar.schema import Config
from wafermon.sidecar.schema_tests import Payload
from wafermon.sidecar.words import seconds, size

_ADDRESS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^/?#\s]*@)?(?P<host>[^/?#\s]*)(?P<rest>\S*)"
)


class Commented(dict[str, Any]):
    """A mapping of a document, with a comment for each key that has one."""

    def __init__(self) -> None:
        super().__init__()
        self.comments: dict[str, str] = {}


class Written:
    """What `document` made.

    Attributes:
        document: mappings, lists and scalars, with comments; the loader takes it, unless something
            is masked.
        masked: paths of the values that are not shown.
    """

    def __init__(self, document: Commented, masked: list[str]) -> None:
        self.document = document
        self.masked = masked


def effective(config: Config) -> Written:
    """A configuration with all that it means, but for what is secret.

    Masked are the values of headers, in addresses a user and all after the host, of commands all
    words but the first, and in tests what any redaction hides.

    >>> from wafermon.sidecar.schema import Http
    >>> config = Config(backends={"web": Http(url="http://fab/in?key=1")})
    >>> effective(config).document["backends"]["web"]["url"]
    'http://fab/${MASKED:?put the real value here}'
    """
    rules = [rule for rules in config.routing.values() for rule in rules]
    hidden = {*config.sidecar.redact, *(path for rule in rules for path in rule.redact)}
    walk = _Walk(shows_all=False, hidden=sorted(hidden))
    return Written(walk.fields("", Config, _values(config)), walk.masked)


def default() -> Written:
    """The configuration of no file at all. What hangs on another key is null, so it follows that.

    >>> document = default().document
    >>> document["sidecar"]["tcp"]["port"], document["backends"]["store"]["path"]
    (17000, None)
    """
    walk = _Walk(shows_all=True)
    return Written(walk.fields("", Config, dict(_defaults(Config))), walk.masked)


def _defaults(cls: Any) -> Iterator[tuple[str, Any]]:
    """What stands in an instance before it is settled."""
    for field in dataclasses.fields(cls):
        made = field.default_factory
        yield field.name, field.default if made is dataclasses.MISSING else made()


class _Walk:
    """Walks a configuration along the kinds of the schema.

    Args:
        shows_all: secrets, of which a default has none, and what each key means.
        hidden: dotted paths of what is not shown of messages.
    """

    def __init__(self, shows_all: bool, hidden: Sequence[str] = ()) -> None:
        self._shows_all = shows_all
        self._redactor = Redactor(hidden)
        self.masked: list[str] = []

    def fields(self, path: str, cls: Any, values: Mapping[str, Any]) -> Commented:
        """A mapping with the fields of a dataclass."""
        document = Commented()
        for field in dataclasses.fields(cls):
            about, value, key = field.metadata, values[field.name], key_of(field)
            if self._shows_all:
                document.comments[key] = _comment(about)
            if about.get("nullable") and (value is None or value in ((), "")):
                document[key] = None
            elif field.default is not dataclasses.MISSING and value == field.default:
                document[key] = about["default"]  # as a person has written it
            else:
                document[key] = self.value(f"{path}{key}", about["kind"], value)
        return document

    def value(self, path: str, kind: Kind, value: Any) -> Any:
        """A value as it stands in a file."""
        if isinstance(kind, Payload):
            return self.payload(path, value)
        if isinstance(kind, Table):
            return {k: self.value(f"{path}.{k}", kind.item, v) for k, v in value.items()}
        if isinstance(kind, Several) and isinstance(kind.item, Word) and not self._shows_all:
            return [self.word(f"{path}[{i}]", kind.item, v, i) for i, v in enumerate(value)]
        if isinstance(kind, Several):
            return [self.value(f"{path}[{i}]", kind.item, v) for i, v in enumerate(value)]
        if dataclasses.is_dataclass(value):
            inside = self.fields(f"{path}.", type(value), _values(value))
            return _typed(value, inside) if isinstance(kind, Variant) else inside
        return self.scalar(path, kind, value)

    def payload(self, path: str, message: Mapping[str, Any]) -> Any:
        """A message of a test, without what is hidden."""
        line = json.dumps(message).encode() + b"\n"
        clean = self._redactor.apply(Batch(line)).raw
        if clean == line:
            return message
        self.masked.append(path)
        return json.loads(clean.replace(json.dumps(REDACTED).encode(), json.dumps(MASK).encode()))

    def word(self, path: str, kind: Word, text: str, index: int) -> str:
        """A word of a command."""
        if index:
            self.masked.append(path)
        return MASK if index else str(self.scalar(path, kind, text))

    def scalar(self, path: str, kind: Kind, value: Any) -> Any:
        """A plain value, in the form in which its kind reads it."""
        if isinstance(value, str):
            plain = value.replace("$", "$$")  # else a variable is looked for
            if self._shows_all or not isinstance(kind, Text):
                return plain
            shown = MASK if isinstance(kind, Secret) else _ADDRESS.sub(_masked, plain)
            if shown != plain:
                self.masked.append(path)
            return shown
        if isinstance(kind, Mode):
            return f"{value:04o}"
        if isinstance(kind, (Seconds, Bytes)):
            words = seconds(value) if isinstance(kind, Seconds) else size(value)
            return words if kind.parse(words) == value else value
        return value


def _comment(about: Mapping[str, Any]) -> str:
    unit = f" ({about['unit']})" if about.get("unit") else ""
    place = about.get("default")
    settled = isinstance(place, str) and place.startswith("<data_dir>")
    return f"{about['doc']}{f' null = {place}' if settled else ''}{unit}"


def _values(part: Any) -> dict[str, Any]:
    return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}


def _typed(value: Any, inside: Commented) -> Commented:
    """The `type` of a variant, in front of the rest."""
    document = Commented()
    document["type"] = value.type
    document.update(inside)
    document.comments = inside.comments
    return document


def _masked(match: re.Match[str]) -> str:
    """An address; also a path may be a secret, as those of web hooks are."""
    user = f"{MASK}@" if match["user"] else ""
    rest = match["rest"] if match["rest"] in ("", "/") else f"/{MASK}"
    return f"{match['scheme']}{user}{match['host']}{rest}"
