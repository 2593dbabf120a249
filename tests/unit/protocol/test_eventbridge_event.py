"""Events on an EventBridge bus: what `detail` holds, and what of a bus event is refused."""

import json
from typing import Any

import pytest
from tidewire.errors import ContentTooLarge, InvalidRequest
from tidewire.model.event import Event
from tidewire.protocol.eventbridge_event import MATCHABLE_BYTES, dump, from_payload, to_detail
from tidewire.protocol.publish_request import MAX_EVENT_BYTES

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def bus_event(**detail: Any) -> dict[str, Any]:
    return {"source": "tidewire", "id": "of-the-bus", "detail-type": "type.of.the.bus", "detail": detail}


def refusal(payload: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        from_payload(payload)
    return refused.value


FULL = Event("i", "a.b", b'{"n": 12, "t": "\xc3\xbc"}', ("u1", "\u00fc"), {"source": "/s"}, TRACEPARENT, "v=1")


def test_an_event_is_written_with_all_its_fields() -> None:
    """`dataText` is the data as published; `data` is the same as JSON, for the patterns of rules."""
    assert json.loads(to_detail(FULL)) == {
        "id": "i",
        "type": "a.b",
        "dataText": '{"n": 12, "t": "ü"}',
        "data": {"n": 12, "t": "ü"},
        "userIds": ["u1", "ü"],
        "attributes": {"source": "/s"},
        "traceparent": TRACEPARENT,
        "tracestate": "v=1",
    }


def test_an_event_is_written_without_what_it_lacks() -> None:
    assert json.loads(to_detail(Event("i", "t", b"1"))) == {"id": "i", "type": "t", "dataText": "1", "data": 1}


@pytest.mark.parametrize("event", [FULL, Event("i", "t", b" 1.0 "), Event("i", "t", b"123456789012345678901234567890")])
def test_an_event_crosses_the_bus_unchanged(event: Event) -> None:
    """The bus formats `detail` anew; the event has its own id and type."""
    assert from_payload(bus_event(**json.loads(to_detail(event)))) == event


@pytest.mark.parametrize(
    "data",
    [
        b'{"state": "paid", "text": "1e5 and 1.5 and \\" 99999999999999999999"}',
        b"[1, -2, true]",
        b"9" * 18,
        b'"%b"' % (b"x" * (MATCHABLE_BYTES - 2)),
    ],
    ids=range(4),
)
def test_a_rule_can_match_the_data(data: bytes) -> None:
    assert json.loads(to_detail(Event("i", "t", data)))["data"] == json.loads(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"n": 1.0}',
        b"[1e5]",
        b"[1E5]",
        b"9" * 19,
        b'{"a": "\\\\", "n": 2.5}',
        b'"%b"' % (b"x" * (MATCHABLE_BYTES - 1)),
    ],
    ids=range(6),
)
def test_data_that_the_bus_could_refuse_is_only_text(data: bytes) -> None:
    """It refuses integers beyond 64 bits, may round other numbers, and bills each 64 KB."""
    detail = json.loads(to_detail(Event("i", "t", data)))
    assert "data" not in detail
    assert detail["dataText"] == data.decode()


def test_an_application_may_leave_out_all_but_the_data() -> None:
    """Without an id of its own the event has the bus's, which a repeated delivery has too."""
    data = {"n": 10**30, "t": "ü", "a": [True, None]}
    expected = '{"n":1000000000000000000000000000000,"t":"ü","a":[true,null]}'.encode()
    assert from_payload(bus_event(data=data)) == Event("of-the-bus", "type.of.the.bus", expected)
    assert from_payload(bus_event()) == Event("of-the-bus", "type.of.the.bus", b"null")
    none = dict.fromkeys(("id", "type", "userIds", "dataText", "traceparent"))
    assert from_payload(bus_event(**none)) == Event("of-the-bus", "type.of.the.bus", b"null")


def test_the_text_wins_over_the_data() -> None:
    """The bus may have changed the numbers of the data."""
    assert from_payload(bus_event(dataText="1.0", data=1)).data == b"1.0"


def test_a_user_named_twice_is_one() -> None:
    assert from_payload(bus_event(userIds=["u2", "u1", "u2"])).user_ids == ("u2", "u1")


