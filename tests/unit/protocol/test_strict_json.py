"""JSON that every reader reads alike (RFC 7493), and pointers to what is wrong in it (RFC 6901)."""

import time
from itertools import repeat

import msgspec
import pytest
from tidewire.errors import InvalidRequest
from tidewire.protocol.strict_json import (
    MAX_DEPTH,
    MAX_ERRORS,
    MAX_NAME_CHARACTERS,
    check_all,
    check_json,
    decode,
    name_pointer,
    to_pointer,
    without_lone_surrogates,
)

DEEP = 100_000


def refusal(body: bytes) -> str:
    with pytest.raises(InvalidRequest) as refused:
        check_json(body)
    assert refused.value.errors == ()
    return str(refused.value)


JSON = {
    "null": b"null",
    "white space": b" \r\n\t{} \n",
    "a key in several objects": b'{"a": {"a": 1, "b": 2}, "b": [{"a": 1}, {"a": 1}]}',
    "a negative zero with an exponent": b"-0.0e+10",
    "more digits than Python converts": b"9" * 5_000,
    "more than a double holds": b"1e400",
    "any character as UTF-8": '"ü \ufeff \u2028 \U0001f600"'.encode(),
    "both halves of a character": rb'"\u0000 \/ \ud83d\ude00 \uD83D\uDE00 \ud83d\uDE00"',
    "an escaped backslash before ud800": rb'"\\ud800 \\\\uD800"',
    "brackets in a string": b'"' + b"[{" * DEEP + b'"',
    "brackets behind escaped quotes": b'["' + b'\\"[' * DEEP + b'"]',
    "many brackets beside each other": b"[" + b"[{}]," * MAX_DEPTH + b"1]",
    "as deep as it may be": b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
    "as deep as it may be, after a shallow one": b"[[]," + b"[" * (MAX_DEPTH - 1) + b"]" * MAX_DEPTH,
    "objects as deep as they may be": b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH,
}


@pytest.mark.parametrize("body", JSON.values(), ids=JSON.keys())
def test_json_that_all_readers_read_alike_passes(body: bytes) -> None:
    check_json(body)


@pytest.mark.parametrize("body", [b"", b" \r\n\t"])
def test_an_empty_body_is_named(body: bytes) -> None:
    assert refusal(body) == "The body is empty"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\xef\xbb\xbf1", "The body begins with a byte order mark: send UTF-8 without one"),
        ('{"a": "\xfc"}'.encode("latin-1"), "The body is not UTF-8 (at byte 7)"),
        (b'"\xc0\xaf"', "The body is not UTF-8 (at byte 1)"),  # an overlong encoding
        (b'"a\xed\xa0\x80"', "The body is not UTF-8 (at byte 2)"),  # a surrogate
        (b'"\xe2\x82"', "The body is not UTF-8 (at byte 1)"),
        ("1".encode("utf-16"), "The body is not UTF-8 (at byte 0)"),
    ],
    ids=range(6),
)
def test_a_body_that_is_not_utf_8_is_named(body: bytes, message: str) -> None:
    assert refusal(body) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a": NaN}', "NaN is not a JSON value"),
        (b"[Infinity]", "Infinity is not a JSON value"),
        (b"-Infinity", "-Infinity is not a JSON value"),
        (b'{"a": 1, "b": 2, "c": 3, "b": 4}', 'an object has the key "b" twice'),
        (rb'{"a": 1, "\u0061": 2}', 'an object has the key "a" twice'),
        (b'[[{"a": [{"b": 1, "b": 1}]}]]', 'an object has the key "b" twice'),
        (b'{"": 1, "": 2}', 'an object has the key "" twice'),
        (rb'{"a\"": 1, "a\"": 2}', r'an object has the key "a\"" twice'),
        (b'{"%b": 1, "%b": 2}' % ((b"k" * 65,) * 2), f'an object has the key "{"k" * 64}" twice'),
    ],
)
def test_what_readers_read_differently_is_named(body: bytes, message: str) -> None:
    """Some take the first of two equal keys, some the last; few read NaN. A long key is cut."""
    assert refusal(body) == f"The body is not valid JSON: {message}"


