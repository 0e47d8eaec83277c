"""The corpus that every SDK runs: one API call, one frame."""

import json
import pathlib
import string
import time

import pytest

from wafermon.client import Client

CORPUS = json.loads(
    (pathlib.Path(__file__).parents[1] / "conformance" / "sdk.json").read_text("utf-8")
)


def filled(value):
    """Put in what JSON cannot hold: NaN, infinity, long texts."""
    if isinstance(value, list):
        return [filled(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"float"}:
        return float(value["float"])
    if set(value) == {"repeat", "times"}:
        return value["repeat"] * value["times"]
    return {key: filled(item) for key, item in value.items()}


@pytest.mark.parametrize("case", CORPUS["cases"], ids=lambda case: case["name"])
def test_case(case, listen):
    listener = listen()
    client = Client(case.get("src", CORPUS["src"]), **listener.where)
    before = int(time.time() * 1000)
    getattr(client, case["call"])(*filled(case.get("args", [])), **filled(case.get("named", {})))
    after = int(time.time() * 1000)
    assert client.close() == 0
    if case.get("refused"):
        assert (client.refused, client.sent) == (1, 0)
        assert client.refusal
        assert listener.raw() == b""
        return
    listener.wait(lambda it: it.ended == 1)
    frame, goodbye = listener.frames()
    assert goodbye["type"] == "goodbye"
    assert before <= frame.pop("ts") <= after
    ids = case.get("ids", {})
    for name, length in ids.items() if isinstance(ids, dict) else ():
        value = frame.pop(name)
        assert len(value) == length
        assert set(value) <= set(string.hexdigits.lower())
    assert frame == case["frame"]
    assert json.dumps(frame, sort_keys=True) == json.dumps(
        case["frame"], sort_keys=True
    )  # 1 != 1.0
