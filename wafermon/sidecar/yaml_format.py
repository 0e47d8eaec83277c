"""YAML for configurations: safe, strict about keys that stand twice, and open about its traps.

Needs PyYAML. Imported only where a YAML file is read, see `wafermon.sidecar.formats`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import yaml

from wafermon.sidecar.formats import Document, Trap

#: Which one it is, and where it comes from.
PYYAML = f"{yaml.__version__}, {os.path.dirname(yaml.__file__)}"


class Loader(yaml.SafeLoader):
    """The safe loader of PyYAML with three changes: mappings are `Document`s, and numbers and
    dates that YAML 1.1 reads out of 017, 12:30:00 and 2026-11-23 are `Trap`s."""


def read(text: str) -> object:
    """Parse one YAML document.

    Raises:
        ValueError: it is no valid YAML, with the line where that is known.
    """
    try:
        return yaml.load(text, Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        raise ValueError(_explain(error, text)) from None
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {error}") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # What PyYAML's constructors trip over where a value does not fit its tag: `!!bool 7`.
        raise ValueError(f"not valid YAML: a value does not fit its tag ({error!r})") from None


def _explain(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark or error.context_mark
    problem = f"{error.context or ''}, {error.problem or ''}".strip(", ")
    if mark is None:
        return f"not valid YAML: {problem}"
    line = "".join(text.splitlines()[mark.line : mark.line + 1])
    hint = ""
    if "alias" in problem:
        hint = '; quote text that begins with an asterisk: "*"'
    elif "${" in line:
        hint = '; quote "${...}" between { } or [ ]'
    return f"not valid YAML, line {mark.line + 1}, column {mark.column + 1}: {problem}{hint}"


def _mapping(loader: Loader, node: yaml.MappingNode) -> Iterator[Document]:
    # A generator, as PyYAML wants it for what may contain itself. Keys are looked at before
    # construct_mapping, which puts the merged ones (<<) in front of the node's own.
    document = Document()
    yield document
    own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    values = loader.construct_mapping(node)
    keys = Document((loader.construct_object(key), None) for key in own)
    document.update(values)
    document.repeated = keys.repeated


def _integer(loader: Loader, node: yaml.ScalarNode) -> object:
    text = loader.construct_scalar(node)
    if ":" in text:
        return Trap(text, "a number of base 60")
    if text.lstrip("+-")[:1] == "0" and text.lstrip("+-0_")[:1].isdigit():
        return Trap(text, "an octal number")
    return loader.construct_yaml_int(node)


def _float(loader: Loader, node: yaml.ScalarNode) -> object:
    text = loader.construct_scalar(node)
    return Trap(text, "a number of base 60") if ":" in text else loader.construct_yaml_float(node)


def _date(loader: Loader, node: yaml.ScalarNode) -> object:
    return Trap(loader.construct_scalar(node), "a date")


Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
Loader.add_constructor("tag:yaml.org,2002:int", _integer)
Loader.add_constructor("tag:yaml.org,2002:float", _float)
Loader.add_constructor("tag:yaml.org,2002:timestamp", _date)
