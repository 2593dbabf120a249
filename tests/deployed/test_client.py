"""What an application's own page does: `realtime.js`, an EventSource with a ticket, and long polls, as deployed."""

import asyncio
from typing import Any

import pytest
from playwright.async_api import Error, Page

from tests.browser.javascript import EACH_REACT, SOURCES, bundle
from tests.browser.pages import Pages
from tests.deployed.conftest import Deployment
from tests.support.processes import wait_until
from tests.support.tokens import PUBLISH_KEY

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("deployed"),
    pytest.mark.timeout(180),
]

# Records the calls of the client, and gets tokens as a page gets them from its backend.
CONNECT = """async ({user, ttl, key}) => {
    const {connect} = await import("/realtime.js");
    window.seen = {events: [], gaps: 0, readies: 0, tokens: 0, states: []};
    window.subscription = connect({
        token: async () => {
            seen.tokens += 1;
            const headers = {"Content-Type": "application/json", Authorization: `Bearer ${key}`};
            const body = JSON.stringify({userId: user, ttl});
            const answer = await fetch("/api/tokens", {method: "POST", headers, body});
            return (await answer.json()).token;
        },
        onEvent: (event) => seen.events.push(event.data),
        onGap: () => { seen.gaps += 1; },
        onReady: () => { seen.readies += 1; },
        onState: (state, {reason}) => seen.states.push(`${state}: ${reason}`),
    });
}"""

EVENT_SOURCE = """async ({token}) => {
    const headers = {Authorization: `Bearer ${token}`};
    const answer = await fetch("/api/tickets", {method: "POST", headers});
    const {ticket, url} = await answer.json();
    window.seen = {events: [], readies: 0};
    const source = new EventSource(`${url}?ticket=${ticket}`);
    source.addEventListener("note", (event) => seen.events.push(JSON.parse(event.data)));
    source.addEventListener("realtime.ready", () => { seen.readies += 1; });
}"""

PAGE = """async ({address, token, cursor}) => {
    const headers = {Accept: "application/json", Authorization: `Bearer ${token}`};
    const answer = await fetch(`${address}?wait=20&last_event_id=${cursor}`, {headers});
    return {status: answer.status, body: await answer.json()};
}"""


async def until(page: Page, condition: str) -> dict[str, Any]:
    """What the page has seen, once the condition holds."""
    try:
        await page.wait_for_function(f"() => {condition}", timeout=30_000)
    except Error:
        raise AssertionError(f"{condition}: {await page.evaluate('window.seen')}") from None
    seen: dict[str, Any] = await page.evaluate("window.seen")
    return seen


async def connected(deployed: Deployment, pages: Pages, user: str, ttl: int = 600) -> Page:
    """A page of the site whose subscription is live."""
    page = await pages.blank(deployed.site)
    await page.evaluate(CONNECT, {"user": user, "ttl": ttl, "key": PUBLISH_KEY})
    await until(page, "seen.readies === 1")
    return page


async def test_a_broken_stream_resumes_in_another_environment(deployed: Deployment, pages: Pages) -> None:
    pages.expect(r"net::ERR_")
    page = await connected(deployed, pages, "client-1")
    deployed.publish("note", 1, "client-1")
    await until(page, "seen.events.length === 1")
    for environment in deployed.stack.function("stream").busy():
        environment.kill()
    deployed.publish("note", 2, "client-1")
    await until(page, "seen.readies === 2")
    deployed.publish("note", 3, "client-1")
    seen = await until(page, "seen.events.length === 3")
    assert (seen["events"], seen["gaps"]) == ([1, 2, 3], 0)


async def test_a_renewed_token_resumes_after_the_last_event(deployed: Deployment, pages: Pages) -> None:
    """The client comes with the next token before the first one ends: nothing is lost or repeated at the switch."""
    page = await connected(deployed, pages, "client-2", ttl=5)
    deployed.publish("note", 1, "client-2")
    await until(page, "seen.tokens >= 2 && seen.readies >= 2")
    deployed.publish("note", 2, "client-2")
    seen = await until(page, "seen.events.length >= 2")
    assert (seen["events"], seen["gaps"]) == ([1, 2], 0)
    assert not any(state.startswith("denied") for state in seen["states"])


async def test_a_revoked_user_gets_no_further_event(deployed: Deployment, pages: Pages) -> None:
    """The stream ends, and only a token that was made after the revocation opens the next one."""
    pages.expect(r"status of 401")
    page = await connected(deployed, pages, "client-3")
    assert deployed.post("/api/revocations", {"userId": "client-3"}).status_code == 202
    seen = await until(page, "seen.readies >= 2")
    assert seen["tokens"] >= 2


async def test_an_event_source_opens_with_a_ticket(deployed: Deployment, pages: Pages) -> None:
    page = await pages.blank(deployed.site)
    await page.evaluate(EVENT_SOURCE, {"token": deployed.token("client-4")})
    await until(page, "seen.readies === 1")
    deployed.publish("note", 4, "client-4")
    assert (await until(page, "seen.events.length === 1"))["events"] == [4]


@pytest.mark.parametrize("way", ["site", "api"])
async def test_a_long_poll_answers_when_an_event_comes(deployed: Deployment, pages: Pages, way: str) -> None:
    """By the site's rewrite, and from its page at the HTTP API itself, with a preflight."""
    user = f"poll-{way}"
    page = await pages.blank(deployed.site)
    address = f"{deployed.site if way == 'site' else deployed.stack.api_url}/api/events"
    cursor = deployed.publish("note", 0, user)
    asked = {"address": address, "token": deployed.token(user), "cursor": cursor}
    polling = asyncio.create_task(page.evaluate(PAGE, asked))
    poll = deployed.stack.function("poll")
    await asyncio.to_thread(wait_until, lambda: bool(poll.busy()), 30.0)
    deployed.publish("note", {"by": way}, user)
    answer = await polling
    assert answer["status"] == 200, answer
    assert [event["data"] for event in answer["body"]["events"]] == [{"by": way}]
    assert answer["body"]["gap"] is None


@pytest.mark.full
async def test_a_long_poll_in_vain_fits_every_time_out(deployed: Deployment, pages: Pages) -> None:
    """The longest there is, 20 s: the function has 28, Netlify waits for 26, and API Gateway for 30."""
    page = await pages.blank(deployed.site)
    cursor = deployed.publish("note", 0, "patient")
    asked = {"address": f"{deployed.site}/api/events", "token": deployed.token("patient"), "cursor": cursor}
    answer = await page.evaluate(PAGE, asked)
    assert (answer["status"], answer["body"]["events"]) == (200, [])


@pytest.mark.parametrize("react", EACH_REACT)
async def test_a_react_application_streams(deployed: Deployment, pages: Pages, react: str) -> None:
    """A built application of the site, with the hook: it resumes as the client does, which is inside it."""
    pages.expect(r"net::ERR_")
    user = f"react-{react}"
    page = await pages.blank(deployed.site)
    await page.add_script_tag(content=bundle(SOURCES / "app.jsx", react))
    await page.evaluate("show", {"name": "page", "share": False, "token": deployed.token(user)})
    await page.wait_for_function("view()?.state === 'live'")
    deployed.publish("note", 1, user)
    await page.wait_for_function("seen.length === 1")
    for environment in deployed.stack.function("stream").busy():
        environment.kill()
    deployed.publish("note", 2, user)
    await page.wait_for_function("seen.length === 2")
    assert await page.evaluate("seen") == [["page", 1], ["page", 2]]
    assert await page.evaluate("gaps") == []
