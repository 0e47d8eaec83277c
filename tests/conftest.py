"""Fixtures that all tests share."""

import pytest
from hypothesis import settings
from support import SidecarProcess
from volumes import disk, small_disk  # noqa: F401 - fixtures

# How long an example takes says more of the machine than of the code.
settings.register_profile("unhurried", settings(deadline=None))
settings.load_profile("unhurried")


@pytest.fixture
def start_sidecar(tmp_path):
    """Start sidecars; each is stopped at the end, and must have kept account of everything."""
    started = []

    def start(*arguments, **more):
        folder = tmp_path / f"sidecar-{len(started)}"
        folder.mkdir()
        sidecar = SidecarProcess(folder, *arguments, **more)
        started.append(sidecar)
        return sidecar

    yield start
    for sidecar in started:
        try:
            if sidecar.process.poll() is None:
                sidecar.check_conservation()
        finally:
            if sidecar.process.poll() is None:
                sidecar.process.kill()
            sidecar.process.communicate()


@pytest.fixture
def sidecar(start_sidecar):
    """A sidecar with no config at all."""
    return start_sidecar()
