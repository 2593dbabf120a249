"""Two instances and an application on one Postgres, as their clients see them over HTTP."""

import asyncio

import asyncpg
from tidewire.transports.postgres.migrations import apply

from tests.integration.postgres.conftest import start
from tests.support.clients import Requests, event, follow, get, publish, read_page, receipts
from tests.support.postgres_server import MakePostgres, PostgresServer
from tests.support.processes import MakeInstance
from tests.support.waiting import eventually

PUBLISH = "select * from realtime_publish('note', $1, $2)"


async def test_instances_deliver_each_others_and_sql_events(make_instance: MakeInstance, postgres_url: str) -> None:
    one, other = await start(make_instance, postgres_url), await start(make_instance, postgres_url)
    application = await asyncpg.connect(postgres_url)
    async with follow(one, userId="u1") as at_one, follow(other, userId="u2") as at_other:
        receipts(await publish(one, event("by-one"), event("u1-alone", "u1")))
        receipts(await publish(other, event("by-other"), event("u2-alone", "u2")))
        async with application.transaction():
            await application.fetch(PUBLISH, '{"name": "by-the-application"}', None)
            await application.fetch(PUBLISH, '{"name": "end"}', ["u1", "u2"])
        await at_one.has("by-one", "u1-alone", "by-other", "by-the-application", "end")
        await at_other.has("by-one", "by-other", "u2-alone", "by-the-application", "end")
        cursor = at_one.cursor
    await application.fetch(PUBLISH, '{"name": "missed"}', None)
    async with follow(other, userId="u1", last_event_id=cursor) as again:
        await again.has("missed")
    await application.close()


async def test_streams_survive_a_restart_of_postgres(make_instance: MakeInstance, make_postgres: MakePostgres) -> None:
    """They miss no event."""
    server = await asyncio.to_thread(make_postgres)
    one, other = await start(make_instance, server.url), await start(make_instance, server.url)
    names = [f"event-{number}" for number in range(60)]

    async def publish_all() -> None:
        async with Requests(one) as first, Requests(other) as second:
            for number, name in enumerate(names):
                while (answer := await (first, second)[number % 2].publish(event(name))).status != 202:
                    answer.assert_unavailable()

    async with follow(one) as at_one, follow(other) as at_other, asyncio.TaskGroup() as tasks:
        tasks.create_task(publish_all())
        for number in (10, 30):
            await at_one.seen.until(lambda number=number: len(at_one.names) > number)  # type: ignore[misc]  # binds the loop variable
            await asyncio.to_thread(server.restart)
        await at_one.has(*names)
        await at_other.has(*names)
        assert at_one.is_open()
        assert at_other.is_open()


async def test_readiness_follows_an_outage_of_postgres(
    make_instance: MakeInstance, make_postgres: MakePostgres
) -> None:
    server = await asyncio.to_thread(make_postgres)
    instance = await start(make_instance, server.url)
    async with follow(instance) as follower:
        await asyncio.to_thread(server.kill)
        ready = await get(instance, "/api/health/ready")
        assert (ready.status, (await get(instance, "/api/health/live")).status) == (503, 200)
        (await publish(instance, event("refused"))).assert_unavailable()
        await asyncio.to_thread(server.start)

        async def is_ready() -> bool:
            return (await get(instance, "/api/health/ready")).status == 200

        async def accepts() -> bool:
            return (await publish(instance, event("accepted"))).status == 202

        await eventually(is_ready)
        await eventually(accepts)
        await follower.has("accepted")


async def test_two_prefixes_in_one_database_share_no_event(
    make_instance: MakeInstance, postgres_url: str, postgres_server: PostgresServer
) -> None:
    await apply(postgres_url, "second")
    one = await start(make_instance, postgres_url)
    other = await start(make_instance, postgres_url, REALTIME_PREFIX="second")
    async with follow(one) as at_one, follow(other) as at_other:
        receipts(await publish(one, event("of-the-first")))
        receipts(await publish(other, event("of-the-second")))
        await at_one.has("of-the-first")
        await at_other.has("of-the-second")
    page = await read_page(other, **{"from": "earliest"})
    assert [event["data"] for event in page["events"]] == [{"name": "of-the-second"}]
    postgres_server.ask("drop schema second cascade; select 1")
