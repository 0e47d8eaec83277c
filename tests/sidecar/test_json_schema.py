"""The schema for editors agrees with the loader, and what is written of a config loads again."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafermon.errors import ConfigError
from wafermon.sidecar import Config, kinds, parse
from wafermon.sidecar.interpolate import MASK
from wafermon.sidecar.json_schema import json_schema
from wafermon.sidecar.schema_tests import Payload
from wafermon.sidecar.written import default, effective
from wafermon.sidecar.yaml_written import yaml_of

jsonschema = pytest.importorskip("jsonschema")
SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

VALID = [
    {},
    {"sidecar": None, "backends": None, "routing": {}},
    {"sidecar": {"tcp": {"port": "${PORT:-17000}", "tls": {"cert": "c.pem", "key": None}},
                 "unix": {"mode": "0660", "group": "eda", "allow_uids": [0, "1000", "root"]},
                 "journal": {"max_bytes": "64 MiB", "commit_interval_ms": 0.5},
                 "health": {"metrics_port": 0}, "redact": ["data.ctx.password"]}},
    {"backends": {"nas": {"type": "file", "path": "/mnt/{src}.jsonl", "rotate": {"every": "day"}},
                  "up": {"type": "forward", "address": "a:1", "buffer": {"when_full": "sample"}},
                  "web": {"type": "http", "url": "http://x/", "headers": {"X-Key": "$$1"}}},
     "routing": {"*": [{"backend": "nas", "where": {"data.ctx.tool": ["a*", 7, True], "tid": "$${x}"}}],
                 "quiet": []}},
    {"tests": [{"messages": [{"src": "a", "type": "event", "data": {"x": [1, None]}}], "backends": []}]},
]
INVALID = [
    [],
    {"sidecar": []},
    {"sidecr": {}},
    {"sidecar": {"tcp": {"port": "17000"}}},
    {"sidecar": {"tcp": {"port": 65_536}}},
    {"sidecar": {"tcp": {"port": True}}},
    {"sidecar": {"tcp": {"tls": {}}}},
    {"sidecar": {"unix": {"mode": "888"}}},
    {"sidecar": {"unix": {"path": "a\nb"}}},
    {"sidecar": {"journal": {"sync": "ful", "max_bytes": "1 XB"}}},
    {"sidecar": {"journal": {"enabled": "yes"}}},
    {"sidecar": {"buffers": {"flush_interval": "5 minutes"}}},
    {"sidecar": {"redact": []}},
    {"sidecar": {"redact": ["ctx"]}},
    {"backends": {"a b": {"type": "null"}}},
    {"backends": {"a": {}}},
    {"backends": {"a": {"type": "fil"}}},
    {"backends": {"a": {"type": "file"}}},
    {"backends": {"a": {"type": "null", "path": "x"}}},
    {"routing": {"*": [{}]}},
    {"routing": {"*": [{"backend": "store", "types": ["poem"]}]}},
    {"routing": {"*": [{"backend": "store", "where": {"a..b": 1}}]}},
    {"routing": {"*": [{"backend": "store", "where": {"a": []}}]}},
    {"routing": {"*": [{"backend": "store", "sample": 1.5}]}},
    {"tests": [{"messages": [7], "backends": []}]},
    {"alerts": {"a": {}}},
    {"alerts": {"a": {"by": "06:00", "every": 5, "source": "x"}}},
    {"alerts": {"a": {"by": "25:00", "job": "x"}}},
]


def accepts(document):
    """What the loader makes of it: None, or its faults."""
    try:
        parse(copy.deepcopy(document), {"PORT": "1"})
    except ConfigError as error:
        return error.faults
    return None


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


@pytest.mark.parametrize("document", VALID, ids=lambda d: json.dumps(d)[:40])
def test_valid(document):
    assert accepts(document) is None
    VALIDATOR.validate(document)


@pytest.mark.parametrize("document", INVALID, ids=lambda d: json.dumps(d)[:60])
def test_invalid(document):
    assert accepts(document)
    assert not VALIDATOR.is_valid(document)


def test_every_key_says_what_it_means():
    for name, definition in SCHEMA["$defs"].items():
        for key, about in definition.get("properties", {}).items():
            assert key == "type" or about["description"], f"{name}.{key}"


# -- whatever stands in a document: the two agree, as far as a schema can tell ----------------

#: Texts, of which each kind takes some.
TEXTS = ["", "a", "store", "x y", "a\x07", "5m", "1.5h", "-1", "0660", "10MB", "a.b", "data.a.b", "a:1", "07:30",
         "mon-fri", "full", "warn", "event", "block", "${NO}", "${PORT}", "$$", "$${NO}", "17", "x" * 200, "{src}", "{bad}", "*"]
CANDIDATES = [*TEXTS, None, True, False, 0, 1, 5, -1, 70_000, 0.5, 1e301, [], {}]
RAW = st.sampled_from(CANDIDATES)


def mostly(usual):
    """Something else now and then."""
    return st.integers(0, 15).flatmap(lambda lot: usual if lot else RAW)


def readable(kind, raw):
    try:
        kind.read(raw)
    except ValueError:
        return False
    return True


def likely(kind, depth=0):
    """Documents for a kind, many of them right."""
    if isinstance(kind, kinds.Section):
        return mostly(section(kind.cls, depth + 1))
    if isinstance(kind, kinds.Variant):
        return st.sampled_from(sorted(kind.types)).flatmap(
            lambda name: section(kind.types[name], depth + 1).map(lambda inside: {"type": name, **inside})
        )
    if isinstance(kind, kinds.Shape):
        return st.sampled_from(sorted(kind.classes)).flatmap(lambda key: section(kind.classes[key], depth + 1))
    if isinstance(kind, kinds.Several):
        item = likely(kind.item, depth)
        return mostly(st.lists(item, min_size=1, max_size=2))
    if isinstance(kind, kinds.Table):
        keys = [text for text in TEXTS if readable(kind.key, text)]
        return mostly(st.dictionaries(st.sampled_from(keys), likely(kind.item, depth), max_size=2))
    if isinstance(kind, Payload):
        return st.dictionaries(st.sampled_from(["src", "type"]), RAW) | RAW
    good = [raw for raw in (*CANDIDATES, *kind.choices) if readable(kind, raw)]
    return mostly(st.sampled_from(good)) if good else RAW


def section(cls, depth):
    import dataclasses

    from wafermon.sidecar.fields import key_of

    fields = {key_of(field): likely(field.metadata["kind"], depth) for field in dataclasses.fields(cls)}
    required = [key_of(field) for field in dataclasses.fields(cls) if field.metadata.get("default") is ...]
    some = st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True)
    odd = st.integers(0, 15).map(lambda lot: {} if lot else {"zzz": 1})
    return st.builds(
        lambda picked, more: {**picked, **more},
        some.flatmap(lambda names: st.fixed_dictionaries({n: fields[n] for n in {*names, *required}})),
        odd,
    )


#: What only the loader can tell: what a text means, and how one key fits another.
BEYOND = ("a duration", "a size", "unknown field", "stands for", "is not set", "no backend is called",
          "is also sidecar", "have the same file", "has the same file", "others than this host", "in the clear",
          "expected a folder", "name or number", "needs above or below")


@settings(max_examples=150, deadline=None)
@given(likely(kinds.Section(Config)))
def test_schema_and_loader_agree(document):
    faults = accepts(document)
    if faults is None:
        assert not [error.message[:200] for error in VALIDATOR.iter_errors(document)]
    elif VALIDATOR.is_valid(document):
        assert all(any(words in fault for words in BEYOND) for fault in faults), faults


# -- written again --------------------------------------------------------------------------


def yaml_loads(text):
    pytest.importorskip("yaml")
    from wafermon.sidecar.yaml_format import read

    return read(text)


def test_the_default_loads_again():
    written = default()
    assert parse(json.loads(json.dumps(written.document)), {}) == Config()
    assert parse(yaml_loads(yaml_of(written.document)), {}) == Config()
    VALIDATOR.validate(written.document)
    assert not written.masked
    assert "\n    # Port to listen on; 0 takes any free one.\n    port: 17000\n" in yaml_of(written.document)
    assert max(map(len, yaml_of(written.document).splitlines())) <= 120


@settings(max_examples=150, deadline=None)
@given(likely(kinds.Section(Config)))
def test_what_is_in_force_loads_again(document):
    if accepts(document) is not None:
        return
    config = parse(document, {"PORT": "1"})
    written = effective(config)
    for again in (json.loads(json.dumps(written.document)), yaml_loads(yaml_of(written.document))):
        assert loads_again(again, written) in (config, None)


def loads_again(document, written):
    """What is written, loaded; None where it is refused for just what is masked."""
    if not written.masked:
        return parse(document, {})
    with pytest.raises(ConfigError) as caught:
        parse(document, {})
    assert [fault.partition(": ")[0].split(".messages[")[0] for fault in caught.value.faults] == [
        path.split(".messages[")[0] for path in written.masked
    ]
    assert all("put the real" in fault for fault in caught.value.faults)
    return None


@pytest.mark.parametrize("document", VALID, ids=lambda d: json.dumps(d)[:40])
def test_what_is_in_force_loads_again_and_fits_the_schema(document):
    config = parse(document, {})
    written = effective(config)
    VALIDATOR.validate(json.loads(json.dumps(written.document)))
    assert loads_again(yaml_loads(yaml_of(written.document)), written) in (config, None)


def test_secrets_are_masked():
    secret = "hunter2"
    config = parse({
        "sidecar": {"tcp": {"auth": {"secret_file": "fab"}}},
        "backends": {
            "web": {"type": "http", "url": f"https://bob:{secret}@fab:8443/in?key={secret}#x",
                    "headers": {"Authorization": f"Bearer {secret}", "X": "${TOKEN}"}},
            "hook": {"type": "http", "url": f"https://fab/services/{secret}"},
            "plain": {"type": "http", "url": "https://fab/"},
        },
    }, {"TOKEN": secret})
    written = effective(config)
    text = json.dumps(written.document) + yaml_of(written.document)
    assert secret not in text
    web = written.document["backends"]["web"]
    assert web["url"] == f"https://{MASK}@fab:8443/{MASK}"
    assert web["headers"] == {"Authorization": MASK, "X": MASK}
    assert written.masked == [
        "backends.web.url", "backends.web.headers.Authorization", "backends.web.headers.X", "backends.hook.url",
    ]
    assert written.document["backends"]["plain"]["url"] == "https://fab/"
    assert loads_again(json.loads(json.dumps(written.document)), written) is None


def test_secrets_of_alerts_and_of_tests_are_masked():
    secret = "hunter2"
    message = {"src": "db-1", "type": "event", "data": {"level": "warn", "ctx": {"password": secret, "pin": [secret], "lot": "$7"}}}
    document = {
        "sidecar": {"redact": ["data.ctx.password"]},
        "routing": {"db-*": [{"backend": "store", "redact": ["data.ctx.pin"]}]},
        "alerts": {
            "a": {"drops": 1, "exec": ["/bin/pa$$ge", "--token", secret, ""], "post": f"http://fab/{secret}"},
            "b": {"drops": 1, "exec": ["true"], "post": "http://fab:8080"},
        },
        "tests": [{"messages": [message, {"src": "a", "type": "heartbeat"}], "backends": ["store"]}],
    }
    written = effective(parse(document, {}))
    assert secret not in json.dumps(written.document) + yaml_of(written.document)
    assert written.masked == [
        *(f"alerts.a.exec[{i}]" for i in (1, 2, 3)), "alerts.a.post", "tests[0].messages[0]"
    ]
    assert written.document["alerts"]["a"]["exec"] == ["/bin/pa$$ge", MASK, MASK, MASK]
    shown = written.document["tests"][0]["messages"][0]["data"]
    assert shown == {"level": "warn", "ctx": {"password": MASK, "pin": MASK, "lot": "$7"}}
    again = yaml_loads(yaml_of(written.document))
    with pytest.raises(ConfigError) as caught:
        parse(again, {})
    assert caught.value.faults == [
        *(f'{path}: the variable MASKED is not set: "put the real value here"' for path in written.masked[:4]),
        "tests[0].messages[0]: a value is masked: put the real one there",
    ]
    VALIDATOR.validate(json.loads(json.dumps(written.document)))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=20), values, max_size=3))
def test_yaml_says_what_was_meant(document):
    yaml = pytest.importorskip("yaml")
    again = yaml.safe_load(yaml_of(document)) or {}
    assert again == document
    assert repr(again) == repr(document)  # 1 is not 1.0, and not True
