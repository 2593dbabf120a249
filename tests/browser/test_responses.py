"""The client's reaction to responses, and to none: delays, final states, and the callbacks of the page."""

import time
from typing import Any

import pytest
from playwright.async_api import Page, Route

from tests.browser.client import connect, has_seen, is_in_state, publish, saw_each_once, sentinel
from tests.browser.conftest import MakeApi
from tests.browser.pages import EVENTS, Pages
from tests.support.api import Api
from tests.support.tokens import PUBLISH_KEY, SECRET, user_token

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-client")]

AN_HOUR_MS = 3_600_000

LISTEN = """async () => {
  const { connect } = await import("/realtime.js");
  Object.assign(window, { changes: [], seen: [], aborter: new AbortController() });
  window.subscription = connect({
    signal: aborter.signal,
    onEvent: (event) => seen.push(event.data),
    onState: (state, { reason, delay, problem }) => changes.push({ state, reason, delay, problem }),
  });
}"""


async def listen(page: Page) -> None:
    """Subscribe, and keep each change of the state."""
    await page.evaluate(LISTEN)


async def change(page: Page, state: str) -> dict[str, Any]:
    """The argument of `onState` when the subscription first entered this state."""
    await page.wait_for_function("state => changes.some((change) => change.state === state)", arg=state)
    details: dict[str, Any] = await page.evaluate("state => changes.find((change) => change.state === state)", state)
    return details


async def answered(page: Page, status: int, body: str = "", **headers: str) -> list[str]:
    """Answer each subscribe request with this response; the list has the requested URLs."""
    urls: list[str] = []

    async def answer(route: Route) -> None:
        urls.append(route.request.url)
        await route.fulfill(status=status, body=body, headers=headers)

    await page.route(f"**{EVENTS}*", answer)
    return urls


async def test_a_204_closes_the_subscription(api: Api, pages: Pages) -> None:
    page = await pages.blank(api.instance.url, clock=True)
    urls = await answered(page, 204)
    await listen(page)
    assert (await change(page, "closed"))["reason"] == "stopped"
    await page.clock.run_for(AN_HOUR_MS)
    await sentinel(page)
    assert len(urls) == 1


async def test_a_503_is_not_retried_before_retry_after(api: Api, pages: Pages) -> None:
    """Not even when the network comes back. The page gets the server's problem."""
    pages.expect("status of 503")
    page = await pages.blank(api.instance.url, clock=True)
    problem = '{"title": "Service Unavailable", "status": 503, "detail": "The log cannot be reached"}'
    kind = {"Content-Type": "application/problem+json", "Retry-After": "40"}
    urls = await answered(page, 503, problem, **kind)
    await listen(page)
    waiting = await change(page, "waiting")
    assert waiting["problem"]["detail"] == "The log cannot be reached"
    assert 40_000 <= waiting["delay"] <= 41_000
    await page.evaluate("dispatchEvent(new Event('online'))")
    await page.clock.run_for(39_000)
    await sentinel(page)
    assert len(urls) == 1
    await page.clock.run_for(3_000)
    await page.wait_for_function("changes.filter(({ state }) => state === 'waiting').length === 2")
    assert len(urls) == 2


async def test_a_token_that_is_not_valid_yet_is_waited_for(make_api: MakeApi, pages: Pages) -> None:
    """The issuer's clock is ahead. A new token would not be valid either, so the client sends the same one again."""
    pages.expect("status of 401")
    api = make_api(REALTIME_JWT_SECRET=SECRET, REALTIME_PUBLISH_KEYS=PUBLISH_KEY)
    page = await pages.blank(api.instance.url)
    early = [user_token("u1", nbf=int(time.time()) + later) for later in (8, 3_600)]
    await page.evaluate(
        """async (tokens) => {
          const { connect } = await import("/realtime.js");
          Object.assign(window, { changes: [] });
          connect({ token: () => tokens.shift(), onState: (state, why) => changes.push({ state, ...why }) });
        }""",
        early,
    )
    details = await change(page, "waiting")
    assert details["problem"]["detail"] == "The token is not valid yet"
    await change(page, "live")
    assert not await page.evaluate("changes.some(({ state }) => state === 'denied')")


