"""show the configuration: what is in force, the default, or its schema

Nothing is started, opened or written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from wafermon.cli.validate import EX_CONFIG, checked
from wafermon.errors import ConfigError
from wafermon.sidecar import find_config
from wafermon.sidecar.json_schema import json_schema
from wafermon.sidecar.written import Written, default, effective
from wafermon.sidecar.yaml_written import yaml_of

EPILOG = """\
--effective   the config file with variables replaced and every default filled in, but for what may
              be secret: values of headers, in addresses the user and all after the host, words of a
              command after its first, and in tests what is redacted. In its place stands a text
              that keeps the file from being loaded until you put in the real value
--default     what counts without a file, each key with its meaning: a file to begin with
--schema      a JSON Schema (2020-12), with which an editor completes keys and marks faults; what
              it cannot say, wafermon validate does

The first two are YAML with comments, or with --json plain JSON.

Exit status: 0, or 78 where the config has a fault.

examples:
  wafermon config --default > wafermon.yaml
  wafermon config --effective --config wafermon.yaml
  wafermon config --schema > wafermon.schema.json
    and in the first line of wafermon.yaml:
    # yaml-language-server: $schema=wafermon.schema.json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--effective", action="store_true", help="the config that would be in force")
    what.add_argument("--default", action="store_true", help="the config of no file at all")
    what.add_argument("--schema", action="store_true", help="JSON Schema of a config file")
    parser.add_argument("--config", metavar="FILE", help="config (default as for wafermon run)")
    parser.add_argument("--json", action="store_true", help="JSON in place of YAML")


def run(options: argparse.Namespace) -> int:
    """Print what is asked for.

    Returns:
        Exit status: 0, or 78 where the configuration has a fault.
    """
    if options.schema:
        print(json.dumps(json_schema(), indent=2))
        return 0
    if options.default:
        _print(default(), options.json)
        return 0
    path = find_config(options.config, os.environ)
    try:
        config = checked(path)
    except ConfigError as error:
        print(*error.faults, sep="\n", file=sys.stderr)
        return EX_CONFIG
    _print(effective(config), options.json)
    return 0


def _print(written: Written, as_json: bool) -> None:
    if written.masked:
        places = ", ".join(map(ascii, written.masked)).replace("'", "")
        print(f"# masked, so this cannot be used as it is: {places}",
              file=sys.stderr if as_json else sys.stdout)  # fmt: skip
    if as_json:
        print(json.dumps(written.document, indent=2))
    else:
        print(yaml_of(written.document), end="")
