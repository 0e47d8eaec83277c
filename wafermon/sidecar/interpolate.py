"""Variables in the strings of a configuration: `${VAR}`, its defaults, and `$$`.

Replaced is text inside a string that has already been parsed, so that no value of a variable can
add keys or structure. The grammar is the common part of Compose's and Vector's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from wafermon.sidecar.words import MAX_ECHO, quoted

#: Stands for a value that is not shown, so that nobody takes it for one: it is a fault to load it.
MASK = "${MASKED:?put the real value here}"
_MAX_MESSAGE = 200
_REFERENCE = re.compile(
    r"""\$\$                                # one dollar sign
      | \$\{ (?P<name>[A-Za-z_][A-Za-z0-9_]*)
             (?: (?P<how> :- | - | :\?)     # what to do without a value
                 (?P<rest> (?: (?!\$\{) [^}] )* ) )? \}
      | (?P<broken>\$\{)""",
    re.VERBOSE,
)


def interpolate(text: str, environ: Mapping[str, str]) -> str:
    """Replace the variables in one string.

    `${VAR}` needs a value, `${VAR-x}` is x where VAR is not set, `${VAR:-x}` also where it is
    empty, `${VAR:?why}` is a fault of its own in both cases, `$$` is a dollar sign. Any other
    dollar sign and any other brace stays as it is. Values and defaults are not searched again.

    Raises:
        ValueError: a variable without value and default, or a `${` that is none of the above;
            the text says which.

    >>> interpolate("${DIR}/{src}-${KIND:-all}.jsonl $$5", {"DIR": "/mnt", "KIND": ""})
    '/mnt/{src}-all.jsonl $5'
    """

    def value(match: re.Match[str]) -> str:
        if match["broken"]:
            raise ValueError(
                'this "${" begins no ${VAR}, ${VAR:-default}, ${VAR-default} or ${VAR:?message};'
                ' a plain "${" is written "$${"'
            )
        name, how = match["name"], match["how"]
        if name is None:
            return "$"
        found = environ.get(name)
        if found or (found is not None and how in (None, "-")):
            return found
        if how in ("-", ":-"):
            return match["rest"]
        fault = f"the variable {name[:MAX_ECHO]} is {'not set' if found is None else 'empty'}"
        if how:
            raise ValueError(f"{fault}: {quoted(match['rest'], _MAX_MESSAGE)}")
        raise ValueError(f"{fault}, expected a value or a default: ${{{name[:MAX_ECHO]}:-...}}")

    return _REFERENCE.sub(value, text)
