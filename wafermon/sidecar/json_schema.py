"""The configuration as a JSON Schema (2020-12), for editors: generated from the dataclasses.

It takes whatever the loader takes. What it cannot say is left to `wafermon validate`: bounds of a
duration or a size in text, what a variable stands for, how one key fits another.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Callable

from wafermon.sidecar.fields import key_of
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
    Shape,
    Table,
    Text,
    Variant,
)
from wafermon.sidecar.schema import Config
from wafermon.sidecar.schema_tests import Payload

Schema = dict[str, Any]

#: Text in which a variable, or `$$`, is replaced: what it becomes only the loader knows.
_VARIABLE = {"type": "string", "pattern": r"\$[${]"}
#: No control character in it; then a pattern of `Text`, all of it.
_WHOLE = "^(?![\\s\\S]*[\\u0000-\\u001f\\u007f-\\u009f])(?:{})$"


def json_schema() -> Schema:
    """The schema of a whole configuration.

    >>> schema = json_schema()
    >>> schema["properties"]["sidecar"]["anyOf"][0], sorted(schema["$defs"]["Journal"])
    ({'$ref': '#/$defs/Sidecar'}, ['additionalProperties', 'description', 'properties', 'type'])
    """
    walk = _Walk()
    top = walk.dataclass(Config)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "wafermon",
        **top,
        "type": ["object", "null"],
        "$defs": {"variable": _VARIABLE, **dict(sorted(walk.defs.items()))},
    }


class _Walk:
    """Walks along the kinds; each dataclass becomes a definition."""

    def __init__(self) -> None:
        self.defs: dict[str, Schema] = {}
        self._named: dict[str, Any] = {}

    def kind(self, kind: Kind) -> Schema:
        """What a kind accepts."""
        if isinstance(kind, Section):
            # Null is an empty mapping, where that will do.
            ref = self.ref(kind.cls)
            needs = self.defs[kind.cls.__name__].get("required")
            return ref if needs else _any(ref, {"type": "null"})
        if isinstance(kind, Variant):
            return self.variant(kind)
        if isinstance(kind, Shape):
            return self.shape(kind)
        if isinstance(kind, Table):
            names = {"pattern": _WHOLE.format(kind.key.pattern)}
            item = self.kind(kind.item)
            return {"type": "object", "propertyNames": names, "additionalProperties": item}
        if isinstance(kind, Several):
            item = self.kind(kind.item)
            several: Schema = {"type": "array", "items": item}
            if not kind.empty:
                several["minItems"] = 1
            return _any(item, several) if kind.alone else several
        if isinstance(kind, Payload):
            return {"type": "object"}
        return _any(_scalar(kind), {"$ref": "#/$defs/variable"})

    def ref(self, cls: Any) -> Schema:
        """A reference to the definition of a dataclass, which is made the first time."""
        name = cls.__name__
        if self._named.setdefault(name, cls) is not cls:
            raise ValueError(f"two dataclasses are called {name}")
        if name not in self.defs:
            self.defs[name] = self.dataclass(cls)
        return {"$ref": f"#/$defs/{name}"}

    def dataclass(self, cls: Any) -> Schema:
        """A mapping with the fields of a dataclass."""
        fields = dataclasses.fields(cls)
        schema: Schema = {
            "type": "object",
            "description": " ".join((cls.__doc__ or "").split("\n\n")[0].split()),
            "properties": {key_of(field): self.field(field) for field in fields},
            "additionalProperties": False,
        }
        missing = dataclasses.MISSING
        required = [
            key_of(f) for f in fields if f.default is missing and f.default_factory is missing
        ]
        return {**schema, "required": required} if required else schema

    def field(self, field: dataclasses.Field[Any]) -> Schema:
        """What may stand at a key, and what is said of it."""
        about = field.metadata
        schema = self.kind(about["kind"])
        composite = isinstance(about["kind"], (Section, Table))
        if isinstance(about["kind"], Table) or about.get("nullable"):
            schema = _any(schema, {"type": "null"})
        unit = f" ({about['unit']})" if about.get("unit") else ""
        schema = {"description": about["doc"] + unit, **schema}
        default = about.get("default", ...)
        return schema if default is ... or composite else {**schema, "default": default}

    def variant(self, kind: Variant) -> Schema:
        """A mapping whose `type` says which dataclass the rest is of."""
        cases = []
        for name, cls in kind.types.items():
            then = self.ref(cls)
            own = self.defs[cls.__name__]
            own["properties"] = {"type": {"const": name}, **own["properties"]}
            is_it = {"properties": {"type": {"const": name}}, "required": ["type"]}
            cases.append({"if": is_it, "then": then})
        types = _any({"enum": list(kind.types)}, {"$ref": "#/$defs/variable"})
        properties = {"type": types}
        return {"type": "object", "properties": properties, "required": ["type"], "allOf": cases}

    def shape(self, kind: Shape) -> Schema:
        """A mapping of the dataclass whose telling key it has."""
        telling = {key: {"required": [key]} for key in kind.classes}
        cases = [{"if": telling[k], "then": self.ref(cls)} for k, cls in kind.classes.items()]
        return {"type": "object", "oneOf": list(telling.values()), "allOf": cases}


def _any(*schemas: Schema) -> Schema:
    """Any of these; what is one already is taken apart."""
    flat = [one for schema in schemas for one in schema.get("anyOf", [schema])]
    return {"anyOf": list({json.dumps(one): one for one in flat}.values())}


def _scalar(kind: Kind) -> Schema:
    """What a plain kind accepts: by its class, or by the nearest one above that is known here."""
    known = (_SCALARS[cls] for cls in type(kind).__mro__ if cls in _SCALARS)
    return next(known)(kind)


def _bounds(kind: Any) -> Schema:
    return {"minimum": kind.low, "maximum": kind.high}


def _text(kind: Any) -> Schema:
    return {"type": "string", "pattern": _WHOLE.format(kind.pattern)}


def _seconds(kind: Any) -> Schema:
    pattern = r"^[0-9]{1,15}(\.[0-9]{1,9})? ?(ms|s|m|h|d)?$"
    return _any({"type": "number", **_bounds(kind)}, {"type": "string", "pattern": pattern})


def _bytes(kind: Any) -> Schema:
    pattern = r"^[0-9]{1,15}(\.[0-9]{1,9})? ?([kmgtKMGT][iI]?)?[bB]?$"
    return _any({"type": "integer", **_bounds(kind)}, {"type": "string", "pattern": pattern})


def _any_scalar(kind: Any) -> Schema:
    edge = {"exclusiveMinimum": -1e300, "exclusiveMaximum": 1e300}
    return {"type": ["string", "number", "boolean"], **edge}


_ID = {"type": "integer", "minimum": 0, "maximum": 2**32 - 2}
#: How each plain kind is said. One that stands below `Kind` only is left to the loader.
_SCALARS: dict[type, Callable[[Any], Schema]] = {
    Integer: lambda kind: {"type": "integer", **_bounds(kind)},
    Number: lambda kind: {"type": "number", **_bounds(kind)},
    Seconds: _seconds,
    Bytes: _bytes,
    Flag: lambda kind: {"type": "boolean"},
    Text: _text,
    Mode: lambda kind: {"type": "string", "pattern": "^0?[0-7]{3}$"},
    Account: lambda kind: _any(_ID, _text(kind)),
    Choice: lambda kind: {"enum": list(kind.choices)},
    Scalar: _any_scalar,
    Kind: lambda kind: {"type": "string"} if kind.textual else {},
}
