"""The schema of the log in Postgres: numbered SQL files, each applied once.

`tidewire migrate` applies those that the database of DATABASE_URL lacks. It is safe to run at any time, twice, and by
several processes at once. Once released, a file keeps its number and its statements.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tidewire.errors import SettingsError, TransportUnavailable
from tidewire.settings.endpoints import database_urls, schema_name
from tidewire.settings.postgres_url import is_pooled
from tidewire.transports.postgres.connection import POOLED_HOST, session
from tidewire.transports.postgres.errors import MIGRATE

log = logging.getLogger(__name__)

_FILES = Path(__file__).with_name("sql")
_LOCK = "select pg_advisory_xact_lock(1953064037, 0)"  # (1953064037, n) are our locks; 0 is not a log's
_TABLE = """
    set local search_path = "{0}", pg_temp;
    create table if not exists migrations (
      number integer primary key, name text not null, applied timestamptz not null default now()
    )"""


class Migration(NamedTuple):
    """One file of `sql/`."""

    number: int
    name: str
    sql: str


def migrations() -> list[Migration]:
    """Return all migrations, in order."""
    return [Migration(int(path.stem[:3]), path.stem, path.read_text()) for path in sorted(_FILES.glob("*.sql"))]


async def pending(url: str, prefix: str = "rt") -> list[str]:
    """Return the names of the migrations that the database lacks.

    Raises TransportUnavailable, and SettingsError if the server refuses.
    """
    async with session(url) as connection:
        applied = await _applied(connection, prefix)
    return [migration.name for migration in migrations() if migration.number not in applied]


async def apply(url: str, prefix: str = "rt") -> list[str]:
    """Apply the missing migrations, each in a transaction; return their names. Raises like `pending`."""
    done = []
    async with session(url) as connection:
        for migration in migrations():
            async with connection.transaction(isolation="read_committed"):
                await connection.execute(_LOCK)  # until the commit: a concurrent run waits, and then finds it applied
                if migration.number in await _applied(connection, prefix):
                    continue
                if not await connection.fetchval("select count(*) from pg_namespace where nspname = $1", prefix):
                    await connection.execute(f'create schema "{prefix}"')
                await connection.execute(_TABLE.format(prefix))
                await connection.execute(migration.sql)
                await connection.execute("insert into migrations values ($1, $2)", migration.number, migration.name)
            done.append(migration.name)
    return done


async def check_database(url: str, prefix: str = "rt") -> None:
    """Raise SettingsError if no stream could be served: a pooler's host, or a schema that is missing or old.

    A database that cannot be reached is only logged: it may be back a moment later.
    """
    if is_pooled(url):
        raise SettingsError("DATABASE_URL", POOLED_HOST)
    try:
        missing = await pending(url, prefix)
    except TransportUnavailable as error:
        log.warning("cannot check the database's schema: %s", error.detail)
        return
    if missing:
        raise SettingsError("DATABASE_URL", f"this database lacks {', '.join(missing)}; {MIGRATE}")


async def apply_to(environ: Mapping[str, str]) -> list[str]:
    """Apply the migrations that the environment's database lacks; returns and raises like `apply`."""
    url, _ = database_urls(environ)
    return await apply(url, schema_name(environ))


def report(done: list[str]) -> str:
    """Return the applied migrations as text for a terminal."""
    return "\n".join(f"applied {name}" for name in done) or "nothing to do: the schema is up to date"


def main() -> int:
    """Apply, and print which were applied."""
    try:
        print(report(asyncio.run(apply_to(os.environ))))
    except (SettingsError, TransportUnavailable) as error:
        print(f"tidewire: {error}", file=sys.stderr)
        return 2
    return 0


async def _applied(connection: Any, prefix: str) -> set[int]:
    table = f'"{prefix}".migrations'
    if await connection.fetchval("select to_regclass($1)", table) is None:
        return set()
    return {number for (number,) in await connection.fetch(f"select number from {table}")}  # noqa: S608 — schema_name


if __name__ == "__main__":
    sys.exit(main())
