"""One cloud for a session, with what the project builds deployed to it, and browsers that reach it by its names."""

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext

from scripts import bundle as builder
from scripts import netlify_build
from tests.browser.conftest import PATIENCE_MS, chromium  # noqa: F401 — a fixture
from tests.browser.pages import Pages
from tests.deploy.conftest import Package, here, once, package, project, template  # noqa: F401 — fixtures
from tests.deployed.cloud.cloud import Cloud
from tests.deployed.cloud.stack import Stack
from tests.functions.tokens import PUBLISH_KEY, SECRET
from tests.processes import RedisServer

STAGE = "prod"
NETLIFY_SECRET = "netlify-secret-for-tests-of-at-least-32-bytes"

Template = dict[str, Any]


@pytest.fixture(scope="session")
def bundle(here: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The folder that Lambda unpacks, compiled, for this machine."""

    def fill(folder: Path) -> None:
        shutil.copytree(here, folder / "task")
        assert builder.compile_modules(folder / "task", builder.LOCAL_PYTHON)

    return once(tmp_path_factory, "task", fill) / "task"


@dataclass
class Deployment:
    """What docs/deploy.md makes: a stack and a site; requests come from somewhere on the internet."""

    cloud: Cloud
    stack: Stack
    site: str
    http: httpx.Client

    def token(self, user: str, **more: Any) -> str:
        """A token for a user, made as a backend does."""
        return str(self.post("/api/tokens", {"userId": user, **more}).json()["token"])

    def publish(self, type: str, data: Any, *users: str) -> str:
        """Publish, and return the cursor of the receipt."""
        event = {"type": type, "data": data, **({"userIds": list(users)} if users else {})}
        answer = self.post("/api/publish", event)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["events"][0]["cursor"])

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """Post to the site, with the publish key."""
        return self.http.post(
            self.site + path, json=body, headers={"authorization": f"Bearer {PUBLISH_KEY}", **headers}
        )


Deploy = Callable[..., Deployment]


@pytest.fixture(scope="session")
def deploy(bundle: Path, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deploy]:
    """Deploys a template as the document says, to an account of its own, with a site in front."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("HTTPS_PROXY", raising=False)
        opened: list[Any] = []

        def make(template: Template, **site: str) -> Deployment:
            cloud = Cloud(bundle).__enter__()
            opened.append(cloud)
            for name, value in parameters(redis_server.url).items():
                cloud.put_parameter(f"/tidemark/{STAGE}/{name}", value)
            stack = cloud.deploy(STAGE, template)
            folder = tmp_path_factory.mktemp("published") / "site"
            netlify_build.main({"TIDEMARK_API_URL": stack.api_url, **site}, folder)
            url = cloud.publish_site(folder, site)
            http = cloud.client()
            return Deployment(cloud, stack, url, http)

        yield make
        for cloud in opened:
            cloud.__exit__()


def parameters(redis_url: str) -> dict[str, str]:
    """What is put before the first deployment."""
    return {"redis-url": redis_url, "publish-keys": PUBLISH_KEY, "jwt-secret": SECRET}


@pytest.fixture(scope="session")
def deployed(deploy: Deploy, template: Template) -> Deployment:  # noqa: F811
    """The deployment that the tests share; none may change it."""
    return deploy(template)


@pytest_asyncio.fixture(loop_scope="session")
async def browser_of(chromium: Browser) -> AsyncIterator[Callable[[Deployment], Any]]:  # noqa: F811
    """Opens a profile that reaches the cloud of a deployment, and nothing else."""
    contexts: list[BrowserContext] = []

    async def open_context(deployment: Deployment) -> BrowserContext:
        context = await chromium.new_context(
            proxy={"server": deployment.cloud.proxy},
            ignore_https_errors=True,
            viewport={"width": 1280, "height": 900},
            reduced_motion="reduce",
        )
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        return context

    yield open_context
    for context in contexts:
        await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def pages(deployed: Deployment, browser_of: Any) -> AsyncIterator[Pages]:
    """Opens pages of the published site; what they complain about without being expected to fails the test."""
    pages = pages_of(await browser_of(deployed), deployed)
    yield pages
    assert pages.complaints() == []


def pages_of(context: BrowserContext, deployment: Deployment) -> Pages:
    """Pages that may ask the hosts of a deployment."""
    hosts = (deployment.site, deployment.stack.stream_url)
    return Pages(context, {str(urlsplit(url).hostname) for url in hosts})
