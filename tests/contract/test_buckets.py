"""Token buckets are shared by all processes on a store, and refill over time."""

import asyncio

import pytest
from tidewire.delivery.limits import PublishRate
from tidewire.errors import TooManyRequests
from tidewire.model.permissions import PublishKey
from tidewire.primitives.token_bucket import LocalBuckets
from tidewire.settings.variables import Rate
from tidewire.transports.base import Buckets, Transport
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import publish
from tests.contract.stores import CARRIERS, LOGS, RedisStore, Store
from tests.support.clocks import Clock
from tests.support.redis_monitor import watching

SHARED = ("redis", "upstash", "redis-pubsub")


@pytest.fixture(params=SHARED)
def pair(request: pytest.FixtureRequest) -> tuple[Store, Buckets, Buckets]:
    """Two processes on a store that has buckets."""
    make, fixtures = {**LOGS, **CARRIERS}[request.param]
    store = make(*(request.getfixturevalue(name) for name in fixtures))
    one, other = store.open(), store.open()
    assert isinstance(one, Buckets)
    assert isinstance(other, Buckets)
    return store, one, other


async def test_tokens_that_one_process_took_are_gone_for_all(pair: tuple[Store, Buckets, Buckets]) -> None:
    store, one, other = pair
    assert await one.take("k", 60, 100, 1_000.0) == 0
    assert await other.take("k", 40, 100, 1_000.0) == 0
    wait = await one.take("k", 10, 100, 1_000.0)
    assert 90 < wait <= 100, "a tenth of the tokens are back after a tenth of the time"
    assert await other.take("another", 100, 100, 1_000.0) == 0
    await store.aclose()


async def test_concurrent_takes_get_no_more_than_the_capacity(
    pair: tuple[Store, Buckets, Buckets],
) -> None:
    store, one, other = pair
    waits = await asyncio.gather(*(bucket.take("k", 1, 25, 100_000.0) for bucket in (one, other) for _ in range(40)))
    assert sum(wait == 0 for wait in waits) == 25
    await store.aclose()


async def test_a_bucket_refills_within_the_returned_wait(
    pair: tuple[Store, Buckets, Buckets],
) -> None:
    store, one, other = pair
    assert await one.take("k", 100, 100, 1.0) == 0
    wait = await other.take("k", 20, 100, 1.0)
    assert 0 < wait <= 0.2
    await asyncio.sleep(wait + 0.005)
    assert await other.take("k", 20, 100, 1.0) == 0
    await store.aclose()


async def test_a_batch_above_the_capacity_takes_the_whole_bucket(pair: tuple[Store, Buckets, Buckets]) -> None:
    store, one, _ = pair
    assert await one.take("k", 500, 100, 1_000.0) == 0, "otherwise a large batch could never pass"
    assert await one.take("k", 500, 100, 1_000.0) > 990
    await store.aclose()


async def test_a_bucket_of_this_process_does_the_same() -> None:
    clock = Clock()
    buckets = LocalBuckets(clock)
    assert await buckets.take("k", 60, 100, 1_000.0) == 0
    assert await buckets.take("k", 50, 100, 1_000.0) == pytest.approx(100)
    clock.advance(100.1)
    assert await buckets.take("k", 50, 100, 1_000.0) == 0
    assert await buckets.take("other", 500, 100, 1_000.0) == 0
    clock.advance(10_000)
    assert await buckets.take("other", 100, 100, 1_000.0) == 0
    assert await buckets.take("other", 1, 100, 1_000.0) == pytest.approx(10), (
        "a bucket never holds more than its capacity"
    )


@pytest.mark.parametrize("transport", [MemoryLog()], ids=["memory"])
async def test_without_buckets_in_the_store_the_process_counts(transport: Transport) -> None:
    rate = PublishRate(Rate(2, 60.0), transport)
    key, other = PublishKey("one"), PublishKey("two")
    await rate.take(key, 2)
    with pytest.raises(TooManyRequests) as refused:
        await rate.take(key, 1)
    assert (refused.value.limit, refused.value.retry_after) == ("publish-rate", 30)
    await rate.take(other, 2)
    await rate.take(None, 2)


async def test_a_rate_limit_costs_one_command(redis_store: RedisStore) -> None:
    """None without a rate limit."""
    log = redis_store.open()
    key = PublishKey("publish-key")
    await publish(log, "the first one brings the script")
    limited = PublishRate(Rate(100, 1.0), log)
    await limited.take(key, 1)
    for rate, commands in ((limited, ["evalsha", "evalsha"]), (PublishRate(None, log), ["evalsha"])):
        async with watching(redis_store.client) as watch:
            await rate.take(key, 1)
            await publish(log, 1)
            assert [command[0] for command in await watch.commands()] == commands
    names = await redis_store.client.keys("*rate*")
    assert len(names) == 1
    assert "publish-key" not in str(names[0])
    assert 0 < await redis_store.client.pttl(names[0]) <= 1_000
