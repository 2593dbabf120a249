"""realtime_publish: an application publishes in its own transactions."""

import asyncio
import json
import random
import re

import asyncpg
import pytest
from tidewire.errors import TransportUnavailable
from tidewire.model.event import Event
from tidewire.model.partitions import ALL, Partitions
from tidewire.model.record import Record

from tests.contract.acts import at, contents, event, head, place, publish, read, start_of, tailing
from tests.contract.stores import PostgresStore
from tests.integration.postgres.conftest import Connect
from tests.repository.docs.kinds import of_kind
from tests.repository.docs.markdown import Block
from tests.support.postgres_server import PostgresServer
from tests.support.waiting import eventually

PUBLISH = "select * from realtime_publish($1, $2, $3, $4)"
WAITS = "wait_event_type = 'Lock'"


async def test_a_sql_publish_reaches_every_subscriber(postgres_store: PostgresStore, application: Connect) -> None:
    log = postgres_store.open()
    async with tailing(log, await log.head((ALL,))) as (received, _):
        connection = await application()
        row = await connection.fetchrow(
            """select * from realtime_publish('task-updated', '{"id":7}'::json, array['u1'], 'optional-id')"""
        )
        await received.has({"id": 7})
    assert received.items == [
        Record(Event("optional-id", "task-updated", b'{"id":7}', ("u1",)), ALL, (await head(log)))
    ]
    assert tuple(row) == ("optional-id", ALL, *(await head(log)), False)


@pytest.mark.parametrize("example", of_kind("sql"), ids=str)
async def test_an_example_of_the_documentation_publishes_at_its_commit(
    postgres_store: PostgresStore, application: Connect, example: Block
) -> None:
    log, connection = postgres_store.open(), await application()
    await connection.execute("create temporary table tasks (id integer, done boolean)")
    async with tailing(log, await log.head((ALL,))) as (received, _):
        await connection.execute(example.text)
        await received.has({"id": 7})


async def test_a_rollback_publishes_nothing_and_leaves_no_hole(
    postgres_store: PostgresStore, application: Connect
) -> None:
    log, connection = postgres_store.open(), await application()
    async with tailing(log, await log.head((ALL,))) as (received, _):
        for outcome in ("before", None, "after", None, None, "end"):
            transaction = connection.transaction()
            await transaction.start()
            row = await connection.fetchrow(PUBLISH, "t", json.dumps(outcome), None, None)
            assert row["offset"] == len(received.items) + 1
            if outcome is None:
                await transaction.rollback()
                continue
            await transaction.commit()
            await received.has(outcome)
    assert received.data == ["before", "after", "end"]
    assert [item.position.offset for item in received.items if item.position] == [1, 2, 3]


async def test_a_rollback_to_a_savepoint_removes_its_events_only(
    postgres_store: PostgresStore, application: Connect
) -> None:
    log, connection = postgres_store.open(), await application()
    start = await log.head((ALL,))
    async with connection.transaction():
        await connection.fetch(PUBLISH, "t", '"kept"', None, "1")
        savepoint = connection.transaction()
        await savepoint.start()
        await connection.fetch(PUBLISH, "t", '"taken back"', None, "2")
        await savepoint.rollback()
        await connection.fetch(PUBLISH, "t", '"kept too"', None, "2")
    assert contents(await read(log, start)) == ["kept", "kept too"]


async def test_a_transactions_events_appear_at_its_commit(postgres_store: PostgresStore, application: Connect) -> None:
    log, connection = postgres_store.open(), await application()
    start = await log.head((ALL,))
    async with tailing(log, start) as (received, _):
        async with connection.transaction():
            for number in range(3):
                await connection.fetch(PUBLISH, "t", str(number), None, None)
            assert (await head(log)).offset == 0
            assert received.data == []
        await received.has(2)
    assert received.data == [0, 1, 2]


