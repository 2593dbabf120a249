"""GET /api/events as a stream: its start, its replay, and its cursor."""

import json
import re
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from tests.functions.conftest import HEARTBEAT_MS
from tests.support.api import Api, check, data_of, ready_of, unique

HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
    "x-content-type-options": "nosniff",
}


def test_a_stream_tells_proxies_and_browsers_not_to_hold_it_back(api: Api) -> None:
    with api.stream() as stream:
        assert {name: stream.response.headers.get(name) for name in HEADERS} == HEADERS
        assert "content-encoding" not in stream.response.headers


def test_the_first_frame_is_a_jittered_retry(api: Api) -> None:
    """Clients of one lost instance must not reconnect at the same moment."""
    waits = []
    for _ in range(20):
        with api.stream() as stream:
            stream.ready()
            assert re.match(rb"retry: \d+\n\n", stream.raw)
            assert stream.decoder.retry_ms is not None
            waits.append(stream.decoder.retry_ms)
    assert all(1_000 <= wait <= 3_000 for wait in waits), "50 to 150 % of REALTIME_RETRY, which is 2 s"
    assert max(waits) - min(waits) > 200


def test_ready_has_an_id_before_any_event(any_api: Api) -> None:
    """A stream that is cut right after it can be resumed."""
    kind = unique()
    with any_api.stream(types=kind) as stream:
        ready = stream.next()
    assert (ready.type, json.loads(ready.data)) == ("realtime.ready", {"recovered": True, "replayed": 0})
    assert ready.last_event_id
    any_api.publish({"type": kind, "data": "while it was cut"})
    with any_api.stream(types=kind, last_event_id=ready.last_event_id) as stream:
        assert data_of(stream.ready()) == ["while it was cut"]


def test_the_frame_of_an_event_is_its_id_its_type_and_its_data(api: Api) -> None:
    kind = unique()
    with api.stream(types=kind) as stream:
        stream.ready()
        api.publish({"type": kind, "data": {"id": 7}})
        stream.next()
    frame = rb'\n\nid: [A-Za-z0-9._~-]+\nevent: %b\ndata: \{"id": 7\}\n\n'
    assert re.search(frame % kind.encode(), stream.raw)


def test_replay_is_ordered_and_counted_before_ready(any_api: Api) -> None:
    kind = unique()
    [first] = any_api.publish({"type": kind, "data": 0})
    any_api.publish(*({"type": kind, "data": n} for n in range(1, 51)))
    with any_api.stream(types=kind, last_event_id=first["cursor"]) as stream:
        before = stream.until("realtime.ready")
        assert data_of(before) == list(range(1, 51))
        assert json.loads(before[-1].data) == {"recovered": True, "replayed": 50}
        any_api.publish({"type": kind, "data": 51})
        assert data_of([stream.next()]) == [51]


def test_filtered_events_are_neither_sent_nor_counted(api: Api) -> None:
    kind, user = unique(), unique("u")
    [first] = api.publish({"type": kind, "data": 0})
    api.publish({"type": unique(), "data": 1}, {"type": kind, "data": 2, "userIds": [unique("u")]})
    api.publish({"type": kind, "data": 3, "userIds": [user]}, {"type": kind, "data": 4})
    with api.stream(types=kind, userId=user, last_event_id=first["cursor"]) as stream:
        before = stream.until("realtime.ready")
        assert data_of(before) == [3, 4]
        assert json.loads(before[-1].data)["replayed"] == 2


def test_the_header_precedes_the_query(api: Api) -> None:
    """A browser updates only the header."""
    kind = unique()
    old, new = (api.publish({"type": kind, "data": n})[0]["cursor"] for n in range(2))
    with api.stream({"last-event-id": new}, types=kind, last_event_id=old) as stream:
        assert data_of(stream.ready()) == []
    with api.stream({"last-event-id": old}, types=kind, last_event_id=new) as stream:
        assert data_of(stream.ready()) == [1]
    with api.stream({"last-event-id": ""}, types=kind, last_event_id=old) as stream:
        assert data_of(stream.ready()) == [1]


