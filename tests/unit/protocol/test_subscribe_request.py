"""The query of a stream or long poll, at its edges."""

import time

import pytest
from tidewire.errors import InvalidRequest
from tidewire.model.cursor import Start
from tidewire.protocol.subscribe_request import (
    MAX_FIELDS,
    MAX_TYPES,
    RESUME,
    SubscribeRequest,
    parse_subscribe_request,
)

DAY = 86_400_000


def parse(query: str, **headers: str) -> SubscribeRequest:
    return parse_subscribe_request(query.encode(), {name.replace("_", "-"): value for name, value in headers.items()})


def test_an_empty_query_is_the_default() -> None:
    """All types, from now, without a wait."""
    assert parse("") == SubscribeRequest(None, Start(None, "now"), "data", 0.0, None, None)


def test_every_field_is_read() -> None:
    """Unknown fields are ignored: proxies add some."""
    found = parse("types=a,b&from=earliest&format=cloudevents&wait=2.5&userId=%C3%BC&ticket=t&utm=1")
    assert found == SubscribeRequest(frozenset({"a", "b"}), Start(None, "earliest"), "cloudevents", 2.5, "ü", "t")


@pytest.mark.parametrize("query", ["types=a,b", "types=a&types=b", "types[]=a&types%5B%5D=b", "types[0]=a&types[1]=b"])
def test_types_are_a_list_in_any_encoding(query: str) -> None:
    """Libraries encode lists in different ways."""
    assert parse(query).types == frozenset({"a", "b"})


@pytest.mark.parametrize("name", RESUME)
def test_a_cursor_has_many_names_and_the_header_wins(name: str) -> None:
    """EventSource polyfills repeat the cursor when they reconnect."""
    assert parse(f"{name}=c").start.cursor == "c"
    assert parse(f"{name}=c&{name}=c&{name}=").start.cursor == "c"
    assert parse(f"{name}=").start.cursor is None
    assert parse(f"{name}=c", last_event_id="h").start.cursor == "h"
    assert parse(f"{name}=c", last_event_id="").start.cursor == "c"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("wait=1&wait=2", "The query has 'wait' twice"),
        (f"{'x' * 39}=1&{'x' * 39}=", f"The query has '{'x' * 39}' twice"),
        (f"{'x' * 40}=1&{'x' * 40}=", "The query has a field twice"),
        ("last_event_id=a&lastEventId=b", "The query has different cursors: last_event_id, lastEventId, lastEventID,"),
        ("x=%ff", f"The query is not percent-encoded UTF-8, or has over {MAX_FIELDS} fields"),
        ("&".join(f"x{n}=" for n in range(MAX_FIELDS + 1)), "The query is not percent-encoded UTF-8, or has over"),
        ("types=" + ",".join("a" * (MAX_TYPES + 1)), f"types: at most {MAX_TYPES}, not {MAX_TYPES + 1}"),
        ("types=", "types: a comma-separated list of event types (A-Z a-z 0-9 . _ -, 1 to 128 each)"),
        ("types=a,", "types: a comma-separated list"),
        ("types[1234]=a&types[1234]=a", "The query has 'types[1234]' twice"),
        ("x=%ED%A0%80", f"The query is not percent-encoded UTF-8, or has over {MAX_FIELDS} fields"),
        ("from=then", "from: must be now, earliest, or an RFC 3339 time"),
        ("from=", "from: must be now, earliest, or an RFC 3339 time"),
        ("format=xml", "format: must be data or cloudevents"),
        ("wait=20.001", "wait: must be a number of seconds from 0 to 20"),
        ("wait=-1", "wait: must be a number of seconds from 0 to 20"),
        ("wait=1.2345", "wait: must be a number of seconds from 0 to 20"),
        ("wait=%D9%A1", "wait: must be a number of seconds from 0 to 20"),  # a digit that is not ASCII
        ("wait=1e1", "wait: must be a number of seconds from 0 to 20"),
        ("userId=", "userId: must be 1 to 256 characters without control characters"),
        ("userId=%00", "userId: must be 1 to 256 characters without control characters"),
    ],
)
def test_an_invalid_field_is_refused_by_its_name(query: str, message: str) -> None:
    """The message names the field and says what is allowed; a long name is not repeated."""
    with pytest.raises(InvalidRequest) as refused:
        parse(query)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("types", ["", ",", ",a", "a,,b", "a%20b", "a%0d", "a%0ab", "a%00", "%C3%BC", "a" * 129]),
        ("types[]", ["", "a%0a"]),
        ("userId", ["a%0d", "%0ab", "a%7f", "%E2%80%A8", "u" * 257]),
        ("from", ["NOW", "now%0d", "earliest%0a", "0", "-1", "2026-11-23", "2026-11-23T10:00:00"]),
        ("from", [f"2026-{value}" for value in ("13-01T00:00:00Z", "01-01T25:00:00Z", "01-01T00:00:00+25:00")]),
        ("from", ["2026-11-23T10:00:00Z%00", "%D9%A2026-01-01T00:00:00Z", "24:00:00Z", "2016-12-31T23:59:61Z"]),
        ("format", ["", "DATA", "cloudevents%0a", "%00"]),
        ("wait", ["", "21", "inf", "nan", "0x1", "1%0a", "+1"]),
    ],
    ids=range(8),
)
def test_only_the_documented_values_are_accepted(field: str, values: list[str]) -> None:
    """Whole and to the letter: a line end or a NUL behind a value makes it another one."""
    for value in values:
        with pytest.raises(InvalidRequest, match=f"^{field.removesuffix('[]')}: "):
            parse(f"{field}={value}")


def test_limits_are_inclusive() -> None:
    """The largest number of fields and of types, and the longest wait."""
    assert parse("&".join(f"x{n}=" for n in range(MAX_FIELDS))).types is None
    assert parse("types=" + ",".join("a" * MAX_TYPES)).types == frozenset("a")
    assert parse("wait=20").wait == 20.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-01T00:00:00.25Z", 1_767_225_600_250),
        ("2026-01-01%2000:00:00Z", 1_767_225_600_000),
        ("2026-01-01T01:00:00+01:00", 1_767_225_600_000),
        ("2026-01-01T01:00:00%2B01:00", 1_767_225_600_000),
        ("1960-01-01T00:00:00Z", 0),
    ],
)
def test_a_time_may_be_encoded_badly(text: str, expected: int) -> None:
    """A `+` that is not percent-encoded arrives as a space."""
    assert parse(f"from={text}").start.since == expected


def test_a_time_of_the_future_is_at_most_a_day_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store compares it with its own clock."""
    monkeypatch.setattr(time, "time", lambda: 1_767_225_600.25)
    assert parse("from=2026-01-02T00:00:00.249Z").start.since == 1_767_225_600_249 + DAY
    assert parse("from=2026-01-02T00:00:00.251Z").start.since == 1_767_225_600_250 + DAY
    assert parse("from=9999-01-01T00:00:00Z").start.since == 1_767_225_600_250 + DAY