async def test_eight_slow_writers_lose_and_reorder_nothing(postgres_store: PostgresStore, application: Connect) -> None:
    log = postgres_store.open()
    committed: list[str] = []

    async def write(writer: int) -> None:
        rng = random.Random(writer)
        connection = await application()
        for number in range(25):
            transaction = connection.transaction()
            await transaction.start()
            names = [f"{writer}-{number}-{part}" for part in range(rng.randint(1, 3))]
            for name in names:
                await connection.fetch(PUBLISH, "t", json.dumps(name), None, name)
                await asyncio.sleep(rng.random() * 0.004)
            if rng.random() < 0.2:
                await transaction.rollback()
            else:
                committed.extend(names)  # before the commit: no other transaction gets an offset meanwhile
                await transaction.commit()

    async with tailing(log, await log.head((ALL,))) as (received, _):
        async with asyncio.TaskGroup() as tasks:
            for writer in range(8):
                tasks.create_task(write(writer))
        await publish(log, "end")
        await received.has("end")
    assert received.data == [*committed, "end"]
    assert [item.position.offset for item in received.items if item.position] == list(range(1, len(received.data) + 1))


async def test_opposite_partition_orders_do_not_deadlock(
    postgres_store: PostgresStore, application: Connect, postgres_server: PostgresServer
) -> None:
    log = postgres_store.open(Partitions(frozenset({"a", "b"})))
    await publish(log, "sets the scheme of realtime_publish")
    start = await log.head(("a", "b"))
    one, other = await application(), await application()
    first, second = one.transaction(), other.transaction()
    await first.start()
    await second.start()

    await one.fetch(PUBLISH, "a", '"one"', None, None)
    going = asyncio.create_task(other.fetch(PUBLISH, "b", '"other"', None, None))

    async def other_waits_or_is_done() -> bool:
        return going.done() or bool(await asyncio.to_thread(postgres_server.backends, WAITS))

    await eventually(other_waits_or_is_done)
    await one.fetch(PUBLISH, "b", '"one"', None, None)
    await first.commit()
    await going
    await other.fetch(PUBLISH, "a", '"other"', None, None)
    await second.commit()
    assert contents(await read(log, start)) == ["one", "one", "other", "other"]


async def test_an_endless_transaction_fails_other_publishers(
    postgres_store: PostgresStore, application: Connect, postgres_server: PostgresServer
) -> None:
    """The error names the reason, and nothing was accepted."""
    log, connection = postgres_store.open(), await application()
    limit = "alter function rt.append_scoped set lock_timeout = '{}'; select 1"
    postgres_server.ask(limit.format("50ms"))
    try:
        async with connection.transaction():
            await connection.fetch(PUBLISH, "t", "1", None, None)
            with pytest.raises(TransportUnavailable, match="A transaction of the application has published"):
                await publish(log, "refused")
        await publish(log, "accepted")
    finally:
        postgres_server.ask(limit.format("4s"))
    assert (await head(log)).offset == 2


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_an_old_snapshot_conflicts_instead_of_reusing_offsets(
    postgres_store: PostgresStore, application: Connect, isolation: str
) -> None:
    log, connection = postgres_store.open(), await application()
    await publish(log, 1)
    transaction = connection.transaction(isolation=isolation)
    await transaction.start()
    await connection.fetch("select count(*) from rt.records")
    await publish(log, 2)
    with pytest.raises(asyncpg.SerializationError):
        await connection.fetch(PUBLISH, "t", "3", None, None)
    await transaction.rollback()
    (receipt,) = await publish(log, 4)
    assert place(receipt).offset == 3


async def test_one_id_in_two_transactions_commits_once(
    postgres_store: PostgresStore, application: Connect, postgres_server: PostgresServer
) -> None:
    first, second = await _with_one_id(postgres_store, application, postgres_server, commit=True)
    assert (first["duplicate"], second["duplicate"]) == (False, True)
    assert tuple(first)[:6] == tuple(second)[:6]
    log = postgres_store.open()
    assert contents(await read(log, at(start_of(await head(log))))) == ["first"]


async def test_a_rolled_back_id_is_appended_by_the_second(
    postgres_store: PostgresStore, application: Connect, postgres_server: PostgresServer
) -> None:
    first, second = await _with_one_id(postgres_store, application, postgres_server, commit=False)
    assert (first["duplicate"], second["duplicate"]) == (False, False)
    assert first["offset"] == second["offset"] == 1
    log = postgres_store.open()
    assert contents(await read(log, at(start_of(await head(log))))) == ["second"]


async def _with_one_id(
    postgres_store: PostgresStore, application: Connect, server: PostgresServer, *, commit: bool
) -> tuple[asyncpg.Record, asyncpg.Record]:
    await postgres_store.open().head((ALL,))
    one, other = await application(), await application()
    transaction = one.transaction()
    await transaction.start()
    first = await one.fetchrow(PUBLISH, "t", '"first"', None, "same")
    going = asyncio.create_task(other.fetchrow(PUBLISH, "t", '"second"', None, "same"))
    await eventually(lambda: asyncio.to_thread(server.backends, WAITS))
    await (transaction.commit() if commit else transaction.rollback())
    return first, await going