NOT_JSON = {
    "a text": b"hello",
    "an object that does not end": b'{"a": 1',
    "trailing garbage": b"1x",
    "two documents": b"1\n2",
    "a trailing comma in an array": b"[1,]",
    "a trailing comma in an object": b'{"a": 1,}',
    "single quotes": b"{'a': 1}",
    "a comment": b"/* c */ 1",
    "a leading zero": b"01",
    "a number that does not end": b"1.",
    "a hexadecimal number": b"0x10",
    "a plus": b"+1",
    "a line end in a string": b'"a\nb"',
    "a NUL in a string": b'"a\0b"',
    "a NUL between tokens": b"[1,\0002]",
    "a vertical tab between tokens": b"[1,\0132]",
    "a form feed between tokens": b"[1,\0142]",
    "a no-break space between tokens": "[1,\u00a02]".encode(),
    "an unknown escape": rb'"\x41"',
    "half an escape": rb'"\u12"',
    "closing brackets": b"]" * DEEP,
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_another_text_is_not_json(body: bytes) -> None:
    assert refusal(body).startswith("The body is not valid JSON: ")


@pytest.mark.parametrize(
    ("body", "escape", "at"),
    [
        (rb'"\ud800"', r"\ud800", 1),
        (rb'"\uDBFF"', r"\uDBFF", 1),
        (rb'["\\", "\udc00\ud800"]', r"\udc00", 8),
        (rb'{"\udfff": 1}', r"\udfff", 2),
        (rb'"\ud83d\ude00\uD83D"', r"\uD83D", 13),
        (rb'"\ud800\u0041"', r"\ud800", 1),
        (rb'"\ud800\\udc00"', r"\ud800", 1),
        (b'"\\ud800\n', r"\ud800", 1),
        (b'"\\\n\\ud800"', r"\ud800", 3),
    ],
)
def test_a_lone_surrogate_is_named_with_its_place(body: bytes, escape: str, at: int) -> None:
    """It is half of a character: readers replace it, refuse it, or keep it."""
    assert refusal(body) == (
        f"The body is not valid JSON: the escape {escape} at byte {at} is a lone surrogate,"
        " half of a character: escape both halves, or send the character itself"
    )


TOO_DEEP = {
    "one array too many": b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    "one object too many": b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
    "arrays and objects": b'[{"a":' * (MAX_DEPTH // 2) + b"[]" + b"}]" * (MAX_DEPTH // 2),
    "behind shallow ones": b"[[],{},[]," + b"[" * MAX_DEPTH,
    "behind one that is half as deep": b"[" * (MAX_DEPTH // 2) + b"[]," + b"[" * (MAX_DEPTH // 2 + 1),
    "before shallow ones": b"[" * (MAX_DEPTH + 1) + b"]" * MAX_DEPTH + b",[]]",
    "arrays far too many": b"[" * DEEP + b"]" * DEEP,
    "arrays that never end": b"[" * DEEP,
    "objects that never end": b'{"a":' * DEEP,
    "closed before they open": b"]" * MAX_DEPTH + b"[" * (2 * MAX_DEPTH + 1),
    "before a string that never ends": b"[" * (MAX_DEPTH + 1) + b'"' + b"[" * DEEP,
    "behind escapes": rb'["\\", "\"", ' + b"[" * MAX_DEPTH,
}


@pytest.mark.parametrize("body", TOO_DEEP.values(), ids=TOO_DEEP.keys())
def test_deep_nesting_is_refused_before_anything_recurses(body: bytes) -> None:
    assert refusal(body) == "The JSON is nested more than 100 levels deep"


@pytest.mark.parametrize("end", [b"", b"\\", b'"', b'"]'])
def test_escaped_quotes_are_checked_in_linear_time(end: bytes) -> None:
    """A pattern that backtracks would take the square of their number."""
    began = time.process_time()
    refusal(b"[" * 101 + b'\\"' * 500_000 + end)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": 1}', b'{"a": 1}'),
        (rb'"\ud83d\ude00 \\ud800"', rb'"\ud83d\ude00 \\ud800"'),
        (rb'"\ud800"', rb'"\ufffd"'),
        (rb'"a\udc00b\uD800c" ', rb'"a\ufffdb\ufffdc" '),
        (rb'"\ud800\ud83d\ude00\ude00"', rb'"\ufffd\ud83d\ude00\ufffd"'),
        (rb'"\\\ud800"', rb'"\\\ufffd"'),
    ],
)
def test_lone_surrogates_are_replaced_and_nothing_else(body: bytes, expected: bytes) -> None:
    """A webhook's sender cannot be asked to send another body."""
    assert without_lone_surrogates(body) == expected


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    n: int


class Body(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    items: list[Inner | None] = []


BODY = msgspec.json.Decoder(Body)


@pytest.mark.parametrize(
    ("item", "pointer", "problem"),
    [
        (b"{}", "/name", "is required"),
        (b'{"name": 5}', "/name", "Expected `str`, got `int`"),
        (b'{"name": "", "items": [null, {"n": ""}]}', "/items/1/n", "Expected `int`, got `str`"),
        (b"5", "", "Expected `object`, got `int`"),
        (b'{"Name": ""}', "/Name", "is unknown"),
        (b'{"a/b~c`d\\n": ""}', "/a~1b~0c`d\n", "is unknown"),
        (b'{"%b": ""}' % (b"n" * MAX_NAME_CHARACTERS), f"/{'n' * MAX_NAME_CHARACTERS}", "is unknown"),
        (b'{"%b": ""}' % (b"n" * (MAX_NAME_CHARACTERS + 1)), "", "is unknown"),
    ],
)
def test_a_wrong_field_is_pointed_at(item: bytes, pointer: str, problem: str) -> None:
    """Only a name that is short enough to be a misspelt one is repeated."""
    with pytest.raises(InvalidRequest) as refused:
        decode(BODY, item)
    assert refused.value.errors == ((pointer, problem),)
    assert str(refused.value) == f"{pointer or 'The event'}: {problem}"


def test_a_pointer_begins_at_the_body() -> None:
    """And a body without a pointer has a name."""
    with pytest.raises(InvalidRequest) as refused:
        decode(BODY, b'{"name": 5}', "/7")
    assert refused.value.errors == (("/7/name", "Expected `str`, got `int`"),)
    with pytest.raises(InvalidRequest) as refused:
        decode(BODY, b'{"x": 5}', "/7")
    assert refused.value.errors == (("/7/x", "is unknown"),)
    with pytest.raises(InvalidRequest, match=r"^The request: Expected `object`, got `array`$"):
        decode(BODY, b"[]", name="The request")


def test_a_right_body_is_decoded() -> None:
    assert decode(BODY, b'{"name": "x", "items": [{"n": 1}]}') == Body("x", [Inner(1)])


def test_all_problems_are_listed_and_the_first_is_the_detail() -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_all([("/0", []), ("/1", [("/id", "is bad"), ("", "is odd")]), ("", iter([("/type", "too")]))])
    assert refused.value.errors == (("/1/id", "is bad"), ("/1", "is odd"), ("/type", "too"))
    assert str(refused.value) == "/1/id is bad"


def test_a_problem_of_the_whole_body_has_a_name() -> None:
    with pytest.raises(InvalidRequest, match=r"^The event is odd$"):
        check_all([("", [("", "is odd")])])
    with pytest.raises(InvalidRequest, match=r"^The request is odd$"):
        check_all([("", [("", "is odd")])], "The request")


def test_no_problem_raises_nothing() -> None:
    check_all([("/0", []), ("/1", ())])


def test_a_response_lists_a_hundred_problems_and_no_more() -> None:
    """The rest is not even looked for."""
    with pytest.raises(InvalidRequest) as refused:
        check_all([("", repeat(("/a", "is bad")))])
    assert refused.value.errors == (("/a", "is bad"),) * MAX_ERRORS


@pytest.mark.parametrize(
    ("path", "pointer"),
    [("", ""), (".userIds[2]", "/userIds/2"), ("[10].data", "/10/data"), (".a.b-c[0][1]", "/a/b-c/0/1")],
)
def test_a_path_becomes_a_pointer(path: str, pointer: str) -> None:
    assert to_pointer(path) == pointer


def test_a_name_becomes_a_pointer() -> None:
    """RFC 6901 section 3: `~1` in a name must not become a slash. Only the characters of the name are counted."""
    assert name_pointer("a/b~c~1/") == "/a~1b~0c~01~1"
    assert name_pointer("") == "/"
    assert name_pointer("~" * MAX_NAME_CHARACTERS) == "/" + "~0" * MAX_NAME_CHARACTERS
    assert name_pointer("n" * (MAX_NAME_CHARACTERS + 1)) == ""
