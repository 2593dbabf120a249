"""Connections are silent, as behind a NAT that dropped them: how long a caller waits."""

import asyncio

import pytest
from tidewire.errors import TransportUnavailable
from tidewire.model.partitions import ALL
from tidewire.transports.postgres.connection import CONNECTIONS
from tidewire.transports.postgres.log import PostgresLog

from tests.contract.acts import event, publish, seek, tailing
from tests.contract.stores import PostgresStore
from tests.support.postgres_server import PostgresServer
from tests.support.proxy import Proxy

UNENCRYPTED = "?sslmode=disable"
NEVER = 10_000.0  # seconds until the tail would check by itself


@pytest.fixture(autouse=True)
def short_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time-out of 1.5 s."""
    monkeypatch.setattr("tidewire.transports.postgres.connection.TIMEOUT", 1.5)
    monkeypatch.setattr("tidewire.transports.postgres.appends.TIMEOUT", 1.5)


async def test_all_silent_connections_cost_one_time_out(postgres_store: PostgresStore) -> None:
    """Each idle connection of the pool cost a time-out of its own, and the tail waited for its next check."""
    async with Proxy(f"{postgres_store.url}{UNENCRYPTED}") as wire:
        log = PostgresLog(wire.url, check=NEVER)
        async with tailing(log, await log.head((ALL,))) as (received, tail):
            await asyncio.gather(*(seek(log, number) for number in range(CONNECTIONS)))
            await publish(log, "before")
            await received.has("before")
            await wire.freeze()
            one, refused = event("after"), 0
            while True:
                try:
                    await log.publish([one])
                    break
                except TransportUnavailable:
                    refused += 1
            assert refused == 1
            await received.has("after")
            await asyncio.gather(*(seek(log, number) for number in range(CONNECTIONS)))
            assert tail.running
        assert received.data == ["before", "after"]
        await log.aclose()


async def test_an_own_event_needs_no_notification(
    postgres_store: PostgresStore, postgres_server: PostgresServer
) -> None:
    """The tail reads up to a position that this process knows, also if the notification is lost."""
    log = PostgresLog(postgres_store.url, check=NEVER)
    ring = postgres_server.ask("select pg_get_functiondef('rt.append_to'::regproc)")[0][0]
    async with tailing(log, await log.head((ALL,))) as (received, _):
        await publish(log, 1)
        await received.has(1)
        postgres_server.ask(ring.replace("'tidewire:'", "'elsewhere:'"))
        try:
            for number in range(2, 4):
                await publish(log, number)
                await received.has(number)
        finally:
            postgres_server.ask(ring + ";")
    await log.aclose()


async def test_a_long_queue_of_calls_is_no_silence(
    postgres_store: PostgresStore, postgres_server: PostgresServer
) -> None:
    """A call that waited too long for a connection does not condemn the connections: they work."""
    log = PostgresLog(postgres_store.url, check=NEVER)
    async with tailing(log, await log.head((ALL,))) as (received, _):
        await publish(log, 1)
        await received.has(1)
        (listener,) = await asyncio.to_thread(postgres_server.listeners)
        sleeping = [asyncio.create_task(log.fetch("select pg_sleep(1)")) for _ in range(CONNECTIONS * 2)]
        await asyncio.gather(*sleeping, return_exceptions=True)
        await publish(log, 2)
        await received.has(2)
        assert await asyncio.to_thread(postgres_server.listeners) == [listener]
    await log.aclose()
