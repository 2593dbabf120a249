"""Postgres is unavailable, restarts or loses connections: publishes fail fast, and nothing acknowledged is lost."""

import asyncio
import os
import signal
import time

import pytest
from tidewire.delivery.hub import Hub
from tidewire.errors import TransportUnavailable
from tidewire.model.event import Event
from tidewire.model.partitions import ALL
from tidewire.transports.base import Receipt, Transport
from tidewire.transports.postgres.log import PostgresLog

from tests.contract.acts import event, head, publish
from tests.contract.stores import PostgresStore
from tests.support.postgres_server import MakePostgres, PostgresServer
from tests.support.proxy import Proxy
from tests.support.sinks import subscribed

UNENCRYPTED = "?sslmode=disable"  # otherwise the first round trip would negotiate TLS
RECOVERS = 5.0  # seconds until the tail is back: the longest pause between two attempts


async def persist(transport: Transport, one: Event) -> Receipt:
    """Publish the same event again until it is acknowledged."""
    while True:
        try:
            return (await transport.publish([one]))[0]
        except TransportUnavailable:
            await asyncio.sleep(0.02)  # before the retry


async def test_a_retry_after_a_lost_commit_answer_is_a_duplicate(
    postgres_store: PostgresStore,
) -> None:
    async with Proxy(f"{postgres_store.url}{UNENCRYPTED}") as wire:
        log = PostgresLog(wire.url)
        await publish(log, 1)
        wire.keep = 0
        one = event("same")
        with pytest.raises(TransportUnavailable):
            await log.publish([one])
        wire.keep = None
        assert (await persist(log, one)).duplicate
        assert (await head(log)).offset == 2
        await log.aclose()


async def test_a_dead_idle_connection_fails_no_publish(
    postgres_store: PostgresStore, postgres_server: PostgresServer
) -> None:
    async with Proxy(f"{postgres_store.url}{UNENCRYPTED}") as wire:
        log = PostgresLog(wire.url)
        for number in range(5):
            await publish(log, number)
            if number % 2:
                wire.cut()
            else:
                postgres_server.ask(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'tidewire'"
                )
        assert (await head(log)).offset == 5
        await log.aclose()


async def test_everything_fails_fast_while_postgres_is_unavailable(
    make_postgres: MakePostgres,
) -> None:
    server = await asyncio.to_thread(make_postgres)
    log = PostgresLog(server.url.replace("tidewire@", "tidewire:hunter2@"))
    await asyncio.to_thread(server.kill)
    for attempt in (lambda: publish(log, 1), lambda: log.head((ALL,)), lambda: log.seek((ALL,), None), log.ping):
        with pytest.raises(TransportUnavailable) as caught:
            async with asyncio.timeout(1.0):
                await attempt()
        assert "hunter2" not in str(caught.value)
        assert "127.0.0.1" not in str(caught.value)
    server.start()
    await persist(log, event("accepted"))
    assert (await head(log)).offset == 1
    await log.aclose()


@pytest.mark.parametrize("fault", ["restart", "crash", "kill a session", "freeze"])
async def test_server_faults_lose_and_reorder_nothing_acknowledged(make_postgres: MakePostgres, fault: str) -> None:
    server = await asyncio.to_thread(make_postgres)
    log, publisher = PostgresLog(server.url), PostgresLog(server.url)

    def strike() -> None:
        if fault == "restart":
            server.restart()
        elif fault == "crash":
            server.kill()
            server.start()
        elif fault == "kill a session":  # the postmaster ends all other sessions too, and recovers
            os.kill(server.backends("application_name = 'tidewire'")[0], signal.SIGKILL)
        else:
            server.pause()
            time.sleep(1.0)  # the length of the fault
            server.resume()

    async with Hub(log) as hub, subscribed(hub) as sink:
        await sink.ready()
        struck = asyncio.Event()

        async def publish_all() -> None:
            for number in range(300):
                await persist(publisher, event(number))
                if number == 200:
                    await struck.wait()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish_all())
            for number in (50, 120):
                await sink.has(number)
                await asyncio.to_thread(strike)
            over = time.monotonic()
            struck.set()
            await sink.has(201)
            recovered = time.monotonic()
        await sink.has(299)
    assert recovered - over < RECOVERS
    assert sink.data == list(range(300))
    assert sink.gaps == []
    await publisher.aclose()
