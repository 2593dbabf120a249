"""A malformed body is a problem response, costs little, and appends nothing."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.api import Api, pointers_of, problem_of

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"
DEEP = 100_000
USERS = [f"u{n}" for n in range(1_001)]


@pytest.fixture(autouse=True)
def nothing_is_appended(api: Api) -> Iterator[None]:
    before = api.head()
    yield
    assert api.head() == before
    assert api.http.get("/api/health/live").status_code == 200


def event(**fields: Any) -> bytes:
    return json.dumps({"type": "t", "data": 1, **fields}).encode()


NOT_JSON = {
    "an empty body": b"",
    "white space": b" \r\n\t",
    "a text that is none": b"hello",
    "an object that does not end": b'{"type": "t", "data": 1',
    "trailing garbage": event() + b"x",
    "two documents": event() + b"\n" + event(),
    "a trailing comma": b'{"type": "t", "data": 1,}',
    "single quotes": b"{'type': 't', 'data': 1}",
    "a comment": b'{"type": "t", /* c */ "data": 1}',
    "a byte order mark": b"\xef\xbb\xbf" + event(),
    "UTF-16": event().decode().encode("utf-16"),
    "Latin-1": '{"type": "t", "data": "\xfc"}'.encode("latin-1"),
    "an overlong encoding": b'{"type": "t", "data": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"type": "t", "data": "\xed\xa0\x80"}',
    "half a character": b'{"type": "t", "data": "\xe2\x82"}',
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "NaN": b'{"type": "t", "data": NaN}',
    "Infinity": b'{"type": "t", "data": [Infinity]}',
    "minus Infinity": b'{"type": "t", "data": -Infinity}',
    "a leading zero": b'{"type": "t", "data": 01}',
    "a number that does not end": b'{"type": "t", "data": 1.}',
    "a hexadecimal number": b'{"type": "t", "data": 0x10}',
    "a line end in a string": b'{"type": "t", "data": "a\nb"}',
    "a NUL in a string": b'{"type": "t", "data": "a\0b"}',
    "a NUL between tokens": b'{"type": "t",\0"data": 1}',
    "a vertical tab between tokens": b'{"type": "t",\x0b"data": 1}',
    "an unknown escape": rb'{"type": "t", "data": "\x41"}',
    "half an escape": rb'{"type": "t", "data": "\u12"}',
    "a lone surrogate in the data": rb'{"type": "t", "data": "\ud800"}',
    "surrogates the wrong way round": rb'{"type": "t", "data": "\udc00\ud800"}',
    "a lone surrogate in a key": rb'{"type": "t", "data": {"\udfff": 1}}',
    "a lone surrogate in the type": rb'{"type": "\ud800", "data": 1}',
    "a lone surrogate in a user": rb'{"type": "t", "data": 1, "userIds": ["\udead"]}',
    "a key twice in the envelope": b'{"type": "t", "data": 1, "data": 2}',
    "an audience twice": b'{"type": "t", "data": 1, "userIds": ["u1"], "userIds": null}',
    "a key twice, once escaped": rb'{"type": "t", "data": 1, "\u0064ata": 2}',
    "a key twice in the data": b'{"type": "t", "data": {"a": 1, "b": 2, "a": 3}}',
    "a key twice far down": b'{"type": "t", "data": [[{"a": [{"b": 1, "b": 1}]}]]}',
    "a key twice in a batch": b"[%b, {" % event() + b'"type": "t", "type": "t", "data": 1}]',
}


@pytest.mark.parametrize("content_type", ["application/json", STRUCTURED, BATCHED])
@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_json_that_two_readers_could_read_differently_is_refused(api: Api, body: bytes, content_type: str) -> None:
    problem_of(api.post(body, content_type), 400)


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_the_data_of_a_binary_cloudevent_is_json_as_strict(api: Api, body: bytes) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}
    problem_of(api.post(body, headers=headers), 400)


NESTED = {
    "arrays as data": b'{"type": "t", "data": %b1%b}' % (b"[" * DEEP, b"]" * DEEP),
    "objects as data": b'{"type": "t", "data": %b1%b}' % (b'{"a":' * DEEP, b"}" * DEEP),
    "arrays as the envelope": b"[" * DEEP + b"]" * DEEP,
    "arrays that never end": b"[" * DEEP,
    "objects that never end": b'{"a":' * DEEP,
    "the audience": b'{"type": "t", "data": 1, "userIds": %b%b}' % (b"[" * DEEP, b"]" * DEEP),
    "one level too many": b'{"type": "t", "data": %b%b}' % (b"[" * 100, b"]" * 100),
    "brackets closed before they open": b"]" * DEEP + b"[" * DEEP,
    "behind a string that never ends": b"[" * 101 + b'"' + b"[" * DEEP,
}


@pytest.mark.parametrize("body", NESTED.values(), ids=NESTED.keys())
def test_deep_nesting_is_refused_before_anything_recurses(api: Api, body: bytes) -> None:
    problem_of(api.post(body), 400)
    problem_of(api.post(body, BATCHED), 400)


@pytest.mark.parametrize("end", [b"", b"\\", b'"', b'"]'])
def test_escaped_quotes_are_checked_in_linear_time(api: Api, end: bytes) -> None:
    began = time.monotonic()
    problem_of(api.post(b"[" * 101 + b'\\"' * 500_000 + end), 400)
    assert time.monotonic() - began < 5


WRONG_FIELDS: dict[str, tuple[bytes, list[str]]] = {
    "a number": (b"5", [""]),
    "a text": (b'"event"', [""]),
    "null": (b"null", [""]),
    "no type": (b'{"data": 1}', ["/type"]),
    "no data": (b'{"type": "t"}', ["/data"]),
    "a type that is a number": (event(type=5), ["/type"]),
    "a type that is null": (event(type=None), ["/type"]),
    "an empty type": (event(type=""), ["/type"]),
    "a type of 129 characters": (event(type="t" * 129), ["/type"]),
    "a type that is not ASCII": (event(type="ü"), ["/type"]),
    "a type with a digit that is not ASCII": (event(type="t٣"), ["/type"]),
    "a type with a space": (event(type="a b"), ["/type"]),
    "a type with a comma": (event(type="a,b"), ["/type"]),
    "a control event of the stream": (event(type="realtime.ready"), ["/type"]),
    "an id that is a number": (event(id=5), ["/id"]),
    "an empty id": (event(id=""), ["/id"]),
    "an id of 257 characters": (event(id="i" * 257), ["/id"]),
    "an id with a space": (event(id="a b"), ["/id"]),
    "an id that is not ASCII": (event(id="ü"), ["/id"]),
    "an audience of nobody": (event(userIds=[]), ["/userIds"]),
    "an audience that is a text": (event(userIds="u1"), ["/userIds"]),
    "an audience that is an object": (event(userIds={"u1": True}), ["/userIds"]),
    "an audience of 1,001": (event(userIds=USERS), ["/userIds"]),
    "a user that is a number": (event(userIds=["u1", 2]), ["/userIds/1"]),
    "a user that is null": (event(userIds=[None]), ["/userIds/0"]),
    "an empty user": (event(userIds=["u1", ""]), ["/userIds/1"]),
    "a user of 257 characters": (event(userIds=["u" * 257]), ["/userIds/0"]),
    "userId for userIds, which would tell everyone": (event(userId="u1"), ["/userId"]),
    "user_ids for userIds": (event(user_ids=["u1"]), ["/user_ids"]),
    "an unknown field to escape": (event(**{"a/b~c": 1}), ["/a~1b~0c"]),
    "an unknown field too long to repeat": (event(**{"x" * 5_000: 1}), [""]),
    "several at once": (event(type="", id="", userIds=["", "\n"]), ["/type", "/id", "/userIds/0", "/userIds/1"]),
}


@pytest.mark.parametrize(("body", "pointers"), WRONG_FIELDS.values(), ids=WRONG_FIELDS.keys())
def test_a_wrong_field_is_pointed_at_alone_and_in_a_batch(api: Api, body: bytes, pointers: list[str]) -> None:
    problem = problem_of(api.post(body), 400)
    assert pointers_of(problem) == pointers
    assert len(problem["detail"]) < 300
    batch = problem_of(api.post(b"[%b, %b]" % (event(), body)), 400)
    assert pointers_of(batch) == [f"/1{pointer}" for pointer in pointers]


@pytest.mark.parametrize("control", ["\r", "\n", "\r\n", "\0", "\x1b", "\x7f", "\x85"])
@pytest.mark.parametrize(
    ("template", "pointer"),
    [
        ({"type": "a{}event: b"}, "/type"),
        ({"type": "a{}"}, "/type"),
        ({"id": "a{}id: b"}, "/id"),
        ({"id": "{}a"}, "/id"),
        ({"userIds": ["u1", "a{}b"]}, "/userIds/1"),
        ({"userIds": ["{}"]}, "/userIds/0"),
    ],
)
def test_a_control_character_in_a_field_cannot_reach_a_frame(
    api: Api, template: dict[str, Any], pointer: str, control: str
) -> None:
    fields = json.loads(json.dumps(template).replace("{}", json.dumps(control)[1:-1]))
    assert pointers_of(problem_of(api.post(event(**fields)), 400)) == [pointer]


@pytest.mark.parametrize("control", ["\r", "\n", "\0"])
@pytest.mark.parametrize(
    "name", ["specversion", "id", "source", "type", "subject", "time", "userids", "dataschema", "x"]
)
def test_control_characters_in_attributes_are_refused(api: Api, name: str, control: str) -> None:
    """They could forge an SSE frame."""
    good = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "time": "2026-11-23T10:00:00Z"}
    for bad in (good.get(name, "a") + control, control + good.get(name, "a"), f"a{control}b"):
        structured = json.dumps({**good, name: bad}).encode()
        assert set(pointers_of(problem_of(api.post(structured, STRUCTURED), 400))) == {f"/{name}"}
        escaped = bad.replace("\r", "%0d").replace("\n", "%0A").replace("\0", "%00")
        headers = {f"ce-{field}": value for field, value in {**good, name: escaped}.items()}
        assert set(pointers_of(problem_of(api.post(b"1", headers=headers), 400))) == {f"/{name}"}


def test_no_event_and_too_many_are_refused(api: Api) -> None:
    assert pointers_of(problem_of(api.post(b"[]"), 400)) == [""]
    assert pointers_of(problem_of(api.post(b"[%b]" % b",".join([event()] * 101)), 400)) == [""]


def test_an_answer_tells_of_a_hundred_errors_and_no_more(api: Api) -> None:
    batch = b"[%b]" % b",".join([event(userIds=[""] * 1_000)] * 100)
    response = api.post(batch)
    assert len(pointers_of(problem_of(response, 400))) == 100
    assert len(response.content) < 20_000


def test_an_event_above_its_limit_is_too_large(api: Api) -> None:
    large = event(data="x" * (256 * 1024))
    assert pointers_of(problem_of(api.post(large), 413)) == [""]
    assert pointers_of(problem_of(api.post(b"[%b, %b]" % (event(), large)), 413)) == ["/1"]
    assert pointers_of(problem_of(api.post(b"[%b, %b]" % (event(), large), BATCHED), 413)) == ["/1"]
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}
    problem_of(api.post(json.dumps("x" * (256 * 1024)).encode(), headers=headers), 413)


@pytest.mark.parametrize("size", [1024 * 1024 + 1, 10 * 1024 * 1024])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_a_413(api: Api, size: int, chunked: bool) -> None:
    """Also without a Content-Length."""
    body = b"[%b]" % event().ljust(size - 2)  # each event is small, only the whole is not
    parts = (body[at : at + 65_536] for at in range(0, size, 65_536))
    problem_of(api.post(parts if chunked else body), 413)


UNSUPPORTED = [
    None,
    "",
    "text/plain",
    "text/json",
    "application/xml",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
    "application/jsonp",
    "application/vnd.api+json",
    "application/cloudevents",
    "application/cloudevents+avro",
    "application/json, application/json",
    "application/json; charset=iso-8859-1",
    "application/json; charset=utf-16",
    "application/cloudevents+json; charset=latin1",
    "application/json; charset=utf-8; charset=utf-16",
]


@pytest.mark.parametrize("content_type", UNSUPPORTED)
def test_another_content_type_is_refused_with_a_list_of_ours(api: Api, content_type: str | None) -> None:
    response = api.post(event(), content_type)
    problem_of(response, 415)
    assert response.headers["accept"] == f"application/json, {STRUCTURED}, {BATCHED}"
