"""A database that is suspended while nobody uses it, as Neon's: what wakes it, and what arrives when."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tidewire.delivery.hub import Hub
from tidewire.model.partitions import ALL
from tidewire.transports.postgres.log import PostgresLog
from tidewire.transports.postgres.sleeping import Sleep, Sleeping
from tidewire.transports.postgres.tail import PostgresTail

from tests.contract.acts import event, publish, tailing
from tests.contract.stores import PostgresStore
from tests.integration.postgres.conftest import start
from tests.support.clients import event as published
from tests.support.clients import follow, get, receipts
from tests.support.clients import publish as publish_to
from tests.support.processes import MakeInstance
from tests.support.sinks import subscribed
from tests.support.sleepy_database import SleepyDatabase
from tests.support.waiting import eventually

UNENCRYPTED = "?sslmode=disable"
IDLE = 0.4  # seconds until the compute is suspended
NEVER = 3_600.0  # seconds to the next wake-up: none in the time of a test, unless an hour begins
CHECK = 0.1


@asynccontextmanager
async def sleepy(
    url: str, every: float = NEVER, idle: float = IDLE
) -> AsyncIterator[tuple[SleepyDatabase, PostgresLog]]:
    """A log behind a compute that is suspended when idle; the log lets it sleep after 0.3 s."""
    async with SleepyDatabase(f"{url}{UNENCRYPTED}", idle) as database:
        log = PostgresLog(database.url, check=CHECK, sleep=Sleep(0.3, every))
        yield database, log
        await log.aclose()


async def test_the_wake_ups_alone_wake_an_idle_database(postgres_store: PostgresStore) -> None:
    """A tail that reconnected whenever it was cut would wake the compute three times within a second."""
    every = 1.5
    async with sleepy(postgres_store.url, every) as (database, log), tailing(log, await log.head((ALL,))) as (_, tail):
        await eventually(lambda: database.suspended)
        began, woken = time.monotonic(), database.wakes
        await eventually(lambda: database.wakes >= woken + 3, seconds=10.0)
        assert time.monotonic() - began >= 2 * every - 0.1
        assert tail.running


async def test_a_publish_of_this_process_wakes_the_database(postgres_store: PostgresStore) -> None:
    async with sleepy(postgres_store.url) as (database, log), tailing(log, await log.head((ALL,))) as (received, _):
        for number in range(3):
            await eventually(lambda: database.suspended)
            began = time.monotonic()
            await publish(log, number)
            await received.has(number)
            assert time.monotonic() - began < 2.0
        assert received.data == [0, 1, 2]
        assert database.wakes == 3


async def test_other_processes_events_arrive_at_the_next_wake_up(postgres_store: PostgresStore) -> None:
    """Late, but none is lost, and they are in order."""
    publisher, every = postgres_store.open(), 2.0
    async with (
        sleepy(postgres_store.url, every) as (database, log),
        tailing(log, await log.head((ALL,))) as (received, _),
    ):
        await eventually(lambda: database.suspended)
        await publish(publisher, *range(20))
        began = time.monotonic()
        await received.has(19)
        assert time.monotonic() - began < every + 1.5
    assert received.data == list(range(20))


async def test_a_new_subscriber_wakes_the_database(postgres_store: PostgresStore) -> None:
    """It also brings the others what they have not received yet."""
    publisher = postgres_store.open()
    async with sleepy(postgres_store.url) as (database, log), Hub(log) as hub, subscribed(hub, "u1") as first:
        await first.ready()
        await eventually(lambda: database.suspended)
        await publisher.publish([event("by another process")])
        async with subscribed(hub, "u2", since="earliest") as second:
            await second.has("by another process")
            await first.has("by another process")


async def test_a_notification_arrives_while_the_database_is_awake(postgres_store: PostgresStore) -> None:
    """The compute stays awake for minutes after the tail sends nothing more: until then events arrive at once."""
    publisher = postgres_store.open()
    async with sleepy(postgres_store.url, idle=60.0) as (database, log):
        async with tailing(log, await log.head((ALL,))) as (received, tail):
            assert isinstance(tail, PostgresTail)
            for number in range(3):
                await eventually(lambda: tail.asleep)
                await publish(publisher, number)
                await received.has(number)
        assert not database.suspended


async def test_health_and_metrics_leave_the_database_asleep(postgres_store: PostgresStore) -> None:
    async with sleepy(postgres_store.url) as (database, log), Hub(log) as hub, subscribed(hub, "u1") as sink:
        await sink.ready()
        await eventually(lambda: database.suspended)
        for _ in range(3):
            await log.ping()
            assert await hub.tail.records_behind() is None
            assert hub.tail_trouble is None
        assert database.suspended
        await hub.dispatch([event("x")])
        await sink.has("x")


async def test_without_the_setting_the_database_stays_awake(postgres_store: PostgresStore) -> None:
    async with SleepyDatabase(f"{postgres_store.url}{UNENCRYPTED}", IDLE) as database:
        log = PostgresLog(database.url, check=CHECK)
        async with tailing(log, await log.head((ALL,))):
            before = database.turns
            await eventually(lambda: database.turns > before + 10)
            assert not database.suspended
        await log.aclose()


async def test_an_instance_with_an_open_stream_lets_it_sleep(postgres_url: str, make_instance: MakeInstance) -> None:
    """With load balancers that ask for readiness, scrapes of metrics, and heartbeats on the stream."""
    async with SleepyDatabase(f"{postgres_url}{UNENCRYPTED}", 1.0) as database:
        settings = {"REALTIME_SLEEP_AFTER": "1s", "REALTIME_HEARTBEAT": "100ms"}
        instance = await start(make_instance, database.url, **settings)
        async with follow(instance) as follower:
            receipts(await publish_to(instance, published("one")))
            await follower.has("one")

            async def is_suspended() -> bool:
                for path in ("/api/health/ready", "/api/metrics"):
                    assert (await get(instance, path)).status == 200
                return database.suspended

            await eventually(is_suspended, seconds=20.0)
            woken = database.wakes
            for _ in range(5):
                await is_suspended()
            assert database.suspended
            assert database.wakes == woken
            receipts(await publish_to(instance, published("two")))
            await follower.has("one", "two")


@pytest.mark.parametrize(("now", "seconds"), [(0.0, 60.0), (59.0, 1.0), (60.0, 60.0), (61.5, 58.5)])
def test_processes_wake_the_database_at_the_same_time(now: float, seconds: float) -> None:
    """At multiples since 1970, whenever each was started: ten processes cost one wake-up, not ten."""
    assert Sleeping(Sleep(1.0, 60.0), clock=lambda: now).seconds() == seconds


async def test_a_wake_up_stays_due_until_it_was_answered() -> None:
    now = [59.0]
    sleeping = Sleeping(Sleep(0.0, 60.0), clock=lambda: now[0])
    now[0] = 61.0
    assert sleeping.seconds() == 0
    async with asyncio.timeout(5):
        await sleeping.until_due()
    assert sleeping.seconds() == 0
    sleeping.answered()
    assert sleeping.seconds() == 59.0
