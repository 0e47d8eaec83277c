"""`make release`, from a clone of what lies here."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from support import ROOT

pytestmark = pytest.mark.slow  # builds wheels


def git(folder, *arguments):
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments], cwd=folder,
                   check=True, capture_output=True, env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull,
                                                         "GIT_COMMITTER_DATE": "2026-11-23T12:00:00Z"})  # fmt: skip


def release(folder, *arguments):
    return subprocess.run([sys.executable, "zipapp/release.py", *arguments], cwd=folder, timeout=300,
                          capture_output=True, text=True)  # fmt: skip


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A repository with one commit of all that could be committed here."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no clone, or there is no git")
    folder = tmp_path_factory.mktemp("release") / "clone"
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                           cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout  # fmt: skip
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")
    return folder


def test_a_release(clone, tmp_path):
    done = release(clone)
    assert done.returncode == 0, done.stderr
    made = clone / "dist"
    version = next(name for name in os.listdir(made) if name.endswith(".whl")).split("-")[1]
    names = {"SHA256SUMS", "wafermon.pyz", "wafermon.pyz.cdx.json", f"WaferMon-{version}.tar.gz",
             f"wafermon-{version}.tar.gz", f"wafermon-{version}-py3-none-any.whl"}  # fmt: skip
    assert set(os.listdir(made)) == names
    sums = (made / "SHA256SUMS").read_text().splitlines()
    assert {line[66:] for line in sums} == names - {"SHA256SUMS"}
    for line in sums:
        assert hashlib.sha256((made / line[66:]).read_bytes()).hexdigest() == line[:64]
    with zipfile.ZipFile(made / f"wafermon-{version}-py3-none-any.whl") as wheel:
        assert "wafermon/sdk/perl/WaferMon.pm" in wheel.namelist()
    check_perl(made / f"WaferMon-{version}.tar.gz", tmp_path)
    # A file that lies around is not committed, and not taken either.
    (clone / "wafermon" / "stray.py").write_text("")
    again = release(clone)
    assert again.returncode == 1 and "stray.py" in again.stderr and "--allow-dirty" in again.stderr
    again = release(clone, "--allow-dirty", "--output", str(tmp_path / "dirty"))
    assert again.returncode == 0, again.stderr
    with zipfile.ZipFile(tmp_path / "dirty" / "wafermon.pyz") as archive:
        assert "wafermon/stray.py" in archive.namelist()
    (clone / "wafermon" / "stray.py").unlink()
    again = release(clone, "--output", str(tmp_path / "again"))
    assert (tmp_path / "again" / "SHA256SUMS").read_text().splitlines() == sums, "the same commit, the same files"


def check_perl(archive, folder):
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (inner,) = pathlib.Path(folder).glob("WaferMon-*")
    if shutil.which("perl"):
        done = subprocess.run(["perl", "Makefile.PL"], cwd=inner, capture_output=True, text=True)
        assert done.returncode == 0 and "Looks good" in done.stdout, done.stderr


def test_versions_that_differ_are_refused(clone):
    sdk = clone / "perl" / "lib" / "WaferMon.pm"
    before = sdk.read_text()
    sdk.write_text(before.replace("our $VERSION = '", "our $VERSION = '9"))
    try:
        done = release(clone, "--allow-dirty")
        assert done.returncode == 1 and "perl/lib/WaferMon.pm says 9" in done.stderr
    finally:
        sdk.write_text(before)