@pytest.mark.parametrize(
    "wrong", [7, None, "", TRACEPARENT.upper(), TRACEPARENT + "-x", "x" * 200_000, "ff" + TRACEPARENT[2:]], ids=range(7)
)
def test_an_invalid_trace_is_left_out(wrong: Any) -> None:
    """No event is lost for its trace."""
    event = from_payload(bus_event(data=1, traceparent=wrong, tracestate="v=1"))
    assert (event.data, event.traceparent, event.tracestate) == (b"1", None, None)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"id": "1", "detail-type": "t"}, "Object missing required field `detail`"),
        ({"id": "1", "detail": "text"}, "Expected `object`, got `str` - at `$.detail`"),
        (bus_event(userId="u1"), "Object contains unknown field `userId` - at `$.detail`"),
        (bus_event(userIds="u1"), "Expected `array`, got `str` - at `$.detail.userIds`"),
        (bus_event(dataText=1), "Expected `str | null`, got `int` - at `$.detail.dataText`"),
        ({**bus_event(), "id": 5}, "Expected `str`, got `int` - at `$.id`"),
    ],
    ids=range(6),
)
def test_a_bus_event_of_another_shape_is_refused(payload: dict[str, Any], message: str) -> None:
    """An application that writes `userId` would reach everyone."""
    assert str(refusal(payload)) == f"This is not a Tidewire event: {message}".replace("`array`", "`array | null`")


@pytest.mark.parametrize(
    ("detail", "errors"),
    [
        ({"userIds": []}, [("/detail/userIds", "must not be empty: leave it out to reach everyone")]),
        ({"id": "a b"}, [("/detail/id", "must be 1 to 256 visible ASCII characters (no spaces)")]),
        ({"id": ""}, [("/detail/id", "must be 1 to 256 visible ASCII characters (no spaces)")]),
        (
            {"type": "realtime.gap", "attributes": {"X": "", "time": "now"}},
            [
                ("/detail/type", "must not start with 'realtime.': these names are reserved"),
                (
                    "/detail/attributes/X",
                    "is not an attribute name: 1 to 64 lower-case letters and digits, and not data",
                ),
                ("/detail/attributes/time", "must be an RFC 3339 time"),
            ],
        ),
        (
            {"attributes": {"userids": "u1"}},
            [("/detail/attributes/userids", "must be userIds, beside attributes")],
        ),
    ],
    ids=range(5),
)
def test_every_broken_rule_is_pointed_at(detail: dict[str, Any], errors: list[tuple[str, str]]) -> None:
    """An audience among the attributes would be ignored, and the event public."""
    assert refusal(bus_event(data=1, **detail)).errors == tuple(errors)


@pytest.mark.parametrize("missing", ["id", "detail-type"])
def test_a_bus_event_without_its_own_fields_is_refused(missing: str) -> None:
    """An input transformer can leave them out: events that all had the same id would be duplicates of the first."""
    payload = bus_event(data=1)
    del payload[missing]
    pointer = {"id": "/detail/id", "detail-type": "/detail/type"}[missing]
    assert [pointer for pointer, _ in refusal(payload).errors] == [pointer]
    payload["detail"] |= {"id": "i", "type": "t"}
    assert from_payload(payload) == Event("i", "t", b"1")


@pytest.mark.parametrize("detail", [{"data": ["\ud800"]}, {"dataText": '"\ud800"'}])
def test_data_with_half_a_character_is_refused(detail: dict[str, Any]) -> None:
    assert str(refusal(bus_event(**detail))) == "data holds a lone surrogate"


def test_data_is_strict_json() -> None:
    """Lambda's own parser reads NaN."""
    assert "NaN" in str(refusal(bus_event(data=float("nan"))))
    assert "not valid JSON" in str(refusal(bus_event(dataText="{")))


def test_data_has_a_largest_size() -> None:
    """In bytes; the largest one passes."""
    largest = '"' + "ü" * (MAX_EVENT_BYTES // 2 - 1) + '"'
    assert from_payload(bus_event(dataText=largest)).data == largest.encode()
    with pytest.raises(ContentTooLarge) as refused:
        from_payload(bus_event(dataText=largest + " "))
    assert str(refused.value) == "An event may have at most 256 KiB; this one has 262,145 bytes"


def test_parsed_json_is_written_compactly() -> None:
    assert dump({"a": ["ü", 10**30, 1.5, None]}) == '{"a":["ü",1000000000000000000000000000000,1.5,null]}'
