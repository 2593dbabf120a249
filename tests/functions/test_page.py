"""GET /api/events as JSON pages: the guarantees of a stream, for clients that cannot stream."""

import asyncio
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from tidewire.delivery.hub import Hub
from tidewire.http import local
from tidewire.model.cursor import Position
from tidewire.model.record import Record
from tidewire.settings.config import Settings
from tidewire.transports.memory import MemoryLog

from tests.support.api import Api, check, data_of, problem_of, unique
from tests.support.processes import MakeInstance

PAGE_HEADERS = {
    "content-type": "application/json",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}


def data_on(page: dict[str, object]) -> list[object]:
    events = page["events"]
    assert isinstance(events, list)
    return [event["data"] for event in events]


def test_a_page_holds_events_without_their_audience_and_a_cursor(any_api: Api) -> None:
    kind, user = unique(), unique("u")
    [receipt] = any_api.publish({"type": kind, "data": {"id": 7}, "userIds": [user, "another"]})
    response = any_api.get(params={"types": kind, "userId": user, "from": "earliest"})
    assert {name: response.headers.get(name) for name in PAGE_HEADERS} == PAGE_HEADERS
    page = response.json()
    check(page, "Page")
    [event] = page["events"]
    assert event == {"id": receipt["id"], "type": kind, "time": event["time"], "data": {"id": 7}}
    assert page["gap"] is None
    assert "another" not in response.text


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        ("application/json", True),
        ("Application/JSON", True),
        ("application/json, */*;q=0.1", True),
        ("text/html, application/json;q=0.9", True),
        ("text/event-stream", False),
        ("application/json, text/event-stream", False),
        ("text/event-stream, application/json", False),
        ("*/*", False),
        ("text/html", False),
        ("", False),
    ],
)
def test_accept_decides_between_page_and_stream(api: Api, accept: str, is_page: bool) -> None:
    with api.http.stream("GET", "/api/events", headers={"accept": accept}) as response:
        assert response.headers["content-type"] == ("application/json" if is_page else "text/event-stream")


def test_a_poll_without_wait_answers_at_once_with_a_cursor(any_api: Api) -> None:
    kind = unique()
    first = any_api.page(types=kind)
    assert (first["events"], first["gap"]) == ([], None)
    any_api.publish({"type": kind, "data": 1})
    second = any_api.page(types=kind, last_event_id=first["cursor"])
    assert data_on(second) == [1]
    assert data_on(any_api.page(types=kind, last_event_id=second["cursor"])) == []


def test_more_than_a_page_is_read_page_by_page_without_loss(any_api: Api) -> None:
    kind = unique()
    cursor = any_api.head()
    for start in range(0, 1_100, 100):
        any_api.publish(*({"type": kind, "data": n} for n in range(start, start + 100)))
    sizes, read = [], []
    while True:
        page = any_api.page(types=kind, last_event_id=cursor)
        if not page["events"]:
            break
        sizes.append(len(page["events"]))
        read += data_on(page)
        cursor = page["cursor"]
    assert read == list(range(1_100))
    assert sizes == [500, 500, 100]


def test_a_page_of_large_events_ends_early_and_loses_none(api: Api) -> None:
    kind, cursor = unique(), api.head()
    for n in range(12):
        api.publish({"type": kind, "data": [n, "x" * 200_000]})
    pages = []
    while (page := api.page(types=kind, last_event_id=cursor))["events"]:
        pages.append(page)
        cursor = page["cursor"]
    assert [event["data"][0] for page in pages for event in page["events"]] == list(range(12))
    assert all(len(json.dumps(page)) < 1.3 * 1024 * 1024 for page in pages)
    assert len(pages) > 1


def test_events_for_others_move_the_cursor_of_a_poll(any_api: Api) -> None:
    """No later poll reads them again."""
    kind = unique()
    start = any_api.head()
    any_api.publish(*({"type": unique(), "data": n} for n in range(50)))
    page = any_api.page(types=kind, last_event_id=start)
    assert page["events"] == []
    assert page["cursor"] == any_api.head() != start


def test_a_long_poll_ignores_events_for_others(any_api: Api) -> None:
    kind, start = unique(), any_api.head()
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        poll = pool.submit(any_api.page, types=kind, wait="20", last_event_id=start)
        wait_for_subscriber(any_api)
        any_api.publish({"type": unique(), "data": "for others"}, {"type": kind, "data": 1})
        page = poll.result()
    assert data_on(page) == [1]
    assert time.monotonic() - began < 10
    assert data_on(any_api.page(types=kind, last_event_id=page["cursor"])) == []


