"""The reference of every key, generated from the schema.

docs/configuration.md holds it between two marker lines; this brings it up to date there:

    python3 -m wafermon.sidecar.reference --write docs/configuration.md
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from wafermon.sidecar.fields import key_of
from wafermon.sidecar.kinds import Kind, Section, Several, Shape, Table, Variant
from wafermon.sidecar.schema import Config

#: The lines of a document between which the reference stands.
BEGIN, END = "<!-- reference: begin -->", "<!-- reference: end -->"

_HEAD = ("| Key | Type | Default | Unit | Meaning |", "|---|---|---|---|---|")


def reference() -> str:
    """Every key with its path, type, default, unit and meaning, as a Markdown table.

    >>> print(reference().splitlines()[3])
    | `sidecar.tcp.host` | host name or an address | `"127.0.0.1"` |  | Address to listen on. |
    """
    return "\n".join((*_HEAD, *_rows("", Section(Config)))) + "\n"


def insert(document: str) -> str:
    """Put the reference between the markers of a document.

    Raises:
        ValueError: the markers are not there.
    """
    before, begin, rest = document.partition(BEGIN + "\n")
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no lines {BEGIN} and {END}")
    return f"{before}{begin}\n{reference()}\n{end}{after}"


def _rows(path: str, kind: Kind) -> Iterator[str]:
    """The rows of all that is inside a composite kind."""
    if isinstance(kind, Several):
        yield from _rows(f"{path}[]", kind.item)
    elif isinstance(kind, Table):
        yield from _rows(f"{path}.<name>", kind.item)
    elif isinstance(kind, Variant):
        yield from _classes(path, kind.types, typed=True)
    elif isinstance(kind, Shape):
        yield from _classes(path, kind.classes, typed=False)
    elif isinstance(kind, Section):
        yield from _fields(path, dataclasses.fields(kind.cls))


def _classes(path: str, classes: Mapping[str, Any], typed: bool) -> Iterator[str]:
    """The rows of several classes for one mapping, then of what they share."""
    shared = set.intersection(*(set(dataclasses.fields(cls)) for cls in classes.values()))
    for name, cls in classes.items():
        # The type in place of the name tells apart what several types have: `path`.
        place = path.replace("<name>", f"<{name}>")
        if typed:
            yield _row(f"{place}.type", f'`"{name}"`', "required", "", cls.__doc__)
        own = [field for field in dataclasses.fields(cls) if field not in shared]
        yield from _fields(place, own)
    yield from _fields(path, [f for f in dataclasses.fields(cls) if f in shared])


def _fields(path: str, fields: Iterable[dataclasses.Field[Any]]) -> Iterator[str]:
    for field in fields:
        place = f"{path}.{key_of(field)}".lstrip(".")
        inner = list(_rows(place, field.metadata["kind"]))
        yield from inner or [_row(place, *_columns(field.metadata))]


def _columns(about: Any) -> tuple[str, str, str, str]:
    kind, default = about["kind"], about["default"]
    if isinstance(kind, Table):
        inside = f"mapping of {kind.key.expected} to {kind.item.expected}"
        return inside, "", about["unit"], about["doc"]
    expected = re.sub("^an? |, such as .*", "", kind.expected) + (
        " or null" if "nullable" in about else ""
    )
    shown = "required" if default is ... else f"`{json.dumps(default)}`"
    return expected, shown, about["unit"], about["doc"]


def _row(path: str, *columns: str) -> str:
    return " | ".join((f"| `{path}`", *(column.replace("|", "\\|") for column in columns))) + " |"


def main() -> None:
    """Print the reference, or write it into a document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", metavar="FILE", help="a document with the two marker lines")
    path = parser.parse_args().write
    if path is None:
        print(reference(), end="")
        return
    with open(path, encoding="utf-8") as file:
        document = insert(file.read())
    with open(path, "w", encoding="utf-8") as file:
        file.write(document)


if __name__ == "__main__":
    main()
