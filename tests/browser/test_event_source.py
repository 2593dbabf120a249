"""A page without our client: the browser's EventSource resumes too."""

from typing import Any

import pytest
from playwright.async_api import Page, Request

from tests.browser.conftest import MakeApi
from tests.browser.pages import EVENTS, Pages
from tests.browser.proxy import proxy_to

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-client")]

FOLLOW = """query => {
  window.received = [];
  window.opened = 0;
  const source = new EventSource("/api/events" + query);
  source.onopen = () => { opened += 1; };
  for (const type of ["message", "wanted", "other", "realtime.gap", "realtime.ready", "realtime.closing"]) {
    source.addEventListener(type, (event) => received.push([event.type, event.data, event.lastEventId]));
  }
}"""


def count_requests(page: Page) -> list[Request]:
    """The subscribe requests of this page, from now on."""
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request) if EVENTS in request.url else None)
    return requests


async def received(page: Page) -> list[tuple[str, str, str]]:
    """Type, data and lastEventId of each dispatched event."""
    events: list[list[str]] = await page.evaluate("received")
    return [(event_type, data, cursor) for event_type, data, cursor in events]


async def test_a_heartbeat_moves_the_cursor_past_filtered_events(make_api: MakeApi, pages: Pages) -> None:
    """It dispatches nothing. After a lost connection the browser resumes at the heartbeat's id."""
    pages.expect("net::ERR_INCOMPLETE_CHUNKED_ENCODING")
    api = make_api(REALTIME_HEARTBEAT="200ms")
    async with proxy_to(api.instance) as proxy:
        page = await pages.blank(proxy.url)
        requests = count_requests(page)
        await page.evaluate(FOLLOW, "?types=wanted")
        await page.wait_for_function("received.length === 1")
        for number in range(3):
            api.publish({"type": "other", "data": number})
        head = api.head()
        await proxy.until(lambda: proxy.heartbeat_id == head)
        # Chromium may discard unread bytes when a response breaks off. After a later heartbeat it has read this one.
        api.publish({"type": "other", "data": 3})
        later = api.head()
        await proxy.until(lambda: proxy.heartbeat_id == later)

        proxy.hang_up()
        await page.wait_for_function("opened === 2")
        sent = await requests[1].header_value("last-event-id")
        [(_, _, before), *_] = await received(page)
        assert sent in (head, later), "the browser did not resume at the heartbeat's id"
        assert sent != before

        api.publish({"type": "wanted", "data": 7})
        await page.wait_for_function("received.some(([type]) => type === 'wanted')")
        assert [event[:2] for event in await received(page)] == [
            ("realtime.ready", '{"recovered":true,"replayed":0}'),
            ("realtime.ready", '{"recovered":true,"replayed":0}'),
            ("wanted", "7"),
        ]


async def test_streams_resume_after_their_maximum_age(make_api: MakeApi, pages: Pages) -> None:
    """Each event arrives once, and there is no gap."""
    api = make_api(REALTIME_STREAM_SECONDS="500ms")
    page = await pages.blank(api.instance.url)
    await page.evaluate(FOLLOW, "")
    await page.wait_for_function("received.length === 1")
    count = 0
    while await page.evaluate("opened") < 3:
        api.publish({"type": "wanted", "data": count})
        count += 1
    api.publish({"type": "other", "data": "the last"})
    await page.wait_for_function("received.some(([type]) => type === 'other')")
    events: list[tuple[str, Any, str]] = await received(page)
    assert [int(data) for event_type, data, _ in events if event_type == "wanted"] == list(range(count))
    assert sum(event_type == "realtime.closing" for event_type, _, _ in events) >= 2
    assert not any(event_type in ("message", "realtime.gap") for event_type, _, _ in events)
