"""What lies in deploy/container is what the programs that it is for take, and fits the sidecar."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from support import ROOT

from wafermon.cli import parser
from wafermon.cli.run import configure
from wafermon.sidecar import parse
from wafermon.sidecar.build import check

pytestmark = pytest.mark.slow  # of files, that are the same for each interpreter

FOLDER = ROOT / "deploy" / "container"
USER = 10_001


def needed(there, what):
    if not there:
        assert os.environ.get("CI") != "true", f"{what} is needed here"
        pytest.skip(f"there is no {what} here")


def tool(name):
    """A program that a package of the test environment brings."""
    found = shutil.which(name, path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    needed(found, name)
    return found


def lint(*command, text=None):
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)


def instructions():
    text = re.sub(r"\\\n\s*", "", (FOLDER / "Containerfile").read_text())
    return [line.split(" ", 1) for line in text.splitlines() if line and line[0] != "#"]


def instruction(name):
    (found,) = [rest for word, rest in instructions() if word == name]
    return found


def test_the_containerfile_by_hadolint():
    hadolint = tool("hadolint")
    done = lint(hadolint, str(FOLDER / "Containerfile"))
    assert (done.returncode, done.stdout) == (0, "")
    assert lint(hadolint, "-", text="FROM python:latest\nRUN cd /tmp && sudo ls\n").returncode != 0


def test_the_containerfile_starts_a_sidecar_that_is_not_root_and_hears_signals():
    assert instruction("USER") == f"{USER}:{USER}"
    entry, command = yaml.safe_load(instruction("ENTRYPOINT")), yaml.safe_load(instruction("CMD"))
    assert entry == ["/usr/local/bin/wafermon"], "a list: a shell would keep the signals"
    options = parser().parse_args(command)
    assert (options.data, options.unix) == ("/var/lib/wafermon", "/run/wafermon/sidecar.sock")
    config = parse({}).sidecar
    assert instruction("EXPOSE").split() == [str(config.tcp.port), str(config.health.metrics_port)]
    assert instruction("HEALTHCHECK").endswith('CMD ["wafermon", "health"]')
    assert instruction("FROM").endswith("-slim")


def compose():
    """The compose file with its variables filled in, as compose does it."""
    text = (FOLDER / "compose.yaml").read_text()
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_the_compose_file_by_its_specification():
    needed(importlib.util.find_spec("compose_spec"), "compose-spec")
    from compose_spec import PyCompose

    def valid(text):
        made = PyCompose.from_yaml(text)
        made.validate()
        made.to_spec()

    valid(compose())
    for right, wrong in (("stop_grace_period: 30s", "stop_grace_period: soon"),
                         ("read_only:", "read_onyl:")):
        assert right in compose()
        with pytest.raises(ValueError):
            valid(compose().replace(right, wrong))


def test_the_compose_file_fits_the_sidecar(monkeypatch):
    document = yaml.safe_load(compose())
    app, sidecar = document["services"]["app"], document["services"]["sidecar"]
    config = configured(FOLDER / "wafermon.yaml", ["run"], monkeypatch)
    settings = config.sidecar
    assert app["environment"] == {
        "MONITORING_TCP_HOST": "sidecar", "MONITORING_TCP_PORT": str(settings.tcp.port)
    }
    assert sidecar["ports"] == [
        f"127.0.0.1:{port}:{port}" for port in (settings.tcp.port, settings.health.metrics_port)
    ]
    path = sidecar["environment"]["CONFIG_FILE"]
    assert f"./wafermon.yaml:{path}:ro" in sidecar["volumes"]
    assert sidecar["read_only"] is True and sidecar["cap_drop"] == ["ALL"]
    assert int(sidecar["stop_grace_period"][:-1]) > settings.shutdown_timeout
    token = settings.health.token_file
    assert [f"/run/secrets/{name}" for name in sidecar["secrets"]] == [token] and not settings.health.insecure
    assert sidecar["healthcheck"]["test"] == ["CMD", "wafermon", "health", "--token-file", token]
    assert set(document["secrets"]) == set(sidecar["secrets"])
    mounted = [volume.split(":")[1] for volume in sidecar["volumes"]]
    for backend in config.backends.values():
        written = getattr(backend, "path", "")
        data = written.startswith(settings.data_dir)
        assert data or any(written.startswith(f"{folder}/") for folder in mounted), written
    named = {v.split(":")[0] for v in sidecar["volumes"]} - {"./wafermon.yaml"}
    assert named == set(document["volumes"])
    assert (FOLDER / sidecar["build"]["context"] / sidecar["build"]["dockerfile"]).exists()


def configured(path, words, monkeypatch):
    """What a sidecar would make of a file, that these words start."""
    monkeypatch.setenv("CONFIG_FILE", str(path))
    config = configure(parser().parse_args(words))
    check(config)
    return config


def test_the_manifest_by_kubernetes_own_schemas(tmp_path):
    validate = tool("kubernetes-validate")
    manifest = FOLDER / "kubernetes.yaml"
    done = lint(validate, "--strict", str(manifest))
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(manifest.read_text().replace("livenessProbe", "lifenessProbe"))
    assert lint(validate, "--strict", str(wrong)).returncode != 0


def test_the_manifest_fits_the_sidecar(tmp_path, monkeypatch):
    settings, pod = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    (sidecar,), (app,) = pod["spec"]["initContainers"], pod["spec"]["containers"]
    ((name, text),) = settings["data"].items()
    (tmp_path / name).write_text(text)
    words = [str(tmp_path / name) if word.endswith(name) else word for word in sidecar["args"]]
    config = configured(tmp_path / name, words, monkeypatch).sidecar

    assert sidecar["restartPolicy"] == "Always", "or it is no sidecar, and the app never starts"
    probes = {kind: sidecar[kind]["httpGet"]["path"] for kind in sidecar if kind.endswith("Probe")}
    assert probes == {
        "startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"
    }
    (port,) = sidecar["ports"]
    assert port["containerPort"] == config.health.metrics_port and config.health.host == "0.0.0.0"
    (variable,) = app["env"]
    assert variable == {"name": "MONITORING_UNIX_SOCKET", "value": config.unix.path}
    mounts = {mount["name"]: mount["mountPath"] for mount in sidecar["volumeMounts"]}
    assert mounts["token"] == os.path.dirname(config.health.token_file) and not config.health.insecure
    assert mounts["socket"] == os.path.dirname(config.unix.path) and mounts["data"] == config.data_dir
    assert {mount["name"] for mount in app["volumeMounts"]} == {"socket"}
    assert "emptyDir" in {v["name"]: v for v in pod["spec"]["volumes"]}["socket"]
    assert config.unix.mode == 0o666, "the app is another user"
    assert pod["spec"]["terminationGracePeriodSeconds"] > config.shutdown_timeout
    security = sidecar["securityContext"]
    assert (security["runAsUser"], security["readOnlyRootFilesystem"]) == (USER, True)
