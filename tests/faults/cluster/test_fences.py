"""Fences and the registry of schemes, of which a failover loses one side."""

import asyncio
import random

import pytest
import redis
from tidewire.errors import TransportUnavailable
from tidewire.model.partitions import ALL, SCHEMES, Partitions

from tests.contract.acts import contents, event, publish, read
from tests.contract.stores import ClusterStore
from tests.support.processes import HOST

SHARDS = Partitions(user_shards=3)


def delete(store: ClusterStore, *keys: str) -> None:
    """Delete keys, as a failover to a replica that never had them does."""
    for key in keys:
        with redis.Redis(host=HOST, port=store.cluster.primary_of(key).port, protocol=2) as client:
            client.delete(key)


async def test_a_writer_without_the_newest_scheme(store: ClusterStore) -> None:
    """It is refused by the fence, reads the registry, and finds what another scheme has already."""
    old, new = store.open(), store.open(SHARDS)
    await publish(old, "before")
    await new.publish([event("once", id="once", users=["a"])])
    (receipt,) = await old.publish([event("once", id="once", users=["a"])])
    assert receipt.duplicate


@pytest.mark.parametrize("lost", ["registry", "fence"])
async def test_one_side_is_lost(store: ClusterStore, lost: str) -> None:
    """Both writers go on, and each finds the ids of the other at once after the failover."""
    old, new = store.open(), store.open(SHARDS)
    await publish(old, "before")
    await publish(new, "announced")
    if lost == "registry":
        delete(store, f"rt:{SCHEMES}", f"{{rt:{SCHEMES}}}:meta", f"{{rt:{SCHEMES}}}:fenced")
    else:
        delete(store, f"{{rt:{ALL}}}:fence")
    await asyncio.sleep(1.1)  # longer than REGISTRY_CHECK
    late = store.open()
    for number, (first, second) in enumerate([(new, late), (old, new), (late, old), (new, old)]):
        (receipt,) = await first.publish([event(number, id=f"id-{number}", users=["a"])])
        assert not receipt.duplicate
        (receipt,) = await second.publish([event(number, id=f"id-{number}", users=["a"])])
        assert receipt.duplicate, number


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.full] if n > 2 else []) for n in range(30)])
async def test_no_id_is_appended_twice(store: ClusterStore, seed: int) -> None:
    """Writers of several schemes retry the same ids at the same time, and new ones join in between."""
    rng = random.Random(seed)
    schemes = [Partitions(), SHARDS, Partitions(user_shards=5)]
    logs = [store.open(rng.choice(schemes)) for _ in range(3)]
    names = {name for scheme in schemes for name in scheme.names()}
    start = await logs[0].head(tuple(names))

    async def write(number: int) -> None:
        one = event(number, id=f"id-{number}", users=[f"user-{number % 7}"])
        await asyncio.sleep(rng.uniform(0, 0.02))
        await rng.choice(logs).publish([one])

    for wave in range(4):
        async with asyncio.TaskGroup() as group:
            for number in range(wave * 10, wave * 10 + 10):
                for _ in range(rng.choice([2, 3])):
                    group.create_task(write(number))
        logs.append(store.open(rng.choice(schemes)))
    found = contents(await read(logs[0], start))
    assert sorted(n for n in found if isinstance(n, int)) == list(range(40))


async def test_a_batch_with_a_node_lost_between(store: ClusterStore) -> None:
    """The error names exactly the events that did not land, and a retry completes them."""
    types = [f"t{n}" for n in range(12)]
    scheme = Partitions(types=frozenset(types))
    log = store.open(scheme)
    await publish(log, "announced")
    cluster = store.cluster
    victim = next(node for node in cluster.primaries() if node is not cluster.primary_of(f"rt:{SCHEMES}"))
    batch = [event(n, id=f"id-{n}", type=kind) for n, kind in enumerate(types)]
    places = [scheme.route(one)[0][0] for one in batch]
    gone = [n for n, name in enumerate(places) if cluster.primary_of(f"rt:{name}") is victim]
    assert 0 < len(gone) < len(batch)
    await asyncio.to_thread(cluster.kill, victim)
    with pytest.raises(TransportUnavailable) as caught:
        await log.publish(batch)
    assert [pointer for pointer, _ in caught.value.errors or ()] == [f"/{n}" for n in gone]
    assert str(victim.port) not in f"{caught.value.detail} {caught.value.errors}"
    await asyncio.to_thread(cluster.wait_for_failover, victim)
    receipts = await log.publish(batch)
    assert [n for n, receipt in enumerate(receipts) if not receipt.duplicate] == gone
