"""The round trips and connections that a log needs in Postgres, counted."""

import asyncio

import pytest
from tidewire.delivery.hub import Hub
from tidewire.model.partitions import ALL, Partitions
from tidewire.transports.postgres.log import PostgresLog

from tests.contract.acts import event, events, publish, tailing
from tests.contract.stores import PostgresStore
from tests.support.postgres_server import LISTENS, PostgresServer
from tests.support.proxy import Proxy
from tests.support.sinks import subscribed
from tests.support.waiting import eventually

UNENCRYPTED = "?sslmode=disable"  # otherwise the first round trip would negotiate TLS


async def test_all_subscribers_share_one_listening_connection(
    postgres_store: PostgresStore, postgres_server: PostgresServer
) -> None:
    scheme = Partitions(frozenset({"a", "b"}), 3)
    async with Hub(postgres_store.open(scheme), scheme) as hub, asyncio.TaskGroup() as tasks:

        async def follow(number: int) -> None:
            async with subscribed(hub, f"u{number}", [{"a"}, {"b"}, {"c"}][number % 3]) as sink:
                await sink.has("end")

        for number in range(60):
            tasks.create_task(follow(number))

        async def all_are_live() -> bool:
            return len(hub.subscribers) == 60 and all(subscriber.live for subscriber in hub.subscribers)

        await eventually(all_are_live)
        assert len(await asyncio.to_thread(postgres_server.listeners)) == 1
        assert len(postgres_server.backends("application_name = 'tidewire'")) <= 4
        await hub.dispatch([event("end", type=type) for type in "abc"])


@pytest.mark.parametrize("size", [1, 100])
async def test_publishing_an_event_or_a_batch_is_one_round_trip(postgres_store: PostgresStore, size: int) -> None:
    async with Proxy(f"{postgres_store.url}{UNENCRYPTED}") as wire:
        log = PostgresLog(wire.url, partitions=Partitions(frozenset({"a"}), 4))
        users = ["u1", "u2", "u3", "u4", "u5"]
        for _ in range(2):  # the first ones connect, and prepare the statement
            await publish(log, 0)
        before = wire.turns
        await log.publish([event(n, type="ab"[n % 2], users=users if n % 3 else None) for n in range(size)])
        assert wire.turns == before + 1
        await log.head((ALL,))
        before = wire.turns
        await log.head(("all", "a", "a:u1"))
        assert wire.turns == before + 1
        await log.aclose()


async def test_a_notified_event_costs_one_round_trip(postgres_store: PostgresStore) -> None:
    publisher = postgres_store.open()
    async with Proxy(f"{postgres_store.url}{UNENCRYPTED}") as wire:
        log = PostgresLog(wire.url)
        async with tailing(log, await log.head((ALL,))) as (received, _):
            for number in range(3):
                await publish(publisher, number)
                await received.has(number)
            before = wire.turns
            await publisher.publish(events(range(10, 20)))
            await received.has(19)
            assert wire.turns == before + 1
        await log.aclose()


async def test_without_subscribers_the_database_may_sleep(
    postgres_store: PostgresStore, postgres_server: PostgresServer
) -> None:
    log = PostgresLog(postgres_store.url, check=0.05)
    async with tailing(log, await log.head((ALL,))) as (received, tail):
        await asyncio.to_thread(postgres_server.listeners)
        tail.unfollow((ALL,))

        async def nobody_listens() -> bool:
            return not await asyncio.to_thread(postgres_server.backends, LISTENS)

        await eventually(nobody_listens)
        before = await log.head((ALL,))
        await publish(log, 1)
        tail.follow(before.positions)
        await received.has(1)
    await log.aclose()
