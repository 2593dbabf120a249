"""realtime_publish as applications, triggers and ORMs call it; and the migration that added these forms, under load."""

import asyncio
import itertools
import json
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
from tidewire.model.record import Record
from tidewire.transports.postgres import migrations
from tidewire.transports.postgres.log import PostgresLog
from tidewire.transports.postgres.migrations import apply

from tests.contract.acts import publish, tailing
from tests.contract.stores import PostgresStore
from tests.integration.postgres.conftest import Connect

UUID = "0197c0de-0000-7000-8000-000000000007"
TYPES = ["'t'", "'t'::text", "'t'::varchar", "$T"]
JSON, JSONB = ["""'{"a": 1}'""", """'{"a": 1}'::json""", "$D"], ["""'{"a": 1}'::jsonb"""]
ARRAYS: dict[str | None, Sequence[str] | None] = {
    None: None,
    "null": None,
    "null::integer[]": None,
    "user_ids => null": None,
    "'{u1,u2}'": ("u1", "u2"),
    "$U": ("u1",),
    "array['u1']": ("u1",),
    "array['u1']::varchar[]": ("u1",),
    "array[7, 8]": ("7", "8"),
    "user_ids => array[7]": ("7",),
    "array[9007199254740993]::bigint[]": ("9007199254740993",),
    f"array['{UUID}']::uuid[]": (UUID,),
}
SINGLE: dict[str | None, Sequence[str] | None] = {
    "7": ("7",),
    "7::bigint": ("7",),
    f"'{UUID}'::uuid": (UUID,),
    "'u1'::text": ("u1",),
    "'u1'::varchar": ("u1",),
    "user_id => 7": ("7",),
    "user_id => 'u1'": ("u1",),
}
IDS = [None, "'id-{}'", "id => 'id-{}'", "null"]
PARAMETERS: dict[str, object] = {"$T": "t", "$D": '{"a": 1}', "$U": ["u1"]}
Call = tuple[str, str, str | None, str | None]


def calls(data: Sequence[str], users: dict[str | None, Any]) -> list[Call]:
    """Return every combination that SQL allows: a named argument is followed by named ones, and an id by users."""
    return [
        (type, value, user, id)
        for type, value, user, id in itertools.product(TYPES, data, users, IDS)
        if id is None or "=>" in id or (user is not None and "=>" not in user)
    ]


async def call(connection: Any, arguments: Call, number: int) -> Any:
    """Run one call with its parameters; return the receipt."""
    values, written = [], []
    for argument in arguments:
        if argument in PARAMETERS:
            values.append(PARAMETERS[argument])
            written.append(f"${len(values)}")
        elif argument is not None:
            written.append(argument.format(number) if "id-" in argument else argument)
    return await connection.fetchrow(f"select * from realtime_publish({', '.join(written)})", *values)  # noqa: S608


@pytest.mark.parametrize(
    ("data", "users"), [(JSON, ARRAYS | SINGLE), (JSONB, ARRAYS)], ids=["json-or-untyped", "jsonb"]
)
async def test_each_form_of_a_call_is_unambiguous(
    application: Connect, data: Sequence[str], users: dict[str | None, Any]
) -> None:
    """An application that does nothing unusual must not get the error `function is not unique`."""
    connection = await application()
    for number, arguments in enumerate(calls(data, users)):
        receipt = await call(connection, arguments, number)
        stored = json.loads(
            await connection.fetchval(
                'select event from rt.records where partition = $1 and "offset" = $2',
                receipt["partition"],
                receipt["offset"],
            )
        )
        wanted = users[arguments[2]]
        assert (stored["type"], stored["data"]) == ("t", {"a": 1}), arguments
        assert stored.get("userIds") == (None if wanted is None else list(wanted)), arguments
        named = arguments[3] is not None and "id-" in arguments[3]
        assert (receipt["id"] == f"id-{number}") == named, arguments


