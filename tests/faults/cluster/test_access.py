"""Users, passwords and TLS in a cluster."""

import asyncio
from pathlib import Path

import pytest
from tidewire.transports.redis.cluster import ClusterStreams

from tests.contract.acts import at, head, publish, tailing
from tests.faults.redis.test_permissions import documented
from tests.support.redis_cluster import MakeCluster, RedisCluster
from tests.support.redis_node import Access


async def use(cluster: RedisCluster) -> str | None:
    """Publish, follow, move the slot and publish again; return the tail's advice."""
    writer, reader = ClusterStreams(cluster.url), ClusterStreams(cluster.url)
    try:
        await writer.ping()
        await writer.take("key", 1, 10, 1.0)
        async with tailing(reader, at(await head(reader))) as (received, tail):
            await publish(writer, "one")
            await received.has("one")
            slot, owner = cluster.slot_of("rt:all"), cluster.primary_of("rt:all")
            target = next(node for node in cluster.primaries() if node is not owner)
            await asyncio.to_thread(cluster.move_slot, slot, target)
            await publish(writer, "two")
            await received.has("two")
            assert received.data == ["one", "two"]
            advice = getattr(tail, "advice")  # noqa: B009 — of tails that have some
            return None if advice is None else str(advice)
    finally:
        await writer.aclose()
        await reader.aclose()


@pytest.mark.full
async def test_a_user_with_the_documented_rules(make_cluster: MakeCluster, tmp_path: Path) -> None:
    """Over TLS, and as a user with exactly the rules of docs/transports.md."""
    rules = " ".join(documented("in a cluster, publishes and streams"))
    access = Access.over_tls(tmp_path, user="ann", password="p:w/@")
    access = Access("ann", access.password, rules, access.certificate)
    assert await use(await asyncio.to_thread(make_cluster, replicas=0, access=access)) is None


async def test_a_user_without_the_doorbell(make_cluster: MakeCluster) -> None:
    """It may neither ring nor subscribe: events come half a second late, and advice says why."""
    refused = ("+spublish", "+ssubscribe", "+sunsubscribe", "&{rt:*")
    rules = " ".join(rule for rule in documented("in a cluster, publishes and streams") if rule not in refused)
    advice = await use(await asyncio.to_thread(make_cluster, replicas=0, access=Access("ann", "p", rules)))
    assert advice is not None
    assert "+ssubscribe" in advice
