"""Tabs of one browser: one connection for all, and each event once in each, whoever closes, stalls or reloads."""

import asyncio
import random
from typing import Any

import pytest
from playwright.async_api import Page

from tests.browser.connections import streams
from tests.browser.pages import Pages
from tests.browser.test_client import connect, has_seen, is_in_state, publish
from tests.functions.api import Api

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-client")]

LEADING_SECONDS = 15.0
USER = {"userId": "u1"}  # the client must know whose stream it is before it shares one


async def open_tab(api: Api, pages: Pages, **options: Any) -> Page:
    """A tab of the browser, up to date."""
    page = await pages.blank(api.instance.url)
    await connect(page, options={**USER, **options})
    await is_in_state(page, "live")
    return page


async def role(page: Page) -> str:
    return str(await page.evaluate("subscription.role"))


async def leader_of(tabs: list[Page]) -> Page:
    """The tab that leads; one that has heard all that the last leader posted may not have its place yet."""
    async with asyncio.timeout(LEADING_SECONDS):
        while True:
            for tab in tabs:
                if await role(tab) == "leader":
                    return tab


async def saw_each_once(page: Page, count: int, first: int = 0) -> None:
    await has_seen(page, count - first)
    assert await page.evaluate("seen") == list(range(first, count))
    assert await page.evaluate("gaps") == []


async def test_three_tabs_take_one_connection_and_all_see_what_is_published(make_api: Any, pages: Pages) -> None:
    api = make_api()
    tabs = [await open_tab(api, pages) for _ in range(3)]
    assert sorted([await role(tab) for tab in tabs]) == ["follower", "follower", "leader"]
    assert streams(api) == 1
    for number in range(5):
        publish(api, number)
    for tab in tabs:
        await saw_each_once(tab, 5)


async def test_when_the_leader_closes_another_takes_over_and_nothing_is_lost_or_doubled(
    make_api: Any, pages: Pages
) -> None:
    pages.expect("net::ERR_")
    api = make_api()
    tabs = [await open_tab(api, pages) for _ in range(4)]
    count = 0
    dice = random.Random()
    while len(tabs) > 1:
        for _ in range(dice.randint(1, 10)):
            publish(api, count)
            count += 1
        leader = await leader_of(tabs)
        tabs.remove(leader)
        await leader.close()  # some of them may still be on their way to the others
        publish(api, count)
        count += 1
        for tab in tabs:
            await has_seen(tab, count)
    [last] = tabs
    assert await leader_of(tabs) is last
    publish(api, count)  # the sentinel: what would come twice has come by then
    await saw_each_once(last, count + 1)


async def test_a_tab_that_opens_later_starts_where_it_opened(make_api: Any, pages: Pages) -> None:
    api = make_api()
    first = await open_tab(api, pages)
    publish(api, 0, 1, 2)
    await has_seen(first, 3)
    second = await open_tab(api, pages)
    publish(api, 3, 4)
    await saw_each_once(first, 5)
    await saw_each_once(second, 5, first=3)
    assert streams(api) == 1


@pytest.mark.parametrize("options", [{"userId": "u2"}, {"types": "counted"}, {"share": False}])
async def test_tabs_that_would_not_hear_the_same_share_nothing(
    make_api: Any, pages: Pages, options: dict[str, Any]
) -> None:
    api = make_api()
    await open_tab(api, pages)
    await open_tab(api, pages, **options)
    assert streams(api) == 2


async def test_a_tab_that_is_busy_for_a_while_holds_up_nobody_and_misses_nothing(make_api: Any, pages: Pages) -> None:
    api = make_api()
    leader, slow, other = [await open_tab(api, pages) for _ in range(3)]
    assert await role(leader) == "leader"
    await slow.evaluate("setTimeout((until) => { while (Date.now() < until) {} }, 0, Date.now() + 1500)")
    for number in range(200):
        publish(api, number)
    await saw_each_once(other, 200)
    await saw_each_once(leader, 200)
    await saw_each_once(slow, 200)


async def test_a_page_that_reloads_resumes_where_it_was_if_it_asked_for_that(make_api: Any, pages: Pages) -> None:
    pages.expect("net::ERR_")
    api = make_api()
    page = await pages.blank(api.instance.url)
    await connect(page, options=USER, stored=True)
    await is_in_state(page, "live")
    publish(api, 0)
    await has_seen(page, 1)
    await page.goto(f"{api.instance.url}/realtime.js")  # away from the page, and nobody is connected
    publish(api, 1, 2)
    await pages.revisit(page, api.instance.url)
    await connect(page, options=USER, stored=True)
    await saw_each_once(page, 3, first=1)
