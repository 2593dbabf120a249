"""The pages that users copy: the examples do what they say, in so few lines."""

import re

import pytest
from playwright.async_api import Page, Route, expect

from tests.browser.conftest import MakeApi
from tests.browser.connections import has_streams
from tests.browser.pages import Pages
from tests.functions.api import Api
from tests.processes import ROOT

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-console")]

EXAMPLES = ROOT / "examples"
MOST_LINES = 30

# The two hooks and the effect's rules, without React itself: state is set between renders, an effect runs again where
# its dependencies changed, after its clean-up, and strict mode mounts everything twice.
REACT = """
let cells = [], at = 0, effects = [], queued = false;
export const next = (make) => (cells[at] ??= make(), cells[at++]);
export const useRef = (current) => next(() => ({ current }));
export function useState(first) {
  const cell = next(() => ({ value: first }));
  const set = (change) => { cell.value = typeof change === "function" ? change(cell.value) : change; queue(); };
  return [cell.value, set];
}
export function useEffect(run, deps) {
  const cell = next(() => ({}));
  if (cell.deps?.every((dep, index) => Object.is(dep, deps[index]))) return;
  effects.push(() => { cell.end?.(); cell.deps = deps; cell.end = run(); });
}
function queue() {
  if (queued) return;
  queued = true;
  queueMicrotask(() => { queued = false; if (window.component) render(); });
}
export function render() {
  at = 0;
  window.view = window.component();
  for (const effect of effects.splice(0)) effect();
}
export function mountStrictly() {
  render();
  for (const cell of cells) if (cell.end) { cell.end(); cell.deps = undefined; }
  render();
}
export function unmount() { window.component = null; for (const cell of cells) cell.end?.(); }
"""

MOUNT = """async () => {
  const importMap = document.createElement("script");
  importMap.type = "importmap";
  importMap.textContent = JSON.stringify({ imports: { react: "/examples/react.js" } });
  document.head.append(importMap);
  window.react = await import("react");
  const { useRealtime } = await import("/examples/use-realtime.js");
  window.types = ["one"];
  window.seen = [];
  window.component = () => useRealtime({ types: window.types, onEvent: (event) => seen.push(event.data) });
  react.mountStrictly();
}"""


async def serve(page: Page, url: str) -> None:
    """Puts the examples where a site would, and the client beside them."""
    hook = (EXAMPLES / "use-realtime.js").read_text().replace("./realtime.js", "/realtime.js")
    bodies = {
        "event-source.html": (EXAMPLES / "event-source.html").read_text(),
        "use-realtime.js": hook,
        "react.js": REACT,
    }

    async def answer(route: Route) -> None:
        name = route.request.url.rpartition("/")[2]
        await route.fulfill(body=bodies[name], content_type="text/html" if name.endswith("html") else "text/javascript")

    await page.route(f"{url}/examples/*", answer)


async def is_live(page: Page, api: Api) -> None:
    """Return once the component is, on one stream: that of another render has ended."""
    await page.wait_for_function("view.state === 'live'")
    await has_streams(api, 1)
    assert await page.evaluate("view.gaps") == 0


@pytest.mark.parametrize("name", ["event-source.html", "use-realtime.js"])
async def test_an_example_can_be_read_at_a_glance(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < MOST_LINES


async def test_the_client_is_whole_where_its_file_and_its_folder_are_copied() -> None:
    site = ROOT / "site"
    for file in (site / "realtime.js", *(site / "client").glob("*.js")):
        for name in re.findall(r'^(?:import|export)\b[^;]*?from "([^"]+)"', file.read_text(), re.MULTILINE):
            target = (file.parent / name).resolve()
            assert target.is_file(), f"{file.name} imports {name}: without a build step that is nothing"
            assert target.parent == site / "client", f"{file.name} imports {name}, which is not copied"


async def test_the_plain_page_shows_what_is_published_as_text(api: Api, pages: Pages) -> None:
    page = await pages.new()
    await serve(page, api.instance.url)
    await page.goto(f"{api.instance.url}/examples/event-source.html")
    await expect(page.get_by_role("status")).to_have_text("live")
    api.publish({"type": "other", "data": 0})
    api.publish({"type": "task-updated", "data": "<b>7</b>"})
    await expect(page.locator("li")).to_have_text(['"<b>7</b>"'])


async def test_the_hook_subscribes_once_follows_its_types_and_ends_with_its_component(
    make_api: MakeApi, pages: Pages
) -> None:
    api = make_api()
    page = await pages.blank(api.instance.url)
    await serve(page, api.instance.url)
    await page.evaluate(MOUNT)
    await is_live(page, api)
    api.publish({"type": "two", "data": 0})
    api.publish({"type": "one", "data": 1})
    await page.wait_for_function("view.last?.data === 1")

    async with page.expect_request("**/api/events?types=two*"):
        await page.evaluate("types = ['two']; react.render()")
    await is_live(page, api)
    api.publish({"type": "one", "data": 2})
    api.publish({"type": "two", "data": 3})
    await page.wait_for_function("view.last?.data === 3")
    assert await page.evaluate("seen") == [1, 3]

    await page.evaluate("react.unmount()")
    api.publish({"type": "two", "data": 4})
    await page.evaluate("fetch('/api/health/live')")
    assert await page.evaluate("seen") == [1, 3]
