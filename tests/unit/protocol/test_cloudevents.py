"""CloudEvents 1.0 as publish requests: structured, batched and binary, and which attributes are refused."""

import json
import string
from typing import Any

import pytest
from tidewire.errors import ContentTooLarge, InvalidRequest
from tidewire.model.event import Event
from tidewire.protocol.cloudevents import (
    AUDIENCE,
    MAX_ATTRIBUTE_LENGTH,
    MAX_ATTRIBUTES,
    check_headers,
    names_audience,
    parse_binary,
    parse_structured,
)
from tidewire.protocol.publish_request import MAX_EVENT_BYTES

GOOD = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
HEADERS = {f"ce-{name}": value for name, value in GOOD.items()}
PLAIN = Event("1", "t", b"null", None, {"source": "/s"})


def structured(event: Any) -> list[Event]:
    return parse_structured(json.dumps(event).encode(), False)


def batched(*events: Any) -> list[Event]:
    return parse_structured(json.dumps(events).encode(), True)


def errors_of(event: Any) -> tuple[tuple[str, str], ...]:
    with pytest.raises(InvalidRequest) as refused:
        structured(event)
    return refused.value.errors


def test_an_event_of_only_the_required_attributes() -> None:
    """Without data, it is null; the source is kept as an attribute."""
    assert structured(GOOD) == batched(GOOD) == parse_binary(HEADERS, b"null") == [PLAIN]


def test_data_is_taken_as_it_is_written() -> None:
    """Digits and white space of a member of the JSON text, or of the body in binary mode."""
    data = b'{"n": 1.0, "big": 123456789012345678901234567890}'
    body = json.dumps(GOOD).encode()[:-1] + b', "data": ' + data + b"}"
    assert [event.data for event in parse_structured(body, False)] == [data]
    assert [event.data for event in parse_binary(HEADERS, b" [1e5]\r\n")] == [b" [1e5]\r\n"]


def test_all_other_attributes_are_passed_on_as_text() -> None:
    """But not the version and the content type, which are the same for all events."""
    others = {"subject": "Task/7", "time": "2026-11-23t10:00:00z", "dataschema": "https://s.example/1", "x1": ""}
    more = {"datacontenttype": "application/json", "sequence": 2**31 - 1, "minimum": -(2**31), "yes": True, "no": False}
    [event] = structured({**GOOD, **others, **more})
    assert event.attributes == {
        "source": "/s",
        **others,
        "sequence": "2147483647",
        "minimum": "-2147483648",
        "yes": "true",
        "no": "false",
    }


def test_null_is_the_same_as_absent() -> None:
    """JSON Event Format section 2.2: an unset attribute may be null."""
    absent = ["subject", "time", "userids", "datacontenttype", "data_base64", "trace", "data"]
    assert structured({**GOOD, **dict.fromkeys(absent)}) == [PLAIN]


def test_a_batch_keeps_its_order() -> None:
    assert [event.id for event in batched(*({**GOOD, "id": str(n)} for n in range(3)))] == ["0", "1", "2"]


@pytest.mark.parametrize(("body", "is_batch"), [(GOOD, True), ([GOOD], False)])
def test_one_event_is_no_batch_and_a_batch_is_not_one_event(body: Any, is_batch: bool) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_structured(json.dumps(body).encode(), is_batch)
    assert str(refused.value) == (
        "application/cloudevents-batch+json takes an array, application/cloudevents+json one object"
    )


