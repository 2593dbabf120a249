"""A Redis that carries, and what is opened on it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis

from tests.contract.stores import PubSubStore
from tests.support.processes import MakeRedis, RedisServer


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[PubSubStore]:
    """A Redis that carries, and all transports opened on it."""
    store = PubSubStore(redis_url)
    yield store
    await store.aclose()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.Redis]:
    """A look at the same Redis from outside."""
    async with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.fixture
async def breakable(make_redis: MakeRedis) -> AsyncIterator[tuple[RedisServer, PubSubStore]]:
    """A Redis of our own, to be killed and paused."""
    server = await asyncio.to_thread(make_redis, aof=False)
    store = PubSubStore(server.url)
    yield server, store
    await store.aclose()
