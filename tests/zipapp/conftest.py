"""The single file that is tested: the one that is given, or one built from this source tree."""

import os
import pathlib
import subprocess
import sys

import pytest
from support import PYZ, ROOT


@pytest.fixture(scope="session")
def build():
    """Run the builder: `build(output, *arguments, root=..., python=..., env=...)`."""
    if not (ROOT / "wafermon").is_dir():
        pytest.skip("this is no source tree")

    def run(output, *arguments, root=ROOT, python=sys.executable, env=None, umask=0o022):
        return subprocess.run(
            [python, str(root / "zipapp" / "build.py"), "--output", str(output), *arguments],
            env={**os.environ, **(env or {})}, umask=umask, timeout=60, capture_output=True, text=True,
        )

    return run


@pytest.fixture(scope="session")
def pyz(request, tmp_path_factory):
    if PYZ:
        return pathlib.Path(PYZ)
    output = tmp_path_factory.mktemp("pyz") / "wafermon.pyz"
    done = request.getfixturevalue("build")(output)
    assert done.returncode == 0, done.stderr
    return output
