"""The client finds the stream on this host or on another one, or reports that there is none."""

from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page, Route, expect

from tests.browser.client import (
    RequestLog,
    connect,
    has_seen,
    has_streams,
    is_in_state,
    publish,
    saw_each_once,
    sentinel,
)
from tests.browser.conftest import MakeTwo
from tests.browser.pages import EVENTS, Pages
from tests.browser.two_hosts import GUARDED
from tests.support.api import Api
from tests.support.tokens import user_token

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-client")]

CONFIG, TICKETS = "/api/config", "/api/tickets"
AWAY = r"net::ERR_(CONNECTION_\w+|FAILED|INCOMPLETE_CHUNKED_ENCODING|EMPTY_RESPONSE)"


async def failures(page: Page) -> list[dict[str, Any]]:
    """The arguments of `onError`."""
    arguments: list[dict[str, Any]] = await page.evaluate("failures")
    return arguments


async def has_failed(page: Page, text: str) -> None:
    """Return once `onError` was called with a message that contains this text."""
    await page.wait_for_function("text => failures.some(({ message }) => message.includes(text))", arg=text)


async def test_config_is_requested_once_per_page(api: Api, pages: Pages) -> None:
    page = await pages.blank(api.instance.url)
    log = RequestLog(page)
    for _ in range(3):
        await connect(page, options={"share": False})
        await is_in_state(page, "live")
    await page.evaluate("subscription.drop()")
    await page.wait_for_function("readies.length === 2")
    assert len(log.to(api, CONFIG)) == 1
    assert len(log.to(api, TICKETS, "POST")) == 0
    assert {request.url.split("?")[0] for request in log.requests} >= {f"{api.instance.url}{EVENTS}"}


async def test_a_token_is_sent_to_the_other_host(make_two: MakeTwo, pages: Pages) -> None:
    """In a header, and again after a lost connection. The site, which cannot serve streams, gets no request for one."""
    site, streams = two = make_two(**GUARDED)
    page = await pages.blank(site.instance.url)
    log = RequestLog(page)
    await connect(page, tokens=[user_token("u1")])
    await is_in_state(page, "live")
    site.publish({"type": "note", "data": 0, "userIds": ["u1"]})
    await has_seen(page, 1)
    await page.evaluate("subscription.drop()")
    publish(two.site, 1)
    await saw_each_once(page, 2)
    assert len(log.to(site, CONFIG)) == 1
    assert log.to(site, EVENTS) == log.to(site, TICKETS, "POST") == []
    requests = log.to(streams, EVENTS)
    assert len(requests) == 2
    for request in requests:
        assert (await request.all_headers())["authorization"].startswith("Bearer ")
        assert "ticket" not in request.url
        assert user_token("u1") not in request.url


async def test_a_cookie_gets_a_ticket_for_each_connection(
    make_two: MakeTwo, context: BrowserContext, pages: Pages
) -> None:
    """The HttpOnly cookie does not reach another host. At the second connection it is another user's."""
    site, streams = make_two(**GUARDED)

    async def sign_in(user: str) -> None:
        url = site.instance.url
        await context.add_cookies([{"name": "realtime_token", "value": user_token(user), "url": url, "httpOnly": True}])

    await sign_in("u1")
    page = await pages.blank(site.instance.url)
    log = RequestLog(page)
    await connect(page)
    await is_in_state(page, "live")
    site.publish({"type": "note", "data": 0, "userIds": ["u1"]})
    await has_seen(page, 1)

    await sign_in("u2")
    await page.evaluate("subscription.drop()")
    await page.wait_for_function("readies.length === 2")
    site.publish({"type": "note", "data": 1, "userIds": ["u1"]})
    site.publish({"type": "note", "data": 2, "userIds": ["u2"]})
    await has_seen(page, 2)
    assert await page.evaluate("seen") == [0, 2]
    assert await page.evaluate("gaps") == []
    assert len(log.to(site, TICKETS, "POST")) == 2
    first, second = [request.url for request in log.to(streams, EVENTS)]
    assert "ticket=" in first
    assert "last_event_id=" in second
    assert log.to(streams, EVENTS, "OPTIONS") == [], "each preflight would be an invocation"


