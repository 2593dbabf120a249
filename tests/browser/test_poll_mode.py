"""`connect({mode: "poll"})`: short requests at an interval, with the guarantees of a stream."""

import time
from typing import Any

import pytest
from playwright.async_api import Page

from tests.browser.client import RequestLog, connect, has_seen, is_in_state, publish, saw_each_once, sentinel
from tests.browser.conftest import MakeApi
from tests.browser.pages import EVENTS, Pages
from tests.support.api import Api
from tests.support.tokens import user_token

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-client")]

EVERY_MS = 60_000
LONGEST_INTERVAL_MS = 66_000  # the client adds up to 10 % of jitter
POLL = {"mode": "poll", "every": EVERY_MS}

# A poll is complete when the next one is scheduled. If the test advanced the clock earlier, a request whose response is
# still unread would time out. The client's other timers are at most 30 s.
COUNT_SCHEDULED = """every => {
  window.scheduled = 0;
  const { setTimeout } = window;
  window.setTimeout = (run, ms, ...rest) => {
    if (ms >= 0.9 * every) scheduled += 1;
    return setTimeout(run, ms, ...rest);
  };
}"""

SET_VISIBLE = """isVisible => {
  Object.defineProperty(document, "visibilityState", { value: isVisible ? "visible" : "hidden", configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


async def polling(api: Api, pages: Pages, **settings: Any) -> tuple[Page, RequestLog]:
    """A polling page that is live; the test controls its clock."""
    page = await pages.blank(api.instance.url, clock=True)
    log = RequestLog(page)
    await page.evaluate(COUNT_SCHEDULED, EVERY_MS)
    await connect(page, options=POLL, **settings)
    await is_in_state(page, "live")
    await page.wait_for_function("scheduled === 1")
    return page, log


async def advance_to_the_next_poll(page: Page) -> None:
    """Exactly one poll is due in this time. Return once its response has been read."""
    before = await page.evaluate("scheduled")
    await page.clock.run_for(LONGEST_INTERVAL_MS)
    await page.wait_for_function("before => scheduled > before", arg=before)


async def has_polled(page: Page, log: RequestLog, api: Api, count: int) -> None:
    """The page has sent exactly this many polls."""
    await sentinel(page)
    assert len(log.to(api, EVENTS)) == count


async def test_one_poll_per_interval(api: Api, pages: Pages) -> None:
    page, log = await polling(api, pages)
    assert await page.evaluate("subscription.mode") == "poll"
    assert await page.evaluate("subscription.role") == "alone"
    count = len(log.to(api, EVENTS))
    publish(api, 0, 1)
    await page.clock.run_for(50_000)
    await has_polled(page, log, api, count)
    await page.clock.run_for(16_000)
    await has_seen(page, 2)
    await has_polled(page, log, api, count + 1)
    assert all("wait=0" in request.url for request in log.to(api, EVENTS))
    assert await page.evaluate("readies.length") == 1
    assert await page.evaluate("states") == ["connecting", "replaying", "live"]


async def test_a_hidden_page_polls_when_it_is_visible_again(api: Api, pages: Pages) -> None:
    page, log = await polling(api, pages)
    count = len(log.to(api, EVENTS))
    await page.evaluate(SET_VISIBLE, False)
    publish(api, 0)
    await page.clock.run_for(10 * EVERY_MS)
    await has_polled(page, log, api, count)
    await page.evaluate(SET_VISIBLE, True)
    await has_seen(page, 1)
    await has_polled(page, log, api, count + 1)


async def test_only_retry_polls_before_the_interval_ends(api: Api, pages: Pages) -> None:
    """A page that becomes visible earlier does not."""
    page, log = await polling(api, pages)
    count = len(log.to(api, EVENTS))
    for visible in (False, True, False, True):
        await page.evaluate(SET_VISIBLE, visible)
    await has_polled(page, log, api, count)
    publish(api, 0)
    await page.evaluate("subscription.retry()")
    await has_seen(page, 1)


async def test_a_long_page_is_followed_by_the_next_at_once(api: Api, pages: Pages) -> None:
    page, _ = await polling(api, pages)
    for first in range(0, 1_100, 100):
        publish(api, *range(first, first + 100))
    await page.clock.run_for(LONGEST_INTERVAL_MS)
    await has_seen(page, 1_100)
    publish(api, 1_100)
    await page.clock.run_for(LONGEST_INTERVAL_MS)
    await saw_each_once(page, 1_101)


async def test_failed_polls_lose_and_duplicate_nothing(make_api: MakeApi, redis_url: str, pages: Pages) -> None:
    pages.expect(r"net::ERR_(CONNECTION_\w+|EMPTY_RESPONSE)")
    settings = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": redis_url, "REALTIME_AUTH": "none"}
    mortal, other = make_api(**settings), make_api(**settings)
    page, _ = await polling(mortal, pages, patient=True)
    publish(other, 0)
    await page.clock.run_for(LONGEST_INTERVAL_MS)
    await has_seen(page, 1)
    mortal.instance.kill()
    publish(other, 1)
    await page.clock.run_for(LONGEST_INTERVAL_MS)
    await is_in_state(page, "waiting")
    mortal.instance.start()
    await page.evaluate("subscription.retry()")
    await has_seen(page, 2)
    publish(other, 2)
    await page.clock.run_for(LONGEST_INTERVAL_MS)
    await saw_each_once(page, 3)
    assert await page.evaluate("subscription.mode") == "poll"


async def test_an_expiring_token_is_replaced_before_a_poll(guarded: Api, pages: Pages) -> None:
    """Between polls no token is requested: the page needs none."""
    now = int(time.time())
    tokens = [user_token("u1", exp=now + 600), user_token("u1")]
    page, _ = await polling(guarded, pages, tokens=tokens)
    for _ in range(8):
        await advance_to_the_next_poll(page)
    assert await page.evaluate("tokenCalls") == 1
    for _ in range(2):
        await advance_to_the_next_poll(page)
    publish(guarded, 0)
    await advance_to_the_next_poll(page)
    await has_seen(page, 1)
    assert await page.evaluate("tokenCalls") == 2
    assert "waiting" not in await page.evaluate("states")


@pytest.mark.parametrize("options", [{"every": 10}, {"every": "often"}, {"every": 1e9}, {"mode": "push"}])
async def test_invalid_poll_options_throw(api: Api, pages: Pages, options: dict[str, Any]) -> None:
    page = await pages.blank(api.instance.url)
    message = await page.evaluate(
        """async options => {
          const { connect } = await import("/realtime.js");
          try { connect(options); return ""; } catch (error) { return error.message; }
        }""",
        {**POLL, **options},
    )
    assert next(iter(options)) in message
