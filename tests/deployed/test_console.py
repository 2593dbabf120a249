"""The published console, in a real browser: from the documented deployment to a live event."""

import pytest
from playwright.async_api import expect

from tests.browser.pages import Pages
from tests.deployed.conftest import Deployment

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("deployed"),
    pytest.mark.timeout(180),  # the first test of all builds the bundle and the template
]


async def test_a_pasted_token_shows_an_event_live(deployed: Deployment, pages: Pages) -> None:
    """Step 4 of docs/deploy.md, by the addresses of the template alone."""
    console = await pages.unconnected_console(deployed.site)
    await expect(console.detail).to_have_text("This server requires a token.")
    await console.fill(token=deployed.token("console-1"))
    await console.click("Connect")
    await console.is_in_state("live")
    deployed.publish("task-updated", 7, "console-1")
    await console.shows([7])


async def test_a_stream_that_breaks_off_resumes_elsewhere(deployed: Deployment, pages: Pages) -> None:
    """Its environment crashes; events published in the meantime come from the next one, once."""
    pages.expect(r"net::ERR_")
    console = await pages.unconnected_console(deployed.site)
    await console.fill(token=deployed.token("console-2"))
    await console.click("Connect")
    await console.is_in_state("live")
    deployed.publish("task-updated", 1, "console-2")
    await console.shows([1])
    stream = deployed.stack.function("stream")
    serving = {environment.process.pid for environment in stream.busy()}
    for environment in stream.busy():
        environment.kill()
    deployed.publish("task-updated", 2, "console-2")
    await expect(console.reconnects).to_have_text("1")
    deployed.publish("task-updated", 3, "console-2")
    await console.shows([1, 2, 3])
    await expect(console.gaps).to_have_text("0")
    assert serving.isdisjoint({environment.process.pid for environment in stream.busy()})


async def test_a_revoked_user_is_shut_out_of_the_console(deployed: Deployment, pages: Pages) -> None:
    """A revocation by the site's address ends the stream at the function's."""
    pages.expect(r"status of 401")
    console = await pages.unconnected_console(deployed.site)
    await console.fill(token=deployed.token("console-3"))
    await console.click("Connect")
    await console.is_in_state("live")
    assert deployed.post("/api/revocations", {"userId": "console-3"}).status_code == 202
    await console.is_in_state("denied")
