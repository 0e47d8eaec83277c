"""Foreign readers of what `/metrics` says: prometheus_client's strict parser, and promtool."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*(?:\{.*\})?) (\S+)\Z")


def promtool(*arguments, stdin=b"", cwd=None):
    """Run promtool; what it said. Where it cannot be had the test is skipped, but not in CI."""
    if shutil.which("promtool") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is missing, and this is CI")
        pytest.skip("there is no promtool here")
    done = subprocess.run(
        ["promtool", *arguments], input=stdin, capture_output=True, timeout=60, cwd=cwd
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def strict(text):
    """The families of an OpenMetrics page, by name, as the strict parser reads them."""
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    unique(text)
    return {found.name: found for found in parser.text_string_to_metric_families(text)}


def lenient(text):
    """The families of a page in the text format, by name; checked for what the parser lets pass."""
    parser = pytest.importorskip("prometheus_client.parser")
    unique(text)
    return {found.name: found for found in parser.text_string_to_metric_families(text)}


def unique(text):
    """No sample stands twice, none outside of its family, no family in two pieces."""
    assert not text or (text.endswith("\n") and "\n\n" not in text)
    seen, families, name = set(), set(), ""
    for line in text.split("\n")[:-1]:
        if line.startswith("# TYPE "):
            name = line.split(" ")[2]
            assert name not in families, f"{name} stands in two pieces"
            families.add(name)
        elif not line.startswith("#"):
            sample = _SAMPLE.match(line)
            assert sample, line
            key = sample[1]
            assert key not in seen, f"{key} stands twice"
            assert key.startswith(name), f"{key} stands under {name}"
            seen.add(key)