@pytest.mark.parametrize(("body", "pointer"), [(5, ""), ([GOOD, 5], "/1")], ids=["structured", "batched"])
def test_what_is_no_object_is_pointed_at(body: Any, pointer: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_structured(json.dumps(body).encode(), bool(pointer))
    assert str(refused.value) == "A CloudEvent is a JSON object"
    assert refused.value.errors == ((pointer, "Expected `object`, got `int`"),)


@pytest.mark.parametrize(
    ("text", "users"),
    [
        ("u1", ("u1",)),
        ("X, XuX", ("X", "XuX")),
        (" u2 ,u1,, u2 ", ("u2", "u1")),
        ("ü ü,x y", ("ü ü", "x y")),
        (" , ", ()),
        ("", ()),
    ],
)
def test_userids_is_a_list_of_users(text: str, users: tuple[str, ...]) -> None:
    """Comma-separated, with optional spaces; a user named twice is one. It is not an attribute of the event."""
    values = {**GOOD, "userids": text}
    if not users:
        assert errors_of(values) == (("/userids", "must not be empty: leave it out to reach everyone"),)
    else:
        assert structured(values) == [Event("1", "t", b"null", users, {"source": "/s"})]


def test_userids_may_be_longer_than_other_attributes() -> None:
    [event] = structured({**GOOD, "userids": ",".join(f"user-{n}" for n in range(1_000))})
    assert event.user_ids is not None
    assert len(event.user_ids) == 1_000


NAME = "is not an attribute name: 1 to 64 lower-case letters and digits, and not data"
VALUE = "must have at most 1,024 characters, none of them control characters"
REQUIRED = "is required, and must be a string that is not empty"
KIND = "must be a string, a 32-bit integer or a boolean"
JSON_TYPE, TIME, VERSION = "must be a JSON type", "must be an RFC 3339 time", 'must be "1.0"'
ID, TYPE = "must be 1 to 256 visible ASCII characters (no spaces)", "must be 1 to 128 characters of A-Z a-z 0-9 . _ -"

WRONG: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "no specversion": ({"specversion": None, "id": None}, [("/specversion", VERSION)]),
    "specversion of another version": ({"specversion": "0.3", "id": 5}, [("/specversion", VERSION)]),
    "specversion as a number": ({"specversion": 1.0}, [("/specversion", VERSION)]),
    "no id": ({"id": None, "source": None}, [("/id", REQUIRED)]),
    "an empty id": ({"id": ""}, [("/id", REQUIRED)]),
    "an id that is a number": ({"id": 5}, [("/id", REQUIRED)]),
    "an id with a space": ({"id": "a b"}, [("/id", ID)]),
    "no source": ({"source": None}, [("/source", REQUIRED)]),
    "an empty source": ({"source": ""}, [("/source", REQUIRED)]),
    "a source of received webhooks": (
        {"source": "/webhooks/x"},
        [("/source", "must not start with /webhooks/: these are the sources of received webhooks")],
    ),
    "no type": ({"type": None}, [("/type", REQUIRED)]),
    "an empty type": ({"type": ""}, [("/type", REQUIRED)]),
    "a type with a space": ({"type": "a b"}, [("/type", TYPE)]),
    "a reserved type": (
        {"type": "realtime.gap"},
        [("/type", "must not start with 'realtime.': these names are reserved")],
    ),
    "data in base64": ({"data_base64": "AA==", "X": 1}, [("/data_base64", "is not supported: data must be JSON")]),
    "xml": ({"datacontenttype": "application/xml"}, [("/datacontenttype", JSON_TYPE)]),
    "no content type": ({"datacontenttype": ""}, [("/datacontenttype", JSON_TYPE)]),
    "a content type that is a number": ({"datacontenttype": 5}, [("/datacontenttype", JSON_TYPE)]),
    "a content type like JSON": ({"datacontenttype": "application/jsonp"}, [("/datacontenttype", JSON_TYPE)]),
    "a time without a zone": ({"time": "2026-11-23T10:00:00"}, [("/time", TIME)]),
    "a day that is none": ({"time": "2026-02-30T10:00:00Z"}, [("/time", TIME)]),
    "an empty time": ({"time": ""}, [("/time", TIME)]),
    "a time that is a number": ({"time": 5}, [("/time", TIME)]),
    "an upper-case name": ({"Trace": "x"}, [("/Trace", NAME)]),
    "a name that is not ASCII": ({"tracé": "x"}, [("/tracé", NAME)]),
    "an empty name": ({"": "x"}, [("/", NAME)]),
    "a name to escape": ({"a/b~c": "x"}, [("/a~1b~0c", NAME)]),
    "a name too long to repeat": ({"n" * 65: "x"}, [("", NAME)]),
    "an object": ({"trace": {}}, [("/trace", KIND)]),
    "a fraction": ({"trace": 1.5}, [("/trace", KIND)]),
    "an integer above 32 bits": ({"trace": 2**31}, [("/trace", KIND)]),
    "an integer below 32 bits": ({"trace": -(2**31) - 1}, [("/trace", KIND)]),
    "too long": ({"subject": "s" * (MAX_ATTRIBUTE_LENGTH + 1)}, [("/subject", VALUE)]),
    "an audience of nobody": ({"userids": " , "}, [("/userids", "must not be empty: leave it out to reach everyone")]),
    "an audience that is a list": ({"userids": ["u1"]}, [("/userids", "must be a string")]),
    "an audience that is a number": ({"userids": 5}, [("/userids", "must be a string")]),
    "an audience that is true": ({"userids": True}, [("/userids", "must be a string")]),
    "an audience too large": (
        {"userids": ",".join(map(str, range(1_001)))},
        [("/userids", "must name at most 1,000 users, not 1,001")],
    ),
    "a user too long": (
        {"userids": "u1," + "u" * 257},
        [("/userids", "must be 1 to 256 characters without control characters")],
    ),
    "several at once": (
        {"subject": "\n", "time": "now", "id": "a b", "datacontenttype": "text/xml"},
        [("/subject", VALUE), ("/datacontenttype", JSON_TYPE), ("/time", TIME), ("/id", ID)],
    ),
}


