"""Roles with exactly the grants of docs/transports.md can do their work and no more, whatever their search_path is."""

import html
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from tidewire.errors import SettingsError, TransportUnavailable
from tidewire.model.partitions import ALL, Partitions
from tidewire.transports.base import Retention
from tidewire.transports.postgres.log import PostgresLog
from tidewire.transports.postgres.migrations import apply, check_database, migrations

from tests.contract.acts import publish, tailing
from tests.support.postgres_server import PostgresServer
from tests.support.processes import ROOT

REFUSED = asyncpg.InsufficientPrivilegeError
PROCESS, APPLICATION, MIGRATOR = "a Tidewire process", "an application", "`tidewire migrate`"
PREFIXES = ["rt", "My-App.prod"]
SHORT = Retention(age=0.05, idempotency_window=0.05)


def documented(role: str) -> list[str]:
    """Return the grants in the table row of this kind of role."""
    text = (ROOT / "docs" / "transports.md").read_text()
    (cell,) = re.findall(rf"^\| {role}[^|]*\| (`grant [^|]+) \|$", text, re.MULTILINE)
    found = [grant for part in re.findall(r"`(grant [^`]+)`", html.unescape(cell)) for grant in part.split("; ")]
    assert found
    return found


class Admin:
    """The owner of a database with our schema; makes roles in it."""

    def __init__(self, url: str, connection: Any, prefix: str) -> None:
        self.url = url
        self.prefix = prefix
        self.connection = connection
        self.database = url.rpartition("/")[2]

    async def role(self, name: str, grants: Sequence[str]) -> str:
        """Create a role with these grants, and return its URL."""
        await self.connection.execute(f"drop role if exists {name}")
        await self.connection.execute(f"create role {name} login")
        for grant in grants:
            await self.connection.execute(self.adapt(grant))
        return self.url.replace("tidewire@", f"{name}@")

    def adapt(self, sql: str) -> str:
        """Return the SQL for this schema and database."""
        quoted = f'"{self.prefix}"'
        sql = re.sub(r"\brt\b", quoted, sql)
        return sql.replace("on database app", f'on database "{self.database}"')


@pytest.fixture(params=PREFIXES)
async def admin(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, postgres_database: str
) -> AsyncIterator[Admin]:
    await apply(postgres_database, request.param)
    connection = await asyncpg.connect(postgres_database)
    try:
        yield Admin(postgres_database, connection, request.param)
    finally:
        roles = await connection.fetch(
            "select rolname from pg_roles where rolname in ('app', 'tidewire_p', 'migrator')"
        )
        for (role,) in roles:
            await connection.execute(f"drop owned by {role} cascade; drop role {role}")
        await connection.close()


@asynccontextmanager
async def opened(log: PostgresLog) -> AsyncIterator[PostgresLog]:
    try:
        yield log
    finally:
        await log.aclose()


def process_grants() -> list[str]:
    return [grant.replace("to tidewire", "to tidewire_p") for grant in documented(PROCESS)]


async def work(url: str, prefix: str) -> None:
    """Do what a process with streams and publishers does, retention and a resume included."""
    await check_database(url, prefix)
    scheme = Partitions(frozenset({"a"}), 2)
    async with opened(PostgresLog(url, prefix, scheme, SHORT)) as log:
        await log.ping()
        start = await log.head((ALL, "a"))
        async with tailing(log, start) as (received, _):
            await publish(log, 1, 2)
            await received.has(2)
        assert [item async for item in log.replay(await log.seek((ALL,), None), await log.head((ALL,)))]
        await log.sweep(log.fetch)


async def test_a_process_needs_exactly_these_grants(admin: Admin) -> None:
    url = await admin.role("tidewire_p", process_grants())
    await work(url, admin.prefix)


@pytest.mark.parametrize(
    ("privilege", "table"),
    [
        ("select", "migrations"),
        ("select", "settings"),
        ("update", "settings"),
        ("insert", "partitions"),
        ("update", "partitions"),
        ("insert", "records"),
        ("delete", "records"),
        ("update", "ids"),
        ("delete", "ids"),
    ],
)
@pytest.mark.parametrize("admin", ["rt"], indirect=True)
async def test_without_a_grant_the_error_names_the_privilege(admin: Admin, privilege: str, table: str) -> None:
    url = await admin.role("tidewire_p", process_grants())
    await admin.connection.execute(f"revoke {privilege} on rt.{table} from tidewire_p")
    with pytest.raises((TransportUnavailable, SettingsError), match=r"lacks a privilege|permission denied for table"):
        await work(url, admin.prefix)


