"""The client finds the stream: on this host, on one of its own, or nowhere, which it says."""

from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page, Route, expect

from tests.browser.conftest import MakeTwo
from tests.browser.connections import has_streams
from tests.browser.pages import EVENTS, Pages
from tests.browser.test_client import connect, has_seen, is_in_state, publish
from tests.browser.two_hosts import GUARDED, Asked
from tests.functions.api import Api
from tests.functions.tokens import user_token

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-client")]

CONFIG, TICKETS = "/api/config", "/api/tickets"
AWAY = r"net::ERR_(CONNECTION_\w+|FAILED|INCOMPLETE_CHUNKED_ENCODING|EMPTY_RESPONSE)"


async def failures(page: Page) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = await page.evaluate("failures")
    return told


async def has_failed(page: Page, words: str) -> None:
    """Return once the page was told a failure with these words."""
    await page.wait_for_function("words => failures.some(({ message }) => message.includes(words))", arg=words)


async def test_one_process_is_asked_once_where_streams_are(api: Api, pages: Pages) -> None:
    page = await pages.blank(api.instance.url)
    asked = Asked(page)
    for _ in range(3):
        await connect(page, options={"share": False})
        await is_in_state(page, "live")
    await page.evaluate("subscription.drop()")
    await page.wait_for_function("readies.length === 2")
    assert len(asked.at(api, CONFIG)) == 1
    assert len(asked.at(api, TICKETS, "POST")) == 0
    assert {ask.url.split("?")[0] for ask in asked.requests} >= {f"{api.instance.url}{EVENTS}"}


async def test_a_token_goes_to_the_streams_own_host(make_two: MakeTwo, pages: Pages) -> None:
    """Also after the connection was lost; the site, which cannot carry streams, is not asked for any."""
    site, streams = two = make_two(**GUARDED)
    page = await pages.blank(site.instance.url)
    asked = Asked(page)
    await connect(page, tokens=[user_token("u1")])
    await is_in_state(page, "live")
    site.publish({"type": "note", "data": 0, "userIds": ["u1"]})
    await has_seen(page, 1)
    await page.evaluate("subscription.drop()")
    publish(two.site, 1)
    await has_seen(page, 2)
    assert await page.evaluate("seen") == [0, 1]
    assert len(asked.at(site, CONFIG)) == 1
    assert asked.at(site, EVENTS) == asked.at(site, TICKETS, "POST") == []
    requests = asked.at(streams, EVENTS)
    assert len(requests) == 2
    for request in requests:
        assert (await request.all_headers())["authorization"].startswith("Bearer ")
        assert "ticket" not in request.url
        assert user_token("u1") not in request.url


async def test_a_cookie_gets_a_ticket_for_each_connection(
    make_two: MakeTwo, context: BrowserContext, pages: Pages
) -> None:
    """A cookie of the site does not reach another host, and no script can read it. It may be another user's by then."""
    site, streams = make_two(**GUARDED)

    async def sign_in(user: str) -> None:
        url = site.instance.url
        await context.add_cookies([{"name": "realtime_token", "value": user_token(user), "url": url, "httpOnly": True}])

    await sign_in("u1")
    page = await pages.blank(site.instance.url)
    asked = Asked(page)
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
    assert len(asked.at(site, TICKETS, "POST")) == 2
    first, second = [request.url for request in asked.at(streams, EVENTS)]
    assert "ticket=" in first
    assert "last_event_id=" in second
    assert asked.at(streams, EVENTS, "OPTIONS") == [], "each of those would be an invocation"


async def test_an_address_that_is_given_is_not_asked_for(make_two: MakeTwo, pages: Pages) -> None:
    site, streams = make_two()
    page = await pages.blank(site.instance.url)
    asked = Asked(page)
    await connect(page, options={"streamUrl": f"{streams.instance.url}{EVENTS}"})
    await is_in_state(page, "live")
    assert asked.at(site, CONFIG) == asked.at(streams, CONFIG) == []
    await has_streams(streams, 1)


async def test_streams_that_are_away_are_replaced_by_polls(make_two: MakeTwo, pages: Pages) -> None:
    """Of the site, whose address carries short answers; nothing is lost on the way there, nor doubled."""
    pages.expect(AWAY, "access the `loopback` address space")  # so Chromium says it of a host that is gone
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
    await has_seen(page, 3)
    assert await page.evaluate("seen") == [0, 1, 2]
    assert await page.evaluate("gaps") == []
    await has_failed(page, streams.instance.url)


async def test_an_origin_that_streams_refuse_is_named(make_two: MakeTwo, pages: Pages) -> None:
    """A browser says of a CORS refusal no more than that the request failed."""
    pages.expect(AWAY, "blocked by CORS policy")
    site, _ = make_two(origin="https://app.example.com")
    page = await pages.blank(site.instance.url)
    await connect(page)
    await is_in_state(page, "live")
    assert await page.evaluate("subscription.mode") == "poll"
    await has_failed(page, f"{site.instance.url} is in its REALTIME_ALLOWED_ORIGINS")


async def test_an_address_that_was_moved_is_asked_for_again(make_two: MakeTwo, pages: Pages) -> None:
    pages.expect("status of 404")
    site, streams = make_two()
    page = await pages.blank(site.instance.url)
    old = f'{{"auth": "none", "streamUrl": "{streams.instance.url}/api/removed"}}'
    await page.route(f"**{CONFIG}", lambda route: route.fulfill(body=old, content_type="application/json"), times=1)
    await page.route("**/api/removed*", lambda route: route.fulfill(status=404, body="{}"))
    await page.route(f"{site.instance.url}{EVENTS}*", lambda route: route.fulfill(status=404, body="{}"))
    asked = Asked(page)
    await connect(page)
    await is_in_state(page, "live")
    assert await page.evaluate("subscription.mode") == "stream"
    assert len(asked.at(site, CONFIG)) == 2


