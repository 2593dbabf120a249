"""Pages in the browser: the console, and a blank one for scripts. Both record errors and warnings."""

import json
import re
from collections.abc import Container, Sequence
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import BrowserContext, ConsoleMessage, Error, Locator, Page, Request, expect

from tests.support.processes import HOST

BLANK = "/blank"  # on the instance's origin, without a script or a policy; the browser gets it from this module
EVENTS = "/api/events"


class Pages:
    """Opens pages and records their errors, warnings, and requests to other hosts."""

    def __init__(self, context: BrowserContext, hosts: Container[str] = (HOST,)) -> None:
        self._context = context
        self._hosts = hosts
        self._errors: list[str] = []
        self._expected = ["/favicon.ico"]  # a browser requests it for a page without an icon

    async def console(self, url: str, query: str = "") -> "ConsolePage":
        """The console, live. `query` has its filters, e.g. `?userId=u1`."""
        console = await self.unconnected_console(url, query)
        await console.is_in_state("live")
        return console

    async def unconnected_console(self, url: str, query: str = "") -> "ConsolePage":
        """The console, in any state."""
        page = await self.new()
        await page.goto(f"{url}/{query}")
        return ConsolePage(page)

    async def blank(self, url: str, *, clock: bool = False) -> Page:
        """An empty page of the same origin. With `clock`, the test controls its timers."""
        page = await self.new()
        if clock:
            await page.clock.install()
        await self.revisit(page, url)
        return page

    async def revisit(self, page: Page, url: str) -> None:
        """Navigate to the empty page."""
        await page.route(url + BLANK, lambda route: route.fulfill(content_type="text/html", body="<!doctype html>"))
        await page.goto(url + BLANK)
        await page.unroute(url + BLANK)  # an intercepted request shows fewer of its headers

    async def new(self) -> Page:
        """A page that has not loaded anything."""
        page = await self._context.new_page()
        page.on("pageerror", self._on_error)
        page.on("console", self._on_console)
        page.on("request", self._on_request)
        return page

    def expect(self, *patterns: str) -> None:
        """Allow errors that match these patterns: the browser logs each failed request."""
        self._expected += patterns

    def unexpected_errors(self) -> list[str]:
        """The recorded errors that the test does not expect."""
        return [text for text in self._errors if not any(re.search(pattern, text) for pattern in self._expected)]

    def _on_error(self, error: Error) -> None:
        self._errors.append(f"uncaught: {error}")

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._errors.append(f"{message.type}: {message.text} ({message.location.get('url')})")

    def _on_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme != "data" and parts.hostname not in self._hosts:
            self._errors.append(f"request to another host: {request.url}")


class ConsolePage:
    """The console page, as its user sees and uses it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.events = page.locator("#rows > .event")
        self.notes = page.locator("#rows > .note")
        self.dividers = page.locator("#rows > .divider")
        self.receipt = page.locator("#receipt")
        self.detail = page.locator("#detail")
        self.gaps = page.locator("#count-gaps")
        self.reconnects = page.locator("#count-reconnects")

    async def is_in_state(self, state: str) -> None:
        """Return once the page shows this state."""
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
        """Drop the connection for this long."""
        await self.page.locator("#hold").select_option(hold)
        await self.click("Drop connection")
        await expect(self.notes.first).to_contain_text("You dropped the connection")

    async def shows(self, data: Sequence[Any]) -> None:
        """Return once the list shows exactly the events with these data, given oldest first."""
        texts = [json.dumps(value) for value in reversed(data)]
        await expect(self.events.locator(".data")).to_have_text(texts)

    def event(self, event_type: str) -> Locator:
        """The row of the only event with this type."""
        return self.events.filter(has=self.page.get_by_text(event_type, exact=True))

    def field_error(self, field: str) -> Locator:
        """The error shown at this field."""
        return self.page.locator(f"#{field}-error")
