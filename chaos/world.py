"""The system under test: a persistent Redis, a proxy in front of it, and two instances with streams."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import Instance, RedisServer
from tests.support.proxy import Proxy

SETTINGS: Mapping[str, str] = {
    "REALTIME_TRANSPORT": "redis",
    "REALTIME_AUTH": "none",
    "REALTIME_RETRY": "500ms",
    # Longer than any outage here, and short enough for memory to become flat within minutes.
    "REALTIME_RETENTION": "120s",
    "REALTIME_IDEMPOTENCY_WINDOW": "120s",
}


@dataclass(frozen=True, slots=True)
class World:
    """The running system. `steady` is frozen and disconnected, but never restarted, so its memory growth is visible."""

    redis: RedisServer
    proxy: Proxy
    steady: Instance
    other: Instance

    @property
    def processes(self) -> dict[str, int]:
        """The ids of the processes that run now."""
        named = {"steady instance": self.steady, "other instance": self.other, "Redis": self.redis}
        return {name: server.pid for name, server in named.items() if server.is_running()}


@asynccontextmanager
async def made_world(folder: Path, settings: Mapping[str, str]) -> AsyncIterator[World]:
    """Start everything, and stop it when the context ends."""
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
