"""A site, and streams on another host, as in a deployment: one log, one secret, one origin that may read streams."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import NamedTuple

from tests.browser.pages import EVENTS
from tests.support.api import Api
from tests.support.processes import HOST, Instance, free_port
from tests.support.tokens import PUBLISH_KEY, SECRET

GUARDED = {"REALTIME_AUTH": "required", "REALTIME_PUBLISH_KEYS": PUBLISH_KEY, "REALTIME_JWT_SECRET": SECRET}


class TwoHosts(NamedTuple):
    """`site` serves the console and JSON pages, `streams` the streams. Both publish to the same log."""

    site: Api
    streams: Api


@contextmanager
def two_hosts(make: Callable[..., Instance], *, origin: str = "", **settings: str) -> Iterator[TwoHosts]:
    """Both, started. `origin` may read the streams; default: the site's."""
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