async def test_delays_grow_and_end_when_the_network_is_back(api: Api, pages: Pages) -> None:
    pages.expect("status of 502")
    page = await pages.blank(api.instance.url, clock=True)
    await page.evaluate("Math.random = () => 1")  # the maximum of each delay
    urls = await answered(page, 502)
    await listen(page)
    for count, longest in enumerate((1_000, 2_000, 4_000), start=1):
        await page.wait_for_function(
            "count => changes.filter(({ state }) => state === 'waiting').length === count", arg=count
        )
        delays = await page.evaluate("changes.map(({ delay }) => delay).filter((delay) => delay !== undefined)")
        assert delays[-1] == longest
        await page.evaluate("dispatchEvent(new Event('online'))")
    await page.wait_for_function("changes.filter(({ state }) => state === 'waiting').length === 4")
    assert len(urls) == 4


async def test_a_silent_connection_is_replaced(make_api: MakeApi, pages: Pages) -> None:
    """After two missing heartbeats, and without a lost event."""
    api = make_api(REALTIME_HEARTBEAT="200ms")
    page = await pages.blank(api.instance.url)
    await connect(page, options={"heartbeat": 200})
    await is_in_state(page, "live")
    publish(api, 0)
    await has_seen(page, 1)
    api.instance.pause()
    try:
        await page.wait_for_function("states.includes('waiting')")
    finally:
        api.instance.resume()
    await page.wait_for_function("readies.length === 2")
    publish(api, 1)
    await saw_each_once(page, 2)


async def test_no_callback_runs_after_an_abort(make_api: MakeApi, pages: Pages) -> None:
    api = make_api()
    page = await pages.blank(api.instance.url)
    await listen(page)
    await change(page, "live")
    publish(api, 0)
    await page.wait_for_function("seen.length === 1")
    await page.evaluate("aborter.abort()")
    assert await page.evaluate("subscription.state") == "closed"
    publish(api, 1)
    await page.evaluate("fetch('/api/events', { headers: { Accept: 'application/json' } })")
    assert await page.evaluate("seen") == [0]


@pytest.mark.parametrize(("status", "final"), [(400, True), (403, True), (429, False), (500, False), (503, False)])
async def test_a_refusal_calls_on_error(api: Api, pages: Pages, status: int, final: bool) -> None:
    pages.expect(f"status of {status}")
    page = await pages.blank(api.instance.url, clock=True)
    problem = f'{{"title": "No", "status": {status}, "detail": "Because of {status}"}}'
    await answered(page, status, problem, **{"Content-Type": "application/problem+json"})
    await connect(page, patient=True)
    await is_in_state(page, "denied" if final else "waiting")
    failure, *_ = await page.evaluate("failures")  # one that is not final is repeated by the next attempt
    assert failure["message"] == f"No: Because of {status}"
    assert failure["status"] == status
    assert failure["final"] == final


async def test_a_failing_token_function_calls_on_error(guarded: Api, pages: Pages) -> None:
    """It does not count as a lost connection: after three of these the client would poll."""
    page = await pages.blank(guarded.instance.url)
    await page.evaluate(
        """async () => {
          const { connect } = await import("/realtime.js");
          window.failures = [];
          const token = async () => { throw new Error("signed out"); };
          window.subscription = connect({ token, onError: (failure) => failures.push(failure) });
        }"""
    )
    for count in range(1, 5):
        await page.wait_for_function("count => failures.length >= count", arg=count)
        await page.evaluate("subscription.retry()")
    assert await page.evaluate("failures[0].message") == "The token function failed: signed out"
    assert await page.evaluate("subscription.mode") == "stream"