async def test_stream_url_needs_no_config(make_two: MakeTwo, pages: Pages) -> None:
    site, streams = make_two()
    page = await pages.blank(site.instance.url)
    log = RequestLog(page)
    await connect(page, options={"streamUrl": f"{streams.instance.url}{EVENTS}"})
    await is_in_state(page, "live")
    assert log.to(site, CONFIG) == log.to(streams, CONFIG) == []
    await has_streams(streams, 1)


async def test_unreachable_streams_are_replaced_by_polls(make_two: MakeTwo, pages: Pages) -> None:
    """At the site, without a lost or duplicate event. `onError` names the host of the streams."""
    pages.expect(AWAY, "access the `loopback` address space")  # Chromium's message for a host that is unavailable
    site, streams = make_two()
    page = await pages.blank(site.instance.url)
    await connect(page)
    await is_in_state(page, "live")
    publish(site, 0)
    await has_seen(page, 1)
    streams.instance.kill()
    publish(site, 1)
    await has_seen(page, 2)
    assert await page.evaluate("subscription.mode") == "poll"
    publish(site, 2)
    await saw_each_once(page, 3)
    await has_failed(page, streams.instance.url)


async def test_a_cors_refusal_names_the_setting(make_two: MakeTwo, pages: Pages) -> None:
    """The browser only reports that the request failed, so the message is a hint."""
    pages.expect(AWAY, "blocked by CORS policy")
    site, _ = make_two(origin="https://app.example.com")
    page = await pages.blank(site.instance.url)
    await connect(page)
    await is_in_state(page, "live")
    assert await page.evaluate("subscription.mode") == "poll"
    await has_failed(page, f"add {site.instance.url} to its REALTIME_ALLOWED_ORIGINS")


async def test_a_404_of_the_stream_reads_config_again(make_two: MakeTwo, pages: Pages) -> None:
    pages.expect("status of 404")
    site, streams = make_two()
    page = await pages.blank(site.instance.url)
    old = f'{{"auth": "none", "streamUrl": "{streams.instance.url}/api/removed"}}'
    await page.route(f"**{CONFIG}", lambda route: route.fulfill(body=old, content_type="application/json"), times=1)
    await page.route("**/api/removed*", lambda route: route.fulfill(status=404, body="{}"))
    await page.route(f"{site.instance.url}{EVENTS}*", lambda route: route.fulfill(status=404, body="{}"))
    log = RequestLog(page)
    await connect(page)
    await is_in_state(page, "live")
    assert await page.evaluate("subscription.mode") == "stream"
    assert len(log.to(site, CONFIG)) == 2


async def test_a_404_is_reported_and_retried_slowly(api: Api, pages: Pages) -> None:
    """For example a deployment without a route for streams: a permanent 404."""
    pages.expect("status of 404")
    page = await pages.blank(api.instance.url, clock=True)
    nothing = '{"message": "Not Found"}'

    async def answer(route: Route) -> None:
        await route.fulfill(status=404, body=nothing, content_type="application/json")

    await page.route("**/api/**", answer)
    log = RequestLog(page)
    await connect(page, patient=True)
    await is_in_state(page, "waiting")
    [failure] = await failures(page)
    assert failure["status"] == 404
    assert not failure["final"]
    assert f"{api.instance.url}{EVENTS} answered 404" in failure["message"]
    assert "streamUrl" in failure["message"]
    for _ in range(120):
        await page.clock.run_for(30_000)  # an hour
    await sentinel(page)
    assert 5 < len(log.to(api, EVENTS)) < 60
    assert await page.evaluate("subscription.state") in ("waiting", "connecting")


async def test_without_config_the_stream_has_the_pages_address(api: Api, pages: Pages) -> None:
    pages.expect("status of 404 .*/api/config")
    page = await pages.blank(api.instance.url)
    await page.route(f"**{CONFIG}", lambda route: route.fulfill(status=404, body="Not Found"))
    log = RequestLog(page)
    for _ in range(2):
        await connect(page, options={"share": False})
        await is_in_state(page, "live")
    assert len(log.to(api, CONFIG)) == 1


