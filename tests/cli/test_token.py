"""Commands that ask a sidecar which asks for a token."""

import json

import pytest

from wafermon.cli import main
from wafermon.cli.ask import fetch
from wafermon.sidecar import Sidecar
from wafermon.sidecar.load import parse


@pytest.fixture
def asking(tmp_path):
    """The admin address of a sidecar, and the file of the token that it asks for."""
    secret = tmp_path / "token"
    secret.write_text("tell nobody but the fab\n")
    health = {"metrics_port": 0, "token_file": str(secret)}
    with Sidecar(parse({"sidecar": {"data_dir": str(tmp_path / "d"), "tcp": {"port": 0}, "health": health}})) as sidecar:
        yield sidecar.addresses()["admin"], str(secret)


@pytest.mark.parametrize("turned", [False, True])
def test_the_token_goes_along_in_either_order(asking, turned, capsys):
    admin, secret = asking
    options = [["--admin", admin], ["--token-file", secret]]
    assert main(["sources", "--json", *(word for option in (options[::-1] if turned else options) for word in option)]) == 0
    assert json.loads(capsys.readouterr().out)["sources"] == []


def test_without_it_the_command_says_what_to_do(asking, tmp_path, capsys):
    admin, _ = asking
    assert main(["sources", "--admin", admin]) == 1
    assert "--token-file FILE" in capsys.readouterr().err
    (tmp_path / "wrong").write_text("something else entirely\n")
    assert main(["sources", "--admin", admin, "--token-file", str(tmp_path / "wrong")]) == 1
    with pytest.raises(SystemExit):
        main(["sources", "--admin", admin, "--token-file", str(tmp_path / "none")])
    assert "No such file" in capsys.readouterr().err


def test_an_address_alone_will_do(asking):
    host, _, port = asking[0].rpartition(":")
    with pytest.raises(Exception, match="--token-file"):
        fetch((host, int(port)), "/api/sources")
