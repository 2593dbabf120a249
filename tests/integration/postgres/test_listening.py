"""The listening connection is lost, replaced, or not available at all."""

import asyncio
import os
import signal
import time

import pytest
from tidewire.delivery.hub import Hub
from tidewire.errors import TransportUnavailable
from tidewire.model.partitions import ALL
from tidewire.transports.postgres.log import PostgresLog

from tests.contract.acts import Received, publish, tailing
from tests.contract.stores import PostgresStore
from tests.support.postgres_server import PostgresServer
from tests.support.proxy import Proxy

UNENCRYPTED = "?sslmode=disable"  # otherwise the first round trip would negotiate TLS
RECOVERS = 5.0  # seconds until the tail is back: the longest pause between two attempts


@pytest.mark.parametrize(
    "url", ["postgres://u:hunter2@ep-1-pooler.neon.tech/d", "postgres://u:hunter2@h/d?pgbouncer=true"]
)
async def test_a_poolers_host_is_refused_for_streams(url: str) -> None:
    """The error holds no password."""
    async with Hub(PostgresLog(url)) as hub:
        with pytest.raises(TransportUnavailable, match="behind which a LISTEN ends") as caught:
            async with hub.transport.on_message(Received()):
                pass
    assert "hunter2" not in str(caught.value)
    assert "neon.tech" not in str(caught.value)


async def test_publishing_uses_the_pooler_and_the_tail_does_not(postgres_store: PostgresStore) -> None:
    pooled = f"{postgres_store.url}?pgbouncer=true&channel_binding=require&connect_timeout=3"
    log = PostgresLog(pooled, listen_url=postgres_store.url)
    async with tailing(log, await log.head((ALL,))) as (received, _):
        await publish(log, *range(5), batch=2)
        await received.has(4)
    assert received.data == [0, 1, 2, 3, 4]
    await log.aclose()


async def test_a_terminated_listening_connection_is_replaced(
    postgres_store: PostgresStore, postgres_server: PostgresServer
) -> None:
    """No event is missed."""
    log = postgres_store.open()
    slowest = 0.0
    async with tailing(log, await log.head((ALL,))) as (received, _):
        for number in range(10):
            (listener,) = await asyncio.to_thread(postgres_server.listeners)
            postgres_server.ask("select pg_terminate_backend($1)", listener)
            began = time.monotonic()
            await publish(log, number)
            await received.has(number)
            slowest = max(slowest, time.monotonic() - began)
    assert received.data == list(range(10))
    assert slowest < RECOVERS


async def test_a_hanging_listening_session_is_replaced(
    postgres_store: PostgresStore,
    postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tidewire.transports.postgres.connection.TIMEOUT", 1.5)
    log = PostgresLog(postgres_store.url, check=0.3)
    async with tailing(log, await log.head((ALL,))) as (received, _):
        await publish(log, 0)
        await received.has(0)
        (listener,) = await asyncio.to_thread(postgres_server.listeners)
        os.kill(listener, signal.SIGSTOP)
        try:
            began = time.monotonic()
            await publish(log, 1)
            await received.has(1)
            assert time.monotonic() - began < RECOVERS
        finally:
            os.kill(listener, signal.SIGCONT)
    assert received.data == [0, 1]
    await log.aclose()


async def test_a_half_open_listening_connection_is_replaced(
    postgres_store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidewire.transports.postgres.connection.TIMEOUT", 1.5)
    publisher = postgres_store.open()
    async with Proxy(f"{postgres_store.url}{UNENCRYPTED}") as wire:
        log = PostgresLog(postgres_store.url, listen_url=wire.url, check=0.3)
        async with tailing(log, await log.head((ALL,))) as (received, _):
            for number in range(3):
                await publish(publisher, number)
                await received.has(number)
                await wire.freeze()
            await publish(publisher, "end")
            await received.has("end")
        assert received.data == [0, 1, 2, "end"]
        await log.aclose()


async def test_the_tail_polls_while_no_connection_can_listen(
    postgres_store: PostgresStore, postgres_server: PostgresServer
) -> None:
    """It counts as running meanwhile."""
    publisher = postgres_store.open()
    async with Proxy(f"{postgres_store.url}{UNENCRYPTED}") as wire:
        await wire.refuse()
        log = PostgresLog(postgres_store.url, listen_url=wire.url)
        async with tailing(log, await log.head((ALL,))) as (received, tail):
            for number in range(3):
                await publish(publisher, number)
                await received.has(number)
            assert tail.running
            await wire.connect()
            await asyncio.to_thread(postgres_server.listeners)
            await publish(publisher, "end")
            await received.has("end")
            assert tail.running
        assert received.data == [0, 1, 2, "end"]
        await log.aclose()


async def test_a_tail_started_during_an_outage_receives_later(postgres_store: PostgresStore) -> None:
    publisher = postgres_store.open()
    async with Proxy(f"{postgres_store.url}{UNENCRYPTED}") as wire:
        log = PostgresLog(wire.url)
        before = await log.head((ALL,))
        await wire.refuse()
        async with tailing(log, before) as (received, tail):
            await publish(publisher, 1)
            assert not tail.running
            await wire.connect()
            await received.has(1)
            await publish(publisher, 2)
            await received.has(2)
        assert received.data == [1, 2]
        await log.aclose()
