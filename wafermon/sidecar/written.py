"""A configuration as a document again: every key with its value, as it would stand in a file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from wafermon.sidecar.fields import key_of
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
)
from wafermon.sidecar.schema import Config
from wafermon.sidecar.schema_tests import Payload
from wafermon.sidecar.words import seconds, size

MASK = "***"

_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^/?#\s]*@)?(?P<rest>\S*)")


class Commented(dict[str, Any]):
    """A mapping of a document, with a comment for each key that has one."""

    def __init__(self) -> None:
        super().__init__()
        self.comments: dict[str, str] = {}


class Written:
    """What `document` made.

    Attributes:
        document: mappings, lists and scalars, with comments; the loader takes it.
        masked: paths of the values that are not shown.
    """

    def __init__(self, document: Commented, masked: list[str]) -> None:
        self.document = document
        self.masked = masked


def effective(config: Config) -> Written:
    """A configuration with all that it means, but for what is secret.

    The values of headers, and in addresses a user and what follows `?`, are `***`.

    >>> from wafermon.sidecar.schema import Http
    >>> config = Config(backends={"web": Http(url="http://bob:pw@fab/in?key=1")})
    >>> effective(config).document["backends"]["web"]["url"]
    'http://***@fab/in?***'
    """
    walk = _Walk(shows_all=False)
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
    """

    def __init__(self, shows_all: bool) -> None:
        self._shows_all = shows_all
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
            return value
        if isinstance(kind, Table):
            return {k: self.value(f"{path}.{k}", kind.item, v) for k, v in value.items()}
        if isinstance(kind, Several):
            return [self.value(f"{path}[{i}]", kind.item, v) for i, v in enumerate(value)]
        if dataclasses.is_dataclass(value):
            inside = self.fields(f"{path}.", type(value), _values(value))
            return _typed(value, inside) if isinstance(kind, Variant) else inside
        return self.scalar(path, kind, value)

    def scalar(self, path: str, kind: Kind, value: Any) -> Any:
        """A plain value, in the form in which its kind reads it."""
        if not self._shows_all and isinstance(value, str) and isinstance(kind, Text):
            shown = MASK if isinstance(kind, Secret) else _ADDRESS.sub(_masked, value)
            if shown != value:
                self.masked.append(path)
            value = shown
        if isinstance(value, str):
            return value.replace("$", "$$")  # else a variable is looked for
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
    user = f"{MASK}@" if match["user"] else ""
    rest, question, _ = match["rest"].partition("?")
    return f"{match['scheme']}{user}{rest}{f'?{MASK}' if question else ''}"
