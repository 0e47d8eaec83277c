"""The schema, its kinds, and the reference that is made of them."""

import dataclasses
import pathlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafermon.sidecar import kinds, reference, schema
from wafermon.sidecar.load import parse

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "configuration.md"
REGENERATE = "python3 -m wafermon.sidecar.reference --write docs/configuration.md"


def test_document_holds_the_reference():
    text = DOCUMENT.read_text("utf-8")
    assert reference.insert(text) == text, f"out of date, run: {REGENERATE}"


def test_reference_needs_its_markers():
    with pytest.raises(ValueError, match="reference: begin"):
        reference.insert("no markers")


def test_reference_main_prints_and_writes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["reference"])
    reference.main()
    assert capsys.readouterr().out == reference.reference()

    page = tmp_path / "page.md"
    page.write_text(f"before\n{reference.BEGIN}\nold rows\n{reference.END}\nafter\n")
    monkeypatch.setattr("sys.argv", ["reference", "--write", str(page)])
    reference.main()
    assert reference.reference() in page.read_text()
    assert "old rows" not in page.read_text()


def test_every_key_has_one_sentence_and_a_type():
    rows = reference.reference().splitlines()[2:]
    for row in rows:
        path, kind, default, _, meaning = re.split(
            r" \| ", row.strip("| ").replace("|  |", "| - |")
        )
        assert re.fullmatch(r"`[a-z_.<>\[\]]+`", path)
        assert kind and default
        assert re.fullmatch(r"[A-Z`].*\.", meaning), meaning
    assert len({row.split(" | ")[0] for row in rows}) == len(rows)


def test_defaults():
    config = schema.Config()
    assert config.sidecar.tcp == schema.Tcp("127.0.0.1", 17_000, 100, 30.0, 0.0, True)
    assert config.sidecar.unix.mode == 0o660
    assert config.sidecar.unix.path == "./wafermon-data/sidecar.sock"
    assert config.sidecar.health.metrics_port == 17_001
    assert config.backends == {
        "store": schema.Store("./wafermon-data/store.db", 7 * 86_400.0, 2_000_000_000)
    }
    assert config.routing == {"*": (schema.Route("store"),)}


def test_frozen_and_comparable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        schema.Config().sidecar.tcp.port = 1
    assert schema.Config() == parse({}, {})
    assert schema.Config() != parse({"sidecar": {"tcp": {"port": 1}}}, {})


def test_data_dir_moves_what_is_in_it():
    config = parse({"sidecar": {"data_dir": "/d", "unix": {"path": None}}}, {})
    assert config.sidecar.unix.path == "/d/sidecar.sock"
    assert config.backends["store"].path == "/d/store.db"


def test_given_paths_stay():
    backends = {"store": {"type": "store", "path": "/x.db"}}
    config = parse({"sidecar": {"unix": {"path": "/s"}}, "backends": backends}, {})
    assert config.sidecar.unix.path == "/s"
    assert config.backends["store"].path == "/x.db"


@pytest.mark.parametrize(
    ("raw", "value"),
    [(0, 0), (30, 30), (0.25, 0.25), ("500ms", 0.5), ("30s", 30), ("30", 30), ("5m", 300)]
    + [("12h", 43_200), ("7d", 604_800), ("1.5h", 5_400)],
)
def test_durations(raw, value):
    assert kinds.Seconds(0, 1e9).read(raw) == value


@pytest.mark.parametrize("raw", ["", "s", "-1s", "1 s ", "1w", "1e3", "5M", "1:30", "٣s", True, -1])
def test_no_durations(raw):
    with pytest.raises(ValueError):
        kinds.Seconds(0, 1e9).read(raw)


@pytest.mark.parametrize(
    ("raw", "value"),
    [(0, 0), (512, 512), ("512", 512), ("512B", 512), ("1KB", 1_000), ("1kb", 1_000)]
    + [
        ("1K", 1_000),
        ("100MB", 10**8),
        ("64KiB", 65_536),
        ("2GB", 2 * 10**9),
        ("1.5MiB", 1_572_864),
    ]
    + [("1TiB", 2**40), ("1 GB", 10**9)],
)
def test_sizes(raw, value):
    assert kinds.Bytes(0, 10**15).read(raw) == value


@pytest.mark.parametrize("raw", ["", "MB", "-1MB", "1PB", "1iB", "9" * 400 + "GB", 1.5, True, -1])
def test_no_sizes(raw):
    with pytest.raises(ValueError):
        kinds.Bytes(0, 10**15).read(raw)


@pytest.mark.parametrize("raw", [float("nan"), float("inf"), -0.1, 1.1, "0.5", True, None, 10**400])
def test_no_share(raw):
    with pytest.raises(ValueError):
        kinds.Number(0, 1).read(raw)


@pytest.mark.parametrize("raw", ["", "a\nb", "a\x00", "\ud800", "x" * 4_097, 7, None])
def test_no_text(raw):
    with pytest.raises(ValueError):
        kinds.Text().read(raw)


@pytest.mark.parametrize("raw", ["66", "0o660", "888", "1777", "rw-rw----", 432, None])
def test_no_mode(raw):
    with pytest.raises(ValueError):
        kinds.Mode().read(raw)


ALL_KINDS = [
    kinds.Integer(0, 10),
    kinds.Number(0, 1),
    kinds.Seconds(0, 10),
    kinds.Bytes(0, 10),
    kinds.Flag(),
    kinds.Text(),
    kinds.Mode(),
    kinds.Choice("a", "b"),
]


@given(kind=st.sampled_from(ALL_KINDS), text=st.text() | st.from_regex(r"[0-9.eE+-]+[a-zA-Z]*"))
def test_text_of_the_environment_parses_or_is_refused(kind, text):
    try:
        value = kind.parse(text)
    except ValueError:
        return
    assert value is not None


@pytest.mark.parametrize(
    ("raw", "value"), [("eda", "eda"), ("domain.eda-1", "domain.eda-1"), ("0", 0), (1000, 1000)]
)
def test_accounts(raw, value):
    assert kinds.Account().read(raw) == value


@pytest.mark.parametrize(
    "raw",
    ["", "-1", -1, 2**40, True, 1.0, None, "a b", "9" * 20, pytest.param(10**5_000, id="huge")],
)
def test_no_accounts(raw):
    with pytest.raises(ValueError):
        kinds.Account().read(raw)
