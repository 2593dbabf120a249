"""The console after its connection, or its server, has gone: nothing lost, nothing twice, and no loss untold."""

import asyncio

import pytest
from playwright.async_api import expect

from tests.browser.conftest import MakeApi
from tests.browser.pages import Pages
from tests.functions.api import Api

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-console")]

# how the browser logs a server that is away, or dies within an answer
AWAY = r"net::ERR_(CONNECTION_\w+|CONTENT_LENGTH_MISMATCH|INCOMPLETE_CHUNKED_ENCODING|EMPTY_RESPONSE)"


def publish(api: Api, *numbers: int) -> None:
    """Publishes one after the other, so that their order is known."""
    for number in numbers:
        api.publish({"type": "counted", "data": number})


async def test_what_happens_while_the_connection_is_cut_arrives_after_it_once_and_in_order(
    api: Api, pages: Pages
) -> None:
    console = await pages.console(api.instance.url)
    publish(api, 1, 2)
    await console.shows([1, 2])

    await console.drop("10 s")
    await console.is_in_state("waiting")
    publish(api, 3, 4, 5)
    await console.click("Reconnect now")
    await expect(console.tide_lines.first).to_contain_text("resumed: 3 events replayed, nothing lost")
    await console.is_in_state("live")
    publish(api, 6)
    await console.shows([1, 2, 3, 4, 5, 6])
    await expect(console.events.locator(".phase")).to_have_text(["live", *["replayed"] * 3, "live", "live"])
    await expect(console.detail).to_have_text("Resumed: 3 events replayed, nothing lost.")
    await expect(console.reconnects).to_have_text("1")
    await expect(console.gaps).to_have_text("0")


async def test_a_connection_that_was_cut_comes_back_by_itself(api: Api, pages: Pages) -> None:
    console = await pages.console(api.instance.url)
    await console.drop("a moment")
    publish(api, 1)
    await expect(console.tide_lines).to_have_count(2)
    publish(api, 2)
    await console.shows([1, 2])
    await expect(console.reconnects).to_have_text("1")


async def test_a_reload_resumes_where_the_tab_was_where_the_user_wants_it(api: Api, pages: Pages) -> None:
    console = await pages.console(api.instance.url, "?from=resume")
    publish(api, 1)
    await console.shows([1])
    await console.page.goto("about:blank")
    publish(api, 2, 3)
    await console.page.goto(f"{api.instance.url}/?from=resume")
    await console.is_in_state("live")
    publish(api, 4)
    await console.shows([2, 3, 4])


async def test_a_log_that_died_with_its_server_is_a_gap_that_is_told_and_shown(make_api: MakeApi, pages: Pages) -> None:
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
    await expect(gap).to_contain_text("The log was wiped or replaced")
    await expect(console.tide_lines.first).to_contain_text("after the gap: 0 events replayed")
    await expect(console.gaps).to_have_text("1")
    publish(api, 2)
    await console.shows([1, 2])


async def test_a_server_that_was_killed_is_resumed_without_a_gap_where_the_log_lives_on(
    make_api: MakeApi, redis_url: str, pages: Pages
) -> None:
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
    await expect(console.tide_lines.first).to_contain_text("resumed: 2 events replayed, nothing lost")
    await expect(console.reconnects).to_have_text("1")
    await expect(console.gaps).to_have_text("0")
