"""The unit files: as systemd reads them, how much they let the service do, and how they fit it."""

import configparser
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from support import ROOT

from wafermon.cli.run import EX_CONFIG
from wafermon.sidecar import parse
from wafermon.sidecar.secrets import Credentials

pytestmark = pytest.mark.slow  # of files, that are the same for each interpreter

UNITS = ROOT / "deploy" / "systemd"
#: Out of ten: 9.6 is a unit that restricts nothing. systemd-analyze counts in tenths.
EXPOSURE_TENTHS = 20


def unit(name):
    """The settings of a unit by section; a list where one stands more than once."""

    class Several(dict):
        def __setitem__(self, key, value):
            if isinstance(value, list) and isinstance(self.get(key), list):
                value = self[key] + value
            super().__setitem__(key, value)

    parser = configparser.RawConfigParser(
        dict_type=Several, strict=False, delimiters="=", comment_prefixes="#"
    )
    parser.optionxform = str
    parser.read(UNITS / name)
    return {section: {k: v.split("\n") for k, v in parser.items(section)} for section in parser.sections()}


@pytest.fixture(params=["plain", "nas"])
def installed(request, tmp_path, monkeypatch):
    """The units in a folder that systemd-analyze reads, alone and with the drop-in."""
    if shutil.which("systemd-analyze") is None:
        assert os.environ.get("CI") != "true", "systemd-analyze is needed here"
        pytest.skip("there is no systemd-analyze here")
    for name in ("wafermon.socket", "wafermon.service"):
        text = (UNITS / name).read_text().replace("/opt/wafermon/wafermon.pyz", sys.executable)
        (tmp_path / name).write_text(text)
    if request.param == "nas":
        shutil.copytree(UNITS / "wafermon.service.d", tmp_path / "wafermon.service.d")
    monkeypatch.setenv("SYSTEMD_UNIT_PATH", f"{tmp_path}:")
    return tmp_path


def analyze(*arguments, folder):
    return subprocess.run(
        ["systemd-analyze", *arguments], cwd=folder, capture_output=True, text=True, timeout=60
    )


def test_systemd_has_nothing_to_object_to(installed):
    done = analyze("verify", "--man=no", "./wafermon.service", "./wafermon.socket", folder=installed)
    assert (done.returncode, done.stderr) == (0, "")
    with open(installed / "wafermon.service", "a") as file:
        file.write("\n[Service]\nProtectSistem=strict\n")
    done = analyze("verify", "--man=no", "./wafermon.service", folder=installed)
    assert "ProtectSistem" in done.stderr, "it is this file that it reads"


def test_little_is_exposed(installed):
    def security(tenths):
        return analyze("security", "--offline=true", f"--threshold={tenths}", "--no-pager",
                       "./wafermon.service", folder=installed)

    done = security(EXPOSURE_TENTHS)
    assert done.returncode == 0, done.stdout
    assert security(5).returncode != 0, "it is measured"


def test_the_drop_in_is_applied(installed):
    done = analyze("security", "--offline=true", "--no-pager", "./wafermon.service", folder=installed)
    lines = [line for line in done.stdout.splitlines() if "User=/DynamicUser=" in line]
    transient = "transient non-root user identity" in lines[0]
    assert transient == (not (installed / "wafermon.service.d").exists())


def test_the_service_is_told_the_addresses_of_its_sockets():
    """Else it would bind others, and who connects to these would wait for ever."""
    service, sock = unit("wafermon.service")["Service"], unit("wafermon.socket")["Socket"]
    (start,) = service["ExecStart"]
    words = start.split()
    config = parse({}).sidecar
    tcp = f"{config.tcp.host}:{config.tcp.port}"
    assert sock["ListenStream"] == [tcp, words[words.index("--unix") + 1]]


def test_a_bad_configuration_is_not_tried_again_and_a_stop_may_take_its_time():
    service = unit("wafermon.service")["Service"]
    assert service["RestartPreventExitStatus"] == [str(EX_CONFIG)]
    assert float(service["TimeoutStopSec"][0]) > parse({}).sidecar.shutdown_timeout
    assert service["Type"] == ["notify"] and "HUP" in service["ExecReload"][0]


def test_the_secret_of_the_unit_is_the_one_that_the_config_names(tmp_path):
    service = unit("wafermon.service")["Service"]
    name, path = service["LoadCredential"][0].split(":")
    assert path == "/etc/wafermon/secret" and service["SetCredential"] == [rf"{name}:\n"]
    credentials = Credentials(str(tmp_path))
    (tmp_path / name).write_text("\n")  # what SetCredential leaves where there is no file
    with pytest.raises(ValueError, match="expected one line"):
        credentials.secret(name)
    (tmp_path / name).write_text("of the fab alone, 2026\n")
    assert credentials.secret(name) == "of the fab alone, 2026"


def test_a_share_is_written_to_by_a_fixed_user():
    nas = unit(pathlib.PurePath("wafermon.service.d") / "nas.conf")["Service"]
    assert nas["DynamicUser"] == ["no"] and nas["User"] == ["wafermon"]
    assert all(path.startswith("-/") for path in nas["ReadWritePaths"])
