"""Every example in a docstring, and every Python example in the documents, does what it says."""

import doctest
import importlib
import os
import pathlib
import pkgutil
import subprocess
import sys

import pytest
from support import ROOT

import wafermon

#: Their examples talk to a sidecar, or change the logging of the process.
IN_A_PROCESS = {"wafermon.client", "wafermon.contrib.logging"}
PROLOGUE = """
import doctest, importlib, os, logging.config, sys
from wafermon.client import Client
module = importlib.import_module(sys.argv[1])
names = {"client": Client("doc"), "os": os, "logging": logging}
sys.exit(doctest.testmod(module, extraglobs=names).failed)
"""
NAMES = sorted(
    info.name
    for info in pkgutil.walk_packages(wafermon.__path__, "wafermon.")
    if not info.name.endswith("__main__") and ".demo" not in info.name
)


@pytest.mark.parametrize("name", sorted(IN_A_PROCESS))
def test_examples_against_a_sidecar(name, sidecar):
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE, name], capture_output=True, text=True, timeout=60, cwd=ROOT,
        env={**os.environ, "MONITORING_UNIX_SOCKET": sidecar.ready["unix"]},
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", sorted(set(NAMES) - IN_A_PROCESS))
def test_examples(name, tmp_path):
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"tmp": str(tmp_path)})
    assert result.failed == 0


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__, "what does this file own?"
    for public, value in vars(module).items():
        if not public.startswith("_") and getattr(value, "__module__", "") == name and callable(value):
            assert value.__doc__, f"{name}.{public}"


def test_classes_of_the_library_have_an_example():
    from wafermon import delivery, flow, net, observe, wire

    wanted = [wire.Decoder, wire.encode, wire.Session, flow.Router, flow.Correlator, net.EventLoop,
              net.Server, net.AdminServer, observe.Registry, delivery.BatchQueue, delivery.Route,
              delivery.Pipeline, delivery.Backend]
    for value in wanted:
        assert ">>>" in value.__doc__, value
    assert pathlib.Path(wafermon.__path__[0], "py.typed").exists()
