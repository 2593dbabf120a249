"""A page without our client: the browser's own EventSource keeps its place too."""

from typing import Any

import pytest
from playwright.async_api import Page, Request

from tests.browser.conftest import MakeApi
from tests.browser.line import line_to
from tests.browser.pages import EVENTS, Pages

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-client")]

FOLLOW = """query => {
  window.told = [];
  window.opened = 0;
  const source = new EventSource("/api/events" + query);
  source.onopen = () => { opened += 1; };
  for (const type of ["message", "wanted", "other", "realtime.gap", "realtime.ready", "realtime.closing"]) {
    source.addEventListener(type, (event) => told.push([event.type, event.data, event.lastEventId]));
  }
}"""


def count_requests(page: Page) -> list[Request]:
    """The requests for events that this page will make."""
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request) if EVENTS in request.url else None)
    return requests


async def told(page: Page) -> list[tuple[str, str, str]]:
    """Type, data and lastEventId of all that the EventSource has dispatched."""
    events: list[list[str]] = await page.evaluate("told")
    return [(event_type, data, cursor) for event_type, data, cursor in events]


async def test_a_heartbeat_moves_the_place_past_filtered_events_and_dispatches_nothing(
    make_api: MakeApi, pages: Pages
) -> None:
    pages.expect("net::ERR_INCOMPLETE_CHUNKED_ENCODING")
    api = make_api(REALTIME_HEARTBEAT="200ms")
    async with line_to(api.instance) as line:
        page = await pages.blank(line.url)
        requests = count_requests(page)
        await page.evaluate(FOLLOW, "?types=wanted")
        await page.wait_for_function("told.length === 1")
        for number in range(3):
            api.publish({"type": "other", "data": number})
        head = api.head()
        await line.until(lambda: line.heartbeat_id == head)
        # Chromium may drop what it has not read when a response breaks off: a later heartbeat says that it read this.
        api.publish({"type": "other", "data": 3})
        later = api.head()
        await line.until(lambda: line.heartbeat_id == later)

        line.hang_up()
        await page.wait_for_function("opened === 2")
        sent = await requests[1].header_value("last-event-id")
        [(_, _, before), *_] = await told(page)
        assert sent in (head, later), "what the heartbeat said is not what the browser came back with"
        assert sent != before

        api.publish({"type": "wanted", "data": 7})
        await page.wait_for_function("told.some(([type]) => type === 'wanted')")
        assert [event[:2] for event in await told(page)] == [
            ("realtime.ready", '{"recovered":true,"replayed":0}'),
            ("realtime.ready", '{"recovered":true,"replayed":0}'),
            ("wanted", "7"),
        ]


async def test_streams_that_end_at_their_age_limit_are_resumed_without_loss_or_duplicates(
    make_api: MakeApi, pages: Pages
) -> None:
    api = make_api(REALTIME_STREAM_SECONDS="500ms")
    page = await pages.blank(api.instance.url)
    await page.evaluate(FOLLOW, "")
    await page.wait_for_function("told.length === 1")
    count = 0
    while await page.evaluate("opened") < 3:
        api.publish({"type": "wanted", "data": count})
        count += 1
    api.publish({"type": "other", "data": "the last"})
    await page.wait_for_function("told.some(([type]) => type === 'other')")
    events: list[tuple[str, Any, str]] = await told(page)
    assert [int(data) for event_type, data, _ in events if event_type == "wanted"] == list(range(count))
    assert sum(event_type == "realtime.closing" for event_type, _, _ in events) >= 2
    assert not any(event_type in ("message", "realtime.gap") for event_type, _, _ in events)
