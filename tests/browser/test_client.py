"""site/realtime.js on bad lines, with bad tokens and behind bad proxies: each event once, in order; no hammering."""

import random
import time
from typing import Any

import pytest
from playwright.async_api import Page

from tests.browser.line import Line, line_to
from tests.browser.pages import EVENTS, Pages
from tests.functions.api import Api
from tests.functions.tokens import user_token

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-client")]

EVENT_COUNT = 300
LARGEST_BATCH = 12
MEAN_CUT = 1_500  # bytes of a stream: an event takes some 80
HALF_AN_HOUR_MS = 1_800_000

# `dropping`: of all events, this share has the page cut its own connection. Waits are skipped, except where the test
# is about them: how long they are is not what is at stake here.
CONNECT = """async ({ options = {}, dropping = 0, patient = false, tokens = null, stored = false }) => {
  const { connect } = await import("/realtime.js");
  Object.assign(window, { seen: [], gaps: [], readies: [], states: [], modes: [], failures: [], drops: 0, asked: 0 });
  const token = tokens && (async () => tokens[Math.min(asked++, tokens.length - 1)]);
  window.subscription = connect({
    ...options,
    ...(token ? { token } : {}),
    ...(stored ? { storage: sessionStorage } : {}),
    onEvent(event) {
      seen.push(event.data);
      if (Math.random() >= dropping) return;
      drops += 1;
      if (Math.random() < 0.5) subscription.drop();
      else setTimeout(() => subscription.drop());
    },
    onGap: (gap) => gaps.push(gap.reason),
    onReady: (ready) => readies.push(ready),
    onError: (failure) => failures.push(failure),
    onState(state, change) {
      states.push(state);
      modes.push(change.mode);
      if (state === "waiting" && !patient) subscription.retry();
    },
  });
}"""


async def connect(page: Page, **settings: Any) -> None:
    """Subscribes, and returns at once."""
    await page.evaluate(CONNECT, settings)


async def is_in_state(page: Page, state: str) -> None:
    await page.wait_for_function("state => subscription.state === state", arg=state)


async def has_seen(page: Page, count: int) -> None:
    await page.wait_for_function("count => seen.length >= count", arg=count)


def publish(api: Api, *numbers: int) -> None:
    """Publishes these as one batch, for everyone."""
    api.publish(*({"type": "counted", "data": number} for number in numbers))


async def publish_in_batches(api: Api, page: Page) -> None:
    """Publishes all events, half of them only once the page is up to date, so that it meets both kinds."""
    dice = random.Random()
    count = 0
    while count < EVENT_COUNT:
        size = min(dice.randint(1, LARGEST_BATCH), EVENT_COUNT - count)
        publish(api, *range(count, count + size))
        count += size
        if dice.random() < 0.5:
            await has_seen(page, count)
    await has_seen(page, EVENT_COUNT)
    publish(api, EVENT_COUNT)  # the sentinel: what would come twice or too late has come by then
    await has_seen(page, EVENT_COUNT + 1)


async def assert_exactly_once(page: Page) -> None:
    assert await page.evaluate("seen") == list(range(EVENT_COUNT + 1))
    assert await page.evaluate("gaps") == []
    assert await page.evaluate("readies.every((ready) => ready.recovered)")


async def test_a_page_that_drops_its_connection_anywhere_sees_each_event_once_in_order(api: Api, pages: Pages) -> None:
    page = await pages.blank(api.instance.url)
    await connect(page, dropping=0.1)
    await is_in_state(page, "live")
    await publish_in_batches(api, page)
    await assert_exactly_once(page)
    assert await page.evaluate("drops") >= 5


@pytest.mark.parametrize("format", ["data", "cloudevents"])
async def test_a_line_that_is_cut_at_any_byte_costs_and_doubles_no_event(api: Api, pages: Pages, format: str) -> None:
    pages.expect("net::ERR_(INCOMPLETE_CHUNKED_ENCODING|EMPTY_RESPONSE|INVALID_HTTP_RESPONSE|CONNECTION_RESET)")
    async with line_to(api.instance) as line:
        page = await pages.blank(line.url)
        await connect(page, options={"format": format})
        await is_in_state(page, "live")
        line.mean_cut = MEAN_CUT
        await publish_in_batches(api, page)
        await assert_exactly_once(page)
        assert line.cuts >= 5


async def test_a_token_that_is_denied_is_not_sent_again_and_again(guarded: Api, pages: Pages) -> None:
    pages.expect(r"status of 401 .*/api/events")
    page = await pages.blank(guarded.instance.url, clock=True)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    await connect(page, options={"token": "not.a.token"}, patient=True)
    await is_in_state(page, "denied")
    await page.clock.run_for(HALF_AN_HOUR_MS)
    await page.evaluate("fetch('/api/health/live?sentinel')")
    attempts = [url for url in requests if EVENTS in url]
    assert len(attempts) == 1
    assert "sentinel" in requests[-1]

    await page.evaluate("subscription.retry()")
    await page.wait_for_function("states.filter((state) => state === 'denied').length === 2")
    assert await page.evaluate("states") == ["connecting", "denied", "connecting", "denied"]


async def test_a_token_from_a_stale_cache_is_asked_for_once_more_and_no_oftener(guarded: Api, pages: Pages) -> None:
    pages.expect(r"status of 401 .*/api/events")
    page = await pages.blank(guarded.instance.url)
    stale = user_token("u1", exp=int(time.time()) - 60)
    await connect(page, tokens=[stale, user_token("u1")])
    await is_in_state(page, "live")
    assert await page.evaluate("failures") == [], "the next token was the cure"
    await page.evaluate("subscription.close()")

    await connect(page, tokens=[stale])
    await is_in_state(page, "denied")
    assert await page.evaluate("asked") == 2


async def test_a_token_is_renewed_before_it_ends_and_the_switch_loses_nothing(guarded: Api, pages: Pages) -> None:
    page = await pages.blank(guarded.instance.url, clock=True)
    tokens = [user_token("u1", exp=int(time.time()) + lifetime) for lifetime in (300, 3600)]
    # The page's clock is wound on and the server's is not: its heartbeats would be missed.
    await connect(page, tokens=tokens, options={"heartbeat": HALF_AN_HOUR_MS})
    await is_in_state(page, "live")
    publish(guarded, 0)
    await has_seen(page, 1)
    await page.clock.fast_forward(240_000)
    publish(guarded, 1)
    await page.wait_for_function("readies.length === 2")
    publish(guarded, 2)
    await has_seen(page, 3)
    assert await page.evaluate("asked") == 2
    assert await page.evaluate("seen") == [0, 1, 2]
    assert await page.evaluate("gaps") == []
    assert "waiting" not in await page.evaluate("states")


async def test_behind_a_proxy_that_buffers_streams_events_come_by_long_poll(api: Api, pages: Pages) -> None:
    async with line_to(api.instance) as line:
        page = await _held_back_by(line, pages)
        await page.clock.run_for(60_000)  # no byte of the stream for so long: something holds it back
        await is_in_state(page, "live")
        assert await page.evaluate("subscription.mode") == "poll"
        for number in range(5):
            publish(api, number)
            await has_seen(page, number + 1)
        assert await page.evaluate("seen") == list(range(5))
        assert await page.evaluate("gaps") == []


async def _held_back_by(line: Line, pages: Pages) -> Page:
    line.buffers_streams = True
    page = await pages.blank(line.url, clock=True)
    async with page.expect_request(f"**{EVENTS}*"):
        await connect(page)
    return page
