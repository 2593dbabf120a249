"""What is broken: a Redis on disk, a proxy before it, two instances with streams on both."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.proxy import Proxy
from tests.processes import Instance, RedisServer

SETTINGS: Mapping[str, str] = {
    "REALTIME_TRANSPORT": "redis",
    "REALTIME_AUTH": "none",
    "REALTIME_RETRY": "500ms",
    # More than any outage here, and little enough for memory to be flat within minutes.
    "REALTIME_RETENTION": "120s",
    "REALTIME_IDEMPOTENCY_WINDOW": "120s",
}


@dataclass(frozen=True, slots=True)
class World:
    """`steady` is frozen and cut off like the rest, but lives from start to end: its memory can be told flat or not."""

    redis: RedisServer
    proxy: Proxy
    steady: Instance
    other: Instance

    @property
    def processes(self) -> dict[str, int]:
        """The process ids of those that run now."""
        named = {"steady instance": self.steady, "other instance": self.other, "Redis": self.redis}
        return {name: server.pid for name, server in named.items() if server.is_running()}


@asynccontextmanager
async def made_world(folder: Path, settings: Mapping[str, str]) -> AsyncIterator[World]:
    """Start everything; all is stopped when the context ends."""
    async with AsyncExitStack() as stack:
        redis = RedisServer(folder, aof=True)
        stack.callback(redis.stop)
        await asyncio.to_thread(redis.start)
        proxy = await stack.enter_async_context(Proxy(redis.url))
        instances = [Instance(folder, {**SETTINGS, **settings, "REDIS_URL": proxy.url}) for _ in range(2)]
        for instance in instances:
            stack.callback(instance.stop)
            await asyncio.to_thread(instance.start)
        yield World(redis, proxy, *instances)
