"""Makes the README's pictures of the console, in docs/: `python -m tests.browser.screenshots`."""

import asyncio
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Literal

from playwright.async_api import Browser, async_playwright, expect

from tests.browser.conftest import FLAGS, QUICK
from tests.browser.pages import ConsolePage
from tests.support import servers
from tests.support.api import Api
from tests.support.processes import ROOT, Instance

SCHEMES: tuple[Literal["dark", "light"], ...] = ("dark", "light")
DESKTOP = (1200, 900)
PHONE = (390, 844)


async def main() -> None:
    """Make the pictures of both colour schemes on a desktop, and one on a phone."""
    with tempfile.TemporaryDirectory() as folder:
        instance = Instance(Path(folder), QUICK).start()
        try:
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(executable_path=servers.find("chromium"), args=FLAGS)
                for scheme in SCHEMES:
                    with closing(Api(instance)) as api:
                        await take(browser, api, scheme, DESKTOP, f"console-{scheme}.png")
                with closing(Api(instance)) as api:
                    await take(browser, api, "dark", PHONE, "console-phone.png")
                await browser.close()
        finally:
            instance.stop()


async def take(browser: Browser, api: Api, scheme: Literal["dark", "light"], size: tuple[int, int], name: str) -> None:
    """One picture: events arrive, the connection is dropped, and missed events are replayed."""
    width, height = size
    context = await browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = await context.new_page()
    await page.goto(f"{api.instance.url}/?userId=ada")
    console = ConsolePage(page)
    await console.is_in_state("live")
    for number in range(6):
        api.publish({"type": "task-updated", "data": {"id": number, "status": "running", "progress": number / 10}})
        await asyncio.sleep(0.7)  # in the picture, the events have different times
    await expect(console.events).to_have_count(6)
    await console.drop("10 s")
    api.publish({"type": "build.finished", "data": {"id": 7, "branch": "main", "passed": True}})
    api.publish({"type": "invoice-paid", "data": {"number": "2026-114", "total": 1240.50}, "userIds": ["ada"]})
    await console.click("Reconnect now")
    await console.is_in_state("live")
    if size == DESKTOP:  # on a phone the form is folded
        await console.fill(id=f"task-7-{scheme}")
        await console.click("Publish")
        await expect(console.receipt).to_contain_text("Accepted")
    await asyncio.sleep(1.5)  # let the meters draw
    await page.screenshot(path=ROOT / "docs" / name)
    await context.close()


if __name__ == "__main__":
    asyncio.run(main())
