"""The examples run as they stand, and are short."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "examples"
NAMES = ("embed", "codec", "own_backend", "own_observer", "correlator")


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_at_most_60_lines(name):
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) <= 60


@pytest.mark.parametrize("name", NAMES)
def test_runs_as_a_program(name):
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py")], input=b"", capture_output=True, timeout=60,
        cwd=FOLDER.parent, env={**os.environ, "PYTHONPATH": str(FOLDER.parent)},
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode()


def test_embed(tmp_path):
    messages = load("embed").main(str(tmp_path / "errors.jsonl"))
    assert sorted({m["src"] for m in messages}) == ["db-loader", "nc"]
    assert (tmp_path / "errors.jsonl").read_text().count("die 17") == 1


def test_codec(capsys):
    codec = load("codec")
    assert codec.main(codec.sample()) == (2, 1)
    assert "invalid_json" in capsys.readouterr().err


def test_own_backend(capsys):
    assert load("own_backend").main() == ({"L1": 0.97, "L2": 0.91}, 1)
    assert '"reason":"no lot","backend":"table"' in capsys.readouterr().out


def test_own_observer():
    page = load("own_observer").main()
    assert 'lowest_yield{tool="EQP07"} 0.93' in page and 'lowest_yield{tool="EQP08"} 0.99' in page


def test_correlator():
    correlator = load("correlator")
    assert correlator.main(correlator.SAMPLE)[1:] == [
        "- file-receiver receive: 120 ms",
        "  - queue-service wait: 95 ms",
        "    - db-loader insert: 70 ms ERROR",
        "- mailer send: 5 ms (its parent is missing)",
    ]
