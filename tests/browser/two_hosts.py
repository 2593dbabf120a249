"""A site, and streams on a host of their own, as deployed: one log, one secret, one origin that may read streams."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import NamedTuple

from playwright.async_api import Page, Request

from tests.browser.pages import EVENTS
from tests.functions.api import Api
from tests.functions.tokens import PUBLISH_KEY, SECRET
from tests.processes import HOST, Instance, free_port


class TwoHosts(NamedTuple):
    """`site` has the pages of the site and of the log, `streams` the streams; both publish to the same log."""

    site: Api
    streams: Api


@contextmanager
def two_hosts(make: Callable[..., Instance], *, origin: str = "", **settings: str) -> Iterator[TwoHosts]:
    """Both, started; `origin` is the one that may read the streams, that of the site unless it is named."""
    shared = {"REALTIME_TRANSPORT": "redis", "REALTIME_AUTH": "none", **settings}
    port = free_port()
    streams = make({**shared, "REALTIME_ALLOWED_ORIGINS": origin or f"http://{HOST}:{port}"})
    site = make({**shared, "REALTIME_STREAM_URL": f"{streams.url}{EVENTS}"})
    site.port = port
    with ExitStack() as stack:
        for instance in (streams, site):
            stack.callback(instance.stop)
            instance.start()
        key = PUBLISH_KEY if shared["REALTIME_AUTH"] == "required" else None
        yield TwoHosts(*(stack.enter_context(closing(Api(instance))).acting(key=key) for instance in (site, streams)))


GUARDED = {"REALTIME_AUTH": "required", "REALTIME_PUBLISH_KEYS": PUBLISH_KEY, "REALTIME_JWT_SECRET": SECRET}


class Asked:
    """What a page has asked the two for."""

    def __init__(self, page: Page) -> None:
        self.requests: list[Request] = []
        page.on("request", self._asked)

    def _asked(self, request: Request) -> None:
        self.requests.append(request)

    def at(self, api: Api, path: str, method: str = "GET") -> list[Request]:
        """The requests for this path of this host."""
        address = f"{api.instance.url}{path}"
        return [ask for ask in self.requests if ask.url.split("?")[0] == address and ask.method == method]
