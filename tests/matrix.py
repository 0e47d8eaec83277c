"""Build the wheel and the single file, and run the tests against them on every interpreter there is.

    python3 tests/matrix.py [3.9 3.12 ...]

The wheel is installed. With the oldest and the newest interpreter it has all tests, with those between
the ones of the rooms that interpreters differ in; the processes of some run once more from wafermon.pyz.
The tests are copied away from the source tree, so that nothing but the wheel can be imported.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
VERSIONS = ("3.9", "3.13", "3.10", "3.11", "3.12")
#: Interpreters at a time: the tests mostly wait, so two hardly slow each other down.
AT_A_TIME = 2
#: What tests read besides the package.
BESIDE = ("tests", "examples", "perl", "bench", "deploy", "docs", "zipapp", "pyproject.toml", "LICENSE",
          "README.md", "CHANGELOG.md", "CONTRIBUTING.md")
PACKAGES = ("pytest", "pytest-timeout", "hypothesis", "prometheus-client", "pyyaml")

#: What is run with the interpreters between the oldest and the newest.
BETWEEN = ("tests/wire", "tests/flow", "tests/client", "tests/delivery", "tests/test_docstrings.py")
#: What is run against the single file (15 s of CPU), and with the oldest and the newest besides (25 s).
WITH_PYZ = ("tests/zipapp", "tests/cli/test_sdk.py")
AT_THE_ENDS = ("tests/cli/test_demo.py", "tests/sidecar/test_run.py", "tests/sidecar/test_secure.py")


def find(version: str, needs: str = "venv") -> str | None:
    """An interpreter of a version: on the PATH, or beside it where pyenv keeps them.

    Args:
        version: such as "3.9".
        needs: a module that it must have.
    """
    found = shutil.which(f"python{version}")
    if found and works(found, version, needs):
        return found
    versions = pathlib.Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    for folder in sorted(versions.glob(f"{version}.*"), reverse=True):
        if works(str(folder / "bin" / "python"), version, needs):
            return str(folder / "bin" / "python")
    return None


def works(python: str, version: str, needs: str) -> bool:
    """Whether it runs and is what its name says."""
    code = f"import sys, {needs}; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.stdout.strip() == version


def build(folder: pathlib.Path) -> pathlib.Path:
    """The wheel, and beside it wafermon.pyz."""
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    single = [sys.executable, str(ROOT / "zipapp" / "build.py"), "--output"]
    subprocess.run([*single, str(folder / "wafermon.pyz")], check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    check(wheel)
    return wheel


def check(wheel: pathlib.Path) -> None:
    """It must depend on nothing, and tell type checkers that it has types."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("/METADATA"))).decode()
    required = [ln for ln in metadata.splitlines() if ln.startswith("Requires-Dist") and "extra" not in ln]
    if required or not any(name.endswith("py.typed") for name in names):
        sys.exit(f"the wheel is not as it should be: {required or 'py.typed is missing'}")


def run(version: str, wheel: pathlib.Path, folder: pathlib.Path) -> bool:
    """Test with one interpreter; what it says is shown when it is through."""
    python = find(version)
    if python is None:
        print(f"== Python {version}: skipped, there is none here", flush=True)
        return True
    venv, copy = folder / f"venv-{version}", folder / f"copy-{version}"
    subprocess.run([python, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, str(wheel), *PACKAGES], check=True)
    copy.mkdir()
    for name in BESIDE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, copy / name)
    environment = {**os.environ, "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    command = [str(venv / "bin" / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider",
               "-m", "not slow"]
    passed = True
    single = {"WAFERMON_PYZ": str(folder / "wafermon.pyz")}
    at_an_end = version in ("3.9", "3.13")
    some = WITH_PYZ + (AT_THE_ENDS if at_an_end else ())
    for what, more, tests in (("the wheel", {}, () if at_an_end else BETWEEN), ("the .pyz", single, some)):
        done = subprocess.run([*command, *tests], cwd=copy, env={**environment, **more}, check=False,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        print(f"== Python {version}: {python}, {what}\n{done.stdout}", flush=True)
        passed = passed and done.returncode == 0
    return passed


def main() -> int:
    """All versions asked for, or all there are."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        wheel = build(folder)
        versions = sys.argv[1:] or VERSIONS
        with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
            passed = list(pool.map(lambda version: run(version, wheel, folder), versions))
        failed = [version for version, well in zip(versions, passed) if not well]
    if failed:
        print(f"failed with Python {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
