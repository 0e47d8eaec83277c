"""What the documents show works as it stands."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from documented import blocks

from wafermon.sidecar.build import check as check_config
from wafermon.sidecar.load import parse

ROOT = pathlib.Path(__file__).parents[1]


def test_the_config_of_the_readme():
    (config,) = blocks("README.md", "json")
    check_config(parse(json.loads(config)))


def test_the_python_of_the_readme(tmp_path, sidecar):
    for block in blocks("README.md", "python"):
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, timeout=60,
            env={"PYTHONPATH": str(ROOT), "MONITORING_UNIX_SOCKET": sidecar.ready["unix"]},
        )
        assert (done.returncode, done.stderr) == (0, b"")


def test_the_perl_of_the_readme(sidecar):
    if shutil.which("perl") is None:
        pytest.skip("there is no perl here")
    (block,) = blocks("README.md", "perl")
    done = subprocess.run(
        ["perl", "-I", str(ROOT / "perl" / "lib"), "-e", "my ($lot, $rows) = ('L1', 3);" + block],
        capture_output=True, timeout=60, env={"MONITORING_UNIX_SOCKET": sidecar.ready["unix"]},
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")), ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), target
