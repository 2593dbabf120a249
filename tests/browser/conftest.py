"""A real Chromium, and for each test pages of its own: an error in one of them fails the test that has it open."""

import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Protocol

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, async_playwright, expect

from tests import servers
from tests.browser.pages import Pages
from tests.browser.two_hosts import TwoHosts, two_hosts
from tests.functions.api import Api
from tests.functions.tokens import PUBLISH_KEY, SECRET
from tests.processes import ROOT, Instance, MakeInstance

PATIENCE_MS = 15_000  # only a failing test waits so long
NODE_AT_LEAST = 20

# The page must get along without anything from outside; the browser's own errands would blur that.
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# A lost connection costs a client a second or two; with this it is back at once, and so is the test.
QUICK = {"REALTIME_RETRY": "50ms"}


class StartInstance(Protocol):
    """The fixture `start`."""

    def __call__(self, settings: Mapping[str, str], command: Sequence[str] = ()) -> Instance: ...


class MakeApi(Protocol):
    """The fixture `make_api`."""

    def __call__(self, **settings: str) -> Api: ...


class MakeTwo(Protocol):
    """The fixture `make_two`."""

    def __call__(self, **settings: str) -> TwoHosts: ...


def has_node() -> bool:
    """Whether there is a Node to run the module's own tests; the Chromium here tests all of it in any case."""
    node = shutil.which("node")
    if node is None:
        return False
    told = subprocess.run([node, "--version"], check=False, capture_output=True, text=True).stdout
    version = re.match(r"v(\d+)", told)
    return version is not None and int(version[1]) >= NODE_AT_LEAST


collect_ignore = [] if has_node() else ["test_in_node.py"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """One browser for all tests, with an empty profile."""
    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        # Without its sandbox, which root and most containers cannot make: it opens no page but ours.
        browser = await playwright.chromium.launch(executable_path=servers.find("chromium"), args=FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def context(chromium: Browser) -> AsyncIterator[BrowserContext]:
    """A profile for this test alone: no storage, cookie or cache is left from another one."""
    # Without the water's motion, which is drawn by the processor here.
    context = await chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    yield context
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def pages(context: BrowserContext) -> AsyncIterator[Pages]:
    """Opens pages; what they complain about without being expected to fails the test at its end."""
    pages = Pages(context)
    yield pages
    assert pages.complaints() == []


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartInstance]:
    """Starts instances for the whole session: each costs as much as three tests."""
    with ExitStack() as stack:

        def start(settings: Mapping[str, str], command: Sequence[str] = ()) -> Instance:
            instance = Instance(tmp_path_factory.mktemp("instance"), {**QUICK, **settings}, command=command)
            stack.callback(instance.stop)
            return instance.start()

        yield start


@pytest.fixture(scope="session")
def api(start: StartInstance) -> Iterator[Api]:
    """An instance in memory, open to everyone; a page that starts now sees nothing of earlier tests."""
    with closing(Api(start({}))) as api:
        yield api


@pytest.fixture(scope="session")
def guarded(start: StartInstance) -> Iterator[Api]:
    """An instance in memory that asks for tokens; what is published here has the key."""
    settings = {"REALTIME_AUTH": "required", "REALTIME_PUBLISH_KEYS": PUBLISH_KEY, "REALTIME_JWT_SECRET": SECRET}
    with closing(Api(start(settings))) as api:
        yield api.acting(key=PUBLISH_KEY)


@pytest.fixture
def make_api(make_instance: MakeInstance) -> Iterator[MakeApi]:
    """Starts an instance for this test alone, to be killed or set up in a way of its own."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(closing(Api(make_instance(**QUICK, **settings))))


@pytest.fixture(scope="session")
def dev(start: StartInstance) -> Instance:
    """What a newcomer starts: `scripts/dev`."""
    return start({"BROWSER": "none"}, [str(ROOT / "scripts" / "dev")])


@pytest_asyncio.fixture(loop_scope="session")
async def make_two(
    redis_url: str, context: BrowserContext, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[MakeTwo]:
    """Starts a site and its streams. A blank page is of no host, and may ask none of this machine without leave."""
    await context.grant_permissions(["local-network-access"])

    def make(settings: dict[str, str]) -> Instance:
        return Instance(tmp_path_factory.mktemp("instance"), {**QUICK, "REDIS_URL": redis_url, **settings})

    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(two_hosts(make, **settings))
