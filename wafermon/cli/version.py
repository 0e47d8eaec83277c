"""print the version

With `--verbose` what else matters to those who check what runs on a host.
"""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import platform
import sys
import zipfile
from collections.abc import Mapping

import wafermon
from wafermon import __version__

EPILOG = """\
--verbose names the file (or folder) that wafermon runs from, with the digest that sha256sum prints
for it, and with the digest of the list of its contents, sorted by name, one a line as sha256sum
prints them: that one is the same when somebody else packs the same contents.

examples:
  wafermon version
  wafermon version --verbose
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """How much to tell."""
    parser.add_argument(
        "--verbose", action="store_true", help="also digests, Python, platform, PyYAML"
    )


def run(options: argparse.Namespace) -> int:
    """Print it, with the Python that runs it."""
    if not options.verbose:
        print(f"wafermon {__version__} (Python {platform.python_version()})")
        return 0
    python = f"{platform.python_implementation()} {platform.python_version()}"
    facts = {
        "wafermon": __version__,
        **_origin(),
        "python": f"{python}, {sys.executable}",
        "platform": platform.platform(),
        "pyyaml": _pyyaml(),
    }
    for name, value in facts.items():
        print(f"{name:<10} {value}")
    return 0


def list_digest(files: Mapping[str, bytes]) -> str:
    """The SHA-256 of the list that sha256sum would print for the files, sorted by name.

    >>> list_digest({"b": b"2", "a": b"1"}) == list_digest({"a": b"1", "b": b"2"})
    True
    """
    lines = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _origin() -> dict[str, str]:
    """What this runs from: one file, or a folder."""
    folder = pathlib.Path(wafermon.__path__[0])
    archive = folder.parent
    if archive.is_file():
        with zipfile.ZipFile(archive) as members:
            files = {name: members.read(name) for name in members.namelist()}
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        return {"file": str(archive), "sha256": digest, "contents": _contents(files)}
    files = {
        path.relative_to(folder.parent).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    return {"folder": str(folder), "contents": _contents(files)}


def _contents(files: Mapping[str, bytes]) -> str:
    return f"{len(files)} files, sha256 of their list {list_digest(files)}"


def _pyyaml() -> str:
    try:
        from wafermon.sidecar import yaml_format  # here, as it needs PyYAML
    except ImportError:
        return "none; YAML configurations cannot be read"
    return yaml_format.PYYAML