def test_a_cursor_wins_over_from(api: Api) -> None:
    kind = unique()
    api.publish({"type": kind, "data": 0})
    [receipt] = api.publish({"type": kind, "data": 1})
    with api.stream(types=kind, from_="earliest", last_event_id=receipt["cursor"]) as stream:
        assert data_of(stream.ready()) == []


def test_every_event_of_a_stream_carries_the_place_to_go_on_from(any_api: Api) -> None:
    kind = unique()
    with any_api.stream(types=kind) as stream:
        stream.ready()
        any_api.publish(*({"type": kind, "data": n} for n in range(6)))
        cursors = [stream.next().last_event_id for _ in range(6)]
    for n, cursor in enumerate(cursors):
        with any_api.stream({"last-event-id": cursor}, types=kind) as stream:
            assert data_of(stream.ready()) == list(range(n + 1, 6))


@pytest.mark.parametrize("from_", ["now", None, ""])
def test_from_now_is_the_default_and_leaves_the_past_out(api: Api, from_: str | None) -> None:
    kind = unique()
    api.publish({"type": kind, "data": "past"})
    start = {} if from_ is None else {"from_": from_} if from_ else {"last_event_id": ""}
    with api.stream(types=kind, **start) as stream:
        assert ready_of(stream) == {"recovered": True, "replayed": 0}
        api.publish({"type": kind, "data": "sentinel"})
        assert data_of([stream.next()]) == ["sentinel"]


def test_from_earliest_is_all_that_the_log_keeps(any_api: Api) -> None:
    kind = unique()
    any_api.publish({"type": kind, "data": 1}, {"type": kind, "data": 2})
    with any_api.stream(types=kind, from_="earliest") as stream:
        assert data_of(stream.ready()) == [1, 2]


def test_from_a_time_starts_at_events_of_that_time_or_later(any_api: Api) -> None:
    """In any time zone."""
    kind = unique()
    any_api.publish({"type": kind, "data": "before"})
    appended = any_api.page(types=kind, from_="earliest")["events"][0]["time"]
    while appended_at(any_api, "sentinel") <= appended:
        pass  # until the log's clock has gone on by its smallest step
    any_api.publish({"type": kind, "data": "after"})
    after = datetime.fromisoformat(any_api.page(types=kind, from_="earliest")["events"][1]["time"])
    east = after.astimezone(timezone(timedelta(hours=5, minutes=30)))
    texts = [
        after.isoformat().replace("+00:00", "Z"),
        after.isoformat().replace("+00:00", "z").replace("T", "t"),
        after.isoformat(sep=" "),
        east.isoformat(),
        after.astimezone(timezone(-timedelta(hours=8))).isoformat(),
    ]
    for text in texts:
        with any_api.stream(types=kind, from_=text) as stream:
            assert data_of(stream.ready()) == ["after"], text
    # A "+" that was not percent-encoded is decoded as a space.
    query = f"/api/events?types={kind}&from={east.isoformat()}"
    assert "+05:30" in query
    page = any_api.http.get(query, headers={"accept": "application/json"}).json()
    assert [event["data"] for event in page["events"]] == ["after"]


def test_from_a_time_outside_the_log_is_earliest_or_now(api: Api) -> None:
    kind = unique()
    api.publish({"type": kind, "data": 1})
    for text in ("0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z"):
        with api.stream(types=kind, from_=text) as stream:
            assert data_of(stream.ready()) == [1]
    with api.stream(types=kind, from_="9999-12-31T23:59:59.999999999Z") as stream:
        assert data_of(stream.ready()) == []