@pytest.mark.parametrize(("change", "errors"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_attribute_is_pointed_at(change: dict[str, Any], errors: list[tuple[str, str]]) -> None:
    """Alone and in a batch; of an event of another version or without its three names, only that."""
    assert errors_of({**GOOD, **change}) == tuple(errors)
    with pytest.raises(InvalidRequest) as refused:
        batched(GOOD, {**GOOD, **change})
    assert refused.value.errors == tuple((f"/1{pointer}", problem) for pointer, problem in errors)


@pytest.mark.parametrize("control", ["\r", "\n", "\0", "\x1f", "\x7f", "\x9f"], ids=range(6))
@pytest.mark.parametrize("name", ["specversion", "id", "source", "type", "subject", "time", "userids", "x"])
def test_a_control_character_in_an_attribute_is_refused(name: str, control: str) -> None:
    """It could forge a frame, in any mode."""
    good = {**GOOD, "time": "2026-11-23T10:00:00Z"}
    for bad in (good.get(name, "a") + control, control + good.get(name, "a"), f"a{control}b"):
        assert {pointer for pointer, _ in errors_of({**good, name: bad})} == {f"/{name}"}
        escaped = "".join(f"%{byte:02X}" for byte in bad.encode())
        with pytest.raises(InvalidRequest) as refused:
            parse_binary({**HEADERS, f"ce-{name}": escaped}, b"1")
        assert {pointer for pointer, _ in refused.value.errors} == {f"/{name}"}


def test_the_number_and_size_of_attributes_is_limited() -> None:
    """Counted with the required ones."""
    most = {**GOOD, **{f"x{n}": "s" * MAX_ATTRIBUTE_LENGTH for n in range(MAX_ATTRIBUTES - len(GOOD))}}
    most["n" * 64] = most.pop("x0")
    assert len(structured(most)[0].attributes) == MAX_ATTRIBUTES - 3
    assert errors_of({**most, "more": ""}) == (("", "has more than 32 attributes"),)


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    """Python refuses to convert it, which must be an error of the request."""
    body = json.dumps(GOOD).encode()[:-1] + b', "sequence": ' + b"9" * 5_000 + b"}"
    with pytest.raises(InvalidRequest) as refused:
        parse_structured(body, False)
    assert refused.value.errors == (("/sequence", KIND),)


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "text/json",
        "Application/JSON; charset=utf-8",
        "application/vnd.shop-1.x+json",
        "text/a+json ;",
    ],
)
def test_the_data_is_json_by_any_name(kind: str) -> None:
    assert structured({**GOOD, "datacontenttype": kind}) == [PLAIN]


def edits(word: str) -> set[str]:
    """All texts that one edit, or one swap of neighbours, makes of the word."""
    cuts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    letters = string.ascii_lowercase + string.digits
    return {
        *(a + b[1:] for a, b in cuts),
        *(a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1),
        *(a + letter + b[1:] for a, b in cuts for letter in letters),
        *(a + letter + b for a, b in cuts for letter in letters),
    }


@pytest.mark.parametrize("word", [AUDIENCE, "topics"])
def test_a_misspelt_audience_is_not_an_extension(word: str) -> None:
    """With `userid`, one letter short of `userids`, the event would be public."""
    assert all(map(names_audience, edits(word)))


@pytest.mark.parametrize(
    "name",
    [
        *("userIds", "USERIDS", "user_ids", "user-ids", "-User_IDs-", "Topics"),
        *("user", "users", "userlist", "useridlist", "usersid", "uids", "audience", "recipient", "recipients"),
    ],
)
def test_a_name_that_is_meant_as_the_audience(name: str) -> None:
    assert names_audience(name)


@pytest.mark.parametrize(
    "name",
    ["userkind", "useragent", "subject", "partitionkey", "traceparent", "authid", "optic", "user1", "serid", "usridz"],
)
def test_a_name_that_is_not_near_the_audience_is_accepted(name: str) -> None:
    assert not names_audience(name)
    [event] = structured({**GOOD, name: "x"})
    assert event.attributes[name] == "x"