async def test_a_config_blocked_by_cors_is_ignored(make_two: MakeTwo, pages: Pages) -> None:
    """`url` is the streams' host. Its 404 has no CORS headers, so it looks like a network error."""
    pages.expect(AWAY)
    site, streams = make_two()
    page = await pages.blank(site.instance.url)
    await page.route(f"{streams.instance.url}{CONFIG}", lambda route: route.abort())
    await connect(page, options={"url": f"{streams.instance.url}{EVENTS}"})
    await is_in_state(page, "live")
    assert await page.evaluate("subscription.mode") == "stream"
    await has_streams(streams, 1)


async def test_a_503_of_config_is_retried_after_retry_after(api: Api, pages: Pages) -> None:
    pages.expect("status of 503")
    page = await pages.blank(api.instance.url, clock=True)
    headers = {"Retry-After": "40"}
    await page.route(f"**{CONFIG}", lambda route: route.fulfill(status=503, headers=headers), times=1)
    log = RequestLog(page)
    await connect(page, patient=True)
    await is_in_state(page, "waiting")
    await page.clock.run_for(39_000)
    await sentinel(page)
    assert len(log.to(api, CONFIG)) == 1
    assert log.to(api, EVENTS) == []
    await page.clock.run_for(3_000)
    await is_in_state(page, "live")


async def test_a_406_makes_the_client_poll_at_once(api: Api, pages: Pages) -> None:
    pages.expect("status of 406")
    page = await pages.blank(api.instance.url)

    async def answer(route: Route) -> None:
        if "event-stream" in (await route.request.all_headers())["accept"]:
            await route.fulfill(status=406)
        else:
            await route.continue_()

    await page.route(f"**{EVENTS}*", answer)
    log = RequestLog(page)
    await connect(page)
    await is_in_state(page, "live")
    assert await page.evaluate("subscription.mode") == "poll"
    publish(api, 0)
    await has_seen(page, 1)
    assert "wait=0" in log.to(api, EVENTS)[1].url


async def test_the_console_finds_the_other_host(make_two: MakeTwo, pages: Pages) -> None:
    site, streams = make_two(**GUARDED)
    console = await pages.unconnected_console(site.instance.url)
    await expect(console.detail).to_have_text("This server requires a token.")
    await console.fill(token=user_token("u1"))
    await console.click("Connect")
    await console.is_in_state("live")
    await has_streams(streams, 1)
    site.publish({"type": "note", "data": 1, "userIds": ["u1"]})
    await console.shows([1])


async def test_a_wrong_stream_address_makes_the_client_poll(make_two: MakeTwo, pages: Pages) -> None:
    """After a typing error in REALTIME_STREAM_URL, events still arrive, and `onError` names the address."""
    pages.expect("status of 404")
    site, streams = make_two()
    page = await pages.blank(site.instance.url)
    await page.route(f"{streams.instance.url}/**", lambda route: route.fulfill(status=404, body="Not Found"))
    await connect(page)
    await is_in_state(page, "live")
    assert await page.evaluate("subscription.mode") == "poll"
    publish(site, 0)
    await has_seen(page, 1)
    await has_failed(page, f"{streams.instance.url}{EVENTS} answered 404")


async def test_only_the_leading_tab_requests_config(make_two: MakeTwo, pages: Pages) -> None:
    site, streams = make_two()
    tabs = [await pages.blank(site.instance.url) for _ in range(2)]
    logs = [RequestLog(tab) for tab in tabs]
    for tab in tabs:
        await connect(tab, options={"userId": "u1"})
        await is_in_state(tab, "live")
    site.publish({"type": "note", "data": 0, "userIds": ["u1"]})
    for tab in tabs:
        await has_seen(tab, 1)
    assert [len(log.to(site, CONFIG)) for log in logs] == [1, 0]
    await has_streams(streams, 1)
