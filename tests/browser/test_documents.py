"""Each JavaScript block of the documents runs in a page, and receives a published event."""

import contextlib
import re

import pytest
from playwright.async_api import Route

from tests.browser.client import has_streams
from tests.browser.pages import Pages
from tests.repository.docs.kinds import of_kind
from tests.repository.docs.markdown import Block
from tests.support.api import Api
from tests.support.tokens import user_token

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-console")]

# Functions of the reader's own page. They record their arguments.
READER_FUNCTIONS = """() => {
  window.received = [];
  window.show = (data) => received.push(data);
  window.reloadEverything = () => received.push("everything");
  console.log = (...values) => received.push(...values);
}"""
TOKEN = "/my/realtime-token"
SUBSCRIBES = re.compile(r"\b(connect|EventSource)\(")
POLLS = re.compile(r'mode: "poll"')
PAGE = re.compile(r"/api/events\?.*wait=0")
HAS_RECEIVED = "(data) => received.some((value) => JSON.stringify(value) === JSON.stringify(data))"


@pytest.mark.parametrize("block", of_kind("javascript"), ids=str)
async def test_a_javascript_block_receives_an_event(guarded: Api, pages: Pages, block: Block) -> None:
    page = await pages.blank(guarded.instance.url)

    async def give(route: Route) -> None:
        await route.fulfill(body=user_token("u1"))

    await page.route(f"**{TOKEN}", give)
    await page.context.add_cookies([{"name": "realtime_token", "value": user_token("u1"), "url": guarded.instance.url}])
    await page.evaluate(READER_FUNCTIONS)
    polls = POLLS.search(block.text) is not None
    up_to_date = page.expect_response(PAGE) if polls else contextlib.nullcontext()
    async with up_to_date:
        await page.add_script_tag(content=f"{block.text}\nwindow.isRun = true;", type="module")
        await page.wait_for_function("window.isRun")
    if not SUBSCRIBES.search(block.text):
        return
    await has_streams(guarded, 0 if polls else 1)
    data = {"id": 7, "block": str(block)}
    guarded.publish({"type": "task-updated", "data": data, "userIds": ["u1"]})
    await page.wait_for_function(HAS_RECEIVED, arg=data)
    await page.close()
    await has_streams(guarded, 0)
