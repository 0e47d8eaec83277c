"""unpack the SDK of a language: the files that a script needs to send

They come out of wafermon itself, so that one file carries everything to a host.
"""

from __future__ import annotations

import argparse
import os
import sys

from wafermon import sdk
from wafermon.cli.lines import visible

#: How a script finds what was unpacked.
_USE = {
    "perl": "use lib '{folder}';  use WaferMon;",
    "python": "PYTHONPATH={folder}  from wafermon.client import Client",
}
EPILOG = """\
Files of the same name in DIR are replaced, each by a rename, so that scripts that start meanwhile
find the old one or the new one. Without arguments the languages are listed.

examples:
  wafermon sdk
  wafermon sdk perl ~/lib/perl
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which, and where to."""
    parser.add_argument(
        "language", metavar="LANGUAGE", nargs="?", choices=sdk.LANGUAGES,
        help=" or ".join(sdk.LANGUAGES),
    )  # fmt: skip
    parser.add_argument("folder", metavar="DIR", nargs="?", help="made where it is missing")


def run(options: argparse.Namespace) -> int:
    """List them, or unpack one.

    Returns:
        Exit status: 0, 1 where something cannot be written, 2 where DIR is missing.
    """
    if options.language is None:
        for language in sdk.LANGUAGES:
            print(f"{language:<8} {', '.join(sdk.files(language))}")
        print("\nunpack one: wafermon sdk LANGUAGE DIR")
        return 0
    if options.folder is None:
        print(f"wafermon sdk: where to? wafermon sdk {options.language} DIR", file=sys.stderr)
        return 2
    folder = os.path.abspath(options.folder)
    try:
        for name, content in sdk.files(options.language).items():
            print(visible(_put(os.path.join(folder, name), content)))
    except OSError as error:
        print(f"wafermon sdk: {visible(folder)}: {error.strerror or error}", file=sys.stderr)
        return 1
    print("use it:", _USE[options.language].format(folder=visible(folder)))
    return 0


def _put(path: str, content: bytes) -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(content)
    os.replace(temporary, path)
    return path
