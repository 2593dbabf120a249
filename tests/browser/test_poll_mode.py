"""`connect({mode: "poll"})`: one plain request now and then, with the guarantees of a stream and without its cost."""

import time
from typing import Any

import pytest
from playwright.async_api import Page

from tests.browser.conftest import MakeApi
from tests.browser.pages import EVENTS, Pages
from tests.browser.test_client import connect, has_seen, is_in_state, publish
from tests.browser.two_hosts import Asked
from tests.functions.api import Api
from tests.functions.tokens import user_token

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-client")]

EVERY_MS = 60_000
A_TENTH_MORE_MS = 66_000  # pages that were opened together must not ask together
POLL = {"mode": "poll", "every": EVERY_MS}

# A poll is over once the next one is scheduled. To wind the clock before that would run out the patience of a request
# whose answer is here and not read yet. The client's own deadlines are 30 s at most.
COUNT_SCHEDULED = """every => {
  window.scheduled = 0;
  const { setTimeout } = window;
  window.setTimeout = (run, ms, ...rest) => {
    if (ms >= 0.9 * every) scheduled += 1;
    return setTimeout(run, ms, ...rest);
  };
}"""

LOOK = """seen => {
  Object.defineProperty(document, "visibilityState", { value: seen ? "visible" : "hidden", configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


async def polling(api: Api, pages: Pages, **settings: Any) -> tuple[Page, Asked]:
    """A page that polls, up to date, whose clock is wound by the test."""
    page = await pages.blank(api.instance.url, clock=True)
    asked = Asked(page)
    await page.evaluate(COUNT_SCHEDULED, EVERY_MS)
    await connect(page, options=POLL, **settings)
    await is_in_state(page, "live")
    await page.wait_for_function("scheduled === 1")
    return page, asked


async def wind_to_the_next_poll(page: Page) -> None:
    """Only one is due in that time, and its answer has been read before the clock goes on."""
    before = await page.evaluate("scheduled")
    await page.clock.run_for(A_TENTH_MORE_MS)
    await page.wait_for_function("before => scheduled > before", arg=before)


async def nothing_more_is_asked(page: Page, asked: Asked, api: Api, count: int) -> None:
    """A request that is made now comes after all that were made before it."""
    await page.evaluate("fetch('/api/health/live?sentinel')")
    assert len(asked.at(api, EVENTS)) == count


async def test_it_asks_once_every_interval_and_holds_nothing(api: Api, pages: Pages) -> None:
    page, asked = await polling(api, pages)
    assert await page.evaluate("subscription.mode") == "poll"
    assert await page.evaluate("subscription.role") == "alone"
    count = len(asked.at(api, EVENTS))
    publish(api, 0, 1)
    await page.clock.run_for(50_000)
    await nothing_more_is_asked(page, asked, api, count)
    await page.clock.run_for(16_000)
    await has_seen(page, 2)
    await nothing_more_is_asked(page, asked, api, count + 1)
    assert all("wait=0" in request.url for request in asked.at(api, EVENTS))
    assert await page.evaluate("readies.length") == 1
    assert await page.evaluate("states") == ["connecting", "replaying", "live"]


async def test_a_hidden_page_asks_nothing_until_it_is_seen(api: Api, pages: Pages) -> None:
    page, asked = await polling(api, pages)
    count = len(asked.at(api, EVENTS))
    await page.evaluate(LOOK, False)
    publish(api, 0)
    await page.clock.run_for(10 * EVERY_MS)
    await nothing_more_is_asked(page, asked, api, count)
    await page.evaluate(LOOK, True)
    await has_seen(page, 1)
    await nothing_more_is_asked(page, asked, api, count + 1)


async def test_a_look_sooner_than_the_interval_asks_nothing(api: Api, pages: Pages) -> None:
    page, asked = await polling(api, pages)
    count = len(asked.at(api, EVENTS))
    for seen in (False, True, False, True):
        await page.evaluate(LOOK, seen)
    await nothing_more_is_asked(page, asked, api, count)
    publish(api, 0)
    await page.evaluate("subscription.retry()")  # who wants it now says so
    await has_seen(page, 1)


async def test_what_does_not_fit_a_page_follows_at_once(api: Api, pages: Pages) -> None:
    page, _ = await polling(api, pages)
    for first in range(0, 1_100, 100):
        publish(api, *range(first, first + 100))
    await page.clock.run_for(A_TENTH_MORE_MS)
    await has_seen(page, 1_100)
    publish(api, 1_100)
    await page.clock.run_for(A_TENTH_MORE_MS)
    await has_seen(page, 1_101)
    assert await page.evaluate("seen") == list(range(1_101))
    assert await page.evaluate("gaps") == []


async def test_polls_that_fail_lose_and_double_nothing(make_api: MakeApi, redis_url: str, pages: Pages) -> None:
    pages.expect(r"net::ERR_(CONNECTION_\w+|EMPTY_RESPONSE)")
    settings = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": redis_url, "REALTIME_AUTH": "none"}
    mortal, other = make_api(**settings), make_api(**settings)
    page, _ = await polling(mortal, pages, patient=True)
    publish(other, 0)
    await page.clock.run_for(A_TENTH_MORE_MS)
    await has_seen(page, 1)
    mortal.instance.kill()
    publish(other, 1)
    await page.clock.run_for(A_TENTH_MORE_MS)
    await is_in_state(page, "waiting")
    mortal.instance.start()
    await page.evaluate("subscription.retry()")
    await has_seen(page, 2)
    publish(other, 2)
    await page.clock.run_for(A_TENTH_MORE_MS)
    await has_seen(page, 3)
    assert await page.evaluate("seen") == [0, 1, 2]
    assert await page.evaluate("subscription.mode") == "poll"
    assert await page.evaluate("gaps") == []


async def test_a_token_that_ends_is_replaced_before_a_poll(guarded: Api, pages: Pages) -> None:
    """It is not renewed meanwhile, as under a stream: a page that asks nothing needs none."""
    now = int(time.time())
    tokens = [user_token("u1", exp=now + 600), user_token("u1")]
    page, _ = await polling(guarded, pages, tokens=tokens)
    for _ in range(8):
        await wind_to_the_next_poll(page)
    assert await page.evaluate("asked") == 1
    for _ in range(2):
        await wind_to_the_next_poll(page)
    publish(guarded, 0)
    await wind_to_the_next_poll(page)
    await has_seen(page, 1)
    assert await page.evaluate("asked") == 2
    assert "waiting" not in await page.evaluate("states")


@pytest.mark.parametrize("options", [{"every": 10}, {"every": "often"}, {"every": 1e9}, {"mode": "push"}])
async def test_an_interval_that_cannot_be_is_refused(api: Api, pages: Pages, options: dict[str, Any]) -> None:
    page = await pages.blank(api.instance.url)
    told = await page.evaluate(
        """async options => {
          const { connect } = await import("/realtime.js");
          try { connect(options); return "taken"; } catch (error) { return error.message; }
        }""",
        {**POLL, **options},
    )
    assert next(iter(options)) in told
