"""The cluster of the tests redirects, moves slots and promotes replicas as the tests say."""

from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from tests.support.redis_cluster import MakeCluster, RedisCluster
from tests.support.redis_node import Access

KEY, OTHER = "{rt:all}:log", "{rt:all}:ids"  # in one slot


def test_each_key_has_one_node_that_answers(redis_cluster: RedisCluster) -> None:
    keys = [f"key-{number}" for number in range(30)]
    for key in keys:
        owner = redis_cluster.primary_of(key)
        answers = {node.ask(f"EXISTS {key}") for node in redis_cluster.nodes if node is not owner}
        assert answers == {f"-{redis_cluster.slot_of(key)} {owner.address}"}  # redis-py cuts MOVED off
        assert owner.ask(f"EXISTS {key}") == ":0"
    assert {redis_cluster.primary_of(key) for key in keys} == set(redis_cluster.nodes[:3])


def test_a_slot_on_its_way_is_answered_by_both(redis_cluster: RedisCluster) -> None:
    """A key that is still there, one that went, and both at once."""
    source = redis_cluster.primary_of(KEY)
    target = next(node for node in redis_cluster.primaries() if node is not source)
    for key in (KEY, OTHER):
        source.call("SET", key, "value")
    move = redis_cluster.begin_move(redis_cluster.slot_of(KEY), target)
    assert sorted(move.keys()) == sorted([KEY, OTHER])
    move.migrate(KEY)
    assert source.ask(f"GET {OTHER}") == "+value"
    assert source.ask(f"GET {KEY}") == f"-{move.slot} {target.address}"  # ASK
    with pytest.raises(ResponseError, match="during rehashing"):  # TRYAGAIN
        source.call("MGET", KEY, OTHER)
    move.finish()
    assert redis_cluster.primary_of(KEY) is target
    assert target.call("MGET", KEY, OTHER) == ["value", "value"]


def test_a_planned_failover_loses_nothing(redis_cluster: RedisCluster) -> None:
    primary = redis_cluster.primary_of(KEY)
    primary.call("SET", KEY, "value")
    promoted = redis_cluster.failover(primary)
    assert redis_cluster.primary_of(KEY) is promoted is not primary
    assert promoted.call("GET", KEY) == "value"
    assert primary.role() == "slave"


@pytest.mark.parametrize("number", [1, 2])
def test_a_test_finds_the_shared_cluster_as_it_was(redis_cluster: RedisCluster, number: int) -> None:
    """The slots are where they were at the start; so are the roles, after the failover above."""
    first, second, _ = redis_cluster.primaries()
    assert redis_cluster.primaries() == redis_cluster.nodes[:3]
    assert (redis_cluster.primary_of(0), redis_cluster.primary_of(6_000)) == (first, second)
    first.call("SET", redis_cluster.key_on(first), "left behind")
    assert sum(node.call("DBSIZE") for node in redis_cluster.primaries()) == 1
    redis_cluster.move_slot(0, second)
    redis_cluster.begin_move(6_000, first)


@pytest.mark.full
def test_the_cluster_replaces_a_killed_and_a_paused_node(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(aof=True)
    for lose, restore in ((cluster.kill, cluster.restart), (cluster.pause, cluster.resume)):
        primary = cluster.primary_of(KEY)
        lose(primary)
        replica = cluster.wait_for_failover(primary)
        assert cluster.primary_of(KEY) is replica
        restore(primary)
        assert cluster.replicas_of(replica) == [primary]


def test_a_cluster_demands_tls_and_a_password(make_cluster: MakeCluster, tmp_path: Path) -> None:
    """Its nodes replicate and move keys all the same."""
    access = Access.over_tls(tmp_path, user="app", password="s/3")
    cluster = make_cluster(primaries=2, replicas=0, access=access)
    seeds = ",".join(node.address for node in cluster.nodes)
    assert cluster.url == f"rediss+cluster://app:s%2F3@{seeds}?ssl_ca_certs={access.certificate}"
    source, target = cluster.nodes
    source.call("SET", key := cluster.key_on(source), "value")
    cluster.move_slot(cluster.slot_of(key), target)
    assert target.call("GET", key) == "value"


@pytest.mark.full
def test_valkey_moves_slots_at_once(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(kind="valkey")
    source, target = cluster.primaries()[:2]
    source.call("SET", key := cluster.key_on(source), "value")
    slot = cluster.slot_of(key)
    cluster.move_slots_at_once(slot, slot, target)
    assert target.call("GET", key) == "value"
    assert cluster.primary_of(key) is target
    promoted = cluster.failover(target)
    assert promoted.call("GET", key) == "value"
