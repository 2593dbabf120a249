"""The records in Redis, read without the product's code."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from tests.support.processes import RedisServer
from tests.support.redis_cluster import RedisCluster

CHECK_AND_TIME = 21  # characters before the event in a stream entry


@dataclass(frozen=True)
class StoredEvent:
    """One record."""

    partition: str
    epoch: int
    offset: int
    event: Mapping[str, Any]


async def read_log(redis: RedisServer) -> dict[str, list[StoredEvent]]:
    """Return the published records of each partition, in its order."""
    log: dict[str, list[StoredEvent]] = {}
    client: Any = Redis.from_url(redis.url, decode_responses=True)
    async with client:
        for key in await client.keys("rt:*"):
            partition = key.removeprefix("rt:")
            if partition.startswith("realtime."):
                continue  # a control partition
            for entry_id, fields in await client.xrange(key):
                epoch, offset = map(int, entry_id.split("-"))
                event = json.loads(fields["e"][CHECK_AND_TIME:])
                log.setdefault(partition, []).append(StoredEvent(partition, epoch, offset, event))
    return log


async def read_cluster_log(cluster: RedisCluster) -> dict[str, list[StoredEvent]]:
    """Return the same from all nodes of a cluster."""
    log: dict[str, list[StoredEvent]] = {}
    for node in cluster.primaries():
        log |= await read_log(node)
    return log


async def names_in_log(redis: RedisServer) -> list[str]:
    """The name of each event in the default partition, in its order."""
    return [record.event["data"]["name"] for record in (await read_log(redis)).get("all", [])]
