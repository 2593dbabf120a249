"""The commands of an idle process on a real cluster, per partition that it follows; and the cost of its nodes."""

import asyncio
from collections import Counter

import pytest
from redis.asyncio import Redis
from tidewire.delivery.hub import Hub
from tidewire.delivery.revocations import Revocations
from tidewire.tools.cost import commands
from tidewire.tools.cost.modes import estimate
from tidewire.tools.cost.workload import MONTH_HOURS, Workload
from tidewire.transports.redis import cluster_tail
from tidewire.transports.redis.cluster import ClusterStreams

from tests.integration.cost.tables import SHIPPED
from tests.support.processes import HOST
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_monitor import watching
from tests.support.sinks import subscribed

HOUR = 3_600.0
ROUNDS = 3  # between two reads of the heads
FASTER = 75  # times, so that a minute takes less than one second


async def test_each_partition_is_polled_and_its_head_read(
    redis_cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most four polls per read of the head; a busy machine may be late, and poll less often."""
    assert (cluster_tail.POLL, cluster_tail.CHECK_HEADS) == (commands.CLUSTER_POLL, commands.HEADS)
    monkeypatch.setattr(cluster_tail, "POLL", commands.CLUSTER_POLL / FASTER)
    monkeypatch.setattr(cluster_tail, "CHECK_HEADS", commands.HEADS / FASTER)
    log = ClusterStreams(redis_cluster.url)
    owner = redis_cluster.primary_of("rt:all")
    async with (
        Hub(log, revocations=Revocations(log, 60)) as hub,
        subscribed(hub, "u1") as sink,
        Redis(host=HOST, port=owner.port) as client,
    ):
        await sink.ready()
        async with watching(client) as watch, asyncio.timeout(30):
            counted: Counter[str] = Counter()
            async for command in watch.live():
                if "rt:all" not in command:
                    continue
                if counted["evalsha"] or command[0] == "evalsha":
                    counted[command[0]] += 1
                if counted["evalsha"] > ROUNDS:
                    break
    assert counted.keys() == {"evalsha", "xread"}
    assert ROUNDS <= counted["xread"] <= ROUNDS * commands.HEADS / commands.CLUSTER_POLL


def test_an_idle_hour_is_300_commands_per_partition() -> None:
    """With the partition of the revocations, which each process follows."""
    load = Workload(1, 1, transport="redis-cluster")
    followed = commands.partitions(load) + commands.CONTROL
    assert commands.following(load, commands.Reading(0, 0)) * HOUR == pytest.approx(300 * followed) == 600


def test_a_cluster_costs_its_nodes() -> None:
    load = Workload(1_000, 1_000_000, transport="redis-cluster", nodes=4)
    found = estimate("container", load, SHIPPED)
    (line,) = (line for line in found.lines if line.key == "cluster-node-hours")
    assert line.quantity == 4 * MONTH_HOURS
    assert not any(line.key.startswith("redis-") for line in found.lines)
    assert not any("not possible" in note for note in found.notes)


def test_more_data_than_its_primaries_hold_is_noted() -> None:
    large = Workload(1_000, 100_000_000, event_bytes=10_000, retention_hours=720, transport="redis-cluster", nodes=2)
    assert any("GB of data exceed the 5.1 GB" in note for note in estimate("container", large, SHIPPED).notes)