@pytest.mark.parametrize("schema", ["", "rt."])
async def test_untyped_data_is_still_inferred_as_json(application: Connect, schema: str) -> None:
    """Drivers that ask for the types of parameters encode an object for json, and would refuse one for text."""
    connection = await application()
    statement = await connection.prepare(f"select * from {schema}realtime_publish($1, $2, $3, $4)")  # noqa: S608
    assert [parameter.name for parameter in statement.get_parameters()] == ["text", "json", "text[]", "text"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("'t', null", "data must be JSON, not NULL"),
        ("null, null", "type must be 1 to 128"),
        ("'t', null::jsonb", "data must be JSON, not NULL"),
        ("'t', '1', null::integer", "each of user_ids must be"),
        ("'t', '1', array[7, null]", "each of user_ids must be"),
        ("'t', '1', array[]::integer[]", "leave it out"),
        ("'a b', '1'::jsonb", "type must be 1 to 128"),
    ],
)
async def test_a_wrong_argument_is_named(application: Connect, arguments: str, problem: str) -> None:
    """A single user id that is NULL must not reach everyone: in a trigger it is a column without a value."""
    connection = await application()
    with pytest.raises(asyncpg.InvalidParameterValueError, match=problem):
        await connection.fetch(f"select realtime_publish({arguments})")
    assert await connection.fetchval("select count(*) from rt.records") == 0


async def test_jsonb_keeps_its_numbers(postgres_store: PostgresStore, application: Connect) -> None:
    log, connection = postgres_store.open(), await application()
    async with tailing(log, await log.head(("all",))) as (received, _):
        await connection.execute("""select realtime_publish('t', '{"n": 12345678901234567890.10}'::jsonb)""")
        await received.until(lambda: bool(received.items))
    (record,) = received.items
    assert isinstance(record, Record)
    assert record.event.data == b'{"n": 12345678901234567890.10}'


async def test_the_migration_runs_under_load(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rolling update: prepared statements, a view of the application, several commands, an old process with streams."""
    monkeypatch.setattr(migrations, "migrations", lambda: EARLIER)
    await apply(postgres_database)
    log = PostgresLog(postgres_database)
    monkeypatch.setattr("tidewire.transports.postgres.log.SCHEMA_VERSION", len(EARLIER))  # the code of the old release
    connections = [await asyncpg.connect(postgres_database) for _ in range(3)]
    await connections[0].execute("create view latest as select * from realtime_publish('viewed', '1')")
    statements = [await one.prepare("select * from realtime_publish($1, $2, $3, $4)") for one in connections]
    stop = asyncio.Event()

    async def keep_publishing(statement: Any, number: int) -> int:
        count = 0
        while not stop.is_set():
            await statement.fetchrow("t", f'"{number}-{count}"', ["u1"] if count % 2 else None, f"{number}-{count}")
            count += 1
        return count

    async with tailing(log, await log.head(("all",))) as (received, _):
        await publish(log, "before")
        publishing = [asyncio.create_task(keep_publishing(each, n)) for n, each in enumerate(statements)]
        await received.until(lambda: len(received.items) > 20)
        monkeypatch.setattr(migrations, "migrations", lambda: ALL)
        done = await asyncio.gather(*(apply(postgres_database) for _ in range(4)))
        assert sorted(name for names in done for name in names) == [one.name for one in ALL[len(EARLIER) :]]
        seen = len(received.items)
        await received.until(lambda: len(received.items) > seen + 20)
        stop.set()
        counts = await asyncio.gather(*publishing)
        await publish(log, "after")
        await connections[0].fetch("select * from latest")
        await connections[0].fetch("select realtime_publish('t', '2'::jsonb, array[7])")
        await received.until(lambda: len(received.items) == sum(counts) + 4)
    assert [item.position.offset for item in received.items if item.position] == list(range(1, sum(counts) + 5))
    for connection in connections:
        await connection.close()
    await log.aclose()


ALL = migrations.migrations()
EARLIER = ALL[:5]