async def test_one_id_over_http_and_sql_is_one_event(postgres_store: PostgresStore, application: Connect) -> None:
    log, connection = postgres_store.open(), await application()
    (receipt,) = await log.publish([event("http", id="same")])
    row = await connection.fetchrow(PUBLISH, "t", '"sql"', None, "same")
    assert tuple(row) == ("same", ALL, *place(receipt), True)
    (again,) = await log.publish([event("http", id="same")])
    assert again.duplicate


async def test_the_text_of_the_data_is_kept_to_the_character(
    postgres_store: PostgresStore, application: Connect
) -> None:
    texts = [
        '{"price": 1.0, "e": 1e5, "n": 123456789012345678901234567890, "price": 2}',
        '[1 ,\r\n\t2, "\\u0000\\ud83d\\uDE00\\u00e9é😀\u2028", "\\\\ud800"]',
        ' \n {"b":1,"a":2} ',
        "null",
    ]
    log, connection = postgres_store.open(), await application()
    start = await log.head((ALL,))
    for text in texts:
        await connection.fetch(PUBLISH, "t", text, None, None)
    items = await read(log, start)
    assert [item.event.data.decode() for item in items if isinstance(item, Record)] == [t.strip() for t in texts]


async def test_brackets_in_texts_do_not_count_as_depth(postgres_store: PostgresStore, application: Connect) -> None:
    wide = json.dumps([[["]]}\\", "[" * 300, {"a": []}]] * 200, 0])
    deep = "[" * 100 + "]" * 100
    log, connection = postgres_store.open(), await application()
    start = await log.head((ALL,))
    for text in (wide, deep):
        await connection.fetch(PUBLISH, "t", text, None, None)
    assert contents(await read(log, start)) == [json.loads(wide), json.loads(deep)]


@pytest.mark.parametrize("way", ["http", "sql"])
async def test_a_payload_larger_than_a_notification_arrives(
    postgres_store: PostgresStore, application: Connect, way: str
) -> None:
    data = "".join(random.Random(5).choices('abcdefghijklmnopqrstuvwxyzäöü\\"\n', k=200 * 1024))
    log = postgres_store.open()
    async with tailing(log, await log.head((ALL,))) as (received, _):
        if way == "sql":
            await (await application()).fetch(PUBLISH, "t", json.dumps(data, ensure_ascii=False), None, None)
        else:
            await publish(log, data)
        await received.has(data)


async def test_a_sql_event_above_the_http_limit_is_refused(
    application: Connect,
) -> None:
    """The transaction continues after a savepoint."""
    connection = await application()
    with pytest.raises(asyncpg.InvalidParameterValueError, match="256 KiB"):
        await connection.fetch(PUBLISH, "t", json.dumps("x" * 256 * 1024), None, None)
    (row,) = await connection.fetch(PUBLISH, "t", json.dumps("x" * 255 * 1024), None, None)
    assert row["offset"] == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("", "1", None, None), "type must be 1 to 128"),
        (("a b", "1", None, None), "type must be 1 to 128"),
        (("t\n", "1", None, None), "type must be 1 to 128"),
        (("x" * 129, "1", None, None), "type must be 1 to 128"),
        (("realtime.gap", "1", None, None), "reserved"),
        (("error", "1", None, None), 'type must not be "error"'),
        (("open", "1", None, None), 'type must not be "open"'),
        ((None, "1", None, None), "type must be 1 to 128"),
        (("t", None, None, None), "data must be JSON"),
        (("t", '"\\ud800"', None, None), "half of a surrogate pair"),
        (("t", '{"\\\\\\uDC00\\ud83d": 1}', None, None), "half of a surrogate pair"),
        (("t", "[" * 101 + "]" * 101, None, None), "nested more than 100 levels"),
        (("t", '{"a":' * 101 + '"]}"' + "}" * 101, None, None), "nested more than 100 levels"),
        (("t", "1", None, ""), "id must be 1 to 256"),
        (("t", "1", None, "a b"), "id must be 1 to 256"),
        (("t", "1", None, "é"), "id must be 1 to 256"),
        (("t", "1", None, "x" * 257), "id must be 1 to 256"),
        (("t", "1", [], None), "leave it out"),
        (("t", "1", [f"u{n}" for n in range(1001)], None), "at most 1,000"),
        (("t", "1", ["u", None], None), "each of user_ids"),
        (("t", "1", [""], None), "each of user_ids"),
        (("t", "1", ["x" * 257], None), "each of user_ids"),
        (("t", "1", ["a\nb"], None), "each of user_ids"),
        (("t", "1", ["a\u2028b"], None), "each of user_ids"),
        (("t", "1", ["a\x85b"], None), "each of user_ids"),
    ],
)
async def test_sql_refuses_what_http_refuses(application: Connect, arguments: tuple[object, ...], problem: str) -> None:
    connection = await application()
    with pytest.raises(asyncpg.InvalidParameterValueError, match=re.escape(problem)):
        await connection.fetch(PUBLISH, *arguments)
    assert await connection.fetchval("select count(*) from rt.records") == 0


