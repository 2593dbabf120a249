"""One cloud for a session, with what the project builds deployed to it, and browsers that reach it by its names."""

import copy
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
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
from tests.conftest import redis_server  # noqa: F401 — with a server of its own: other tests empty theirs
from tests.deployed.cloud.cloud import SITE, Cloud
from tests.deployed.cloud.stack import Stack
from tests.repository.deploy.conftest import Package, here, once, package, project, template  # noqa: F401 — fixtures
from tests.support.processes import RedisServer
from tests.support.tokens import PUBLISH_KEY, SECRET
from tests.unit.ingest.webhooks.example import CONFIG, SECRETS

STAGE = "prod"
STRANGER = "https://stranger.example.com"

Template = dict[str, Any]


@pytest.fixture(scope="session")
def bundle(here: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that Lambda unpacks, for this machine: compiled, and with the realtime.toml of docs/webhooks.md."""

    def fill(folder: Path) -> None:
        shutil.copytree(here, folder / "task")
        shutil.copy(CONFIG, folder / "task")
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

    def post(self, path: str, body: Any = None, key: str = PUBLISH_KEY) -> httpx.Response:
        """Post to the site, with the publish key."""
        return self.http.post(self.site + path, json=body, headers={"authorization": f"Bearer {key}"})

    def hosts(self) -> set[str]:
        """The host names that its pages use."""
        return {str(urlsplit(url).hostname) for url in (self.site, self.stack.stream_url, self.stack.api_url, STRANGER)}


class Deploy:
    """Deploys as the document says, each time to an account of its own with a site in front."""

    def __init__(self, bundle: Path, redis: RedisServer, factory: pytest.TempPathFactory, stack: ExitStack) -> None:
        self._bundle, self._redis, self._factory, self._stack = bundle, redis, factory, stack

    def cloud(self) -> Cloud:
        """An empty account, without a site."""
        return self._stack.enter_context(Cloud(self._bundle))

    def __call__(self, template: Template, **site: str) -> Deployment:
        """All of it; `site` holds more variables of the site, and its secret is the functions' too."""
        cloud = self.cloud()
        self.put_parameters(cloud, STAGE)
        if secret := site.get("REALTIME_NETLIFY_SECRET"):
            cloud.put_parameter(f"/tidewire/{STAGE}/netlify-secret", secret)
        deployed = cloud.deploy(STAGE, with_webhooks(template))
        url = self.publish_site(cloud, {"TIDEWIRE_API_URL": deployed.api_url, **site})
        return Deployment(cloud, deployed, url, self._stack.enter_context(cloud.client()))

    def put_parameters(self, cloud: Cloud, stage: str) -> None:
        """Write the parameters that a stage needs before its first deployment."""
        names = {"redis-url": self._redis.url, "publish-keys": PUBLISH_KEY, "jwt-secret": SECRET}
        for name, value in {**names, **{f"webhooks/{name}": value for name, value in SECRETS.items()}}.items():
            cloud.put_parameter(f"/tidewire/{stage}/{name}", value)

    def publish_site(self, cloud: Cloud, variables: dict[str, str], url: str = SITE) -> str:
        """What Netlify does with these variables: the build, and the deploy."""
        folder = self._factory.mktemp("published") / "site"
        netlify_build.main(variables, folder)
        return cloud.publish_site(folder, variables, url)


def with_webhooks(template: Template) -> Template:
    """The template with the secrets of realtime.toml named in it, as docs/lambda.md says."""
    named = copy.deepcopy(template)
    variables = named["Resources"]["WebhooksLambdaFunction"]["Properties"]["Environment"]["Variables"]
    stage = variables["REALTIME_PREFIX"].removeprefix("rt-")
    variables.update({name: f"ssm:/tidewire/{stage}/webhooks/{name}" for name in SECRETS})
    return named


@pytest.fixture(scope="session")
def deploy(bundle: Path, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deploy]:
    """Deploys; what it has deployed answers until the session ends."""
    with ExitStack() as stack:
        yield Deploy(bundle, redis_server, tmp_path_factory, stack)


@pytest.fixture(scope="session")
def deployed(deploy: Deploy, template: Template) -> Deployment:
    """The deployment that the tests share; none may change it."""
    return deploy(template)


OpenBrowser = Callable[[Deployment], Awaitable[Pages]]


@pytest_asyncio.fixture(loop_scope="session")
async def browse(chromium: Browser) -> AsyncIterator[OpenBrowser]:
    """Opens a profile that reaches the cloud of a deployment, and nothing else."""
    opened: list[tuple[BrowserContext, Pages]] = []

    async def open_profile(deployment: Deployment) -> Pages:
        context = await chromium.new_context(
            proxy={"server": deployment.cloud.proxy},
            ignore_https_errors=True,
            viewport={"width": 1280, "height": 900},
            reduced_motion="reduce",
        )
        context.set_default_timeout(PATIENCE_MS)
        pages = Pages(context, deployment.hosts())
        opened.append((context, pages))
        return pages

    yield open_profile
    for context, _ in opened:
        await context.close()
    assert [error for _, pages in opened for error in pages.unexpected_errors()] == []


@pytest_asyncio.fixture(loop_scope="session")
async def pages(deployed: Deployment, browse: OpenBrowser) -> Pages:
    """Opens pages of the deployment that tests share; an unexpected complaint of one fails the test."""
    return await browse(deployed)