async def test_a_404_is_said_in_a_sentence_and_not_hammered(api: Api, pages: Pages) -> None:
    """What a page met on the routes of a template that had none for streams: a 404 for ever, and not a word."""
    pages.expect("status of 404")
    page = await pages.blank(api.instance.url, clock=True)
    nothing = '{"message": "Not Found"}'

    async def answer(route: Route) -> None:
        await route.fulfill(status=404, body=nothing, content_type="application/json")

    await page.route("**/api/**", answer)
    asked = Asked(page)
    await connect(page, patient=True)
    await is_in_state(page, "waiting")
    [failure] = await failures(page)
    assert failure["status"] == 404
    assert not failure["final"]
    assert f"{api.instance.url}{EVENTS} answered 404" in failure["message"]
    assert "streamUrl" in failure["message"]
    for _ in range(120):
        await page.clock.run_for(30_000)  # an hour
    await page.evaluate("fetch('/api/health/live?sentinel')")
    assert 5 < len(asked.at(api, EVENTS)) < 60
    assert await page.evaluate("subscription.state") in ("waiting", "connecting")


async def test_an_older_server_has_its_stream_where_its_pages_are(api: Api, pages: Pages) -> None:
    pages.expect("status of 404 .*/api/config")
    page = await pages.blank(api.instance.url)
    await page.route(f"**{CONFIG}", lambda route: route.fulfill(status=404, body="Not Found"))
    asked = Asked(page)
    for _ in range(2):
        await connect(page, options={"share": False})
        await is_in_state(page, "live")
    assert len(asked.at(api, CONFIG)) == 1


async def test_a_host_that_says_nothing_to_strangers_is_used(make_two: MakeTwo, pages: Pages) -> None:
    """A page that names the streams' host as `url`: a 404 without CORS headers looks as if the host were away."""
    pages.expect(AWAY)
    site, streams = make_two()
    page = await pages.blank(site.instance.url)
    await page.route(f"{streams.instance.url}{CONFIG}", lambda route: route.abort())  # so it looks to the page
    await connect(page, options={"url": f"{streams.instance.url}{EVENTS}"})
    await is_in_state(page, "live")
    assert await page.evaluate("subscription.mode") == "stream"
    await has_streams(streams, 1)


async def test_a_server_in_need_is_asked_no_sooner_than_it_says(api: Api, pages: Pages) -> None:
    pages.expect("status of 503")
    page = await pages.blank(api.instance.url, clock=True)
    headers = {"Retry-After": "40"}
    await page.route(f"**{CONFIG}", lambda route: route.fulfill(status=503, headers=headers), times=1)
    asked = Asked(page)
    await connect(page, patient=True)
    await is_in_state(page, "waiting")
    await page.clock.run_for(39_000)
    await page.evaluate("fetch('/api/health/live?sentinel')")
    assert len(asked.at(api, CONFIG)) == 1
    assert asked.at(api, EVENTS) == []
    await page.clock.run_for(3_000)
    await is_in_state(page, "live")


async def test_an_address_with_pages_alone_is_polled_at_once(api: Api, pages: Pages) -> None:
    pages.expect("status of 406")
    page = await pages.blank(api.instance.url)

    async def answer(route: Route) -> None:
        if "event-stream" in (await route.request.all_headers())["accept"]:
            await route.fulfill(status=406)
        else:
            await route.continue_()

    await page.route(f"**{EVENTS}*", answer)
    asked = Asked(page)
    await connect(page)
    await is_in_state(page, "live")
    assert await page.evaluate("subscription.mode") == "poll"
    publish(api, 0)
    await has_seen(page, 1)
    assert "wait=0" in asked.at(api, EVENTS)[1].url


async def test_the_console_finds_a_streams_own_host(make_two: MakeTwo, pages: Pages) -> None:
    site, streams = make_two(**GUARDED)
    console = await pages.unconnected_console(site.instance.url)
    await expect(console.detail).to_have_text("This server asks for a token.")
    await console.fill(token=user_token("u1"))
    await console.click("Connect")
    await console.is_in_state("live")
    await has_streams(streams, 1)
    site.publish({"type": "note", "data": 1, "userIds": ["u1"]})
    await console.shows([1])


async def test_a_wrong_address_of_streams_leaves_the_pages(make_two: MakeTwo, pages: Pages) -> None:
    """As after a typing mistake in REALTIME_STREAM_URL: said in a sentence, and events come all the same."""
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


async def test_only_the_tab_that_leads_asks_where_streams_are(make_two: MakeTwo, pages: Pages) -> None:
    site, streams = make_two()
    tabs = [await pages.blank(site.instance.url) for _ in range(2)]
    asked = [Asked(tab) for tab in tabs]
    for tab in tabs:
        await connect(tab, options={"userId": "u1"})
        await is_in_state(tab, "live")
    site.publish({"type": "note", "data": 0, "userIds": ["u1"]})
    for tab in tabs:
        await has_seen(tab, 1)
    assert [len(of_tab.at(site, CONFIG)) for of_tab in asked] == [1, 0]
    await has_streams(streams, 1)
