"""The console by the rules of axe: dark and light, on a desktop and on a phone, with all kinds of rows and errors."""

from importlib.resources import files
from typing import Any, Literal

import pytest
from playwright.async_api import Browser, expect

from tests.browser.pages import Pages
from tests.support.api import Api

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-console")]

AXE = files("axe_playwright_python").joinpath("axe.min.js")

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}

# The violations, one line per rule. Rules that axe cannot decide are not listed.
RUN = """async () => (await axe.run()).violations.map(
  ({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.target.join(" ")).join(", ")}`)"""


@pytest.mark.parametrize(
    ("scheme", "size"),
    [
        pytest.param("dark", DESKTOP, id="dark-desktop"),
        pytest.param("light", PHONE, id="light-phone"),
        pytest.param("dark", PHONE, id="dark-phone", marks=pytest.mark.full),
        pytest.param("light", DESKTOP, id="light-desktop", marks=pytest.mark.full),
    ],
)
async def test_the_console_is_accessible(
    chromium: Browser, api: Api, scheme: Literal["dark", "light"], size: Any
) -> None:
    # The page's policy would block the script of axe.
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
    assert width <= size["width"], "the page scrolls horizontally"
    assert pages.unexpected_errors() == []
    await context.close()
