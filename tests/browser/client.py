"""`connect()` of site/realtime.js in a page, and helpers that read its state and the instance's."""

import re
from typing import Any

import httpx
from playwright.async_api import Page, Request

from tests.support.api import Api
from tests.support.waiting import eventually

USER = {"userId": "u1"}  # the client shares connections only between tabs of a known user

# `dropping`: the fraction of events whose callback drops the connection. `patient`: whether the client waits
# before it reconnects; set by tests of the delays.
CONNECT = """async ({ options = {}, dropping = 0, patient = false, tokens = null, stored = false }) => {
  const { connect } = await import("/realtime.js");
  Object.assign(window, { seen: [], gaps: [], readies: [], states: [], modes: [], failures: [] });
  Object.assign(window, { drops: 0, tokenCalls: 0 });
  const token = tokens && (async () => tokens[Math.min(tokenCalls++, tokens.length - 1)]);
  window.subscription = connect({
    ...options,
    ...(token ? { token } : {}),
    ...(stored ? { storage: sessionStorage } : {}),
    onEvent(event) {
      seen.push(event.data);
      if (Math.random() >= dropping) return;
      drops += 1;
      if (Math.random() < 0.5) subscription.drop();
      else setTimeout(() => subscription.drop());
    },
    onGap: (gap) => gaps.push(gap.reason),
    onReady: (ready) => readies.push(ready),
    onError: (failure) => failures.push(failure),
    onState(state, change) {
      states.push(state);
      modes.push(change.mode);
      if (state === "waiting" && !patient) subscription.retry();
    },
  });
}"""


async def connect(page: Page, **settings: Any) -> None:
    """Subscribe, and return at once."""
    await page.evaluate(CONNECT, settings)


async def is_in_state(page: Page, state: str) -> None:
    """Return once the subscription is in this state."""
    await page.wait_for_function("state => subscription.state === state", arg=state)


async def has_seen(page: Page, count: int) -> None:
    """Return once the page has received at least this many events."""
    await page.wait_for_function("count => seen.length >= count", arg=count)


async def saw_each_once(page: Page, count: int, first: int = 0) -> None:
    """Return once the page has received the events from `first` to `count`; they must be in order and without a gap."""
    await has_seen(page, count - first)
    assert await page.evaluate("seen") == list(range(first, count))
    assert await page.evaluate("gaps") == []


async def role(page: Page) -> str:
    """Whether the tab is alone, the leader, or a follower."""
    return str(await page.evaluate("subscription.role"))


async def has_role(page: Page, wanted: str) -> None:
    """Return once the tab has this role."""
    await page.wait_for_function("role => subscription.role === role", arg=wanted)


def publish(api: Api, *numbers: int) -> None:
    """Publish these numbers as one batch, to all users."""
    api.publish(*({"type": "counted", "data": number} for number in numbers))


def streams(api: Api) -> float:
    """The number of streams that the instance has now, by its own metrics."""
    text = httpx.get(f"{api.instance.url}/api/metrics").text
    return sum(map(float, re.findall(r"^realtime_subscribers\{.*\} (\S+)$", text, re.MULTILINE)))


async def has_streams(api: Api, count: int) -> None:
    """Return once the instance has exactly this many streams."""
    await eventually(lambda: streams(api) == count)


class RequestLog:
    """The requests that a page has sent, from now on."""

    def __init__(self, page: Page) -> None:
        self.requests: list[Request] = []
        page.on("request", self._sent)

    def _sent(self, request: Request) -> None:
        self.requests.append(request)

    def to(self, api: Api, path: str, method: str = "GET") -> list[Request]:
        """The requests to this path of this instance."""
        url = f"{api.instance.url}{path}"
        return [request for request in self.requests if request.url.split("?")[0] == url and request.method == method]


async def sentinel(page: Page) -> None:
    """Send a request. It is logged after all earlier ones, so a test need not wait to prove that there was no other."""
    await page.evaluate("fetch('/api/health/live?sentinel')")
