"""Several servers of Redis: readiness and metrics say which one is away, and only if it is needed."""

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from tests.support.clients import Answer, event, follow, get, publish, receipts
from tests.support.processes import Instance, MakeInstance
from tests.support.redis_cluster import MakeCluster, RedisCluster
from tests.support.sentinel import SentinelGroup
from tests.support.waiting import eventually

AVAILABLE = ("--cluster-require-full-coverage", "no")
FOLLOWED = ("rt:all", "rt:note", "rt:realtime.schemes")  # on two of three primaries


async def ready(instance: Instance) -> Answer:
    return await get(instance, "/api/health/ready")


async def has_status(instance: Instance, status: int) -> bool:
    return (await ready(instance)).status == status


async def gauges(instance: Instance) -> dict[str, dict[str, float]]:
    """The values of each gauge of nodes, by node."""
    answer = await get(instance, "/api/metrics")
    families = text_string_to_metric_families(answer.body.decode())
    return {
        family.name.removeprefix("realtime_node_"): {sample.labels["node"]: sample.value for sample in family.samples}
        for family in families
        if family.name.startswith("realtime_node_")
    }


async def test_a_lost_node_is_named_in_metrics_and_not_in_public(
    make_cluster: MakeCluster, make_instance: MakeInstance
) -> None:
    """A frozen primary that nothing replaces: 503 with the reason, but no address; the log and the label have it."""
    cluster = await asyncio.to_thread(make_cluster, replicas=0, options=AVAILABLE)
    instance = await asyncio.to_thread(make_instance, **_on(cluster))
    owner = cluster.primary_of("rt:note")
    async with follow(instance) as follower:
        receipts(await publish(instance, event("before")))
        await follower.has("before")
        assert (await ready(instance)).status == 200
        before = await gauges(instance)
        assert before["up"][owner.address] == before["tail_running"][owner.address] == 1
        assert sum(before["partitions"].values()) >= 1
        await asyncio.to_thread(cluster.kill, owner)
        await eventually(lambda: has_status(instance, 503))
        answer = await ready(instance)
        assert "A node of the Redis Cluster" in answer.body.decode()
        for node in cluster.nodes:
            assert str(node.port) not in answer.body.decode()
        during = await gauges(instance)
        assert during["tail_running"][owner.address] == 0
        assert min(value for name, value in during["up"].items() if name != owner.address) == 1
        assert owner.address in instance.log()
        await asyncio.to_thread(owner.restart)
        await eventually(lambda: has_status(instance, 200))
        assert set((await gauges(instance))["tail_running"].values()) == {1}


async def test_other_nodes_may_be_away(make_cluster: MakeCluster, make_instance: MakeInstance) -> None:
    """A primary without partitions of the instance."""
    cluster = await asyncio.to_thread(make_cluster, replicas=0, options=AVAILABLE)
    instance = await asyncio.to_thread(make_instance, **_on(cluster))
    async with follow(instance) as follower:
        receipts(await publish(instance, event("before")))
        await follower.has("before")
        unused = next(node for node in cluster.nodes if node not in map(cluster.primary_of, FOLLOWED))
        await asyncio.to_thread(cluster.kill, unused)
        receipts(await publish(instance, event("after")))
        await follower.has("before", "after")
        assert (await ready(instance)).status == 200


async def test_metrics_name_the_primary_of_the_sentinels(
    sentinel_group: SentinelGroup, make_instance: MakeInstance
) -> None:
    """After a planned failover, the new one."""
    settings = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": sentinel_group.url, "REALTIME_AUTH": "none"}
    instance = await asyncio.to_thread(make_instance, **settings)
    async with follow(instance) as follower:
        receipts(await publish(instance, event("before")))
        await follower.has("before")
        former = sentinel_group.primary
        assert (await gauges(instance))["tail_running"] == {former.address: 1}
        primary = await asyncio.to_thread(sentinel_group.failover)

        async def is_named() -> bool:
            return (await gauges(instance))["tail_running"] == {primary.address: 1}

        await eventually(is_named)


def _on(cluster: RedisCluster) -> dict[str, str]:
    return {
        "REALTIME_TRANSPORT": "redis",
        "REDIS_URL": cluster.url,
        "REALTIME_AUTH": "none",
        "REALTIME_PARTITIONS": "note",
    }
