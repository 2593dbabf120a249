"""A Redis that came back with an older state, as JSON pages see it over HTTP; on every log: the contract's tests."""

import asyncio

from tests.faults.clients import on_redis, publish_all, read_page
from tests.faults.test_redis_faults import LOST, SNAPSHOT, fall_back, until_ready
from tests.integration.upstash.test_over_http import over_rest
from tests.support.processes import MakeInstance, MakeRedis
from tests.support.upstash_stand_in import StandIn


async def test_pages_of_a_store_that_fell_back_have_a_gap(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """No tail follows, over TCP or REST: the client's cursor alone is ahead of what the restart has brought back."""
    redis = await asyncio.to_thread(make_redis)
    with StandIn(redis.port) as upstash:
        instances = [await asyncio.to_thread(make_instance, **on) for on in (on_redis(redis), over_rest(upstash))]
        await publish_all(instances[0], SNAPSHOT)
        await asyncio.to_thread(fall_back, redis, take_snapshot=True)
        await publish_all(instances[0], LOST)
        cursor = (await read_page(instances[0], **{"from": "earliest"}))["cursor"]
        await asyncio.to_thread(fall_back, redis, take_snapshot=False)
        for instance in instances:
            await until_ready(instance)
            for wait in ("0", "20"):
                page = await read_page(instance, last_event_id=cursor, wait=wait)
                assert page["gap"] == {"reason": "epoch", "recovered": False}
                assert [found["data"]["name"] for found in page["events"]] == SNAPSHOT
                assert (await read_page(instance, last_event_id=page["cursor"]))["gap"] is None
