"""Pages in the browser: the console as its user sees it, and a blank one for scripts; both tell what went wrong."""

import json
import re
from collections.abc import Container, Sequence
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import BrowserContext, ConsoleMessage, Error, Locator, Page, Request, expect

from tests.processes import HOST

BLANK = "/blank"  # of the instance's origin, with no script and no policy of its own: made up here
EVENTS = "/api/events"


class Pages:
    """Opens pages and keeps what they complain about."""

    def __init__(self, context: BrowserContext, hosts: Container[str] = (HOST,)) -> None:
        self._context = context
        self._hosts = hosts
        self._complaints: list[str] = []
        self._expected = ["/favicon.ico"]  # the browser looks there for the icon of a page that names none

    async def console(self, url: str, query: str = "") -> "ConsolePage":
        """The console, live; `query` holds its filters, like `?userId=u1`."""
        console = await self.unconnected_console(url, query)
        await console.is_in_state("live")
        return console

    async def unconnected_console(self, url: str, query: str = "") -> "ConsolePage":
        """The console, whatever it comes to."""
        page = await self.new()
        await page.goto(f"{url}/{query}")
        return ConsolePage(page)

    async def blank(self, url: str, *, clock: bool = False) -> Page:
        """A page of the same origin that does nothing; with `clock`, its timers can be wound on."""
        page = await self.new()
        if clock:
            await page.clock.install()
        await self.revisit(page, url)
        return page

    async def revisit(self, page: Page, url: str) -> None:
        """Bring a page to the blank one, whatever it shows now."""
        await page.route(url + BLANK, lambda route: route.fulfill(content_type="text/html", body="<!doctype html>"))
        await page.goto(url + BLANK)
        await page.unroute(url + BLANK)  # an intercepted request tells less of its headers

    async def new(self) -> Page:
        """A page that has loaded nothing yet."""
        page = await self._context.new_page()
        page.on("pageerror", self._failed)
        page.on("console", self._logged)
        page.on("request", self._asked)
        return page

    def expect(self, *complaints: str) -> None:
        """Let pages complain of what matches these patterns: the browser tells of each request that fails."""
        self._expected += complaints

    def complaints(self) -> list[str]:
        """All that no test expects."""
        return [text for text in self._complaints if not any(re.search(wanted, text) for wanted in self._expected)]

    def _failed(self, error: Error) -> None:
        self._complaints.append(f"uncaught: {error}")

    def _logged(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._complaints.append(f"{message.type}: {message.text} ({message.location.get('url')})")

    def _asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme != "data" and parts.hostname not in self._hosts:
            self._complaints.append(f"asked another host: {request.url}")


class ConsolePage:
    """The console page: what its user does with it, and what he sees then."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.events = page.locator("#rows > .event")
        self.notes = page.locator("#rows > .note")
        self.tide_lines = page.locator("#rows > .tideline")
        self.receipt = page.locator("#receipt")
        self.detail = page.locator("#detail")
        self.gaps = page.locator("#count-gaps")
        self.reconnects = page.locator("#count-reconnects")

    async def is_in_state(self, state: str) -> None:
        """Return once the connection is in this state, and shown to be."""
        await expect(self.page.locator("#connection")).to_have_attribute("data-state", state)
        await expect(self.page.locator("#states [aria-current] b")).to_have_text(state)

    async def click(self, button: str) -> None:
        """Click the button with this name."""
        await self.page.get_by_role("button", name=button, exact=True).click()

    async def fill(self, **fields: str) -> None:
        """Fill the fields with these ids."""
        for name, value in fields.items():
            await self.page.locator(f"#{name}").fill(value)

    async def drop(self, hold: str) -> None:
        """Cut the connection, which stays cut for this long."""
        await self.page.locator("#hold").select_option(hold)
        await self.click("Drop connection")
        await expect(self.notes.first).to_contain_text("You dropped the connection")

    async def shows(self, data: Sequence[Any]) -> None:
        """Return once the list shows events with exactly these data, the oldest first."""
        texts = [json.dumps(value) for value in reversed(data)]
        await expect(self.events.locator(".data")).to_have_text(texts)

    def event(self, event_type: str) -> Locator:
        """The row of the only event of this type."""
        return self.events.filter(has=self.page.get_by_text(event_type, exact=True))

    def field_error(self, field: str) -> Locator:
        """What is said to be wrong with this field."""
        return self.page.locator(f"#{field}-error")