@pytest.mark.parametrize("name", ["userid", "user_ids", "Topics"])
def test_a_misspelt_audience_is_refused_with_the_right_name(name: str) -> None:
    problem = "is not the audience: its name is userids, a comma-separated list of user ids"
    assert errors_of({**GOOD, name: "u1"}) == ((f"/{name}", problem),)
    long = "-" * 60 + name
    assert errors_of({**GOOD, long: "u1"}) == (("", problem),)


def test_headers_name_an_audience_only_in_binary_mode() -> None:
    """Elsewhere they would be ignored, and the event public."""
    check_headers({"userids": "u1", "ce-subject": "x", "x-ce-userids": "u1"})
    for name, pointer in (
        ("userids", "/userids"),
        ("topics", "/topics"),
        ("user-id", "/user-id"),
        ("_" * 64 + "user", ""),
    ):
        with pytest.raises(InvalidRequest) as refused:
            check_headers({"ce-subject": "x", f"ce-{name}": "u1"})
        assert refused.value.errors == ((pointer, "needs ce-specversion"),)
        assert str(refused.value) == (
            "ce- headers are read only in binary mode: with ce-specversion and a JSON content type other than"
            " application/cloudevents+json and application/cloudevents-batch+json"
        )


def test_other_headers_are_no_attributes() -> None:
    headers = {"content-type": "application/json", "x-ce-a": "b", **HEADERS, "cee": "x"}
    assert parse_binary(headers, b"null") == [PLAIN]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a%20b", "a b"),
        ("%E2%82%AC%20%F0%9F%98%80", "€ 😀"),
        ("a%2541", "a%41"),  # decoded once
        ("50%", "50%"),
        ("+", "+"),
        (r'"a \"b\" \\c"', r'a "b" \c'),
        ('"a%20b"', "a b"),
        ('"', '"'),
        ('""', ""),
        ('"a', '"a'),
        ('a"', 'a"'),
        (r"a\b", r"a\b"),
    ],
)
def test_a_header_is_unquoted_and_decoded(value: str, text: str) -> None:
    """HTTP Protocol Binding section 3.1.3.2; older senders quote, and escape inside the quotes."""
    [event] = parse_binary({**HEADERS, "ce-subject": value}, b"1")
    assert event.attributes["subject"] == text


@pytest.mark.parametrize("value", ["%ff", "%C0%A0", "%ED%A0%80", "Zo\xeb"])
@pytest.mark.parametrize(("name", "pointer"), [("userids", "/userids"), ("a/b", "/a~1b"), ("n" * 65, "")])
def test_a_header_that_is_not_percent_encoded_utf_8_is_refused(value: str, name: str, pointer: str) -> None:
    """A guess of its encoding could name another user."""
    with pytest.raises(InvalidRequest) as refused:
        parse_binary({**HEADERS, f"ce-{name}": value}, b"1")
    assert str(refused.value) == "A ce- header cannot be read"
    assert refused.value.errors == ((pointer, "must be percent-encoded UTF-8"),)


def test_a_header_must_not_be_repeated() -> None:
    """A proxy and this server could read different ones."""

    class Headers(dict[str, str]):
        """As Starlette's, whose items() has each line."""

        def items(self) -> Any:
            return [*super().items(), ("ce-id", "1")]

    with pytest.raises(InvalidRequest) as refused:
        parse_binary(Headers(HEADERS), b"1")
    assert str(refused.value) == "A ce- header is repeated"
    assert refused.value.errors == (("/id", "is repeated"),)


def test_data_as_a_header_would_be_a_second_member() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_binary({**HEADERS, "ce-data": "forged"}, b'"real"')
    assert refused.value.errors == (("/data", NAME),)


def test_a_wrong_header_is_pointed_at() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_binary({**HEADERS, "ce-time": "now"}, b"1")
    assert refused.value.errors == (("/time", TIME),)
    assert str(refused.value) == f"/time {TIME}"


def test_the_body_of_binary_mode_is_strict_json_and_bounded() -> None:
    """The largest one passes."""
    largest = b'"%b"' % (b"x" * (MAX_EVENT_BYTES - 2))
    assert parse_binary(HEADERS, largest)[0].data == largest
    with pytest.raises(ContentTooLarge, match=r"^An event may have at most 256 KiB$"):
        parse_binary(HEADERS, largest + b" ")
    with pytest.raises(InvalidRequest, match="twice"):
        parse_binary(HEADERS, b'{"a": 1, "a": 2}')
