"""Build wafermon.pyz: one file that is the sidecar, its command line, its library and its SDKs.

    python3 zipapp/build.py [--output dist/wafermon.pyz] [--without-yaml]

The same sources make the same bytes, whatever the time, the umask, the order of the directory, and
the Python from 3.9 on, as long as its zlib is the usual one (zlib-ng packs differently; the digest
of the list of contents, which `wafermon version --verbose` prints, is the same even then). Times in
it are SOURCE_DATE_EPOCH, or 1980.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import sys
import time
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "zipapp")]

import sbom  # noqa: E402

from wafermon import __version__, sdk  # noqa: E402
from wafermon.cli.version import list_digest  # noqa: E402

#: What is bundled, and the digest of the list of its files: another PyYAML would be another file
#: for the same version of wafermon. `dev` in pyproject.toml names the same version.
PYYAML_VERSION = "6.0.3"
PYYAML_DIGEST = "be592e852e9f2ff0c9f7300ef2a1c25009aa0dfa61cbd4ec7d6ca9faa53e1e85"
SHEBANG = b"#!/usr/bin/env python3\n"
#: A zip knows no time before.
EARLIEST = 315_532_800

Files = dict[str, bytes]


def package() -> Files:
    """The package and the SDKs that travel with it, by their names in the archive."""
    files = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for path in (ROOT / "wafermon").rglob("*")
        if path.is_file() and path.suffix != ".pyc" and not path.name.startswith(".")
    }
    for name, source in sdk.CARRIED.items():
        files[f"wafermon/sdk/{name}"] = (ROOT / source).read_bytes()
    files["__main__.py"] = (ROOT / "zipapp" / "start.py").read_bytes()
    files["LICENSE"] = (ROOT / "LICENSE").read_bytes()
    return files


def pyyaml() -> Files:
    """The pure part of the PyYAML that is installed for this Python, and its licence.

    Raises:
        SystemExit: it is missing, or is not the one that belongs in.
    """
    wanted = f"PyYAML {PYYAML_VERSION} as pip installs it, or --without-yaml"
    try:
        found = importlib.metadata.distribution("pyyaml")
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"PyYAML is not installed for {sys.executable}; needed is {wanted}")
    files: Files = {}
    for path in found.files or ():
        if path.parts[0] == "yaml" and path.suffix == ".py":
            files[path.as_posix()] = path.locate().read_bytes()
        elif path.name == "LICENSE":
            files["yaml/LICENSE"] = path.locate().read_bytes()
    digest = list_digest(files)
    if digest != PYYAML_DIGEST:
        sys.exit(f"PyYAML {found.version} has contents {digest}; needed is {wanted}")
    return files


def pack(files: Files, epoch: int) -> bytes:
    """The archive, to the byte."""
    date = time.gmtime(max(epoch, EARLIEST))[:6]
    out = io.BytesIO(SHEBANG)
    out.seek(0, io.SEEK_END)
    with zipfile.ZipFile(out, "w") as archive:
        for name in sorted(files):
            member = zipfile.ZipInfo(name, date)
            member.create_system = 3
            member.external_attr = 0o100644 << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, files[name], compresslevel=9)
    return out.getvalue()


def put(path: pathlib.Path, content: bytes, mode: int = 0o644) -> None:
    """By rename, whatever the umask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.chmod(mode)
    temporary.replace(path)


def write_sums(folder: pathlib.Path, names: list[str]) -> None:
    """SHA256SUMS for `sha256sum -c`."""
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    lines = [f"{digests[name]}  {name}\n" for name in sorted(names)]
    put(folder / "SHA256SUMS", "".join(lines).encode())


def build(output: pathlib.Path, *, yaml: bool, epoch: int) -> list[str]:
    """Write the file and its bill of materials; returns their names."""
    bundled = pyyaml() if yaml else {}
    files = {**package(), **bundled}
    content = pack(files, epoch)
    put(output, content, 0o755)
    bill = sbom.document(
        version=__version__, name=output.name, content=content, contents=list_digest(files),
        pyyaml=(PYYAML_VERSION, PYYAML_DIGEST) if yaml else None, epoch=epoch,
    )  # fmt: skip
    listed = output.with_name(f"{output.name}.cdx.json")
    put(listed, (json.dumps(bill, indent=2) + "\n").encode())
    return [output.name, listed.name]


def main() -> None:
    """Build, and write the sums."""
    parser = argparse.ArgumentParser(description="Build wafermon.pyz, its SHA256SUMS and its SBOM.")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "dist" / "wafermon.pyz")
    parser.add_argument("--without-yaml", action="store_true", help="leave PyYAML out")
    options = parser.parse_args()
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or EARLIEST)
    names = build(options.output, yaml=not options.without_yaml, epoch=epoch)
    write_sums(options.output.parent, names)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes, wafermon {__version__}")


if __name__ == "__main__":
    main()
