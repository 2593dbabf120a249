"""The console by axe's rules, dark and light, on a desk and on a phone, with everything that it can show on it."""

from importlib.resources import files
from typing import Any, Literal

import pytest
from playwright.async_api import Browser, expect

from tests.browser.pages import Pages
from tests.functions.api import Api

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-console")]

AXE = files("axe_playwright_python").joinpath("axe.min.js")

DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}

# What axe finds, in one line a rule; a rule that it cannot decide is for people.
RUN = """async () => (await axe.run()).violations.map(
  ({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.target.join(" ")).join(", ")}`)"""


@pytest.mark.parametrize(
    ("scheme", "size"),
    [
        pytest.param("dark", DESK, id="dark-desk"),
        pytest.param("light", PHONE, id="light-phone"),
        pytest.param("dark", PHONE, id="dark-phone", marks=pytest.mark.full),
        pytest.param("light", DESK, id="light-desk", marks=pytest.mark.full),
    ],
)
async def test_everyone_can_read_and_use_the_console(
    chromium: Browser, api: Api, scheme: Literal["dark", "light"], size: Any
) -> None:
    # Scripts of a test pass the page's policy only so, and the instance's own pages have it.
    context = await chromium.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce", bypass_csp=True)
    pages = Pages(context)
    pages.expect(r"status of 400 .*/api/publish")
    console = await pages.console(api.instance.url, "?from=earliest")
    await console.page.evaluate("for (const card of document.querySelectorAll('details')) card.open = true")
    api.publish({"type": "axe", "data": {"text": "t", "number": 1.5, "word": None, "list": list(range(40))}})
    await expect(console.event("axe").first).to_be_visible()
    await console.fill(type="two words")
    await console.click("Publish")
    await expect(console.field_error("type")).to_be_visible()
    await console.drop("10 s")
    await console.click("Reconnect now")
    await console.is_in_state("live")
    await console.page.add_script_tag(content=AXE.read_text())
    assert await console.page.evaluate(RUN) == []
    width = await console.page.evaluate("document.documentElement.scrollWidth")
    assert width <= size["width"], "the page must not scroll sideways"
    assert pages.complaints() == []
    await context.close()
