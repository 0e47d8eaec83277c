"""Redaction: what is named is gone from message and line, all else stays byte for byte."""

import json

from hypothesis import given
from hypothesis import strategies as st

from wafermon.flow import Redactor, Router, Rule
from wafermon.flow.redact import REDACTED
from wafermon.message import Batch
from wafermon.testing import frame


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
    assert Redactor(["data.ctx.password", "data.ctx.lot.x", "nope"]).apply(batch) is batch


def test_objects_escaped_and_doubled_keys():
    raw = event(1).replace(b'"ctx":{}', b'"ctx":{"p\\u0061ss":"one","pass":{"deep":"two"}}')
    clean = Redactor(["data.ctx.pass"]).apply(Batch(raw))
    assert b"one" not in clean.raw and b"two" not in clean.raw


def test_receipts_and_rejects_stay():
    batch = Batch(event(1, password="x"))
    batch.receipt, batch.mark, batch.duplicates = 7, ("k", 7), 2
    clean = Redactor(["data.ctx.password"]).apply(batch)
    assert (clean.receipt, clean.mark, clean.duplicates) == (7, ("k", 7), 2)


def test_a_rule_hides_from_its_backend_only():
    router = Router({"*": [Rule("nas", redact=["data.ctx.password"]), Rule("vault")]})
    batch = Batch(event(1, password="geheim") + event(2, lot="L"))
    parts = dict(router.route(batch))
    assert b"geheim" not in parts["nas"].raw and parts["nas"].lines[1] == batch.lines[1]
    assert parts["vault"].raw == batch.raw
    mixed = Router({"*": [Rule("x", types=["event"], redact=["data.ctx.password"]), Rule("x")]})
    ((_, part),) = mixed.route(batch)
    assert b"geheim" not in part.raw and len(part) == 2


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b"]), st.integers() | st.text(max_size=3)), min_size=1, max_size=6))
def test_nothing_named_remains(contexts):
    clean = Redactor(["data.ctx.a"]).apply(Batch(b"".join(event(i, **c) for i, c in enumerate(contexts))))
    for message, line, before in zip(clean.messages, clean.lines, contexts):
        assert json.loads(line) == message
        wanted = {**before, "a": REDACTED} if "a" in before else before
        assert message["data"]["ctx"] == wanted
