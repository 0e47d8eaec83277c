"""Variables in strings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafermon.sidecar.interpolate import interpolate

ENVIRON = {"A": "1", "EMPTY": "", "NESTED": "${A}", "DOLLAR": "$$"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""),
        ("${A}", "1"),
        ("x${A}y${A}", "x1y1"),
        ("${EMPTY}", ""),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${NONE:-d}", "d"),
        ("${NONE-d}", "d"),
        ("${NONE:-}", ""),
        ("${NONE:-a:-b}", "a:-b"),
        ("${A:?why}", "1"),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("$$${A}", "$1"),
        ("$A $ 5$", "$A $ 5$"),
        ("{src}/{date}", "{src}/{date}"),
        ("${A}}", "1}"),
        ("${NESTED}${DOLLAR}", "${A}$$"),
    ],
)
def test_replaced(text, value):
    assert interpolate(text, ENVIRON) == value


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("${NONE}", "the variable NONE is not set, expected a value or a default: ${NONE:-...}"),
        ("${NONE:?ask the fab}", 'the variable NONE is not set: "ask the fab"'),
        ("${EMPTY:?ask the fab}", 'the variable EMPTY is empty: "ask the fab"'),
    ],
)
def test_unset(text, fault):
    with pytest.raises(ValueError) as caught:
        interpolate(text, ENVIRON)
    assert str(caught.value) == fault


@pytest.mark.parametrize("text", ["${", "${}", "${A", "${1}", "${A B}", "${A:+x}", "${X:-${A}}"])
def test_broken(text):
    with pytest.raises(ValueError, match="begins no"):
        interpolate(text, ENVIRON)


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True)
plain = st.text().filter(lambda text: "$" not in text)


@given(name=names, value=st.text(), before=plain, after=plain)
def test_any_value_comes_out_as_it_is(name, value, before, after):
    assert interpolate(f"{before}${{{name}}}{after}", {name: value}) == before + value + after


@given(text=st.text())
def test_any_text_can_be_escaped(text):
    assert interpolate(text.replace("$", "$$"), {}) == text


@given(text=st.text(alphabet="${}:-?AB \n"))
def test_replaced_or_refused(text):
    try:
        interpolate(text, {"A": "x"})
    except ValueError as error:
        assert "${" in text and str(error)
