"""The builder: the same bytes everywhere, nothing in them by chance, and papers that are right."""

import datetime
import json
import os
import random
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import zipfile

import pytest
from matrix import find
from support import ROOT

#: All that the file is made of.
SOURCES = ("wafermon", "perl", "zipapp", "LICENSE", "pyproject.toml")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The sources as they lie elsewhere: another order on the disk, other times and modes."""
    if not (ROOT / "wafermon").is_dir():
        pytest.skip("this is no source tree")
    folder = tmp_path_factory.mktemp("copy")
    names = [path.relative_to(ROOT) for source in SOURCES for path in (ROOT / source, *(ROOT / source).rglob("*"))
             if path.is_file() and path.suffix != ".pyc"]  # fmt: skip
    chance = random.Random(7)
    chance.shuffle(names)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
        (folder / name).chmod(0o600)
        os.utime(folder / name, (0, chance.randrange(1 << 31)))
    (folder / "wafermon" / "__pycache__").mkdir()
    (folder / "wafermon" / "__pycache__" / "x.pyc").write_bytes(b"\0")
    return folder


@pytest.fixture
def yaml_of(tmp_path):
    """PyYAML as pip installs it, in a folder of its own for another Python, or to be changed."""
    site = sysconfig.get_path("platlib")
    for entry in os.scandir(site):
        if entry.name == "yaml" or entry.name.startswith("pyyaml-"):
            shutil.copytree(entry.path, tmp_path / "site" / entry.name)
    return tmp_path / "site"


def test_two_pythons_and_two_umasks_make_the_same_bytes(build, copy, tmp_path, yaml_of):
    there = [find(v) for v in ("3.9", "3.13") if not sys.version.startswith(f"{v}.")]
    other = next(filter(None, there), None)
    if other is None:
        pytest.skip("there is no other Python here")
    env = {"PYTHONPATH": str(yaml_of), "TZ": "Pacific/Auckland", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    one = build(tmp_path / "one" / "wafermon.pyz", umask=0o077)
    two = build(tmp_path / "two" / "wafermon.pyz", root=copy, python=other, env=env, umask=0)
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    names = sorted(os.listdir(tmp_path / "one"))
    assert names == ["SHA256SUMS", "wafermon.pyz", "wafermon.pyz.cdx.json"]
    for name in names:
        files = tmp_path / "one" / name, tmp_path / "two" / name
        assert files[0].read_bytes() == files[1].read_bytes(), name
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o755 if name.endswith("z") else 0o644}


def test_what_is_in_it(pyz):
    with zipfile.ZipFile(pyz) as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.read("yaml/LICENSE").startswith(b"Copyright (c)") and archive.read("LICENSE")
        assert archive.read("wafermon/sdk/perl/WaferMon.pm") == (ROOT / "perl/lib/WaferMon.pm").read_bytes()
    assert pyz.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert not [name for name in names if "__pycache__" in name or name.endswith((".so", ".pyc"))]
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"__main__.py", "LICENSE", "wafermon", "yaml"}


def test_its_times_are_those_of_the_sources(build, tmp_path):
    when = datetime.datetime(2026, 11, 23, 12, 0, 2, tzinfo=datetime.timezone.utc)
    output = tmp_path / "wafermon.pyz"
    build(output, env={"SOURCE_DATE_EPOCH": str(int(when.timestamp()))})
    with zipfile.ZipFile(output) as archive:
        assert {info.date_time for info in archive.infolist()} == {when.timetuple()[:6]}
    bill = json.loads((tmp_path / "wafermon.pyz.cdx.json").read_text())
    assert bill["metadata"]["timestamp"] == "2026-11-23T12:00:02Z"


def test_without_yaml(build, tmp_path):
    output = tmp_path / "wafermon.pyz"
    assert build(output, "--without-yaml").returncode == 0
    (tmp_path / "w.yaml").write_text("{}\n")
    done = subprocess.run([sys.executable, "-S", output, "validate", tmp_path / "w.yaml"],
                          capture_output=True, text=True, env={})  # fmt: skip
    assert done.returncode == 78 and "use JSON" in done.stderr
    done = subprocess.run([sys.executable, "-S", output, "version", "--verbose"],
                          capture_output=True, text=True, env={})  # fmt: skip
    assert "pyyaml     none" in done.stdout
    assert json.loads((tmp_path / "wafermon.pyz.cdx.json").read_text())["components"] == []


def test_another_pyyaml_is_refused(build, tmp_path, yaml_of):
    with open(yaml_of / "yaml" / "loader.py", "a") as file:
        file.write("# other\n")
    done = build(tmp_path / "wafermon.pyz", env={"PYTHONPATH": str(yaml_of)})
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "needed is PyYAML 6.0.3" in done.stderr and not (tmp_path / "wafermon.pyz").exists()


def test_the_sums_are_what_sha256sum_checks(build, tmp_path):
    build(tmp_path / "wafermon.pyz")
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK\n") == 2
    with open(tmp_path / "wafermon.pyz", "ab") as file:
        file.write(b"\n")
    assert subprocess.run(check, cwd=tmp_path, capture_output=True).returncode == 1


@pytest.mark.slow  # needs a package that only the development extras bring
def test_the_bill_of_materials_keeps_to_its_schema(build, tmp_path):
    if os.environ.get("CI") != "true":
        pytest.importorskip("cyclonedx", reason="cyclonedx-python-lib is not installed")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    for arguments in ([], ["--without-yaml"]):
        build(tmp_path / "wafermon.pyz", *arguments)
        text = (tmp_path / "wafermon.pyz.cdx.json").read_text()
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_the_bill_of_materials_names_what_is_there(build, tmp_path):
    build(tmp_path / "wafermon.pyz")
    bill = json.loads((tmp_path / "wafermon.pyz.cdx.json").read_text())
    main, (part,) = bill["metadata"]["component"], bill["components"]
    facts = subprocess.run([sys.executable, tmp_path / "wafermon.pyz", "version", "--verbose"],
                           capture_output=True, text=True).stdout  # fmt: skip
    assert main["hashes"][0]["content"] in facts and main["properties"][1]["value"] in facts
    assert part["purl"] == "pkg:pypi/pyyaml@6.0.3"


def test_the_tables_agree():
    """Where the tools ask for one, and what the wheel and the single file are made of."""
    text = (ROOT / "pyproject.toml").read_text()
    from wafermon.sdk import CARRIED

    section = re.search(r"force-include\]\n((?:.+\n)+)", text).group(1)
    assert dict(re.findall(r'"(.+)" = "wafermon/sdk/(.+)"', section)) == {v: k for k, v in CARRIED.items()}
    builder = (ROOT / "zipapp" / "build.py").read_text()
    version = re.search(r'PYYAML_VERSION = "(.+)"', builder).group(1)
    assert f'"pyyaml=={version}",' in text
