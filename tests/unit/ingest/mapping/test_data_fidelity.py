"""Numbers keep every digit from the payload to the data."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidewire.errors import MappingError

from tests.unit.ingest.mapping.rules import data, event

THIRTY_DIGITS = "123456789012345678901234567890"
NUMBERS = [
    "0",
    "-0",
    "-0.0",
    "1.0",
    "1e5",
    "1E+05",
    "0.10000",
    "1e400",
    "-1e-400",
    THIRTY_DIGITS,
    f"-{THIRTY_DIGITS}.{THIRTY_DIGITS}",
    "9" * 4_001,
    "9" * 5_000,
]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    ("expression", "template"),
    [
        ("@", '{"a": {"n": %s}}'),
        ("a", '{"n": %s}'),
        ("a.n", "%s"),
        ("{m: a.n, k: a}", '{"m":%s,"k":{"n":%s}}'),
        ("[a.n, a.*]", "[%s,[%s]]"),
        ("merge(a, {b: `1`})", '{"n":%s,"b":1}'),
        ("{t: to_string(a.n)}", '{"t":"%s"}'),
        ("sort([a.n])", "[%s]"),
        ("max([a.n])", "%s"),
        ("a.n || 'x'", "%s"),
    ],
)
def test_a_number_comes_out_as_it_went_in(number: str, expression: str, template: str) -> None:
    assert data(expression, f'{{"a": {{"n": {number}}}}}') == template.replace("%s", number)


def test_a_plain_path_selects_the_text_byte_by_byte() -> None:
    text = r'{ "x" : "\u0041\/é\u00e9" ,' + '\r\n\t"y": [ 1.0 ] }'
    body = f' {{"a": [0, {{"b c": {text} }} ], "\\u0061b": 2}} '
    assert data('a[1]."b c"', body) == text
    assert data('a[-1]."b c"', body) == text
    assert data('a[1]."b c".y[0]', body) == "1.0"
    assert data("ab", body) == "2"
    assert data("@", body) == body.strip()
    assert event('type = "t"', body).data.decode() == body.strip()


@pytest.mark.parametrize("expression", ["x", "a.x", "a[0]", "l[2]", "l[-3]", "l.x", "s.x", "s[0]", "n", "a.b.c.d"])
def test_a_missing_path_fails_like_a_computed_one(expression: str) -> None:
    body = '{"a": {"b": 1}, "l": [1, 2], "s": "text", "n": null}'
    for written in (expression, f"not_null({expression})"):
        with pytest.raises(MappingError, match="data: finds nothing in the payload"):
            data(written, body)


def test_literals_compare_and_count_as_numbers() -> None:
    body = '{"n": [1e2, 99.50, 100]}'
    assert data("n[?@ == `100`]", body) == "[1e2,100]"
    assert data("n[?@ < `100`]", body) == "[99.50]"
    assert data("{t: type(n[0]), s: sum(n), l: length(n)}", body) == '{"t":"number","s":299.5,"l":3}'


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(json_values.filter(lambda value: value is not None), st.booleans())
@settings(max_examples=50)
def test_whatever_stands_at_a_path_is_selected_as_json_reads_it(value: Any, ascii_only: bool) -> None:
    text = json.dumps({"a": [value]}, ensure_ascii=ascii_only)
    if "\\ud" in text.lower() and not text.isascii():
        return  # a lone surrogate is no JSON that everyone reads alike
    assert json.loads(data("a[0]", text)) == value
    assert json.loads(data("{b: a}", text)) == {"b": [value]}