def test_cloudevents_are_unnamed_messages(api: Api) -> None:
    """One `message` listener of an EventSource receives every type."""
    kinds = [unique(), unique()]
    with api.stream(types=",".join(kinds), format="cloudevents") as stream:
        assert stream.next().type == "realtime.ready"
        receipts = api.publish(*({"type": kind, "data": {"n": kind}, "userIds": None} for kind in kinds))
        messages = [stream.next(), stream.next()]
    assert [message.type for message in messages] == ["message", "message"]
    for message, kind, receipt in zip(messages, kinds, receipts, strict=True):
        event = json.loads(message.data)
        check(event, "CloudEventOut")
        assert (event["type"], event["id"], event["data"]) == (kind, receipt["id"], {"n": kind})
        assert abs(datetime.now(UTC) - datetime.fromisoformat(event["time"])) < timedelta(minutes=1)


def test_heartbeats_move_the_cursor_past_events_for_others(any_api: Api) -> None:
    kind = unique()
    with any_api.stream(types=kind) as stream:
        stream.ready()
        start = stream.cursor
        [for_others] = any_api.publish({"type": unique(), "data": 1})
        moved = stream.until_cursor_moves()
        assert re.search(rb"(^|\n\n)id: %b\n\n" % re.escape(moved).encode(), stream.raw), "a frame with only an id"
    assert moved != start
    page = any_api.page(types=kind, last_event_id=moved)
    assert (page["events"], page["gap"]) == ([], None)
    follows = any_api.page(from_="now", last_event_id=moved)
    assert for_others["id"] not in [event["id"] for event in follows["events"]]


def test_heartbeats_come_at_the_configured_interval(api: Api) -> None:
    with api.stream(types=unique()) as stream:
        stream.ready()
        stream.until_frames(1)
        began = time.monotonic()
        stream.until_frames(4)
    seconds = HEARTBEAT_MS / 1000
    assert 2.5 * seconds < time.monotonic() - began < 4 * seconds + 3, "neither a flood nor silence"


@pytest.mark.parametrize(
    "cursor", ["x", "1", "2AAAA", "1AAAAAAAA", "..", "a\r\nevent: b", "\0", "é", "%", "1" * 5_000, "-1", "null"]
)
@pytest.mark.parametrize("way", ["header", "query"])
def test_an_unreadable_cursor_is_a_gap_before_all_events(api: Api, cursor: str, way: str) -> None:
    kind = unique()
    api.publish({"type": kind, "data": 1})
    header = cursor.encode().decode("latin-1")
    if not header.isprintable():
        header = json.dumps(header)  # HTTP itself has no way to carry these
    headers, params = ({"last-event-id": header}, {}) if way == "header" else ({}, {"last_event_id": cursor})
    with api.stream(headers, types=kind, **params) as stream:
        gap, event, ready = stream.next(), stream.next(), stream.next()
        assert re.match(rb"retry: \d+\n\nid: \S+\nevent: realtime.gap\n", stream.raw)
    assert (gap.type, json.loads(gap.data)) == ("realtime.gap", {"reason": "invalid", "recovered": False})
    assert gap.last_event_id
    assert event.data == "1"
    assert json.loads(ready.data) == {"recovered": False, "replayed": 1}
    with api.stream({"last-event-id": gap.last_event_id}, types=kind) as stream:
        assert data_of(stream.ready()) == [1], "a subscriber that got the gap does not get it again"


def test_a_cursor_of_another_log_is_a_gap_and_then_all_there_is(api: Api, redis_api: Api) -> None:
    kind = unique()
    [foreign] = redis_api.publish({"type": kind, "data": "elsewhere"})
    api.publish({"type": kind, "data": "here"})
    with api.stream(types=kind, last_event_id=foreign["cursor"]) as stream:
        gap = stream.next()
        assert (gap.type, json.loads(gap.data)["reason"]) == ("realtime.gap", "epoch")
        assert data_of(stream.ready()) == ["here"]


def appended_at(api: Api, data: str) -> str:
    """The time at which an event of this data, published now, is appended."""
    kind = unique()
    api.publish({"type": kind, "data": data})
    return str(api.page(types=kind, from_="earliest")["events"][0]["time"])
