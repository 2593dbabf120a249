"""User shards: the cost of one publication for the store, the process and the rate limit, and its receipt."""

import asyncio
import json
from typing import Any

from redis.asyncio import Redis
from tidewire.model.cursor import MAX_LENGTH
from tidewire.model.partitions import MAX_COPIES

from tests.support.clients import event, follow, publish, read_page, receipts
from tests.support.instance_settings import on_redis
from tests.support.processes import MakeInstance, MakeRedis
from tests.support.redis_records import read_log

SHARDS = "256"  # the maximum
LONG_TYPE = "t" * 128


def users(count: int) -> list[str]:
    return [f"user-{number}" for number in range(count)]


async def test_an_event_for_a_thousand_users_is_kept_once(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """One POST of 206 KB for 1,000 users took 166 MB in Redis, and 472 MB in the process."""
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis, REALTIME_USER_SHARDS=SHARDS))
    big = {**event("big", *users(1_000)), "data": {"name": "big", "text": "x" * 200_000}}
    async with follow(instance, userId="user-7") as one, follow(instance, userId="somebody-else") as other:
        client: Any = Redis.from_url(redis.url)
        async with client:
            before = (await client.info("memory"))["used_memory"]
            receipts(await publish(instance, big))
            await one.has("big")
            assert (await client.info("memory"))["used_memory"] - before < 2_000_000
        receipts(await publish(instance, event("end")))
        await other.has("end")
    assert sum(len(records) for records in (await read_log(redis)).values()) == 2


async def test_a_receipt_is_a_cursor_for_any_number_of_users(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """The receipt of an event for 150 users was an invalid cursor."""
    redis = await asyncio.to_thread(make_redis)
    settings = on_redis(redis, REALTIME_USER_SHARDS=SHARDS, REALTIME_PARTITIONS=LONG_TYPE)
    instance = await asyncio.to_thread(make_instance, **settings)
    for count in (1, 2, MAX_COPIES, MAX_COPIES + 5, 150, 1_000):
        name = f"for {count}"
        (receipt,) = receipts(await publish(instance, event(name, *users(count), type=LONG_TYPE, id=f"for-{count}")))
        assert len(receipt["cursor"]) <= MAX_LENGTH
        receipts(await publish(instance, event(f"after {count}", "user-0", type=LONG_TYPE, id=f"after-{count}")))
        page = await read_page(instance, last_event_id=receipt["cursor"], userId="user-0")
        assert page["gap"] is None
        assert [found["data"]["name"] for found in page["events"]][:1] in ([f"after {count}"], [])
        if count <= MAX_COPIES:  # it names the user's own shard
            assert [found["data"]["name"] for found in page["events"]] == [f"after {count}"]


async def test_the_rate_limit_charges_each_copy(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    redis = await asyncio.to_thread(make_redis)
    settings = on_redis(redis, REALTIME_USER_SHARDS="16", REALTIME_PUBLISH_RATE="40/1h")
    instance = await asyncio.to_thread(make_instance, **settings)
    receipts(await publish(instance, event("many", *users(200))))
    kept = sum(len(records) for records in (await read_log(redis)).values())
    assert kept == MAX_COPIES == 16
    receipts(await publish(instance, *(event(f"one {number}", id=f"one-{number}") for number in range(40 - kept))))
    answer = await publish(instance, event("too-many"))
    assert answer.status == 429
    assert json.loads(answer.body)["limit"] == "publish-rate"
