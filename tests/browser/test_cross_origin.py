"""A page of another origin: which headers it may send, and which it may read."""

import pytest
from playwright.async_api import Page

from tests.browser.conftest import MakeApi
from tests.browser.pages import Pages
from tests.support.api import Api
from tests.support.tokens import PUBLISH_KEY, SECRET, user_token

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-client")]

READ_AND_PUBLISH = """async ([address, token, key, headers]) => {
  const read = async (path, options) => {
    const response = await fetch(address + path, options);
    return [response.status, response.headers.get("X-Request-Id"), await response.json()];
  };
  const page = await read("/api/events", {
    headers: { Accept: "application/json", Authorization: `Bearer ${token}`, "Last-Event-ID": "x", ...headers },
    cache: "no-store",
  });
  const published = await read("/api/publish", {
    method: "POST",
    headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json", ...headers },
    body: '{"type": "t", "data": 1}',
  });
  return [page, published];
}"""

TRACING_HEADERS = {
    "Cache-Control": "no-cache",
    "Pragma": "no-cache",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "vendor=1",
    "baggage": "sentry-environment=production",
    "sentry-trace": "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
    "x-request-id": "from-the-page-0001",
    "x-datadog-trace-id": "1",
    "x-datadog-origin": "rum",
    "x-b3-traceid": "0af7651916cd43dd",
    "elastic-apm-traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "newrelic": "e30=",
    "X-Requested-With": "XMLHttpRequest",
}


async def blank(pages: Pages, url: str) -> Page:
    """An empty page of this origin, with the permission to send requests to this machine."""
    page = await pages.blank(url)
    await page.context.grant_permissions(["local-network-access"])
    return page


async def test_headers_of_tracing_tools_are_allowed(api: Api, make_api: MakeApi, pages: Pages) -> None:
    """A browser blocks a request with a header that the server does not allow."""
    here = api.instance.url
    there = make_api(
        REALTIME_ALLOWED_ORIGINS=here.replace("http", "HTTP"),
        REALTIME_JWT_SECRET=SECRET,
        REALTIME_PUBLISH_KEYS=PUBLISH_KEY,
    )
    page = await blank(pages, here)
    results = await page.evaluate(
        READ_AND_PUBLISH, [there.instance.url, user_token("u1"), PUBLISH_KEY, TRACING_HEADERS]
    )
    assert [(status, id) for status, id, _ in results] == [(200, "from-the-page-0001"), (202, "from-the-page-0001")]


async def test_a_page_can_read_retry_after(api: Api, make_api: MakeApi, pages: Pages) -> None:
    """The client needs it for a token that is not valid yet."""
    pages.expect("status of 401")
    there = make_api(REALTIME_ALLOWED_ORIGINS=api.instance.url, REALTIME_JWT_SECRET=SECRET)
    page = await blank(pages, api.instance.url)
    early = user_token("u1", nbf=4_000_000_000)
    wait = await page.evaluate(
        """async ([address, token]) => {
          const response = await fetch(address, { headers: { Authorization: `Bearer ${token}` } });
          return [response.status, response.headers.get("Retry-After"), response.headers.get("WWW-Authenticate")];
        }""",
        [f"{there.instance.url}/api/events", early],
    )
    assert wait == [401, "86400", 'Bearer realm="tidewire", error="invalid_token"']
