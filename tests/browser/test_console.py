"""The console page: events from a shell or from its form are shown to the right users, and only to them."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from tests.browser.pages import EVENTS, ConsolePage, Pages
from tests.support.api import Api, unique
from tests.support.processes import ROOT, Instance, inherited
from tests.support.tokens import PUBLISH_KEY, user_token

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-console")]

PAYLOAD = ROOT / "tests" / "payloads" / "github" / "deployment_status.json"

HOSTILE = """<img src=x onerror="window.hacked = 1"></pre><script>window.hacked = 1</script><svg onload=hacked=1>"""
HOSTILE_ID = "<svg/onload=window.hacked=1><a/href=javascript:window.hacked=1>"

# field, an invalid value, a valid one
MISTAKES = [
    ("type", "two words", "two-words"),
    ("type", "realtime.forged", "forged"),
    ("data", "{'id': 7}", '{"id": 7}'),
    ("data", '1}, "userIds": ["u1"', "1"),
    ("userIds", "u1, " + "u" * 300, "u1"),
    ("id", "é", "e"),
]


async def post_with_curl(instance: Instance, body: Path, event_type: str, data: str) -> None:
    """Publish a file with curl, as a script would."""
    body.write_text(f'{{"type": "{event_type}", "data": {data}}}')
    command = ["curl", "--silent", "--show-error", "--fail-with-body", f"{instance.url}/api/publish"]
    command += ["--header", "Content-Type: application/json", "--data-binary", f"@{body}"]
    done = await asyncio.to_thread(
        subprocess.run, command, check=False, env=inherited(), capture_output=True, text=True, timeout=15
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [receipt] = json.loads(done.stdout)["events"]
    assert receipt["duplicate"] is False


def as_written(text: str) -> Any:
    """Parsed JSON with numbers as their original text."""
    return json.loads(text, parse_int=str, parse_float=str)


async def data_of(console: ConsolePage, event_type: str) -> str:
    """The data of this event's row, unfolded."""
    row = console.event(event_type)
    await expect(row).to_be_visible()
    unfold = row.locator(".more")
    if await unfold.count():
        await unfold.click()
    return await row.locator(".data").inner_text()


async def test_the_page_goes_live_without_other_hosts(api: Api, pages: Pages) -> None:
    """Without an error, too, and under a strict policy."""
    url = api.instance.url
    page = await pages.new()
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.removeprefix(url)[:1]))
    response = await page.goto(f"{url}/")
    assert response is not None
    policy = await response.header_value("content-security-policy")
    assert policy is not None
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    console = ConsolePage(page)
    await console.is_in_state("live")
    await expect(console.dividers).to_contain_text("live from now")
    assert hosts == {"/"}, "a request went to another host"
    assert pages.unexpected_errors() == []


async def test_an_event_from_curl_is_shown_unchanged(dev: Instance, pages: Pages, tmp_path: Path) -> None:
    """Published to `scripts/dev`. JSON.parse would show 1.0 as 1, and round a long integer."""
    console = await pages.console(dev.url)
    await post_with_curl(dev, tmp_path / "event.json", "deployment-status", PAYLOAD.read_text())
    await expect(console.event("deployment-status").locator(".phase")).to_have_text("live")
    assert as_written(await data_of(console, "deployment-status")) == as_written(PAYLOAD.read_text())

    digits = '{"one":1.0,"power":1e5,"long":123456789012345678901234567890,"minus":-0.0}'
    await post_with_curl(dev, tmp_path / "event.json", "digits", digits)
    assert "".join((await data_of(console, "digits")).split()) == digits


async def test_the_form_publishes_an_id_only_once(api: Api, pages: Pages) -> None:
    order = unique("order")[:14]  # short enough to be shown completely
    console = await pages.console(api.instance.url)
    await console.fill(type="task-updated", data='{"id": 7}', id=order)
    await console.click("Publish")
    await expect(console.receipt).to_contain_text("Accepted")
    await expect(console.receipt).to_contain_text(order)
    await expect(console.event("task-updated").locator(".data")).to_have_text('{ "id": 7 }')

    await console.click("Send again, same id")
    await expect(console.receipt).to_contain_text("Duplicate")
    api.publish({"type": "sentinel", "data": None})
    await expect(console.event("sentinel")).to_be_visible()
    await expect(console.events).to_have_count(2)


async def test_an_invalid_field_shows_its_error(api: Api, pages: Pages) -> None:
    pages.expect(r"status of 4\d\d .*/api/publish")
    console = await pages.console(api.instance.url)
    invalid = console.page.locator("[aria-invalid=true]")
    for field, wrong, right in MISTAKES:
        await console.fill(**{field: wrong})
        await console.click("Publish")
        await expect(console.field_error(field)).not_to_be_empty()
        await expect(console.field_error(field)).to_be_visible()
        await expect(invalid).to_have_id(field)
        await expect(invalid).to_be_focused()

        await console.fill(**{field: right})
        await expect(console.field_error(field)).to_be_hidden()
        await expect(invalid).to_have_count(0)
        await expect(console.receipt).to_be_empty()
    api.publish({"type": "sentinel", "data": 0})
    await console.shows([0])


