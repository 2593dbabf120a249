"""docs/deploy.md, followed: from an empty account to a live event in the published console, and back."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from tidewire import __version__

from tests.deployed.conftest import Deploy, Deployment, OpenBrowser
from tests.deployed.reader import Reader
from tests.repository.deploy.conftest import Package
from tests.repository.docs.markdown import blocks, commands_in_text
from tests.support.processes import RedisServer

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("deployed"),
    pytest.mark.timeout(240),
]

GUIDE = "docs/deploy.md"
NETLIFY_SECRET = "netlify-secret-for-tests-of-at-least-32-bytes"


async def test_the_guide_leads_to_a_live_event(
    deploy: Deploy, package: Package, redis_server: RedisServer, browse: OpenBrowser, tmp_path: Path
) -> None:
    """Every block of it in its order, and the pages that it opens between them."""
    cloud = deploy.cloud()
    redis_url = "rediss://default:…@….upstash.io:6379"
    known = {redis_url: redis_server.url, "$REALTIME_NETLIFY_SECRET": NETLIFY_SECRET}
    reader = Reader(cloud, package, tmp_path, known)
    steps = iter([block for block in blocks() if block.document == GUIDE])

    printed = await asyncio.to_thread(reader.run, next(steps))  # 2: secrets, and the stack
    [api] = re.findall(r"https://\w+\.execute-api\.eu-central-1\.amazonaws\.com", printed)
    reader.know("https://….execute-api.eu-central-1.amazonaws.com", api)
    reader.stack.function("stream").variables["REALTIME_HEARTBEAT"] = "2s"  # the doctor waits for one: 15 s by default
    await asyncio.to_thread(reader.run, next(steps))  # more concurrency
    inline = {block.text.split("/")[-1]: block for block in commands_in_text() if block.document == GUIDE}
    ready = json.loads(await asyncio.to_thread(reader.run, inline["ready"]))
    assert ready == {"status": "ready", "transport": "redis", "version": __version__}

    site = deploy.publish_site(cloud, {"TIDEWIRE_API_URL": api, "REALTIME_NETLIFY_SECRET": NETLIFY_SECRET})  # 3
    await asyncio.to_thread(reader.run, next(steps))  # put netlify-secret

    made = json.loads(await asyncio.to_thread(reader.run, next(steps)))  # 4: a token
    with cloud.client() as http:
        pages = await browse(Deployment(cloud, reader.stack, site, http))
        console = await pages.unconnected_console(site)
        await console.fill(token=made["token"])
        await console.click("Connect")
        await console.is_in_state("live")
        await asyncio.to_thread(reader.run, next(steps))  # and an event
        await console.event("task-updated").wait_for()
    found = await asyncio.to_thread(reader.run, next(steps))  # the doctor, who ends with 0 where all is well
    assert re.search(r"^ok +page ", found, re.MULTILINE), found

    pages.expect(r"net::ERR_", r"status of 50\d")
    await asyncio.to_thread(reader.run, next(steps))  # the way back
    assert next(steps, None) is None
    with cloud.client() as http:
        assert http.get(f"{site}/api/health/live").status_code == 502
    assert cloud.aws("ssm").describe_parameters()["Parameters"] == []
