"""Make a release in dist/: wheel, sdist, wafermon.pyz, the Perl distribution, SBOM, SHA256SUMS.

    python3 zipapp/release.py [--allow-dirty] [--output dist]

All is built from a copy of what is committed, so that nothing gets in that only lies around here,
and with the time of the commit: the same commit makes the same files. Needs git, and of the
development extras build, hatchling and PyYAML. It tests what it has built only so far that each
Python here can start it; the tests run against the wheel and the .pyz in `make matrix`.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

from build import ROOT, put, write_sums

sys.path.append(str(ROOT / "tests"))

import matrix


def git(*arguments: str) -> str:
    """What git says of this tree."""
    return subprocess.run(  # noqa: S603
        ["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True  # noqa: S607
    ).stdout  # fmt: skip


def copy_sources(folder: pathlib.Path, *, allow_dirty: bool) -> None:
    """What is committed; or all that could be, as it lies here.

    Raises:
        SystemExit: something here is not committed.
    """
    changed = git("status", "--porcelain")
    if changed and not allow_dirty:
        sys.exit(f"not committed:\n{changed}commit it, or say --allow-dirty (make: ALLOW_DIRTY=1)")
    if changed:
        names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
        for name in filter(None, names):
            if (ROOT / name).exists():  # one may be deleted
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        return
    archive = folder.with_name("sources.tar")
    git("archive", "--output", str(archive), "HEAD")
    with tarfile.open(archive) as tar:
        tar.extractall(folder)  # noqa: S202 - our own; `filter` is not known before 3.11.4


def version_of(sources: pathlib.Path) -> str:
    """The version, which stands in `wafermon/__init__.py`; the Perl SDK has to tell the same.

    Raises:
        SystemExit: it does not.
    """
    python = _only(r'^__version__ = "(.+)"$', sources / "wafermon" / "__init__.py")
    perl = _only(r"^our \$VERSION = '(.+)';$", sources / "perl" / "lib" / "WaferMon.pm")
    if python != perl:
        sys.exit(f"wafermon/__init__.py says {python}, perl/lib/WaferMon.pm says {perl}")
    return python


def _only(pattern: str, path: pathlib.Path) -> str:
    (found,) = re.findall(pattern, path.read_text("utf-8"), re.MULTILINE)
    return found


def perl_distribution(perl: pathlib.Path, version: str, epoch: int) -> bytes:
    """What `make dist` makes of MANIFEST, but the same bytes each time."""
    out = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, out, mtime=epoch) as packed, tarfile.open(
        fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT
    ) as tar:
        for name in sorted((perl / "MANIFEST").read_text().split()):
            content = (perl / name).read_bytes()
            member = tarfile.TarInfo(f"WaferMon-{version}/{name}")
            member.size, member.mtime = len(content), epoch
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def make(sources: pathlib.Path, output: pathlib.Path, epoch: int) -> list[str]:
    """Build everything; returns the names."""
    version = version_of(sources)
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    run = [sys.executable, str(sources / "zipapp" / "build.py"), "--output"]
    subprocess.run([*run, str(output / "wafermon.pyz")], check=True, env=env)  # noqa: S603
    # The wheel is made from the sdist, so the sdist is complete.
    run = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(sources)]
    subprocess.run(run, check=True, env=env, stdout=subprocess.DEVNULL)  # noqa: S603
    perl = f"WaferMon-{version}.tar.gz"
    put(output / perl, perl_distribution(sources / "perl", version, epoch))
    wheel = f"wafermon-{version}-py3-none-any.whl"
    matrix.check(output / wheel)
    start(output, [wheel, "wafermon.pyz"], version)
    return [wheel, f"wafermon-{version}.tar.gz", perl, "wafermon.pyz", "wafermon.pyz.cdx.json"]


def start(folder: pathlib.Path, names: list[str], version: str) -> None:
    """Have each Python here start what was built, from a zip as it is, with no environment.

    Raises:
        CalledProcessError: it cannot.
    """
    for python in filter(None, map(matrix.find, matrix.VERSIONS)):
        for name in names:
            said = subprocess.run(  # noqa: S603
                [python, "-m", "wafermon", "version"], cwd="/", check=True, text=True,
                env={"PYTHONPATH": str(folder.resolve() / name)}, stdout=subprocess.PIPE,
            ).stdout  # fmt: skip
            if not said.startswith(f"wafermon {version} "):
                sys.exit(f"{name} says {said!r} with {python}")


def main() -> None:
    """Build in a folder of its own, and move all of it to its place once it is right."""
    parser = argparse.ArgumentParser(description="Make a release.")
    parser.add_argument("--allow-dirty", action="store_true", help="take all that is here")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "dist")
    options = parser.parse_args()
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or git("log", "-1", "--format=%ct"))
    with tempfile.TemporaryDirectory() as name:
        sources, made = pathlib.Path(name, "sources"), pathlib.Path(name, "made")
        sources.mkdir()
        copy_sources(sources, allow_dirty=options.allow_dirty)
        names = make(sources, made, epoch)
        for each in names:
            mode = 0o755 if each.endswith(".pyz") else 0o644
            put(options.output / each, (made / each).read_bytes(), mode)
    write_sums(options.output, names)
    print(*sorted([*names, "SHA256SUMS"]), sep="\n")


if __name__ == "__main__":
    main()