def test_a_long_poll_that_finds_events_does_not_wait_for_more(api: Api) -> None:
    kind = unique()
    start = api.head()
    api.publish({"type": kind, "data": 1})
    began = time.monotonic()
    assert data_on(api.page(types=kind, wait="20", last_event_id=start)) == [1]
    assert time.monotonic() - began < 5


def test_a_long_poll_without_events_ends_with_a_cursor(any_api: Api) -> None:
    kind = unique()
    start = any_api.head()
    any_api.publish({"type": unique(), "data": "for others"})
    began = time.monotonic()
    page = any_api.page(types=kind, wait="0.25", last_event_id=start)
    assert time.monotonic() - began >= 0.25
    assert (page["events"], page["gap"]) == ([], None)
    assert page["cursor"] != start
    any_api.publish({"type": kind, "data": 1})
    assert data_on(any_api.page(types=kind, last_event_id=page["cursor"])) == [1]


def test_streams_and_pages_share_cursors(any_api: Api) -> None:
    kind = unique()
    cursor = any_api.head()
    any_api.publish({"type": kind, "data": 1})
    page = any_api.page(types=kind, last_event_id=cursor)
    any_api.publish({"type": kind, "data": 2})
    with any_api.stream(types=kind, last_event_id=page["cursor"]) as stream:
        assert data_of(stream.ready()) == [2]
    any_api.publish({"type": kind, "data": 3})
    assert data_on(any_api.page(types=kind, last_event_id=stream.cursor)) == [3]


def test_the_header_wins_on_a_page_too(api: Api) -> None:
    kind = unique()
    old, new = (api.publish({"type": kind, "data": n})[0]["cursor"] for n in range(2))
    response = api.get({"last-event-id": new}, {"types": kind, "last_event_id": old})
    assert response.json()["events"] == []


def test_a_page_of_cloudevents_holds_cloudevents(api: Api) -> None:
    kind = unique()
    api.publish({"type": kind, "data": [1.5]})
    [event] = api.page(types=kind, from_="earliest", format="cloudevents")["events"]
    check(event, "CloudEventOut")
    assert (event["type"], event["data"]) == (kind, [1.5])


@pytest.mark.parametrize("wait", ["0", "20"])
def test_an_unreadable_cursor_is_a_gap_on_the_page(any_api: Api, wait: str) -> None:
    """The page then starts at the oldest event."""
    kind = unique()
    any_api.publish({"type": kind, "data": 1})
    page = any_api.page(types=kind, last_event_id="not-a-cursor", wait=wait)
    assert page["gap"] == {"reason": "invalid", "recovered": False}
    # The log is shared with other tests, and the gap comes with the first page of it.
    while 1 not in data_on(page):
        page = any_api.page(types=kind, last_event_id=page["cursor"])
        assert page["gap"] is None


def test_trimmed_events_are_one_gap_before_the_rest(make_instance: MakeInstance) -> None:
    api = Api(make_instance(REALTIME_MAX_EVENTS="10"))
    kind = unique()
    [first] = api.publish({"type": kind, "data": 0})
    api.publish(*({"type": kind, "data": n} for n in range(1, 31)))
    page = api.page(types=kind, last_event_id=first["cursor"])
    assert page["gap"] == {"reason": "trimmed", "recovered": False}
    assert data_on(page) == list(range(21, 31))
    again = api.page(types=kind, last_event_id=page["cursor"])
    assert (again["events"], again["gap"]) == ([], None)
    with api.stream({"last-event-id": first["cursor"]}, types=kind) as stream:
        assert json.loads(stream.next().data) == {"reason": "trimmed", "recovered": False}
        assert data_of(stream.ready()) == list(range(21, 31))
    api.close()


async def test_a_page_ended_before_it_read_is_a_503() -> None:
    """A page without a cursor would lose the client's position."""
    reading, never = asyncio.Event(), asyncio.Event()

    class SilentLog(MemoryLog):
        async def _read_page(self, partition: str, after: Position, until: int) -> Sequence[Record]:
            reading.set()
            await never.wait()
            return []

    async with Hub(SilentLog()) as hub:
        app = local.app(hub, Settings())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
            await client.post("/api/publish", json={"type": "t", "data": 1})
            url = "/api/events?from=earliest&wait=20"
            poll = asyncio.create_task(client.get(url, headers={"accept": "application/json"}))
            await reading.wait()
            hub.drain()
            response = await poll
    problem_of(response, 503)
    assert int(response.headers["retry-after"]) >= 1


def wait_for_subscriber(api: Api) -> None:
    """Return once a subscriber is live, which is probably the caller's."""
    while 'realtime_subscribers{state="live"} 0.0' in api.http.get("/api/metrics").text:
        pass