async def test_an_event_is_shown_only_to_its_users(api: Api, pages: Pages) -> None:
    first, second, nobody = [await pages.console(api.instance.url, query) for query in ("?userId=u1", "?userId=u2", "")]
    for data, users in (("for u2", ["u2"]), ("for u1", ["u1"]), ("for both", ["u1", "u2"]), ("for all", None)):
        api.publish({"type": "note", "data": data, "userIds": users})  # the last one is the sentinel
    await first.shows(["for u1", "for both", "for all"])
    await second.shows(["for u2", "for both", "for all"])
    await nobody.shows(["for all"])


async def test_a_replay_has_the_same_filter_as_live_events(api: Api, pages: Pages) -> None:
    for data, users in (("for u2", ["u2"]), ("for u1", ["u1"]), ("for all", None)):
        api.publish({"type": "history", "data": data, "userIds": users})
    console = await pages.console(api.instance.url, "?userId=u1&types=history&from=earliest")
    await expect(console.dividers).to_contain_text("2 events replayed")
    await console.shows(["for u1", "for all"])


async def test_only_the_selected_types_are_shown(api: Api, pages: Pages) -> None:
    console = await pages.console(api.instance.url)
    await console.fill(types="chat, note")
    await console.click("Connect")
    await expect(console.dividers).to_have_count(2)
    await console.is_in_state("live")
    for number, event_type in enumerate(["task", "note", "chat.typing", "chat"]):
        api.publish({"type": event_type, "data": number})
    await console.shows([1, 3])


@pytest.mark.parametrize("query", ["", "?format=data"])
async def test_markup_in_an_event_is_shown_as_text(api: Api, pages: Pages, query: str) -> None:
    console = await pages.console(api.instance.url, query)
    api.publish({"type": "hostile", "data": {HOSTILE: HOSTILE}, "id": HOSTILE_ID + query})
    for length, event_type in ((100, "long"), (1_000, "longest")):  # folded by lines, or by characters: different code
        api.publish({"type": event_type, "data": HOSTILE * length})
    assert (await data_of(console, "hostile")).count(json.dumps(HOSTILE)) == 2
    assert json.loads(await data_of(console, "long")) == HOSTILE * 100
    assert json.loads(await data_of(console, "longest")) == HOSTILE * 1_000
    rows = console.page.locator("#rows")
    assert await rows.locator("script, img, svg, iframe, a, [onerror], [onload], [href]").count() == 0
    assert await console.page.evaluate("window.hacked") is None


async def test_markup_in_a_receipt_is_shown_as_text(api: Api, pages: Pages) -> None:
    console = await pages.console(api.instance.url)
    await console.fill(id=f"{HOSTILE_ID}-of-the-form")
    await console.click("Publish")
    await expect(console.receipt).to_contain_text("Accepted")
    assert await console.receipt.locator("svg, a").count() == 0
    assert await console.page.evaluate("window.hacked") is None


async def test_trusted_types_block_parsed_markup(api: Api, pages: Pages) -> None:
    """The second line of defence, if a bug of the page parsed an event as HTML."""
    pages.expect("TrustedHTML", "Content Security Policy")
    console = await pages.console(api.instance.url)
    refused = await console.page.evaluate(
        """markup => { try { document.body.innerHTML = markup; } catch (error) { return error.name; } }""", HOSTILE
    )
    assert refused == "TypeError"


async def test_the_console_sends_an_invalid_token_only_once(guarded: Api, pages: Pages) -> None:
    """Then the user enters a valid one. No URL contains a token."""
    pages.expect(r"status of 401 .*/api/events")
    console = await pages.unconnected_console(guarded.instance.url)
    await expect(console.detail).to_have_text("This server requires a token.")
    attempts: list[str] = []
    console.page.on("request", lambda request: attempts.append(request.url) if EVENTS in request.url else None)
    await console.fill(token="not.a.token")
    await console.click("Connect")
    await console.is_in_state("denied")
    await expect(console.notes).to_contain_text("Denied")

    await console.fill(token=user_token("u1"))
    await console.click("Connect")
    await console.is_in_state("live")
    await console.fill(key=PUBLISH_KEY, data="1", userIds="u2")
    await console.click("Publish")
    await expect(console.receipt).to_contain_text("Accepted")
    await console.fill(data="2", userIds="u1")
    await console.click("Publish")
    await console.shows([2])
    assert len(attempts) == 2
    assert not any("token" in url for url in (*attempts, console.page.url)), "URLs are logged"


async def test_the_console_creates_a_token_in_development(guarded: Api, pages: Pages) -> None:
    pages.expect(r"status of 40[13] ")
    console = await pages.unconnected_console(guarded.instance.url)
    await expect(console.detail).to_have_text("This server requires a token.")
    await console.fill(user="u-created")
    await console.click("Create token")
    await expect(console.field_error("subscribe")).to_contain_text("publish key")
    await console.fill(key="no-key-of-this-server")
    await console.click("Create token")
    await expect(console.field_error("subscribe")).not_to_contain_text("in the Publish form")
    await expect(console.field_error("subscribe")).not_to_be_empty()

    await console.fill(key=PUBLISH_KEY)
    await console.click("Create token")
    await console.is_in_state("live")
    guarded.publish({"type": "note", "data": "for u1", "userIds": ["u1"]})
    guarded.publish({"type": "note", "data": "for the created one", "userIds": ["u-created"]})
    await console.shows(["for the created one"])
    assert "key" not in console.page.url
