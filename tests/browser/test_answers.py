"""What the client makes of a server's answers, and of none: it waits and stops as told, and tells the page."""

import time
from typing import Any

import pytest
from playwright.async_api import Page, Route

from tests.browser.conftest import MakeApi
from tests.browser.pages import EVENTS, Pages
from tests.browser.test_client import connect, has_seen, is_in_state, publish
from tests.functions.api import Api
from tests.functions.tokens import PUBLISH_KEY, SECRET, user_token

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
    await page.evaluate(LISTEN)


async def change(page: Page, state: str) -> dict[str, Any]:
    """What the page was told when it came into this state."""
    await page.wait_for_function("state => changes.some((change) => change.state === state)", arg=state)
    told: dict[str, Any] = await page.evaluate("state => changes.find((change) => change.state === state)", state)
    return told


async def answered(page: Page, status: int, body: str = "", **headers: str) -> list[str]:
    """Has every request for events answered so; the list grows with each."""
    asked: list[str] = []

    async def answer(route: Route) -> None:
        asked.append(route.request.url)
        await route.fulfill(status=status, body=body, headers=headers)

    await page.route(f"**{EVENTS}*", answer)
    return asked


async def test_a_204_ends_it_for_good(api: Api, pages: Pages) -> None:
    page = await pages.blank(api.instance.url, clock=True)
    asked = await answered(page, 204)
    await listen(page)
    assert (await change(page, "closed"))["reason"] == "stopped"
    await page.clock.run_for(AN_HOUR_MS)
    await page.evaluate("fetch('/api/health/live?sentinel')")
    assert len(asked) == 1


async def test_a_refusal_is_told_with_its_reason_and_no_attempt_comes_before_its_time(api: Api, pages: Pages) -> None:
    pages.expect("status of 503")
    page = await pages.blank(api.instance.url, clock=True)
    problem = '{"title": "Service Unavailable", "status": 503, "detail": "The log cannot be reached"}'
    kind = {"Content-Type": "application/problem+json", "Retry-After": "40"}
    asked = await answered(page, 503, problem, **kind)
    await listen(page)
    told = await change(page, "waiting")
    assert told["problem"]["detail"] == "The log cannot be reached"
    assert 40_000 <= told["delay"] <= 41_000
    await page.evaluate(
        "dispatchEvent(new Event('online'))"
    )  # the network is back, and the server still wants its rest
    await page.clock.run_for(39_000)
    await page.evaluate("fetch('/api/health/live?sentinel')")
    assert len(asked) == 1
    await page.clock.run_for(3_000)
    await page.wait_for_function("changes.filter(({ state }) => state === 'waiting').length === 2")
    assert len(asked) == 2


async def test_a_token_that_is_not_valid_yet_is_waited_for(make_api: MakeApi, pages: Pages) -> None:
    """The clock that made it is ahead: the page gave up for good. The next token would be as early, so it is kept."""
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
    told = await change(page, "waiting")
    assert told["problem"]["detail"] == "The token does not hold: it is not valid yet"
    await change(page, "live")
    assert not await page.evaluate("changes.some(({ state }) => state === 'denied')")


async def test_waits_grow_with_each_failure_and_the_network_coming_back_ends_one(api: Api, pages: Pages) -> None:
    pages.expect("status of 502")
    page = await pages.blank(api.instance.url, clock=True)
    await page.evaluate("Math.random = () => 1")  # the longest of what may be drawn
    asked = await answered(page, 502)
    await listen(page)
    for count, longest in enumerate((1_000, 2_000, 4_000), start=1):
        await page.wait_for_function(
            "count => changes.filter(({ state }) => state === 'waiting').length === count", arg=count
        )
        delays = await page.evaluate("changes.map(({ delay }) => delay).filter((delay) => delay !== undefined)")
        assert delays[-1] == longest
        await page.evaluate("dispatchEvent(new Event('online'))")
    await page.wait_for_function("changes.filter(({ state }) => state === 'waiting').length === 4")
    assert len(asked) == 4


async def test_a_server_that_falls_silent_is_given_up_after_two_heartbeats_and_resumed(
    make_api: MakeApi, pages: Pages
) -> None:
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
    await has_seen(page, 2)
    assert await page.evaluate("seen") == [0, 1]
    assert await page.evaluate("gaps") == []


async def test_an_abort_signal_closes_it_and_nothing_is_told_afterwards(make_api: MakeApi, pages: Pages) -> None:
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
async def test_a_refusal_is_an_error_in_a_sentence(api: Api, pages: Pages, status: int, final: bool) -> None:
    pages.expect(f"status of {status}")
    page = await pages.blank(api.instance.url, clock=True)
    problem = f'{{"title": "No", "status": {status}, "detail": "Because of {status}"}}'
    await answered(page, status, problem, **{"Content-Type": "application/problem+json"})
    await connect(page, patient=True)
    await is_in_state(page, "denied" if final else "waiting")
    failure, *_ = await page.evaluate("failures")  # one that is not final comes again with the next try
    assert failure["message"] == f"No: Because of {status}"
    assert failure["status"] == status
    assert failure["final"] == final


async def test_a_token_function_that_fails_is_an_error(guarded: Api, pages: Pages) -> None:
    """It was a connection that was lost, without a word of why; and after three of these the page polled."""
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
        await page.wait_for_function("count => failures.length === count", arg=count)
        await page.evaluate("subscription.retry()")
    assert await page.evaluate("failures[0].message") == "The token function failed: signed out"
    assert await page.evaluate("subscription.mode") == "stream"
