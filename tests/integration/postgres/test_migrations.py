"""Migrations: each is applied once, by the first process, and a missing schema is a clear error."""

import asyncio
import subprocess
import sys
from collections.abc import Mapping

import asyncpg
import pytest
from tidewire.errors import SettingsError, TransportUnavailable
from tidewire.transports.postgres import migrations
from tidewire.transports.postgres.log import SCHEMA_VERSION, PostgresLog
from tidewire.transports.postgres.migrations import Migration, apply, check_database, pending

from tests.contract.acts import offsets, publish
from tests.support.postgres_server import PostgresServer
from tests.support.processes import ROOT, inherited

ALL_NAMES = [migration.name for migration in migrations.migrations()]


def test_the_code_requires_the_last_migration() -> None:
    assert [migration.number for migration in migrations.migrations()] == list(range(1, SCHEMA_VERSION + 1))


async def test_a_second_run_changes_nothing_and_loses_nothing(postgres_database: str) -> None:
    assert await pending(postgres_database) == ALL_NAMES
    assert await apply(postgres_database) == ALL_NAMES
    log = PostgresLog(postgres_database)
    await publish(log, 1, 2)
    assert await apply(postgres_database) == []
    assert await pending(postgres_database) == []
    assert offsets(await publish(log, 3)) == [3]
    await log.aclose()


async def test_eight_runs_at_once_apply_each_file_once(postgres_database: str) -> None:
    done = await asyncio.gather(*(apply(postgres_database) for _ in range(8)))
    assert sorted(name for names in done for name in names) == ALL_NAMES


async def test_a_failed_migration_is_rolled_back_alone(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier files stay applied."""
    bad = Migration(SCHEMA_VERSION + 1, "bad", "create table half (id integer); select 1/0")
    monkeypatch.setattr(migrations, "migrations", lambda: [*GOOD, bad])
    with pytest.raises(SettingsError, match="the server refuses: division by zero"):
        await apply(postgres_database)
    assert await pending(postgres_database) == ["bad"]
    connection = await asyncpg.connect(postgres_database)
    assert await connection.fetchval("select count(*) from pg_class where relname = 'half'") == 0
    await connection.close()


GOOD = migrations.migrations()


async def test_prefixes_are_separate_schemas(postgres_database: str) -> None:
    prefixes = ("rt", "My-App.prod", "x" * 50)
    logs = []
    for prefix in prefixes:
        assert await apply(postgres_database, prefix) == ALL_NAMES
        logs.append(PostgresLog(postgres_database, prefix))
    for count, log in enumerate(logs, 1):
        assert offsets(await publish(log, *range(count))) == list(range(1, count + 1))
    connection = await asyncpg.connect(postgres_database)
    assert (await connection.fetchrow("select * from realtime_publish('t', '1')"))["offset"] == 2
    assert (await connection.fetchrow("""select * from "My-App.prod".realtime_publish('t', '1')"""))["offset"] == 3
    await connection.close()
    for log in logs:
        await log.aclose()


async def test_without_the_schema_each_call_names_the_command(postgres_database: str) -> None:
    log = PostgresLog(postgres_database)
    for attempt in (publish(log, 1), log.head(("all",)), log.ping()):
        with pytest.raises(TransportUnavailable, match="run: python -m tidewire migrate"):
            await attempt
    await apply(postgres_database)
    await publish(log, 1)  # the same process goes on
    await log.aclose()


async def test_a_schema_older_than_the_code_is_not_published_to(postgres_database: str) -> None:
    await apply(postgres_database)
    connection = await asyncpg.connect(postgres_database)
    await connection.execute("delete from rt.migrations where number > 1")
    await connection.close()
    log = PostgresLog(postgres_database)
    with pytest.raises(TransportUnavailable, match="older than this code needs; run: python -m tidewire migrate"):
        await publish(log, 1)
    await log.aclose()
    with pytest.raises(SettingsError, match="DATABASE_URL: this database lacks 002_publish"):
        await check_database(postgres_database)


async def test_a_database_in_another_encoding_is_refused_at_once(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    postgres_server.ask("create database latin encoding 'LATIN1' template template0")
    try:
        with pytest.raises(SettingsError, match="needs a database in UTF8, not LATIN1"):
            await apply(postgres_server.url.replace("/postgres", "/latin"))
    finally:
        postgres_server.ask("drop database latin with (force)")


async def test_a_role_without_create_gets_the_servers_error(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    postgres_server.ask("create role weak login")
    try:
        with pytest.raises(SettingsError, match="the server refuses: permission denied for database"):
            await apply(postgres_database.replace("tidewire@", "weak:hunter2@"))
    finally:
        postgres_server.ask("drop role weak")


def run(command: list[str], settings: Mapping[str, str]) -> tuple[int, str]:
    """Run a program of the product; return its exit code and output."""
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**inherited(), **settings},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize("command", [["tidewire", "migrate"], ["tidewire.transports.postgres.migrations"]])
def test_both_commands_apply_and_then_change_nothing(postgres_database: str, command: list[str]) -> None:
    settings = {"DATABASE_URL": postgres_database}
    assert run(command, settings) == (0, "".join(f"applied {name}\n" for name in ALL_NAMES))
    assert run(command, settings) == (0, "nothing to do: the schema is up to date\n")


def test_a_failed_command_prints_one_line_and_no_password() -> None:
    code, output = run(["tidewire", "migrate"], {"DATABASE_URL": "postgres://u:hunter2@127.0.0.1:1/d"})
    assert (code, output) == (2, "tidewire: Postgres cannot be used now (ConnectionRefusedError)\n")
    code, output = run(["tidewire", "migrate"], {})
    assert code == 2
    assert output.startswith("tidewire: DATABASE_URL: is not set")


@pytest.mark.parametrize(
    ("query", "problem"),
    [("", "this database lacks 001_log"), ("?pgbouncer=true", "behind which a LISTEN ends")],
)
def test_no_start_if_no_stream_could_be_served(postgres_database: str, query: str, problem: str) -> None:
    settings = {"REALTIME_TRANSPORT": "postgres", "REALTIME_AUTH": "none", "PORT": "0"}
    code, output = run(["functions.local"], {**settings, "DATABASE_URL": postgres_database + query})
    assert code == 2
    assert output.startswith("tidewire: DATABASE_URL: ")
    assert problem in output
    assert len(output.splitlines()) == 1
