"""The console after a lost connection or a stopped server: no event lost or duplicated, each gap reported."""

import asyncio

import pytest
from playwright.async_api import expect

from tests.browser.conftest import MakeApi
from tests.browser.pages import Pages
from tests.support.api import Api

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-console")]

# how the browser logs a server that is unavailable, or that stops within a response
AWAY = r"net::ERR_(CONNECTION_\w+|CONTENT_LENGTH_MISMATCH|INCOMPLETE_CHUNKED_ENCODING|EMPTY_RESPONSE)"


def publish(api: Api, *numbers: int) -> None:
    """Publish one after the other, so that their order is known."""
    for number in numbers:
        api.publish({"type": "counted", "data": number})


async def test_events_of_an_interruption_are_replayed_once(api: Api, pages: Pages) -> None:
    console = await pages.console(api.instance.url)
    publish(api, 1, 2)
    await console.shows([1, 2])

    await console.drop("10 s")
    await console.is_in_state("waiting")
    publish(api, 3, 4, 5)
    await console.click("Reconnect now")
    await expect(console.dividers.first).to_contain_text("resumed: 3 events replayed, nothing lost")
    await console.is_in_state("live")
    publish(api, 6)
    await console.shows([1, 2, 3, 4, 5, 6])
    await expect(console.events.locator(".phase")).to_have_text(["live", *["replayed"] * 3, "live", "live"])
    await expect(console.detail).to_have_text("Resumed: 3 events replayed, nothing lost.")
    await expect(console.reconnects).to_have_text("1")
    await expect(console.gaps).to_have_text("0")


async def test_a_dropped_connection_resumes_by_itself(api: Api, pages: Pages) -> None:
    console = await pages.console(api.instance.url)
    await console.drop("a moment")
    publish(api, 1)
    await expect(console.dividers).to_have_count(2)
    publish(api, 2)
    await console.shows([1, 2])
    await expect(console.reconnects).to_have_text("1")


async def test_a_reload_resumes_with_from_resume(api: Api, pages: Pages) -> None:
    console = await pages.console(api.instance.url, "?from=resume")
    publish(api, 1)
    await console.shows([1])
    await console.page.goto("about:blank")
    publish(api, 2, 3)
    await console.page.goto(f"{api.instance.url}/?from=resume")
    await console.is_in_state("live")
    publish(api, 4)
    await console.shows([2, 3, 4])


async def test_a_lost_log_is_shown_as_a_gap(make_api: MakeApi, pages: Pages) -> None:
    """The memory log ends with its server."""
    pages.expect(AWAY)
    api = make_api()
    console = await pages.console(api.instance.url)
    publish(api, 1)
    await console.shows([1])

    api.instance.kill()
    await expect(console.notes.first).to_contain_text("The connection was lost")
    await asyncio.to_thread(api.instance.start)
    await console.is_in_state("live")
    gap = console.page.locator("#rows > .gap")
    await expect(gap).to_have_count(1)
    await expect(gap).to_contain_text("Gap: epoch")
    await expect(gap).to_contain_text("The log was deleted or replaced")
    await expect(console.dividers.first).to_contain_text("after the gap: 0 events replayed")
    await expect(console.gaps).to_have_text("1")
    publish(api, 2)
    await console.shows([1, 2])


async def test_a_killed_server_causes_no_gap_with_redis(make_api: MakeApi, redis_url: str, pages: Pages) -> None:
    """Events that another instance published meanwhile are replayed."""
    pages.expect(AWAY)
    settings = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": redis_url, "REALTIME_AUTH": "none"}
    mortal, other = make_api(**settings), make_api(**settings)
    console = await pages.console(mortal.instance.url)
    publish(mortal, 1, 2)
    await console.shows([1, 2])

    mortal.instance.kill()
    await expect(console.notes.first).to_contain_text("The connection was lost")
    publish(other, 3, 4)
    await asyncio.to_thread(mortal.instance.start)
    await console.is_in_state("live")
    publish(mortal, 5)
    await console.shows([1, 2, 3, 4, 5])
    await expect(console.dividers.first).to_contain_text("resumed: 2 events replayed, nothing lost")
    await expect(console.reconnects).to_have_text("1")
    await expect(console.gaps).to_have_text("0")
