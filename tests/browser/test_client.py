"""site/realtime.js with lost connections, invalid tokens and buffering proxies: each event once, in order."""

import random
import time

import pytest
from playwright.async_api import Page

from tests.browser.client import RequestLog, connect, has_seen, is_in_state, publish, saw_each_once, sentinel
from tests.browser.pages import EVENTS, Pages
from tests.browser.proxy import proxy_to
from tests.support.api import Api
from tests.support.tokens import user_token

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-client")]

EVENT_COUNT = 300
LARGEST_BATCH = 12
MEAN_CUT = 1_500  # bytes of a stream; an event has about 80
HALF_AN_HOUR_MS = 1_800_000


async def publish_in_batches(api: Api, page: Page) -> None:
    """Publish all events. Half of the batches wait for the page, so that it gets both live and replayed events."""
    dice = random.Random()
    count = 0
    while count < EVENT_COUNT:
        size = min(dice.randint(1, LARGEST_BATCH), EVENT_COUNT - count)
        publish(api, *range(count, count + size))
        count += size
        if dice.random() < 0.5:
            await has_seen(page, count)
    await has_seen(page, EVENT_COUNT)
    publish(api, EVENT_COUNT)  # the sentinel: a duplicate or late event would arrive before it


async def saw_all_once(page: Page) -> None:
    await saw_each_once(page, EVENT_COUNT + 1)
    assert await page.evaluate("readies.every((ready) => ready.recovered)")


async def test_drop_at_any_event_keeps_each_event_once(api: Api, pages: Pages) -> None:
    """The page drops its connection in callbacks and between them."""
    page = await pages.blank(api.instance.url)
    await connect(page, dropping=0.1)
    await is_in_state(page, "live")
    await publish_in_batches(api, page)
    await saw_all_once(page)
    assert await page.evaluate("drops") >= 5


@pytest.mark.parametrize("format", ["data", "cloudevents"])
async def test_a_cut_at_any_byte_keeps_each_event_once(api: Api, pages: Pages, format: str) -> None:
    pages.expect("net::ERR_(INCOMPLETE_CHUNKED_ENCODING|EMPTY_RESPONSE|INVALID_HTTP_RESPONSE|CONNECTION_RESET)")
    async with proxy_to(api.instance) as proxy:
        page = await pages.blank(proxy.url)
        await connect(page, options={"format": format})
        await is_in_state(page, "live")
        proxy.mean_cut = MEAN_CUT
        await publish_in_batches(api, page)
        await saw_all_once(page)
        assert proxy.cuts >= 5


async def test_a_denied_token_is_not_sent_again(guarded: Api, pages: Pages) -> None:
    """Until `retry()`: half an hour passes without another request."""
    pages.expect(r"status of 401 .*/api/events")
    page = await pages.blank(guarded.instance.url, clock=True)
    log = RequestLog(page)
    await connect(page, options={"token": "not.a.token"}, patient=True)
    await is_in_state(page, "denied")
    await page.clock.run_for(HALF_AN_HOUR_MS)
    await sentinel(page)
    assert len(log.to(guarded, EVENTS)) == 1
    assert "sentinel" in log.requests[-1].url

    await page.evaluate("subscription.retry()")
    await page.wait_for_function("states.filter((state) => state === 'denied').length === 2")
    assert await page.evaluate("states") == ["connecting", "denied", "connecting", "denied"]


async def test_after_a_401_the_token_function_is_called_once_more(guarded: Api, pages: Pages) -> None:
    """It may have returned an expired token from a cache. A second expired token is final."""
    pages.expect(r"status of 401 .*/api/events")
    page = await pages.blank(guarded.instance.url)
    expired = user_token("u1", exp=int(time.time()) - 60)
    await connect(page, tokens=[expired, user_token("u1")])
    await is_in_state(page, "live")
    assert await page.evaluate("failures") == [], "the next token was valid"
    await page.evaluate("subscription.close()")

    await connect(page, tokens=[expired])
    await is_in_state(page, "denied")
    assert await page.evaluate("tokenCalls") == 2


async def test_a_token_is_renewed_early_and_nothing_is_lost(guarded: Api, pages: Pages) -> None:
    page = await pages.blank(guarded.instance.url, clock=True)
    tokens = [user_token("u1", exp=int(time.time()) + lifetime) for lifetime in (300, 3600)]
    # The test advances the page's clock but not the server's, so heartbeats would be missing.
    await connect(page, tokens=tokens, options={"heartbeat": HALF_AN_HOUR_MS})
    await is_in_state(page, "live")
    publish(guarded, 0)
    await has_seen(page, 1)
    await page.clock.fast_forward(240_000)
    publish(guarded, 1)
    await page.wait_for_function("readies.length === 2")
    publish(guarded, 2)
    await saw_each_once(page, 3)
    assert await page.evaluate("tokenCalls") == 2
    assert "waiting" not in await page.evaluate("states")


async def test_a_buffering_proxy_makes_the_client_poll(api: Api, pages: Pages) -> None:
    """The proxy forwards no byte of a stream; long polls get through."""
    async with proxy_to(api.instance) as proxy:
        proxy.buffers_streams = True
        page = await pages.blank(proxy.url, clock=True)
        async with page.expect_request(f"**{EVENTS}*"):
            await connect(page)
        await page.clock.run_for(60_000)
        await is_in_state(page, "live")
        assert await page.evaluate("subscription.mode") == "poll"
        for number in range(5):
            publish(api, number)
            await has_seen(page, number + 1)
        await saw_each_once(page, 5)
