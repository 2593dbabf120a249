"""CORS on the deployment: which origins may read, and that a preview reaches its own stage only."""

from typing import Any

import pytest

from scripts.netlify_build import stage as stage_of
from tests.browser.pages import Pages
from tests.deployed.conftest import STRANGER, Deploy, Deployment, OpenBrowser
from tests.repository.deploy.conftest import Package
from tests.support.tokens import PUBLISH_KEY

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("deployed"), pytest.mark.timeout(180)]

# Whether a page could send a request and read the response. A stream is closed after its head.
ASK = """async ({url, method, headers, body}) => {
    const leaving = new AbortController();
    try {
        const answer = await fetch(url, {method, headers, body, signal: leaving.signal});
        return answer.status;
    } catch (error) {
        return error.name;
    } finally {
        leaving.abort();
    }
}"""


def asked_by_pages(deployed: Deployment) -> list[dict[str, Any]]:
    """Every request that a page may make to another host."""
    api, stream = deployed.stack.api_url, deployed.stack.stream_url.rstrip("/")
    token = {"Authorization": f"Bearer {deployed.token('u1')}"}
    key = {"Authorization": f"Bearer {PUBLISH_KEY}", "Content-Type": "application/json"}
    resumed = {**token, "Last-Event-ID": deployed.publish("note", 0)}
    return [
        {"url": f"{api}/api/config", "method": "GET", "headers": token},
        {"url": f"{api}/api/tickets", "method": "POST", "headers": token},
        {"url": f"{api}/api/events", "method": "GET", "headers": {**resumed, "Accept": "application/json"}},
        {"url": f"{api}/api/publish", "method": "POST", "headers": key, "body": '{"type": "note", "data": 1}'},
        {"url": f"{stream}/api/events", "method": "GET", "headers": {**resumed, "Accept": "text/event-stream"}},
    ]


async def test_the_sites_page_reaches_every_host(deployed: Deployment, pages: Pages) -> None:
    """With the headers of clients, so that a preflight request comes first."""
    page = await pages.blank(deployed.site)
    answers = [await page.evaluate(ASK, asked) for asked in asked_by_pages(deployed)]
    assert answers == [200, 200, 200, 202, 200]


async def test_a_strangers_page_reads_nothing(deployed: Deployment, pages: Pages) -> None:
    pages.expect("CORS policy", r"net::ERR_FAILED")
    page = await pages.blank(STRANGER)
    answers = [await page.evaluate(ASK, asked) for asked in asked_by_pages(deployed)]
    assert answers == ["TypeError"] * 5


async def test_a_preview_shows_events_of_its_own_stage(
    deploy: Deploy, deployed: Deployment, package: Package, browse: OpenBrowser
) -> None:
    """By the custom domain of the document, at which each stage has a path."""
    variables = {
        "CONTEXT": "deploy-preview",
        "REVIEW_ID": "7",
        "TIDEWIRE_API_URL": deployed.stack.api_url,
        "TIDEWIRE_PREVIEW_API_URL": "https://previews.example.com/{stage}",
    }
    stage, origin = stage_of(variables), "https://deploy-preview-7--app.netlify.app"
    cloud = deployed.cloud
    deploy.put_parameters(cloud, stage)
    stack = cloud.deploy(stage, package("--stage", stage, "--param", f"origins={origin}"))
    cloud.map_domain(f"https://previews.example.com/{stage}", stage)
    preview = Deployment(cloud, stack, deploy.publish_site(cloud, variables, origin), deployed.http)
    pages = await browse(preview)
    console = await pages.unconnected_console(preview.site)
    await console.fill(token=preview.token("u-of-preview"))
    await console.click("Connect")
    await console.is_in_state("live")
    deployed.publish("note", "of production", "u-of-preview")
    preview.publish("note", "of the preview", "u-of-preview")
    await console.shows(["of the preview"])
    pages_of_it = {"accept": "application/json", "authorization": f"Bearer {preview.token('u-of-preview')}"}
    assert preview.http.get(f"{preview.site}/api/events", headers=pages_of_it).status_code == 200


async def test_a_preview_without_functions_answers_404(deploy: Deploy, deployed: Deployment) -> None:
    """It never falls back to production's log."""
    variables = {"CONTEXT": "deploy-preview", "REVIEW_ID": "8", "TIDEWIRE_API_URL": deployed.stack.api_url}
    site = deploy.publish_site(deployed.cloud, variables, "https://deploy-preview-8--app.netlify.app")
    answer = deployed.http.post(f"{site}/api/publish", json={"type": "note", "data": 1})
    assert (answer.status_code, answer.text) == (404, "There are no functions behind this preview.\n")
