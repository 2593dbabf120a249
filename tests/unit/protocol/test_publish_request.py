"""The body of a publish: which events it makes, and what of a wrong one is named."""

import json
import uuid
from typing import Any

import pytest
from tidewire.errors import ContentTooLarge, InvalidRequest
from tidewire.model.event import Event
from tidewire.protocol.publish_request import (
    MAX_EVENT_BYTES,
    MAX_EVENTS,
    idempotency_key,
    parse_events,
    split,
)


def event(**fields: Any) -> bytes:
    return json.dumps({"type": "t", "data": 1, **fields}).encode()


def refusal(body: bytes, key: str | None = None) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        parse_events(body, key)
    return refused.value


def pointers(body: bytes) -> list[str]:
    return [pointer for pointer, _ in refusal(body).errors]


def test_an_event_has_its_fields_and_its_data_unchanged() -> None:
    """Digits, escapes and white space of the data are those of the body; a user named twice is one."""
    body = rb'{"userIds": ["u2", "u1", "u2"], "data": { "n": 1.0, "e":"\u00e9" }, "id": "i", "type": "a.b"}'
    assert parse_events(body) == [Event("i", "a.b", rb'{ "n": 1.0, "e":"\u00e9" }', ("u2", "u1"))]


@pytest.mark.parametrize("fields", [{}, {"id": None, "userIds": None}])
def test_absent_and_null_are_everyone_and_a_new_id(fields: dict[str, Any]) -> None:
    [first], [second] = parse_events(event(**fields)), parse_events(event(**fields))
    assert (first.type, first.data, first.user_ids) == ("t", b"1", None)
    assert uuid.UUID(first.id).version == 7
    assert first.id != second.id


def test_a_batch_keeps_its_order() -> None:
    """The largest one, with white space around it."""
    batch = b"\r\n\t [" + b" ,\n".join(event(data=n, id=f"i{n}") for n in range(MAX_EVENTS)) + b"] "
    assert parse_events(batch) == [Event(f"i{n}", "t", b"%d" % n) for n in range(MAX_EVENTS)]


WRONG: dict[str, tuple[bytes, list[str]]] = {
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
    "an audience of 1,001": (event(userIds=[f"u{n}" for n in range(1_001)]), ["/userIds"]),
    "a user that is a number": (event(userIds=["u1", 2]), ["/userIds/1"]),
    "a user that is null": (event(userIds=[None]), ["/userIds/0"]),
    "an empty user": (event(userIds=["u1", ""]), ["/userIds/1"]),
    "a user of 257 characters": (event(userIds=["u" * 257]), ["/userIds/0"]),
    "userId for userIds, which would reach everyone": (event(userId="u1"), ["/userId"]),
    "user_ids for userIds": (event(user_ids=["u1"]), ["/user_ids"]),
    "an unknown field to escape": (event(**{"a/b~c": 1}), ["/a~1b~0c"]),
    "an unknown field too long to repeat": (event(**{"x" * 5_000: 1}), [""]),
    "several at once": (event(type="", id="", userIds=["", "\n"]), ["/type", "/id", "/userIds/0", "/userIds/1"]),
}


