"""Retention: which records are removed, and how many at a time."""

import asyncio

from tidewire.model.partitions import SCHEMES, Partitions
from tidewire.transports.base import Retention
from tidewire.transports.postgres.log import PostgresLog

from tests.contract.acts import at, contents, event, head, offsets, place, publish, read, seek, start_of, tailing
from tests.contract.stores import PostgresStore
from tests.integration.postgres.conftest import Connect
from tests.support.waiting import eventually

AGED = """
    update rt.records set time = time - 10000;
    update rt.ids set time = time - 10000;
    update rt.partitions set trim_at = 0
"""


async def test_one_append_trims_a_bounded_number_of_records(
    postgres_store: PostgresStore, application: Connect
) -> None:
    """Later appends continue."""
    connection = await application()
    await connection.fetch(
        "select count(*) from rt.append('{all}', '{12000}', array(select n::text from generate_series(1, 12000) n),"
        ' array_fill(\'{"id":"x","type":"t","data":1}\'::text, array[12000]), 86400000, 0, 86400000)'
    )
    await connection.execute(AGED)
    log = postgres_store.open(retention=Retention(age=5.0, idempotency_window=5.0))
    left = []
    for _ in range(3):
        await publish(log, "new")
        counts = await connection.fetchrow("select (select count(*) from rt.records), (select count(*) from rt.ids)")
        left.append(tuple(counts))
    assert left == [(7_001, 7_001), (2_002, 2_002), (3, 3)]
    items = await read(log, at(start_of(await head(log))))
    assert contents(items) == ["<trimmed>", "new", "new", "new"]


async def test_an_idle_log_that_is_followed_is_trimmed_too(postgres_store: PostgresStore, application: Connect) -> None:
    connection = await application()
    scheme = Partitions(frozenset({"a", "b"}))
    reader = PostgresLog(postgres_store.url, partitions=scheme, retention=Retention(age=5.0), check=0.05)
    await reader.publish([event(1, type="a"), event(2, type="b"), event(3)])
    await connection.execute(AGED)
    async with tailing(reader, await reader.head(("a",))):

        async def is_empty() -> bool:
            return not await connection.fetchval("select count(*) from rt.records where partition <> $1", SCHEMES)

        await eventually(is_empty)
    place_after = await head(reader, "a")
    assert place_after.offset == 1
    assert await seek(reader, None, "a") == place_after
    (receipt,) = await reader.publish([event(4, type="a")])
    assert place(receipt, "a").offset == 2
    await reader.aclose()


async def test_a_sweep_does_not_wait_for_locks(postgres_store: PostgresStore, application: Connect) -> None:
    log = postgres_store.open()
    await publish(log, 1)
    one, other = await application(), await application()
    await one.execute(AGED)
    async with one.transaction():
        await one.fetch("select * from realtime_publish('t', '2')")
        await other.execute("set lock_timeout = '10ms'; select rt.sweep(5000, 0, 5000)")
    assert await one.fetchval("select count(*) from rt.records") == 2


async def test_sql_events_have_the_retention_of_the_processes(
    postgres_store: PostgresStore, application: Connect
) -> None:
    log, connection = postgres_store.open(retention=Retention(events=3)), await application()
    await publish(log, 0)
    for number in range(1, 10):
        await connection.fetch("select * from realtime_publish('t', $1)", str(number))
    assert contents(await read(log, await log.seek(("all",), None))) == [7, 8, 9]


async def test_a_position_by_time_is_that_of_the_previous_record(postgres_store: PostgresStore) -> None:
    log = postgres_store.open()
    receipts = []
    for number in range(4):
        receipts += await publish(log, number)
        await asyncio.sleep(0.003)  # so that each record has its own millisecond
    assert await seek(log, place(receipts[2]).time) == place(receipts[1])
    first = await seek(log, None)
    assert first[:3] == (place(receipts[0]).epoch, 0, "")
    assert first.time == place(receipts[0]).time


async def test_no_plan_made_for_a_small_log_scans_a_large_one(
    postgres_store: PostgresStore, application: Connect
) -> None:
    await publish(postgres_store.open(), 1)
    connection = await application()
    await connection.execute("analyze rt.ids, rt.records, rt.partitions")
    async with connection.transaction():
        for number in range(10):  # Postgres keeps a plan from the sixth call on
            await connection.fetch("select realtime_publish('t', $1)", str(number))
            await connection.fetch("select rt.places('{all}'), rt.places('{all}', 1)")
        scans = await connection.fetch("select relname, seq_scan from pg_stat_xact_user_tables where schemaname = 'rt'")
    assert {name: count for name, count in scans if name in ("ids", "records", "partitions")} == {
        "ids": 0,
        "records": 0,
        "partitions": 0,
    }


async def test_short_statements_are_not_compiled(postgres_store: PostgresStore, application: Connect) -> None:
    connection = await application()
    forbid_scans = await connection.fetch(
        "select proname, proconfig from pg_proc where 'enable_seqscan=off' = any (proconfig)"
    )
    assert {row["proname"] for row in forbid_scans} >= {"append_to", "places"}
    assert all("jit=off" in row["proconfig"] for row in forbid_scans)
    log = PostgresLog(postgres_store.url)
    assert [tuple(row) for row in await log.fetch("show jit")] == [("off",)]
    await log.aclose()


async def test_offsets_continue_after_everything_was_trimmed(
    postgres_store: PostgresStore, application: Connect
) -> None:
    log, connection = postgres_store.open(retention=Retention(age=5.0)), await application()
    await publish(log, *range(5))
    await connection.execute(AGED)
    await connection.fetch("select rt.sweep(5000, 0, 5000)")
    assert await connection.fetchval("select count(*) from rt.records") == 0
    assert offsets(await publish(log, "next")) == [6]
