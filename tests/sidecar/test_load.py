"""Finding, and checking a document."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafermon.errors import ConfigError
from wafermon.sidecar.load import find_config, parse
from wafermon.sidecar.schema import Config, Console, File, Memory, Null, Route


def faults(document, **environ):
    with pytest.raises(ConfigError) as caught:
        parse(document, environ)
    return caught.value.faults


def test_search_order(tmp_path):
    both = {"CONFIG_FILE": "/c", "WAFERMON_CONFIG": "/w"}
    there = tmp_path / "wafermon.toml"
    there.touch()
    searched = [str(tmp_path / "wafermon.yaml"), str(there)]
    assert find_config("/o", both, searched) == "/o"
    assert find_config(None, both, searched) == "/c"
    assert find_config("", {"WAFERMON_CONFIG": "/w"}, searched) == "/w"
    assert find_config(None, {"CONFIG_FILE": ""}, searched) == str(there)
    assert find_config(None, {}, searched[:1]) is None


@pytest.mark.parametrize(
    "document", [{}, None, {"sidecar": None}, {"routing": {}, "backends": None}]
)
def test_nothing_is_all_defaults(document):
    assert parse(document, {}) == Config()


def test_every_fault_at_once_with_its_path():
    document = {
        "sidecar": {
            "tcp": {"prot": 1, "port": "17k", "keepalive": 1, "max_connections": True},
            "unix": {"mode": 432},
            "health": {"metrics_port": 65_536},
            "shutdown_timeout": "soon",
        },
        "routing": {
            "queue-service": [
                {"backend": "nsa", "types": ["event", "spam"], "level": "warning"},
                {"types": []},
                "nas",
            ],
            "*": {"backend": "nas"},
        },
        "backends": {
            "nas": {"type": "flie"},
            "disk": {"type": "file", "rotate": {"max_bytes": "big", "every": "week"}},
            "drop": {"type": None},
            "a/b": {"type": "null", "stream": "stdout"},
        },
        "sidecars": {},
    }
    assert sorted(faults(document)) == sorted(
        [
            "sidecars: unknown key, did you mean 'sidecar'?",
            "sidecar.tcp.prot: unknown key, did you mean 'port'?",
            'sidecar.tcp.port: expected an integer from 0 to 65535, got the string "17k"',
            "sidecar.tcp.max_connections: expected an integer from 1 to 1000000,"
            " got the boolean true",
            "sidecar.tcp.keepalive: expected true or false, got the integer 1",
            'sidecar.unix.mode: expected a string of octal digits from "000" to "0777",'
            ' such as "0660", got the integer 432: quote it',
            "sidecar.health.metrics_port: expected an integer from 0 to 65535,"
            " got the integer 65536",
            'sidecar.shutdown_timeout: expected a duration from 0 to 1h, such as 30 or "5m",'
            ' got the string "soon"',
            "backends.nas.type: expected one of file, store, console, null, memory, forward, http,"
            " got the string \"flie\", did you mean 'file'?",
            "backends.disk.path: missing, expected a path",
            "backends.disk.rotate.max_bytes: expected a size from 0 to 1000TB,"
            ' such as "100MB" or "64KiB", got the string "big"',
            'backends.disk.rotate.every: expected one of hour, day, got the string "week"',
            "backends.drop.type: expected one of file, store, console, null, memory, forward, http,"
            ' got null: quote it, "null"',
            'backends."a/b": as a key expected a backend\'s name of up to 64 letters, digits'
            " and . _ -",
            'backends."a/b".stream: unknown key, expected one of buffer, retry, breaker, timeout,'
            " dead_letter",
            "routing.queue-service[0].backend: no backend is called 'nsa', did you mean 'nas'?",
            "routing.queue-service[0].types[1]: expected one of event, goodbye, heartbeat,"
            " metric, progress, resource, span, got the string \"spam\", did you mean 'span'?",
            "routing.queue-service[0].level: expected one of debug, info, warn, error, fatal,"
            " got the string \"warning\", did you mean 'warn'?",
            "routing.queue-service[1].backend: missing, expected a backend's name of up to 64"
            " letters, digits and . _ -",
            "routing.queue-service[1].types: expected a list, each one of event, goodbye,"
            " heartbeat, metric, progress, resource, span, got an empty one",
            'routing.queue-service[2]: expected a mapping, got the string "nas"',
            "routing.*: expected a list, each a mapping, got a mapping",
        ]
    )


def test_backends_and_routes():
    config = parse(
        {
            "backends": {
                "nas": {"type": "file", "path": "/x", "rotate": {"max_bytes": 0, "every": None}},
                "out": {"type": "console", "stream": "stderr"},
                "drop": {"type": "null"},
                "last": {"type": "memory", "max_messages": 5},
            },
            "routing": {
                "q": [
                    {
                        "backend": "nas",
                        "types": ["span"],
                        "level": "warn",
                        "where": {"data.ctx.tool": "EQP*", "data.n": [1, True, 0.5]},
                        "sample": 0.1,
                    }
                ],
                "noisy": [],
                "db-*": [{"backend": "drop", "types": None, "level": None, "where": {}}],
            },
        },
        {},
    )
    assert config.backends["nas"] == File("/x", File("/x").rotate.__class__(max_bytes=0))
    assert config.backends["out"] == Console("stderr")
    assert config.backends["drop"] == Null()
    assert config.backends["last"] == Memory(5)
    where = {"data.ctx.tool": ("EQP*",), "data.n": (1, True, 0.5)}
    assert config.routing == {
        "q": (Route("nas", ("span",), "warn", where, 0.1),),
        "noisy": (),
        "db-*": (Route("drop"),),
    }


def test_without_routing_everything_goes_to_every_backend():
    config = parse({"backends": {"a": {"type": "null"}, "b": {"type": "memory"}}}, {})
    assert config.routing == {"*": (Route("a"), Route("b"))}


def test_a_store_is_not_there_when_only_others_are_named():
    document = {"backends": {"nas": {"type": "null"}}, "routing": {"*": [{"backend": "store"}]}}
    assert faults(document) == ["routing.*[0].backend: no backend is called 'store', there is nas"]


def test_names_are_not_missed_in_backends_that_have_faults():
    document = {"backends": {"nas": {"type": "file"}}, "routing": {"*": [{"backend": "nas"}]}}
    assert faults(document) == ["backends.nas.path: missing, expected a path"]
    document["backends"] = "nas"
    assert faults(document) == ['backends: expected a mapping, got the string "nas"']


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        ({"a..b": 1}, ".where.a..b: as a key expected a dotted path such as data.ctx.tool"),
        (
            {"a": None},
            ".where.a: expected text, a number or a boolean, got null",
        ),
        (
            {"a": {}},
            ".where.a: expected text, a number or a boolean, or a list of such, got a mapping",
        ),
        (
            {"a": []},
            ".where.a: expected text, a number or a boolean, or a list of such, got an empty one",
        ),
        ({"a": [[]]}, ".where.a[0]: expected text, a number or a boolean, got a list"),
        ("a", '.where: expected a mapping, got the string "a"'),
    ],
)
def test_where(where, fault):
    document = {"routing": {"*": [{"backend": "store", "where": where}]}}
    assert faults(document) == [f"routing.*[0]{fault}"]


def test_clashes():
    document = {
        "sidecar": {"tcp": {"port": 9}, "health": {"metrics_port": 9}},
        "backends": {
            "a": {"type": "file", "path": "x/y"},
            "b": {"type": "file", "path": "x/./y"},
            "s": {"type": "store"},
            "t": {"type": "store"},
        },
    }
    assert faults(document) == [
        "sidecar.health.metrics_port: 9 is also sidecar.tcp.port",
        "backends.b.path: backend 'a' has the same file",
        "backends.t.path: backend 's' has the same file",
    ]
    document = {
        "sidecar": {"data_dir": "d", "tcp": {"host": "0.0.0.0", "port": 9, "insecure": True},
                    "unix": {"path": "y" * 200}, "health": {"metrics_port": 9}},
        "backends": {"a": {"type": "file", "path": "d/dead-letters.jsonl"},
                     "b": {"type": "file", "path": "y" * 200}},
    }
    assert faults(document) == [
        "sidecar.health.metrics_port: 9 is also sidecar.tcp.port",
        "sidecar.unix.path: expected a path of at most 101 bytes, as the system takes no longer one"
        " for a socket",
        "backends.a.path: the dead letters have the same file",
        "backends.b.path: the Unix socket has the same file",
    ]
    ports = {"tcp": {"port": 0}, "health": {"metrics_port": 0}}
    assert parse({"sidecar": ports}, {}).sidecar.tcp.port == 0


def test_values_of_the_environment_are_converted():
    document = {
        "sidecar": {
            "tcp": {"port": "${PORT}", "keepalive": "${KEEP}", "idle_timeout": "${T:-5m}"},
            "data_dir": "${DIR}/w",
        },
        "backends": {
            "nas": {"type": "${KIND}", "path": "${DIR}/{src}", "rotate": {"max_bytes": "${MAX}MB"}}
        },
        "routing": {"${PORT}": [{"backend": "${TO}", "sample": "${SHARE}", "types": ["${TYPE}"]}]},
    }
    environ = {"PORT": "17100", "KEEP": "off", "DIR": "/d", "KIND": "file", "MAX": "1"}
    environ.update({"TO": "nas", "SHARE": "0.5", "TYPE": "span"})
    config = parse(document, environ)
    tcp = config.sidecar.tcp
    assert (tcp.port, tcp.keepalive, tcp.idle_timeout) == (17_100, False, 300)
    assert config.backends["nas"].path == "/d/{src}"
    assert config.backends["nas"].rotate.max_bytes == 1_000_000
    assert config.routing == {"${PORT}": (Route("nas", ("span",), sample=0.5),)}


def test_the_environment_of_the_process_is_the_default(monkeypatch):
    monkeypatch.setenv("WAFERMON_TEST_PORT", "17100")
    assert parse({"sidecar": {"tcp": {"port": "${WAFERMON_TEST_PORT}"}}}).sidecar.tcp.port == 17_100


def test_faults_of_variables():
    tcp = {
        "host": "${NONE}",
        "port": "${SECRET}",
        "keepalive": "${NONE:?ask}",
        "read_timeout": "1${",
    }
    told = faults({"sidecar": {"tcp": tcp}}, SECRET="hunter2")
    assert told[:2] == [
        "sidecar.tcp.host: the variable NONE is not set,"
        " expected a value or a default: ${NONE:-...}",
        'sidecar.tcp.port: expected an integer from 0 to 65535, got what "${SECRET}" stands for',
    ]
    assert told[3] == 'sidecar.tcp.keepalive: the variable NONE is not set: "ask"'
    assert len(told) == 4 and "hunter2" not in str(told)


def test_nan_is_nothing():
    nan = float("nan")
    told = faults({"sidecar": {"data_dir": nan, "shutdown_timeout": nan}})
    assert told[0].endswith("got the number nan: quote it")
    assert told[1].endswith("got the number nan")


def test_a_value_never_becomes_structure():
    told = faults({"sidecar": {"tcp": "${TCP}"}}, TCP='{"port": 1}')
    assert told == ['sidecar.tcp: expected a mapping, got the string "${TCP}"']


def test_what_is_echoed_is_bounded_and_on_one_line():
    told = faults({"x" * 9_999: 0, "sidecar": {"data_dir": 'a"\n' * 999, "\n\ud800": 0}})
    assert all(len(fault) < 200 and fault.isprintable() for fault in told)
    told = faults({"sidecar": {"data_dir": "${X:?\n" + "x" * 999 + "}", "shutdown_timeout": b"x"}})
    assert all(len(fault) < 300 and fault.isprintable() for fault in told)
    assert faults({"sidecar": {"tcp": {"port": 10**5_000}}})[0].endswith("got a huge integer")


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("${HOME}")
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def is_config_or_faults(document):
    try:
        return isinstance(parse(document, {"HOME": "7"}), Config)
    except ConfigError as error:
        return error.faults and all(f.isprintable() and ": " in f for f in error.faults)


@given(documents)
def test_any_document_is_a_config_or_faults(document):
    assert is_config_or_faults(document)


def shaped(keys, inner):
    return st.dictionaries(st.sampled_from(keys.split()), inner, max_size=4)


values = (
    documents
    | st.integers(0, 20_000)
    | st.sampled_from(["file", "store", "null", "nas", "5m", "1MB"])
)
routes = shaped("backend types level where sample", values)
sections = shaped("host port path mode group max_connections idle_timeout keepalive", values)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "sidecar": shaped(
                "data_dir tcp unix health buffers shutdown_timeout", sections | values
            ),
            "routing": shaped("q * db-*", st.lists(routes | values, max_size=3) | values),
            "backends": shaped(
                "nas store x",
                shaped("type path rotate max_age max_messages fsync", values) | values,
            ),
        },
    )
)
def test_anything_of_the_right_shape_is_a_config_or_faults(document):
    assert is_config_or_faults(document)
