"""The rules of an event's fields, at their edges."""

import time
import uuid
from datetime import UTC, datetime

import pytest
from tidewire.model.event import Event, is_user_id, moment, new_id, problems, reserved, text_bytes, trace_context

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-02-28T23:59:58Z", datetime(2026, 2, 28, 23, 59, 58, tzinfo=UTC)),
        ("2026-02-28t23:59:58.25z", datetime(2026, 2, 28, 23, 59, 58, 250_000, tzinfo=UTC)),
        ("2026-03-01T01:00:00+01:30", datetime(2026, 2, 28, 23, 30, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("2017-01-01T00:59:60.5+01:00", datetime(2016, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)),
    ],
)
def test_a_time_of_rfc_3339_is_read(text: str, expected: datetime) -> None:
    """A leap second becomes the second before it, in the zone in which it is written."""
    assert moment(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-02-28",
        "2026-02-28 23:59:58Z",
        "2026-02-28T23:59:58",
        "2026-02-29T00:00:00Z",
        "2026-02-28T24:30:00Z",
        "2026-02-28T22:59:60Z",  # no leap second at this hour
        "2026-02-28T23:58:60Z",  # nor at this minute
        "2026-02-28T23:59:60+01:00",  # 22:59:60 in UTC
        "2026-02-28T23:59:61Z",
        "0001-01-01T00:00:00+23:59",  # before the first year
    ],
)
def test_another_text_is_no_time(text: str) -> None:
    """No text raises: a time comes from a publisher."""
    assert moment(text) is None


def test_a_leap_second_is_one_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the time zone of the server, where the last minute of the UTC day is another."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        found = moment("2016-12-31T23:59:60Z")
    time.tzset()
    assert found == datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("traceparent", "tracestate", "expected"),
    [
        (TRACEPARENT, "a=1,b=2", (TRACEPARENT, "a=1,b=2")),
        (TRACEPARENT, None, (TRACEPARENT, None)),
        (TRACEPARENT, 7, (TRACEPARENT, None)),
        (TRACEPARENT, "", (TRACEPARENT, None)),
        (TRACEPARENT, "x" * 512, (TRACEPARENT, "x" * 512)),
        (TRACEPARENT, "x" * 513, (TRACEPARENT, None)),
        (TRACEPARENT, "a=\n", (TRACEPARENT, None)),
        (TRACEPARENT.upper(), "a=1", (None, None)),
        (TRACEPARENT + "\n", "a=1", (None, None)),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", "a=1", (None, None)),
        (7, "a=1", (None, None)),
        (None, "a=1", (None, None)),
    ],
)
def test_an_invalid_trace_is_dropped(traceparent: object, tracestate: object, expected: object) -> None:
    """A tracestate without its traceparent means nothing; an invalid tracestate leaves the traceparent valid."""
    assert trace_context(traceparent, tracestate) == expected


def test_an_id_is_a_uuid_of_version_7() -> None:
    """It sorts by its millisecond (RFC 9562 section 5.7), and two of one millisecond differ."""
    before = time.time_ns() // 1_000_000
    text = new_id()
    after = time.time_ns() // 1_000_000
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert before <= parsed.int >> 80 <= after


def test_all_random_bits_of_an_id_are_random() -> None:
    """74 bits are random. In 200 ids each of them is once set and once not, but for one run in 10 to the 58."""
    values = [uuid.UUID(new_id()).int for _ in range(200)]
    some, every = 0, ~0
    for value in values:
        some |= value
        every &= value
    random_bits = (0xFFF << 64) | ((1 << 62) - 1)
    assert some & random_bits == random_bits
    assert every & random_bits == 0


@pytest.mark.parametrize("length", [1, 256])
def test_a_user_id_of_an_allowed_length_is_valid(length: int) -> None:
    """Spaces and letters outside ASCII are allowed."""
    assert is_user_id(("é " * length)[:length])


@pytest.mark.parametrize("text", ["", "x" * 257, "a\x00", "\x1f", "a\x7f", "\x9f", "\u2028", "\u2029", "\ud800"])
def test_a_user_id_out_of_the_rules_is_refused(text: str) -> None:
    """A control character would end a line of an SSE frame or of a log."""
    assert not is_user_id(text)


def test_each_broken_rule_is_reported_at_its_field() -> None:
    """A publisher corrects all fields at once, so none hides another."""
    assert list(problems("order", "1", None)) == []
    assert list(problems("order", None, ("u", "v"))) == []
    found = list(problems("or der", "a b", ("u", "", "x" * 257)))
    assert [pointer for pointer, _ in found] == ["/type", "/id", "/userIds/1", "/userIds/2"]
    assert list(problems("order", None, ())) == [("/userIds", "must not be empty: leave it out to reach everyone")]
    assert list(problems("realtime.ready", None, None)) == [("/type", reserved("realtime.ready"))]


def test_too_many_users_are_one_problem() -> None:
    """A list of a million users is not examined one by one."""
    assert list(problems("order", None, ("u",) * 1_000)) == []
    assert list(problems("order", None, ("",) * 1_001)) == [("/userIds", "must name at most 1,000 users, not 1,001")]


@pytest.mark.parametrize("type", ["error", "open", "realtime.x"])
def test_types_that_an_eventsource_takes_are_reserved(type: str) -> None:
    """The message names the type, or the prefix."""
    assert (reserved(type) or "").startswith(
        ("must not be 'error'", "must not be 'open'", "must not start with 'realt")
    )
    assert reserved(f"my.{type}") is None


def test_the_memory_of_an_event_covers_its_parts() -> None:
    """The estimate bounds queues, so each part of an event raises it by at least its bytes."""
    assert text_bytes("a" * 10) == 70
    assert text_bytes("é" * 10) == 150
    small = Event(id="1", type="order", data=b"{}", user_ids=None, attributes={})
    size = small.kept_bytes
    assert Event(id="12", type="order", data=b"{}", user_ids=None, attributes={}).kept_bytes == size + 1
    assert Event(id="1", type="orders", data=b"{}", user_ids=None, attributes={}).kept_bytes == size + 1
    assert Event(id="1", type="order", data=b"{ }", user_ids=None, attributes={}).kept_bytes == size + 1
    users = Event(id="1", type="order", data=b"{}", user_ids=("ab", "é"), attributes={})
    assert users.kept_bytes == size + 8 + 62 + 8 + 96
    named = Event(id="1", type="order", data=b"{}", user_ids=None, attributes={"a": "bc", "d": "ef"})
    assert named.kept_bytes == size + 2 * (100 + 61 + 62)