async def test_an_application_publishes_and_nothing_else(admin: Admin) -> None:
    url = await admin.role("app", documented(APPLICATION))
    app = await asyncpg.connect(url)
    publishing = admin.adapt("select * from rt.realtime_publish('t', '1', array[7])")
    assert (await app.fetchrow(publishing))["offset"] == 1
    for statement in (
        "select * from rt.records",
        "select * from rt.settings",
        "delete from rt.partitions",
        "select rt.append_scoped('{all}', '{1}', '{k}', '{k}', '{1}', '{\"\"}', '', 0, 0, 0)",
        "select rt.configure('{}', 0, 0, 0, 0)",
        "select rt.sweep(1, 0, 1)",
        "create function rt.now_ms(text) returns bigint language sql as 'select 1'",
    ):
        with pytest.raises(REFUSED):
            await app.execute(admin.adapt(statement))
    await app.close()


@pytest.mark.parametrize("path", ["''", "evil", "evil, pg_catalog", "pg_temp, evil"])
async def test_a_hostile_search_path_changes_nothing(admin: Admin, path: str) -> None:
    """The role hides the schema, and shadows its tables, functions and operators by its own."""
    url = await admin.role("app", documented(APPLICATION))
    await admin.connection.execute("create schema evil authorization app")
    app = await asyncpg.connect(url)
    await app.execute(
        """
        create function evil.now_ms() returns bigint language plpgsql as $$begin raise 'hijacked'; end$$;
        create function evil.route(text, text, text[], text[], integer) returns text language plpgsql
          as $$begin raise 'hijacked'; end$$;
        create function evil.refuse(text, text) returns boolean language plpgsql as $$begin raise 'hijacked'; end$$;
        create operator evil.= (leftarg = text, rightarg = text, function = evil.refuse);
        create function evil.max(integer) returns integer language plpgsql as $$begin raise 'hijacked'; end$$;
        create table evil.partitions (name text);
        create table evil.settings (age text);
        create temporary table settings (age text);
        create temporary table ids (partition text);
        """
    )
    await app.execute(f"set search_path = {path}")
    for number, data in enumerate(("'1'", "'1'::jsonb", "'1'::json"), 1):
        call = admin.adapt(f"select * from rt.realtime_publish('t'::text, {data}, array[7])")  # noqa: S608
        assert (await app.fetchrow(call))["offset"] == number
    await app.close()


async def test_a_process_works_with_any_search_path_of_its_role(admin: Admin) -> None:
    url = await admin.role("tidewire_p", process_grants())
    await admin.connection.execute("create schema evil; create table evil.partitions (name text)")
    await admin.connection.execute("grant usage on schema evil to tidewire_p")
    await admin.connection.execute("alter role tidewire_p set search_path = evil")
    await work(url, admin.prefix)
    await work(f"{url}?search_path=", admin.prefix)


@pytest.mark.parametrize("admin", ["rt"], indirect=True)
async def test_a_role_that_may_only_migrate(admin: Admin, postgres_server: PostgresServer) -> None:
    """Without rights in `public`, the function is called with the schema's name."""
    await admin.connection.execute("drop schema rt cascade; drop function if exists public.realtime_publish")
    database_only, public = documented(MIGRATOR)
    url = await admin.role("migrator", [database_only])
    await apply(url)
    connection = await asyncpg.connect(url)
    assert (await connection.fetchrow("select * from rt.realtime_publish('t', '1')"))["offset"] == 1
    with pytest.raises(asyncpg.UndefinedFunctionError):
        await connection.fetch("select realtime_publish('t', '1')")
    await connection.execute("drop schema rt cascade")
    await admin.connection.execute(public)
    assert await apply(url) == [one.name for one in migrations()]
    assert (await connection.fetchrow("select * from realtime_publish('t', '1')"))["offset"] == 1
    await connection.close()
