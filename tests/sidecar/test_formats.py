"""Files of the three formats."""

import json
import pathlib
import re
import sys

import pytest

from wafermon.errors import ConfigError
from wafermon.sidecar import formats
from wafermon.sidecar.load import load

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture
def file(tmp_path):
    """Write a file and return its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


@pytest.fixture
def fault(file):
    """The one fault of a file, without the path before it."""

    def of(name, content):
        path = file(name, content)
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert len(caught.value.faults) == 1
        return caught.value.faults[0].replace(f"{path}: ", "FILE: ")

    return of


def example(language):
    text = DOCUMENT.read_text("utf-8")
    return max(re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL), key=len)


def test_examples_are_the_same_in_every_format(file):
    config = load(file("w.json", example("json")), {})
    assert config.routing["queue-service"][0].where == {"data.ctx.tool": ("EQP*", "LITHO-?")}
    assert config.backends["nas"].path == "/mnt/nas/logs/{src}/{date}.jsonl"
    if sys.version_info >= (3, 11):
        assert load(file("w.toml", example("toml")), {}) == config
    if formats_yaml():
        assert load(file("w.yaml", example("yaml")), {}) == config


def formats_yaml():
    try:
        import yaml
    except ImportError:
        return None
    return yaml


needs_yaml = pytest.mark.skipif(not formats_yaml(), reason="needs PyYAML")
needs_toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="needs tomllib")


@pytest.mark.parametrize("content", ["", " \n\n", "\ufeff"])
@pytest.mark.parametrize("ending", ["json", "toml", "yaml", "yml", "YAML"])
def test_empty_is_all_defaults(file, content, ending):
    assert load(file(f"w.{ending}", content), {}) == load(file("x.json", "{}"), {})


def test_byte_order_mark_is_skipped(file):
    assert load(file("w.json", "\ufeff{}"), {})


def test_missing_file():
    with pytest.raises(ConfigError) as caught:
        load("/no/such/file.json")
    assert caught.value.faults == ["/no/such/file.json: No such file or directory"]


def test_folder(tmp_path):
    folder = tmp_path / "w.json"
    folder.mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        load(str(folder))


def test_path_that_no_file_can_have():
    with pytest.raises(ConfigError, match="null byte"):
        load("w\x00.json")


def test_whole_file_faults(fault):
    assert fault("w.conf", "") == (
        "FILE: unknown format, expected a name that ends in .yaml, .yml, .toml, .json"
    )
    assert fault("w.json", b"{\n\xff}") == "FILE: line 2 is not UTF-8"
    assert fault("w.json", " " * (formats.MAX_BYTES + 1)) == (
        "FILE: larger than 1 MiB, so hardly a configuration"
    )
    assert fault("w.json", "[" * 100_000) == "FILE: nested too deeply"
    assert fault("w.json", "[]") == "top level: expected a mapping, got a list"


def test_json_faults(fault):
    assert fault("w.json", '{\n "sidecar": {,}}') == (
        "FILE: not valid JSON, line 2, column 14: Expecting property name enclosed in double quotes"
    )
    assert fault("w.json", '{"a": NaN}') == "FILE: not valid JSON: NaN is no number"
    assert fault("w.json", '{"sidecar": {"tcp": {"port": 1, "port": 2}}}') == (
        "sidecar.tcp.port: the key stands here more than once"
    )
    assert fault("w.json", '{"sidecar": {}, "sidecar": {}}') == (
        "sidecar: the key stands here more than once"
    )
    assert fault("w.json", json.dumps({"a": 0})[:-2] + "1" * 9_999 + "}")


@needs_toml
def test_toml_faults(fault):
    assert fault("w.toml", "a = 1\na = 2").startswith("FILE: not valid TOML: ")
    assert "line 2" in fault("w.toml", "a = 1\nb = = 2")
    assert fault("w.toml", "[sidecar]\ndata_dir = 2026-11-23") == (
        "sidecar.data_dir: expected a path, got a date"
    )


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="has tomllib")
def test_toml_needs_a_newer_python(fault):
    assert "Python 3.11" in fault("w.toml", "a = 1")


def test_yaml_needs_pyyaml(fault, monkeypatch):
    import wafermon.sidecar

    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.delitem(sys.modules, "wafermon.sidecar.yaml_format", raising=False)
    monkeypatch.delattr(wafermon.sidecar, "yaml_format", raising=False)
    assert "pip install wafermon[yaml]" in fault("w.yaml", "a: 1")


def test_yaml_is_imported_only_for_yaml(file):
    import subprocess

    code = (
        "import sys; from wafermon.sidecar.load import load; load(sys.argv[1]);"
        "sys.exit('yaml' in sys.modules)"
    )
    command = [sys.executable, "-c", code, file("w.json", "{}")]
    assert subprocess.run(command, check=False).returncode == 0


@needs_yaml
class TestYaml:
    def test_only_comments_are_defaults(self, file):
        assert load(file("w.yaml", "# nothing\nsidecar:\nrouting: {}\n"), {})
        assert formats.read_document(file("w.yaml", "# nothing\n")) == {}

    def test_anchors_and_merged_keys(self, file):
        text = """
            backends:
              a: &file {type: file, path: /a}
              b: {<<: *file, path: /b}
        """
        assert load(file("w.yaml", text), {}).backends["b"].path == "/b"

    def test_repeated_key(self, fault):
        assert fault("w.yaml", "sidecar:\n  tcp: {port: 1}\n  tcp: {port: 2}") == (
            "sidecar.tcp: the key stands here more than once"
        )

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("unix: {mode: 0660}", "unix.mode: YAML reads 0660 as an octal number: quote it"),
            ("tcp: {port: 017}", "tcp.port: YAML reads 017 as an octal number: quote it"),
            (
                "tcp: {host: 12:30:00}",
                "tcp.host: YAML reads 12:30:00 as a number of base 60: quote it",
            ),
            (
                "tcp: {idle_timeout: 1:30.5}",
                "tcp.idle_timeout: YAML reads 1:30.5 as a number of base 60: quote it",
            ),
            ("data_dir: 2026-11-23", "data_dir: YAML reads 2026-11-23 as a date: quote it"),
            ("data_dir: on", "data_dir: expected a path, got the boolean true: quote it"),
            ("data_dir: 7", "data_dir: expected a path, got the integer 7: quote it"),
        ],
    )
    def test_traps(self, fault, line, told):
        assert fault("w.yaml", f"sidecar:\n  {line}") == f"sidecar.{told}"

    @pytest.mark.parametrize(
        ("key", "told"),
        [
            ("no", "routing: expected keys of text, got the boolean false: quote it"),
            ("7", "routing: expected keys of text, got the integer 7: quote it"),
            ("~", "routing: expected keys of text, got null: quote it"),
            ("2026-11-23", "routing: YAML reads the key 2026-11-23 as a date: quote it"),
        ],
    )
    def test_trap_as_a_key(self, fault, key, told):
        assert fault("w.yaml", f"routing: {{{key}: []}}") == told

    def test_plain_numbers_and_booleans(self, file):
        text = "sidecar: {tcp: {port: 0, keepalive: off, read_timeout: 1.5, max_connections: 0x10}}"
        tcp = load(file("w.yaml", text), {}).sidecar.tcp
        assert (tcp.port, tcp.keepalive, tcp.read_timeout, tcp.max_connections) == (
            0,
            False,
            1.5,
            16,
        )

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("a: [1\nb: 2", r"not valid YAML, line 2, column 2: while parsing a flow sequence"),
            ("a:\n\t- b", "line 2, column 1: while scanning"),
            ("sidecar:\n  tcp: {port: ${PORT}}", r'line 2.*quote "\$\{\.\.\.\}" between'),
            ("routing:\n  *: []", 'line 2.*quote text that begins with an asterisk: "[*]"'),
            ("routing:\n  *db: []", "line 2.*asterisk"),
            ("a: !!python/object:os.system {}", "line 1.*could not determine a constructor"),
            ("? [a]\n: b", "unhashable key"),
            ("a: 1\n---\nb: 1", "line 2.*another document"),
            ("a: !!bool x", "a value does not fit its tag"),
            ("a: !!float x", "a value does not fit its tag"),
            ("a: \x01", "not valid YAML"),
            ("a: !!python/" + "x" * 9_999 + " 1", "^.{,400}$"),
            ("- a", "top level: expected a mapping, got a list"),
            ("7", "top level: expected a mapping, got the integer 7"),
        ],
    )
    def test_faults(self, fault, text, told):
        assert re.search(told, fault("w.yaml", text))

    def test_trap_is_echoed_in_bounds(self, fault):
        assert len(fault("w.yaml", f"sidecar: {{data_dir: 0{'1' * 9_999}}}")) < 200

    def test_two_odd_keys_alike(self, file):
        with pytest.raises(ConfigError) as caught:
            load(file("w.yaml", "routing: {7: [], 7: []}"), {})
        assert caught.value.faults[0] == "routing.the integer 7: the key stands here more than once"

    def test_document_within_itself(self, fault):
        assert fault("w.yaml", "&a\nsidecar: {tcp: *a}").startswith("sidecar.tcp.sidecar: unknown")

    def test_explosion_of_aliases_is_not_echoed(self, fault):
        lines = ["a0: &a0 [x, x]"]
        lines += [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
        text = "sidecar:\n  tcp:\n    host: &a\n" + "\n".join(f"      {line}" for line in lines)
        assert fault("w.yaml", text) == (
            "sidecar.tcp.host: expected a host name or an address, got a mapping"
        )