async def test_sql_routes_to_the_partitions_that_subscribers_read(
    postgres_store: PostgresStore, application: Connect
) -> None:
    scheme = Partitions(frozenset({"a", "task-updated"}), 5)
    await publish(postgres_store.open(scheme), "sets the scheme of realtime_publish")
    connection, rng = await application(), random.Random(3)
    for number in range(120):
        users = [
            "".join(rng.choices("abcXYZ019 @.-äé\u6f22😀", k=rng.randint(1, 40)))
            for _ in range(rng.choice([0, 1, 1, 3, 30]))
        ]
        sent = event(number, type=rng.choice(["a", "b", "task-updated"]), users=(users * 2) or None)
        unique = event(number, id=sent.id, type=sent.type, users=list(dict.fromkeys(users)) or None)
        rows = await connection.fetch(PUBLISH, sent.type, sent.data.decode(), sent.user_ids, sent.id)
        stored = await connection.fetch("select partition, event from rt.records where event like $1", f'%"{sent.id}"%')
        assert [row["partition"] for row in rows] == [name for name, _ in scheme.route(unique)]
        assert {row["partition"]: json.loads(row["event"]).get("userIds") for row in stored} == {
            name: None if part.user_ids is None else list(part.user_ids) for name, part in scheme.route(unique)
        }


async def test_generated_ids_sort_by_time_and_are_unique(application: Connect) -> None:
    connection = await application()
    ids = []
    for _ in range(20):
        ids.append((await connection.fetchrow(PUBLISH, "t", "1", None, None))["id"])
        await asyncio.sleep(0.002)  # so that each id has its own millisecond
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", id) for id in ids)


async def test_usage_of_the_schema_allows_publishing_only(
    application: Connect, postgres_url: str, postgres_store: PostgresStore
) -> None:
    connection = await application()
    await connection.execute(
        "drop role if exists stranger; create role stranger login;"
        "drop role if exists publisher; create role publisher login; grant usage on schema rt to publisher"
    )
    refused = asyncpg.InsufficientPrivilegeError
    stranger = await asyncpg.connect(postgres_url, user="stranger")
    with pytest.raises(refused):
        await stranger.fetch(PUBLISH, "t", "1", None, None)
    await stranger.close()
    publisher = await asyncpg.connect(postgres_url, user="publisher")
    # A function of the same name that comes first in its search path must not be called.
    await publisher.execute("create temporary table settings (age text); set search_path = pg_temp, rt")
    assert (await publisher.fetchrow("select * from rt.realtime_publish('t', '1')"))["offset"] == 1
    for statement in (
        "select * from rt.records",
        "delete from rt.partitions",
        "select rt.append('{all}', '{1}', '{k}', '{1}', 0, 0, 0)",
        "select rt.configure('{}', 0, 0, 0, 0)",
    ):
        with pytest.raises(refused):
            await publisher.execute(statement)
    await publisher.close()
    await connection.execute("revoke usage on schema rt from publisher; drop role publisher; drop role stranger")


async def test_concurrent_publishes_share_a_transaction(postgres_store: PostgresStore, application: Connect) -> None:
    log, connection = postgres_store.open(), await application()
    await publish(log, "connects")
    counted = "select count(distinct xmin::text) from rt.records"
    receipts = await asyncio.gather(*(log.publish([event(n), event(n)]) for n in range(100)))
    assert await connection.fetchval(counted) < 10
    for one, other in receipts:
        assert place(other).offset == place(one).offset + 1
