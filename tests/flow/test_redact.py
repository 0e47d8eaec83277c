"""Redaction: what is named is gone from message and line, all else stays byte for byte."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafermon.flow import Redactor, Router, Rule
from wafermon.flow.redact import REDACTED
from wafermon.message import Batch, Reason, Reject
from wafermon.testing import frame
from wafermon.wire import Decoder


def event(number, **ctx):
    return frame(number, data={"level": "info", "msg": "x", "ctx": ctx})


def test_only_lines_with_the_field_change():
    plain, secret = b" " + event(1, lot="L1"), event(2, password="geheim", lot="L2")
    batch = Redactor(["data.ctx.password", "data.token"]).apply(Batch(plain + secret + plain))
    assert batch.lines[0] + b"\n" == batch.lines[2] + b"\n" == plain
    assert b"geheim" not in batch.raw
    assert json.loads(batch.lines[1]) == batch.messages[1]
    assert batch.messages[1]["data"]["ctx"] == {"password": REDACTED, "lot": "L2"}


def test_a_batch_without_the_field_is_itself():
    batch = Batch(event(1, lot="L1"))
    assert Redactor(["data.ctx.password", "data.ctx.lot.x"]).apply(batch) is batch


def test_objects_escaped_and_doubled_keys():
    raw = event(1).replace(b'"ctx":{}', b'"ctx":{"p\\u0061ss":"one","pass":{"deep":"two"}}')
    clean = Redactor(["data.ctx.pass"]).apply(Batch(raw))
    assert b"one" not in clean.raw and b"two" not in clean.raw


HEAD = b'{"v":1,"src":"a","ts":1,"type":"event",'


@pytest.mark.parametrize(
    "rest, clean",
    [
        (b'"data":{"ctx":{"password":"S"}},"data":{"msg":"x"}}',
         b'"data":{"ctx":{"password":"[redacted]"}},"data":{"msg":"x"}}'),
        (b'"data":{"ctx":{"password":["S",{}]},"ctx":{}}}',
         b'"data":{"ctx":{"password":"[redacted]"},"ctx":{}}}'),
        (b'"data":{"ctx":{"password":1,"password": {"password":"S"} }}}',
         b'"data":{"ctx":{"password":"[redacted]","password": "[redacted]" }}}'),
        (b'"data":{"ctx":{"password":{"x":{},"data":{"ctx":{"password":1}},"y":[{}]},"z":{"password":2}}}}',
         b'"data":{"ctx":{"password":"[redacted]","z":{"password":2}}}}'),
        (b'"data" : {"c\\u0074x" :\t{ "p\\u0061ssword" : "S" , "x":1e400}}}',
         b'"data" : {"c\\u0074x" :\t{ "p\\u0061ssword" : "[redacted]" , "x":1e400}}}'),
        (b'"data":{"ctx":[{"password":"S"},7,"password",[[],[{"password":-1.5e3}]]]}}',
         b'"data":{"ctx":[{"password":"[redacted]"},7,"password",[[],[{"password":"[redacted]"}]]]}}'),
        (b'"data":{"n":123456789012345678901234567890.50,"m":-0.0,"f":1e400,"ctx":{"password":null}}}',
         b'"data":{"n":123456789012345678901234567890.50,"m":-0.0,"f":1e400,"ctx":{"password":"[redacted]"}}}'),
    ],
    ids=["doubled data", "doubled object", "doubled key", "object", "escaped", "lists", "numbers"],
)
def test_the_value_goes_and_every_other_byte_stays(rest, clean):
    batch = Decoder().feed(HEAD + rest + b"\n")
    assert len(batch) == 1
    redactor = Redactor(["data.ctx.password"])
    redacted = redactor.apply(batch)
    assert redacted.raw == HEAD + clean + b"\n"
    assert redactor.apply(redacted) is redacted, "twice is once"
    again = Decoder().feed(redacted.raw)
    assert (len(again), list(again.rejects)) == (1, []) and again.messages == redacted.messages


@pytest.mark.parametrize(
    "rest",
    [
        b'"data":{"password":"S"},"ctx":{"password":"S"}}',
        b'"data":{"ctx":"password","x":{"ctx":{"password":1}}}}',
        b'"data":{"msg":"\\"ctx\\":{\\"password\\":1}","ctx":{"x":"\\\\"}}}',
    ],
)
def test_the_key_elsewhere_is_not_meant(rest):
    batch = Decoder().feed(HEAD + rest + b"\n")
    assert len(batch) == 1 and Redactor(["data.ctx.password"]).apply(batch) is batch


def test_nesting_costs_no_stack():
    rest = b'"data":{"ctx":' + b"[" * 30_000 + b'{"password":"S"}' + b"]" * 30_000 + b"}}\n"
    batch = Redactor(["data.ctx.password"]).apply(Batch(HEAD + rest, sources={"a": 1}))
    assert batch.raw == HEAD + rest.replace(b'"S"', b'"[redacted]"')


@pytest.mark.parametrize("path", ["src", "type", "v", "ts", "data", "tid", "", "data.", "data..x", "x.data"])
def test_only_what_is_below_data_can_be_hidden(path):
    with pytest.raises(ValueError, match="expected a dotted path below data"):
        Redactor([path])


@pytest.mark.parametrize("key", ["a/b", 'a"b', "a\\b", "a\tb", "ü"])
def test_keys_that_need_an_escape_or_may_have_one(key):
    redactor = Redactor([f"data.{key}"])
    spelled = [json.dumps(key), json.dumps(key, ensure_ascii=False), json.dumps(key).replace("/", "\\/")]
    spelled.append('"' + "".join(f"\\u{ord(letter):04X}" for letter in key) + '"')
    for text in spelled:
        raw = b'{"data":{' + text.encode() + b':"S"}}\n'
        assert json.loads(raw) == {"data": {key: "S"}}
        assert redactor.apply(Batch(raw)).raw == raw.replace(b'"S"', b'"[redacted]"')


def test_a_path_within_another_ones_value():
    for paths in (["data.ctx", "data.ctx.password"], ["data.ctx.password", "data.ctx"]):
        clean = Redactor(paths).apply(Batch(event(1, password="S")))
        assert clean.messages[0]["data"]["ctx"] == REDACTED


@pytest.mark.parametrize(
    "line, kept",
    [
        (b'{"ts":"x","data":{"ctx":{"password":"S"}}}', b'{"ts":"x","data":{"ctx":{"password":"[redacted]"}}}'),
        (b'{"v":2,"data":{"ctx":{"lot":"L1"}}}', b'{"v":2,"data":{"ctx":{"lot":"L1"}}}'),
        (b'{"data":{"ctx":{"password":"S"}},"data":{}}', b'{"data":{"ctx":{"password":"[redacted]"}},"data":{}}'),
        (b'{"data":{"\\ud800":{},"ctx":{"password":"S"}}}', b'{"data":{"\\ud800":{},"ctx":{"password":"[redacted]"}}}'),
        (b'{"data":{"ctx":{"password":"S', b"[redacted: 29 bytes]"),
        (b'{"data":{"ctx":{"password":"S"}}', b"[redacted: 32 bytes]"),
        (b'{"ctx":{"password":"S"}}', b"[redacted: 24 bytes]"),
        (b'{"data":"{\\"password\\":1}"}', b"[redacted: 27 bytes]"),
        (b'{"data":["{\\"password\\":1}"]}', b"[redacted: 29 bytes]"),
        (b'{"data":"S","data":{}}', b"[redacted: 22 bytes]"),
        (b'[{"data":{"ctx":{"password":"S"}}}]', b"[redacted: 35 bytes]"),
        (b'"S"', b"[redacted: 3 bytes]"),
        (b"\xff\xfe", b"[redacted: 2 bytes]"),
        (b"[" * 60_000, b"[redacted: 60000 bytes]"),
    ],
)
def test_rejected_frames(line, kept):
    (reject,) = Redactor(["data.ctx.password"]).apply_to_rejects([Reject(Reason.BAD_FIELD, line, 7)])
    assert reject == (Reason.BAD_FIELD, kept, 7)


def test_a_router_hides_from_rejects_what_it_hides_from_all():
    rejects = [Reject(Reason.INVALID_JSON, b"rubbish")]
    assert Router({}).clean_rejects(rejects) is rejects
    hidden = Router({}, redact=["data.x"]).clean_rejects(rejects)
    assert [r.line for r in hidden] == [b"[redacted: 7 bytes]"]


class Pairs(tuple):
    """An object of which nothing is lost."""


SCALARS = st.sampled_from(['"a"', '"\\"b\\":{"', '"\\\\"', "1e400", "-0.50", "true", "null", '""', '"ü]"'])
KEYS = st.sampled_from(['"a"', '"b"', '"\\u0061"', '"\\u0062"', '"c"', '"a b"'])
SPACES = st.sampled_from(["", " ", "\t "])


def container(inner):
    member = st.tuples(SPACES, KEYS, SPACES, SPACES, inner, SPACES).map(lambda m: "{}{}{}:{}{}{}".format(*m))
    return st.lists(member, max_size=4).map(lambda ms: "{" + ",".join(ms) + "}") | st.lists(
        st.tuples(SPACES, inner, SPACES).map("".join), max_size=3
    ).map(lambda es: "[" + ",".join(es) + "]")


def exact(text):
    return json.loads(text, object_pairs_hook=Pairs, parse_float=lambda literal: ("number", literal))


def hidden(value, path):
    """The slow way: what is left of an exact value."""
    if not path:
        return REDACTED
    if isinstance(value, Pairs):
        return Pairs((k, hidden(v, path[1:]) if k == path[0] else v) for k, v in value)
    return [hidden(element, path) for element in value] if isinstance(value, list) else value


VALUES = st.recursive(SCALARS, container, max_leaves=15)
#: Often enough with something at the path.
DEEP = st.tuples(VALUES, VALUES, VALUES).map(
    lambda v: '{"b":' + v[0] + ',"a":[{"b":' + v[1] + '},{"c":' + v[2] + ',"b":{"b":{},"a":' + v[0] + "}}]}"
)


@settings(deadline=None, max_examples=200)
@given(VALUES | DEEP)
def test_it_does_what_the_slow_way_does(data):
    line = '{"src":"x","data":' + data + ',"type":"event"}'
    clean = Redactor(["data.a.b"]).apply(Batch(line.encode() + b"\n", sources={"x": 1}))
    assert exact(clean.raw.decode()) == hidden(exact(line), ["data", "a", "b"])


def test_receipts_and_rejects_stay():
    batch = Batch(event(1, password="x"))
    batch.receipt, batch.marks, batch.duplicates = 7, [("k", 7)], 2
    clean = Redactor(["data.ctx.password"]).apply(batch)
    assert (clean.receipt, clean.marks, clean.duplicates) == (7, [("k", 7)], 2)


def test_a_rule_hides_from_its_backend_only():
    router = Router({"*": [Rule("nas", redact=["data.ctx.password"]), Rule("vault")]})
    batch = Batch(event(1, password="geheim") + event(2, lot="L"))
    parts = dict(router.route(batch))
    assert b"geheim" not in parts["nas"].raw and parts["nas"].lines[1] == batch.lines[1]
    assert parts["vault"].raw == batch.raw
    mixed = Router({"*": [Rule("x", types=["event"], redact=["data.ctx.password"]), Rule("x")]})
    ((_, part),) = mixed.route(batch)
    assert b"geheim" not in part.raw and len(part) == 2


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b"]), st.integers() | st.text(max_size=3)), min_size=1, max_size=6))
def test_nothing_named_remains(contexts):
    clean = Redactor(["data.ctx.a"]).apply(Batch(b"".join(event(i, **c) for i, c in enumerate(contexts))))
    for message, line, before in zip(clean.messages, clean.lines, contexts):
        assert json.loads(line) == message
        wanted = {**before, "a": REDACTED} if "a" in before else before
        assert message["data"]["ctx"] == wanted
