"""The tab that is connected for all may freeze, be refused or start late: the others go on, each event once."""

import asyncio
import time

import pytest
from playwright.async_api import BrowserContext, Page

from tests.browser.conftest import MakeApi
from tests.browser.connections import streams
from tests.browser.pages import Pages
from tests.browser.test_client import connect, has_seen, is_in_state, publish
from tests.browser.test_tabs import USER, open_tab, role, saw_each_once
from tests.functions.api import Api
from tests.functions.tokens import user_token
from tests.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-client")]

A_MINUTE_MS = 60_000  # more than two heartbeats, a question that nobody answers, and a second one
WINDING_SECONDS = 15.0


async def has_role(page: Page, wanted: str) -> None:
    await page.wait_for_function("role => subscription.role === role", arg=wanted)


async def winds_on_until_it_leads(page: Page) -> None:
    """A tab that is told to freeze may answer once more on its way, and the lock is passed on in real time."""
    async with asyncio.timeout(WINDING_SECONDS):
        while await role(page) != "leader":
            await page.clock.run_for(A_MINUTE_MS)


async def test_a_leader_that_froze_is_replaced_and_after_its_thaw_has_missed_nothing(
    make_api: MakeApi, context: BrowserContext, pages: Pages
) -> None:
    api = make_api()
    frozen, other = [await open_tab(api, pages) for _ in range(2)]
    heir = await pages.blank(api.instance.url, clock=True)
    await connect(heir, options=USER)
    await is_in_state(heir, "live")
    publish(api, 0)
    for page in (frozen, other, heir):
        await has_seen(page, 1)

    browser = await context.new_cdp_session(frozen)
    await browser.send("Page.setWebLifecycleState", {"state": "frozen"})
    publish(api, 1)
    await winds_on_until_it_leads(heir)
    publish(api, 2)
    await saw_each_once(heir, 3)
    await saw_each_once(other, 3)

    await browser.send("Page.setWebLifecycleState", {"state": "active"})
    await has_role(frozen, "follower")
    publish(api, 3)
    for page in (frozen, other, heir):
        await saw_each_once(page, 4)
    await eventually(lambda: streams(api) == 1)


async def test_a_tab_that_replays_does_so_alone_and_then_follows_without_a_seam(
    make_api: MakeApi, pages: Pages
) -> None:
    api = make_api()
    publish(api, 0, 1, 2)
    leader = await open_tab(api, pages)
    late = await open_tab(api, pages, **{"from": "earliest"})
    publish(api, 3)
    await has_role(late, "follower")
    publish(api, 4)
    await saw_each_once(late, 5)
    await saw_each_once(leader, 5, first=3)
    await eventually(lambda: streams(api) == 1)


async def test_a_leader_whose_next_token_is_refused_lets_a_tab_with_a_good_one_lead(guarded: Api, pages: Pages) -> None:
    pages.expect(r"status of 401 .*/api/events")
    good, ended = user_token("u-ending"), user_token("u-ending", exp=int(time.time()) - 60)
    refused, heir = [await pages.blank(guarded.instance.url) for _ in range(2)]
    for page, tokens in ((refused, [good, ended]), (heir, [good])):
        await connect(page, tokens=tokens)
        await is_in_state(page, "live")
    await has_role(heir, "follower")
    publish(guarded, 0)
    await has_seen(heir, 1)

    await refused.evaluate("subscription.drop()")
    await is_in_state(refused, "denied")
    await has_role(heir, "leader")
    publish(guarded, 1)
    await saw_each_once(heir, 2)


async def test_tabs_of_two_users_share_nothing(guarded: Api, pages: Pages) -> None:
    first, second = [await pages.blank(guarded.instance.url) for _ in range(2)]
    for page, user in ((first, "u-one"), (second, "u-two")):
        await connect(page, tokens=[user_token(user)])
        await is_in_state(page, "live")
        assert await role(page) == "leader"
    guarded.publish({"type": "note", "data": 0, "userIds": ["u-one"]})
    publish(guarded, 1)  # the sentinel
    await saw_each_once(first, 2)
    await saw_each_once(second, 2, first=1)


async def test_the_servers_warning_renews_a_token_whose_end_the_page_cannot_tell(guarded: Api, pages: Pages) -> None:
    page = await pages.blank(guarded.instance.url, clock=True)
    now = int(time.time())
    await connect(page, tokens=[user_token("u1", exp=now + 33), user_token("u1")])
    await is_in_state(page, "live")
    await page.clock.set_system_time((now + 600) * 1000)  # by the page's clock it is over already: its timer is no help
    await page.wait_for_function("readies.length === 2")
    assert await page.evaluate("asked") == 2
    publish(guarded, 0)
    await saw_each_once(page, 1)
    assert "waiting" not in await page.evaluate("states")


async def test_tokens_that_are_warned_of_at_once_are_not_renewed_at_once(guarded: Api, pages: Pages) -> None:
    page = await pages.blank(guarded.instance.url)
    await connect(page, tokens=[user_token("u1", exp=int(time.time()) + life) for life in range(20, 29)])
    await is_in_state(page, "live")
    for number in range(3):  # the warning came before these
        publish(guarded, number)
        await has_seen(page, number + 1)
    assert await page.evaluate("asked") == 1
    assert await page.evaluate("states") == ["connecting", "replaying", "live"]


async def test_tabs_that_say_the_same_of_two_users_share_nothing(guarded: Api, pages: Pages) -> None:
    """`share` was taken for the whole truth, and the tab of one user was sent the private events of another."""
    first, second = [await pages.blank(guarded.instance.url) for _ in range(2)]
    for page, user in ((first, "u-one"), (second, "u-two")):
        await connect(page, tokens=[user_token(user)], options={"share": "my-app"})
        await is_in_state(page, "live")
        assert await role(page) == "leader"
    guarded.publish({"type": "note", "data": 0, "userIds": ["u-one"]})
    publish(guarded, 1)  # the sentinel
    await saw_each_once(first, 2)
    await saw_each_once(second, 2, first=1)


@pytest.mark.parametrize("share", [True, False])
async def test_a_page_of_the_next_user_hears_nothing_of_the_last(guarded: Api, pages: Pages, share: bool) -> None:
    """Signing out and in again in one tab, while another tab of the first user is still connected."""
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
