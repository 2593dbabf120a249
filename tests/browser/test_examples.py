"""The examples that users copy, and the copied client."""

import asyncio
import re
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, Page, Route, expect

from tests.browser.client import has_streams
from tests.browser.conftest import MakeTwo
from tests.browser.javascript import EACH_REACT, bundle
from tests.browser.pages import Pages
from tests.browser.two_hosts import GUARDED
from tests.support.api import Api
from tests.support.processes import ROOT
from tests.support.tokens import user_token

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-console")]

EXAMPLES = ROOT / "examples"
MAX_LINES = 30

PAGE = """
import { createRoot } from "react-dom/client";
import { Tasks } from "%s";
const fetchTasks = async () => [{ id: 1, title: "from the list" }];
const root = createRoot(document.body.appendChild(document.createElement("main")));
window.show = (user, token) => {
  root.render(<Tasks key={user} user={user} fetchToken={async () => token} fetchTasks={fetchTasks} />);
};
"""


async def serve(page: Page, url: str) -> None:
    """Serve the example on this origin, as a site would."""
    body = (EXAMPLES / "event-source.html").read_text()

    async def answer(route: Route) -> None:
        await route.fulfill(body=body, content_type="text/html")

    await page.route(f"{url}/examples/*", answer)


@pytest.mark.parametrize("name", ["event-source.html", "tasks.jsx"])
async def test_an_example_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < MAX_LINES


async def test_the_client_imports_only_copied_files() -> None:
    """realtime.js and client/, without a build step."""
    site = ROOT / "site"
    for file in (site / "realtime.js", *(site / "client").glob("*.js")):
        for name in re.findall(r'^(?:import|export)\b[^;]*?from "([^"]+)"', file.read_text(), re.MULTILINE):
            target = (file.parent / name).resolve()
            assert target.is_file(), f"{file.name} imports {name}, which does not exist"
            assert target.parent == site / "client", f"{file.name} imports {name}, which is not copied"


async def test_the_event_source_page_shows_events_as_text(api: Api, pages: Pages) -> None:
    page = await pages.new()
    await serve(page, api.instance.url)
    await page.goto(f"{api.instance.url}/examples/event-source.html")
    await expect(page.get_by_role("status")).to_have_text("live")
    api.publish({"type": "other", "data": 0})
    api.publish({"type": "task-updated", "data": "<b>7</b>"})
    await expect(page.locator("li")).to_have_text(['"<b>7</b>"'])


async def test_the_event_source_page_resumes_with_a_new_ticket(
    make_two: MakeTwo, context: BrowserContext, pages: Pages
) -> None:
    """Streams on another host: the first ticket has expired when the second connection needs one."""
    pages.expect("net::ERR_", "status of 401", "blocked by CORS policy")
    site, streams = make_two(**GUARDED)
    url = site.instance.url
    await context.add_cookies([{"name": "realtime_token", "value": user_token("u1"), "url": url}])
    page = await pages.new()
    await serve(page, url)
    await page.goto(f"{url}/examples/event-source.html")
    await expect(page.get_by_role("status")).to_have_text("live")
    site.publish({"type": "task-updated", "data": 1, "userIds": ["u1"]})
    await expect(page.locator("li")).to_have_text(["1"])

    async def refuse(route: Route) -> None:
        await route.fulfill(status=401)

    await page.route(f"{streams.instance.url}/**", refuse, times=1)  # the response to an expired ticket
    await asyncio.to_thread(streams.instance.stop)
    site.publish({"type": "task-updated", "data": 2, "userIds": ["u1"]})
    await asyncio.to_thread(streams.instance.start)
    await expect(page.locator("li")).to_have_text(["1", "2"])


@pytest.mark.parametrize("react", EACH_REACT)
async def test_the_react_component_shows_list_and_events(
    guarded: Api, pages: Pages, tmp_path: Path, react: str
) -> None:
    source = tmp_path / "page.jsx"
    source.write_text(PAGE % (EXAMPLES / "tasks.jsx"))
    page = await pages.blank(guarded.instance.url)
    await page.add_script_tag(content=bundle(source, react))
    for user in ("u1", "u2"):
        await page.evaluate("([user, token]) => show(user, token)", [user, user_token(user)])
        await has_streams(guarded, 1)
        await expect(page.get_by_role("status")).to_have_text("live")
        for number, name in enumerate(("u1", "u2"), start=2):
            data = {"id": number, "title": f"for {name}"}
            guarded.publish({"type": "task-updated", "data": data, "userIds": [name]})
        await expect(page.locator("li")).to_have_text(["from the list", f"for {user}"])
    await page.close()
    await has_streams(guarded, 0)
