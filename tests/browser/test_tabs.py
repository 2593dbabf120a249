"""Tabs of one browser share a connection. Each tab gets each event once, also if tabs close, stall or reload."""

import asyncio
import random
from typing import Any

import pytest
from playwright.async_api import Page

from tests.browser.client import USER, connect, has_seen, is_in_state, publish, role, saw_each_once, streams
from tests.browser.pages import Pages
from tests.support.api import Api

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-client")]

LEADING_SECONDS = 15.0


async def open_tab(api: Api, pages: Pages, **options: Any) -> Page:
    """A tab that is live."""
    page = await pages.blank(api.instance.url)
    await connect(page, options={**USER, **options})
    await is_in_state(page, "live")
    return page


async def leader_of(tabs: list[Page]) -> Page:
    """The leader. After a change, its role may be set later than its last event arrived."""
    async with asyncio.timeout(LEADING_SECONDS):
        while True:
            for tab in tabs:
                if await role(tab) == "leader":
                    return tab


async def test_three_tabs_share_one_connection(make_api: Any, pages: Pages) -> None:
    api = make_api()
    tabs = [await open_tab(api, pages) for _ in range(3)]
    assert sorted([await role(tab) for tab in tabs]) == ["follower", "follower", "leader"]
    assert streams(api) == 1
    for number in range(5):
        publish(api, number)
    for tab in tabs:
        await saw_each_once(tab, 5)


async def test_another_tab_leads_when_the_leader_closes(make_api: Any, pages: Pages) -> None:
    """Events are published just before and after; each remaining tab gets them once."""
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
        await leader.close()  # some events may not have reached the other tabs
        publish(api, count)
        count += 1
        for tab in tabs:
            await has_seen(tab, count)
    [last] = tabs
    assert await leader_of(tabs) is last
    publish(api, count)  # the sentinel: a duplicate would arrive before it
    await saw_each_once(last, count + 1)


async def test_a_later_tab_starts_at_now(make_api: Any, pages: Pages) -> None:
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
async def test_tabs_with_different_options_do_not_share(make_api: Any, pages: Pages, options: dict[str, Any]) -> None:
    api = make_api()
    await open_tab(api, pages)
    await open_tab(api, pages, **options)
    assert streams(api) == 2


async def test_a_busy_tab_delays_no_other_and_misses_nothing(make_api: Any, pages: Pages) -> None:
    api = make_api()
    leader, slow, other = [await open_tab(api, pages) for _ in range(3)]
    assert await role(leader) == "leader"
    await slow.evaluate("setTimeout((until) => { while (Date.now() < until) {} }, 0, Date.now() + 1500)")
    for number in range(200):
        publish(api, number)
    await saw_each_once(other, 200)
    await saw_each_once(leader, 200)
    await saw_each_once(slow, 200)


async def test_a_reload_resumes_with_storage(make_api: Any, pages: Pages) -> None:
    pages.expect("net::ERR_")
    api = make_api()
    page = await pages.blank(api.instance.url)
    await connect(page, options=USER, stored=True)
    await is_in_state(page, "live")
    publish(api, 0)
    await has_seen(page, 1)
    await page.goto(f"{api.instance.url}/realtime.js")  # navigates away: nothing is connected
    publish(api, 1, 2)
    await pages.revisit(page, api.instance.url)
    await connect(page, options=USER, stored=True)
    await saw_each_once(page, 3, first=1)
