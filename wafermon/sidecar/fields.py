"""Fields of the schema: dataclass fields that carry their kind, default and meaning along."""

from __future__ import annotations

import dataclasses
from typing import Any

from wafermon.sidecar.kinds import Kind, Section, Several, Table, Text


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


def key_of(field: dataclasses.Field[Any]) -> str:
    """The key of a field in a file: its name, without the `_` that tells it from a word of Python.

    >>> from wafermon.sidecar.schema_alerts import BackendDown
    >>> [key_of(field) for field in dataclasses.fields(BackendDown)][:2]
    ['backend', 'for']
    """
    return field.name.rstrip("_")


def section(cls: Any, doc: str) -> Any:
    """A field that is a section of its own, with all the defaults of its class."""
    return dataclasses.field(default_factory=cls, metadata={"kind": Section(cls), "doc": doc})


def table(key: Text, item: Kind, doc: str, default: Any = dict) -> Any:
    """A field that is a mapping with keys of the user's; `default` makes it where it is empty."""
    metadata = {"kind": Table(key, item), "doc": doc, "unit": "", "default": None}
    return dataclasses.field(default_factory=default, metadata=metadata)
