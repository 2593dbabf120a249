"""A collector, and instances that send their spans to it."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.integration.tracing.collector import Collector
from tests.support.api import Api
from tests.support.processes import Instance, RedisServer

SECRET = "a-secret-of-the-shop"
WEBHOOKS = """
[sources.shop]
scheme = "hmac"
secrets = ["SHOP_SECRET"]
header = "X-Signature"

[[sources.shop.events]]
type = "order-paid"
data = "number"
"""

STREAM_SERVER = [sys.executable, "-m", "functions.stream"]


@pytest.fixture(scope="package")
def collector() -> Iterator[Collector]:
    """Shared by all instances: a test finds its spans by their trace, or by the type of its events."""
    with Collector() as collector:
        yield collector


class Pair:
    """Two processes on one Redis, one to publish and one to stream, and the collector of their spans."""

    def __init__(self, publisher: Api, streams: Api, collector: Collector) -> None:
        self.publisher = publisher
        self.streams = streams
        self.collector = collector


@pytest.fixture(scope="package")
def pair(redis_server: RedisServer, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """`functions.local` and `functions.stream`, started together."""
    store = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": redis_server.url, "REALTIME_PREFIX": "traced"}
    settings = {**store, "REALTIME_AUTH": "none", **collector.settings}
    folder = tmp_path_factory.mktemp("traced")
    (folder / "realtime.toml").write_text(WEBHOOKS)
    webhooks = {"REALTIME_CONFIG": str(folder / "realtime.toml"), "SHOP_SECRET": SECRET}
    publisher = Instance(folder, {**settings, **webhooks, "OTEL_SERVICE_NAME": "publisher"})
    streams = Instance(folder, {**settings, "OTEL_SERVICE_NAME": "streams"}, command=STREAM_SERVER)
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        apis = []
        for instance in pool.map(Instance.start, (publisher, streams)):
            stack.callback(instance.stop)
            apis.append(Api(instance))
            stack.callback(apis[-1].close)
        yield Pair(apis[0], apis[1], collector)
