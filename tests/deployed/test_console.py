"""The published console, in a real browser: from the documented deployment to a live event."""

import pytest

from tests.browser.pages import Pages
from tests.deployed.conftest import Deployment

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("deployed"),
    pytest.mark.timeout(180),  # the first test of all builds the bundle and the template
]


async def test_a_token_is_pasted_and_an_event_is_shown_live(deployed: Deployment, pages: Pages) -> None:
    """Step 4 of docs/deploy.md, by the addresses of the template alone."""
    console = await pages.unconnected_console(deployed.site)
    await console.fill(token=deployed.token("u1"))
    await console.click("Connect")
    await console.is_in_state("live")
    deployed.publish("task-updated", {"id": 7}, "u1")
    await console.shows([{"id": 7}])