@pytest.mark.parametrize(("body", "expected"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_field_is_pointed_at_alone_and_in_a_batch(body: bytes, expected: list[str]) -> None:
    """The detail repeats no long value."""
    assert pointers(body) == expected
    assert len(str(refusal(body))) < 300
    assert pointers(b"[%b, %b]" % (event(), body)) == [f"/1{pointer}" for pointer in expected]


@pytest.mark.parametrize("control", ["\r", "\n", "\r\n", "\0", "\x1b", "\x7f", "\x85"], ids=range(7))
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
    ids=range(6),
)
def test_a_control_character_in_a_field_is_refused(template: dict[str, Any], pointer: str, control: str) -> None:
    """It could end a line of a frame."""
    fields = json.loads(json.dumps(template).replace("{}", json.dumps(control)[1:-1]))
    assert pointers(event(**fields)) == [pointer]


def test_every_problem_of_a_batch_is_listed() -> None:
    refused = refusal(b"[%b, %b, %b]" % (event(type="a b"), event(), event(id="", userIds=[])))
    assert [pointer for pointer, _ in refused.errors] == ["/0/type", "/2/id", "/2/userIds"]
    assert str(refused) == "/0/type must be 1 to 128 characters of A-Z a-z 0-9 . _ -"


def test_a_batch_has_at_least_one_and_at_most_a_hundred_events() -> None:
    empty = refusal(b" [] ")
    assert str(empty) == "The array holds no event"
    assert empty.errors == (("", "must hold at least one event"),)
    many = refusal(b"[%b]" % b",".join([event()] * (MAX_EVENTS + 1)))
    assert str(many) == "At most 100 events fit in one request, not 101: send the rest in another"
    assert many.errors == (("", "must hold at most 100 events"),)


@pytest.mark.parametrize(("batch", "pointer"), [(b"%b", ""), (b"[1, %b]", "/1")])
def test_an_event_has_a_largest_size(batch: bytes, pointer: str) -> None:
    """256 KiB as the JSON text in the body, with spaces; the largest one passes."""
    largest = b'"%b"' % (b"x" * (MAX_EVENT_BYTES - 2))
    assert split(batch % largest)[0][-1] == largest
    with pytest.raises(ContentTooLarge) as refused:
        split(batch % b'"%b"' % (b"x" * (MAX_EVENT_BYTES - 1)))
    assert str(refused.value) == "An event may have at most 256 KiB"
    assert refused.value.errors == ((pointer, "has 262,145 bytes"),)


@pytest.mark.parametrize(
    ("body", "items", "single"),
    [
        (b" {} ", [b" {} "], True),
        (b'"["', [b'"["'], True),
        (b" \t\r\n[1, {} ]", [b"1", b"{}"], False),
        (b"[[ ]]", [b"[ ]"], False),
    ],
)
def test_a_body_is_one_text_or_an_array_of_them(body: bytes, items: list[bytes], single: bool) -> None:
    assert split(body) == (items, single)


def test_a_body_is_strict_json() -> None:
    assert str(refusal(b"")) == "The body is empty"
    assert "twice" in str(refusal(b'{"type": "t", "data": 1, "data": 2}'))


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (None, None),
        ("k", "k"),
        ('"k"', "k"),
        ('"k', '"k'),
        ('k"', 'k"'),
        ('"', '"'),
        ('""', ""),
        ('""k""', '"k"'),
        ("", ""),
        ("xkx", "xkx"),
    ],
)
def test_quotes_around_an_idempotency_key_are_not_part_of_it(header: str | None, key: str | None) -> None:
    """A string of a structured field has them (RFC 9651 section 3.3.3), other senders write none."""
    assert idempotency_key(header) == key


@pytest.mark.parametrize("fields", [{}, {"id": None}, {"id": "k"}])
def test_an_idempotency_key_is_the_id_of_a_single_event(fields: dict[str, Any]) -> None:
    assert parse_events(event(**fields), "k") == [Event("k", "t", b"1")]


def test_an_idempotency_key_must_agree_with_the_id() -> None:
    refused = refusal(event(id="i"), "k")
    assert str(refused) == "Idempotency-Key and the event's id differ"
    assert refused.errors == (("/id", "differs from the header"),)


def test_an_idempotency_key_fits_no_array() -> None:
    """Also not one of a single event: its sender may send more the next time."""
    refused = refusal(b"[%b]" % event(), "k")
    assert str(refused) == "Idempotency-Key is for a single event; give each event of an array its own id"
    assert refused.errors == ()


@pytest.mark.parametrize("key", ["", "a b", "k\u00e9y", "k" * 257])
def test_an_idempotency_key_follows_the_rules_of_an_id(key: str) -> None:
    assert refusal(event(), key).errors == (("/id", "must be 1 to 256 visible ASCII characters (no spaces)"),)
