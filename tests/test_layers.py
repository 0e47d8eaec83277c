"""The direction of the arrows: a module imports only from rooms above its own."""

import ast
import pathlib
import sys

import pytest

import wafermon

ROOT = pathlib.Path(wafermon.__path__[0])
#: From the top of the data path down; a room may import what stands in its set.
ROOMS = {
    "errors": set(),
    "message": {"errors"},
    "wire": {"errors", "message"},
    "observe": {"errors"},
    "flow": {"errors", "message", "wire", "observe"},
    "delivery": {"errors", "message", "wire", "observe", "flow"},
    "backends": {"errors", "message", "observe", "flow", "delivery"},
    "net": {"errors", "message", "wire", "observe", "flow", "delivery"},
    "client": set(),
    "sdk": set(),
    "testing": {"errors", "message", "wire", "observe", "flow", "delivery", "backends", "net"},
    "sidecar": {"errors", "message", "wire", "observe", "flow", "delivery", "backends", "net"},
    "cli": {"errors", "message", "wire", "observe", "flow", "delivery", "backends", "net", "client",
            "sdk", "sidecar", "demo"},
    "demo": {"client", "sdk"},
    "contrib": {"errors", "message", "wire", "observe", "flow", "delivery", "backends", "net", "client"},
    "__main__": {"cli"},
}
MODULES = sorted(ROOT.rglob("*.py"))


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py") if sys.version_info >= (3, 9) else ""


def imports(path):
    """Every absolute import, also within functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that they can be searched for"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_up(path):
    here = room(path)
    if here == "__init__":
        assert not list(imports(path)), "importing the package imports no room"
        return
    for name in imports(path):
        if name.startswith("wafermon."):
            there = name.split(".")[1]
            assert there == here or there in ROOMS[here] | {"__version__"}, f"{here} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_runtime_is_the_standard_library(path):
    if not hasattr(sys, "stdlib_module_names"):
        pytest.skip("this Python does not know the names of its standard library")
    allowed = {"wafermon", "__future__", "tomllib", *sys.stdlib_module_names}
    if path.name == "yaml_format.py":
        allowed.add("yaml")
    if path.relative_to(ROOT).parts == ("contrib", "prometheus.py"):
        allowed.add("prometheus_client")
    for name in imports(path):
        assert name.split(".")[0] in allowed, name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_without_io_do_none(path):
    banned = {"message": 1, "errors": 1, "wire": 1, "flow": 1}
    if room(path) not in banned:
        pytest.skip("this room may do I/O")
    for name in imports(path):
        assert name.split(".")[0] not in {"socket", "selectors", "threading", "os", "time", "asyncio"}


def test_every_room_is_known():
    assert {room(path) for path in MODULES} - {"__init__"} <= set(ROOMS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_asyncio_is_not_used(path):
    if path.name == "client.py":
        pytest.skip("it serves programs that use asyncio")
    assert all(name.split(".")[0] != "asyncio" for name in imports(path))
