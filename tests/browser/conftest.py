"""A real Chromium. Each test has its own pages, and an unexpected error in one of them fails the test."""

import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing
from typing import Protocol

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, async_playwright, expect

from tests.browser.pages import Pages
from tests.browser.two_hosts import TwoHosts, two_hosts
from tests.support import servers
from tests.support.api import Api
from tests.support.processes import ROOT, Instance, MakeInstance, StartInstance
from tests.support.tokens import PUBLISH_KEY, SECRET

PATIENCE_MS = 15_000  # only a failing test waits so long
MIN_NODE = 20

# The page must not depend on other hosts, so the browser's own requests are switched off.
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Shortens the delay before a client reconnects.
QUICK = {"REALTIME_RETRY": "50ms"}


class MakeApi(Protocol):
    """The fixture `make_api`."""

    def __call__(self, **settings: str) -> Api: ...


class MakeTwo(Protocol):
    """The fixture `make_two`."""

    def __call__(self, **settings: str) -> TwoHosts: ...


def has_node() -> bool:
    """Whether Node can run the unit tests of the client. The tests in Chromium cover all of it too."""
    node = shutil.which("node")
    if node is None:
        return False
    output = subprocess.run([node, "--version"], check=False, capture_output=True, text=True).stdout
    version = re.match(r"v(\d+)", output)
    return version is not None and int(version[1]) >= MIN_NODE


collect_ignore = [] if has_node() else ["test_in_node.py"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """One browser with an empty profile for all tests."""
    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        # Without the sandbox, which root and most containers cannot create. It opens only our pages.
        browser = await playwright.chromium.launch(executable_path=servers.find("chromium"), args=FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def context(chromium: Browser) -> AsyncIterator[BrowserContext]:
    """A profile for this test: no storage, cookie or cache of another one."""
    # Without the gauge's animation, which costs CPU time.
    context = await chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    yield context
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def pages(context: BrowserContext) -> AsyncIterator[Pages]:
    """Opens pages. Unexpected errors in them fail the test at its end."""
    pages = Pages(context)
    yield pages
    assert pages.unexpected_errors() == []


@pytest.fixture(scope="session")
def api(start_instance: StartInstance) -> Iterator[Api]:
    """An instance with the memory transport and no authentication. Pages start at `now`, after earlier events."""
    with closing(Api(start_instance(QUICK))) as api:
        yield api


@pytest.fixture(scope="session")
def guarded(start_instance: StartInstance) -> Iterator[Api]:
    """An instance with the memory transport that requires tokens; the Api has the publish key."""
    settings = {"REALTIME_AUTH": "required", "REALTIME_PUBLISH_KEYS": PUBLISH_KEY, "REALTIME_JWT_SECRET": SECRET}
    with closing(Api(start_instance({**QUICK, **settings}))) as api:
        yield api.acting(key=PUBLISH_KEY)


@pytest.fixture
def make_api(make_instance: MakeInstance) -> Iterator[MakeApi]:
    """Starts an instance for one test, which can stop it or set its own settings."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(closing(Api(make_instance(**QUICK, **settings))))


@pytest.fixture(scope="session")
def dev(start_instance: StartInstance) -> Instance:
    """The instance of `scripts/dev`."""
    return start_instance({**QUICK, "BROWSER": "none"}, [str(ROOT / "scripts" / "dev")])


@pytest_asyncio.fixture(loop_scope="session")
async def make_two(
    redis_url: str, context: BrowserContext, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[MakeTwo]:
    """Starts a site and its streams. The blank page needs a permission to send requests to this machine."""
    await context.grant_permissions(["local-network-access"])

    def make(settings: dict[str, str]) -> Instance:
        return Instance(tmp_path_factory.mktemp("instance"), {**QUICK, "REDIS_URL": redis_url, **settings})

    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(two_hosts(make, **settings))
