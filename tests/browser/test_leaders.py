"""The leading tab may freeze or be refused, a tab may join late, users may change: each tab gets its events once."""

import asyncio
import time

import pytest
from playwright.async_api import BrowserContext, Page

from tests.browser.client import (
    USER,
    connect,
    has_role,
    has_seen,
    has_streams,
    is_in_state,
    publish,
    role,
    saw_each_once,
)
from tests.browser.conftest import MakeApi
from tests.browser.pages import Pages
from tests.browser.test_tabs import open_tab
from tests.support.api import Api
from tests.support.tokens import user_token

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-client")]

A_MINUTE_MS = 60_000  # more than two heartbeats and two pings without an answer
TAKEOVER_SECONDS = 15.0


async def advance_until_it_leads(page: Page) -> None:
    """Advance the page's clock repeatedly: a freezing tab may answer once more, and the lock changes in real time."""
    async with asyncio.timeout(TAKEOVER_SECONDS):
        while await role(page) != "leader":
            await page.clock.run_for(A_MINUTE_MS)


async def test_a_frozen_leader_is_replaced_and_misses_nothing(
    make_api: MakeApi, context: BrowserContext, pages: Pages
) -> None:
    """It follows the new leader after its thaw."""
    api = make_api()
    frozen, other = [await open_tab(api, pages) for _ in range(2)]
    next_leader = await pages.blank(api.instance.url, clock=True)
    await connect(next_leader, options=USER)
    await is_in_state(next_leader, "live")
    publish(api, 0)
    for page in (frozen, other, next_leader):
        await has_seen(page, 1)

    browser = await context.new_cdp_session(frozen)
    await browser.send("Page.setWebLifecycleState", {"state": "frozen"})
    publish(api, 1)
    await advance_until_it_leads(next_leader)
    publish(api, 2)
    await saw_each_once(next_leader, 3)
    await saw_each_once(other, 3)

    await browser.send("Page.setWebLifecycleState", {"state": "active"})
    await has_role(frozen, "follower")
    publish(api, 3)
    for page in (frozen, other, next_leader):
        await saw_each_once(page, 4)
    await has_streams(api, 1)


async def test_a_replaying_tab_follows_after_its_replay(make_api: MakeApi, pages: Pages) -> None:
    """It has its own connection until its cursor meets the leader's."""
    api = make_api()
    publish(api, 0, 1, 2)
    leader = await open_tab(api, pages)
    late = await open_tab(api, pages, **{"from": "earliest"})
    publish(api, 3)
    await has_role(late, "follower")
    publish(api, 4)
    await saw_each_once(late, 5)
    await saw_each_once(leader, 5, first=3)
    await has_streams(api, 1)


async def test_a_refused_leader_is_replaced(guarded: Api, pages: Pages) -> None:
    """By a tab with a valid token."""
    pages.expect(r"status of 401 .*/api/events")
    good, ended = user_token("u-ending"), user_token("u-ending", exp=int(time.time()) - 60)
    refused, next_leader = [await pages.blank(guarded.instance.url) for _ in range(2)]
    for page, tokens in ((refused, [good, ended]), (next_leader, [good])):
        await connect(page, tokens=tokens)
        await is_in_state(page, "live")
    await has_role(next_leader, "follower")
    publish(guarded, 0)
    await has_seen(next_leader, 1)

    await refused.evaluate("subscription.drop()")
    await is_in_state(refused, "denied")
    await has_role(next_leader, "leader")
    publish(guarded, 1)
    await saw_each_once(next_leader, 2)


async def test_the_servers_warning_renews_a_token(guarded: Api, pages: Pages) -> None:
    """By the page's wrong clock the token has expired already, so its own timer does not renew it."""
    page = await pages.blank(guarded.instance.url, clock=True)
    now = int(time.time())
    await connect(page, tokens=[user_token("u1", exp=now + 33), user_token("u1")])
    await is_in_state(page, "live")
    await page.clock.set_system_time((now + 600) * 1000)
    await page.wait_for_function("readies.length === 2")
    assert await page.evaluate("tokenCalls") == 2
    publish(guarded, 0)
    await saw_each_once(page, 1)
    assert "waiting" not in await page.evaluate("states")


async def test_short_lived_tokens_cause_no_renewal_loop(guarded: Api, pages: Pages) -> None:
    """The server warns of their expiry as soon as the stream has started."""
    page = await pages.blank(guarded.instance.url)
    await connect(page, tokens=[user_token("u1", exp=int(time.time()) + life) for life in range(20, 29)])
    await is_in_state(page, "live")
    for number in range(3):  # the warning arrives before these
        publish(guarded, number)
        await has_seen(page, number + 1)
    assert await page.evaluate("tokenCalls") == 1
    assert await page.evaluate("states") == ["connecting", "replaying", "live"]


@pytest.mark.parametrize("options", [{}, {"share": "my-app"}], ids=["default", "same-share"])
async def test_tabs_of_two_users_share_nothing(guarded: Api, pages: Pages, options: dict[str, str]) -> None:
    """Whatever `share` says: otherwise one user's tab would receive another user's private events."""
    first, second = [await pages.blank(guarded.instance.url) for _ in range(2)]
    for page, user in ((first, "u-one"), (second, "u-two")):
        await connect(page, tokens=[user_token(user)], options=options)
        await is_in_state(page, "live")
        assert await role(page) == "leader"
    guarded.publish({"type": "note", "data": 0, "userIds": ["u-one"]})
    publish(guarded, 1)  # the sentinel
    await saw_each_once(first, 2)
    await saw_each_once(second, 2, first=1)


@pytest.mark.parametrize("share", [True, False])
async def test_the_next_user_gets_no_event_of_the_last_one(guarded: Api, pages: Pages, share: bool) -> None:
    """A user signs out and another one signs in, while another tab of the first user is still connected."""
    other, page = [await pages.blank(guarded.instance.url) for _ in range(2)]
    for tab in (other, page):
        await connect(tab, tokens=[user_token("u-one")], options={"share": share}, stored=True)
        await is_in_state(tab, "live")
    guarded.publish({"type": "note", "data": 0, "userIds": ["u-one"]})
    await has_seen(page, 1)

    await page.evaluate("subscription.close()")
    guarded.publish({"type": "note", "data": 1, "userIds": ["u-one"]})
    await connect(page, tokens=[user_token("u-two")], options={"share": share}, stored=True)
    await is_in_state(page, "live")
    guarded.publish({"type": "note", "data": 2, "userIds": ["u-one"]})
    publish(guarded, 3)  # the sentinel
    await has_seen(page, 1)
    assert await page.evaluate("seen") == [3]
    await saw_each_once(other, 4)
