"""The files of the dashboard, without a browser."""

import json
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

import wafermon
from wafermon.delivery import account
from wafermon.flow import router
from wafermon.message import Reason
from wafermon.net import Request
from wafermon.sidecar.pages.dashboard import NAMES, dashboard
from wafermon.sidecar.pages.reasons import MEANINGS

ROOT = pathlib.Path(wafermon.__path__[0])
FILES = sorted((ROOT / "web").iterdir())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]


def test_all_are_named():
    assert list(NAMES) == [path.name for path in FILES]


def test_all_together_are_under_100_kb():
    assert sum(path.stat().st_size for path in FILES) < 100_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_makes_markup_of_text_or_asks_others(path):
    text = path.read_text("utf-8")
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|\beval\b|new Function|srcdoc|style=|javascript:"
    assert re.findall(sinks, text) == []
    elsewhere = set(re.findall(r"\b(?:https?|wss?):[^\s\"'`)]*|url\([^)]*\)|@import[^;]*", text))
    # Names of the vocabulary of SVG, which nobody asks for.
    assert elsewhere <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_all_that_is_imported_is_there_and_used(path):
    text = path.read_text("utf-8")
    for names, source in re.findall(r'^import (?:\{ ([^}]*) \}|\* as \w+) from "\./([^"]+)";', text, re.M):
        there = (ROOT / "web" / source).read_text("utf-8")
        for passed_on in re.findall(r'^export \* from "\./([^"]+)";', there, re.M):
            there += (ROOT / "web" / passed_on).read_text("utf-8")
        for name in filter(None, re.split(r",\s+", names)):
            assert re.search(rf"^export (?:async )?(?:function|const|class) {name}\b", there, re.M), (source, name)
            assert len(re.findall(rf"(?<![\w\"]){name}\b", text)) > 1, name


def test_the_page_comes_with_its_policy():
    index, files = dashboard()
    for answer in (index(Request()), files(Request(rest="app.js")), files(Request(rest="app.css"))):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "require-trusted-types-for 'script'" in policy and "unsafe" not in policy
    assert index(Request()).content_type == "text/html; charset=utf-8"


@pytest.mark.parametrize("name", ["", "..", "../net/admin.py", "%2e%2e/net/admin.py", "nothing.js", "/etc/passwd"])
def test_only_its_own_files_are_served(name):
    assert dashboard()[1](Request(rest=name)).status == 404


def test_it_works_out_of_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "wafermon.pyz", "w") as archive:
        for path in ROOT.rglob("*"):
            if path.suffix in (".py", ".js", ".css", ".html"):
                archive.write(path, path.relative_to(ROOT.parent))
    ask = "from wafermon.sidecar.pages.dashboard import dashboard; from wafermon.net import Request; " \
          "import wafermon; print(wafermon.__file__, len(dashboard()[1](Request(rest='app.js')).body))"
    done = subprocess.run([sys.executable, "-c", ask], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "wafermon.pyz")},
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    where, size = done.stdout.split()
    assert ".pyz" in where and int(size) == (ROOT / "web" / "app.js").stat().st_size


def test_every_reason_of_a_drop_has_a_meaning():
    reasons = {*account.REASONS, router.NO_ROUTE, router.FILTERED, router.SAMPLED, *(reason.value for reason in Reason), "rate_limited"}
    assert reasons <= set(MEANINGS)


def test_the_browser_tests_have_pinned_packages():
    here = pathlib.Path(__file__).parent
    wanted = json.loads((here / "package.json").read_text())["devDependencies"]
    locked = json.loads((here / "package-lock.json").read_text())["packages"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
