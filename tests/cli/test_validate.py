"""The command `wafermon validate`."""

import argparse
import json

import pytest

from wafermon.cli import config, explain, validate
from wafermon.errors import ConfigError


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command; return exit status, stdout and stderr."""
    for name in ("CONFIG_FILE", "WAFERMON_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def command(*arguments):
        parser = argparse.ArgumentParser()
        validate.arguments(parser)
        status = validate.run(parser.parse_args(arguments))
        return (status, *capsys.readouterr())

    return command


@pytest.fixture
def file(tmp_path):
    def write(document):
        path = tmp_path / "w.json"
        path.write_text(json.dumps(document))
        return str(path)

    return write


def test_module_convention():
    assert validate.__doc__.splitlines()[0] == "check a configuration and name every fault"
    assert "examples:" in validate.EPILOG


def test_ok(run, file):
    path = file({"backends": {"a": {"type": "null"}, "b": {"type": "memory"}}})
    assert run(path) == (0, f"{path}: ok (2 backends, 1 source routed)\n", "")


def test_faults(run, file):
    path = file({"sidecar": {"tcp": {"prot": 1, "port": "x"}}})
    status, out, err = run(path)
    assert (status, out) == (78, "")
    assert err.splitlines() == [
        "sidecar.tcp.prot: unknown key, did you mean 'port'?",
        'sidecar.tcp.port: expected an integer from 0 to 65535, got the string "x"',
        f"{path}: 2 faults",
    ]


def test_missing_file(run):
    status, _, err = run("/no/such.json")
    assert status == 78
    assert err.splitlines()[0] == "/no/such.json: No such file or directory"


def test_file_of_the_environment(run, file, monkeypatch):
    path = file({})
    monkeypatch.setenv("WAFERMON_CONFIG", path)
    assert run()[1].startswith(f"{path}: ok")


def test_no_file_at_all(run, monkeypatch):
    monkeypatch.setattr(validate, "find_config", lambda option, environ: None)
    status, out, _ = run()
    assert status == 0
    assert out == "defaults (no file found): ok (1 backend, 1 source routed)\n"


def test_faults_that_only_building_finds(run, file, monkeypatch):
    def check(config):
        raise ConfigError(["backends.nas.path: unknown field {scr}"])

    monkeypatch.setattr(validate, "check", check)
    path = file({})
    assert run(path) == (78, "", f"backends.nas.path: unknown field {{scr}}\n{path}: 1 fault\n")


REFUSED = {
    "backends": {"w": {"type": "http", "url": "https://u:p@h/x#y"}},
    "alerts": {"a": {"drops": 1, "post": "ftp://h/"}},
}


@pytest.mark.parametrize(("command", "arguments"), [(explain, []), (config, ["--effective"])])
def test_no_command_takes_what_this_one_refuses(run, file, capsys, command, arguments):
    path = file(REFUSED)
    status, _, faults = run(path)
    assert status == 78 and len(faults.splitlines()) == 3
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    assert command.run(parser.parse_args(["--config", path, *arguments])) == 78
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", faults.splitlines()[:-1])


def test_all_that_is_wrong_with_an_address_at_once(run, file):
    _, _, err = run(file(REFUSED))
    assert err.splitlines()[:-1] == [
        "backends.w: url: a user or password does not belong there; use token_file or headers; "
        "url: expected ASCII without blanks, other characters %-encoded, no #",
        "alerts.a.post: url: expected http://host/path or https://host/path",
    ]
