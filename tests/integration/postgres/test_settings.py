"""The address of the database: which host is used, and no text shows a secret."""

import asyncio
import contextlib
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tidewire.errors import SettingsError, TransportUnavailable
from tidewire.settings.config import Settings
from tidewire.settings.endpoints import MAX_SCHEMA_NAME, database_urls
from tidewire.settings.postgres_url import is_pooled, parse_address
from tidewire.transports.postgres.log import PostgresLog
from tidewire.wiring import make_transport

from tests.contract.acts import publish, tailing
from tests.support.processes import HOST
from tests.support.proxy import Refusing

BASE = {"REALTIME_TRANSPORT": "postgres", "REALTIME_AUTH": "none"}
DIRECT = "postgresql://u:hunter2@ep-a-1.neon.tech/d?sslmode=require"
POOLED = "postgresql://u:hunter2@ep-a-1-pooler.neon.tech/d?sslmode=require&channel_binding=require"
NETLIFY = {"NETLIFY_DATABASE_URL": POOLED, "NETLIFY_DATABASE_URL_UNPOOLED": DIRECT}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DATABASE_URL": "postgres://h/d"}, ("postgres://h/d", None)),
        ({"DATABASE_URL": " postgres://h/d ", **NETLIFY}, ("postgres://h/d", None)),
        (NETLIFY, (DIRECT, POOLED)),
        ({"NETLIFY_DATABASE_URL_UNPOOLED": DIRECT}, (DIRECT, None)),
        ({"NETLIFY_DATABASE_URL": POOLED, "DATABASE_URL": ""}, (POOLED, None)),
    ],
    ids=["own", "own-wins", "netlify", "netlify-direct", "netlify-pooled"],
)
def test_the_direct_host_is_preferred_to_the_poolers(
    variables: Mapping[str, str], expected: tuple[str, str | None]
) -> None:
    settings = Settings.from_env({**BASE, **variables})
    assert (settings.database_url, settings.database_pooled_url) == expected
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "DATABASE_URL"),
        ({"DATABASE_URL": "mysql://hunter2/d"}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgres://h:hunter2/d"}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgres://[hunter2/d"}, "DATABASE_URL"),
        ({**NETLIFY, "NETLIFY_DATABASE_URL": "https://hunter2"}, "NETLIFY_DATABASE_URL"),
        ({**NETLIFY, "NETLIFY_DATABASE_URL_UNPOOLED": "hunter2"}, "NETLIFY_DATABASE_URL_UNPOOLED"),
        ({"DATABASE_URL": "postgres://a:5432,b:hunter2/d"}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgres://a,b/d?port=1,2,3"}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgres://[::1/d"}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgres://h/d?sslmode=hunter2"}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgres://h/d?target_session_attrs=standby"}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgres://h/d?pool_size=hunter2"}, "DATABASE_URL"),
        ({**NETLIFY, "NETLIFY_DATABASE_URL": f"{POOLED}&sslmod=hunter2"}, "NETLIFY_DATABASE_URL"),
        ({"DATABASE_URL": DIRECT, "REALTIME_PREFIX": "x" * (MAX_SCHEMA_NAME + 1)}, "REALTIME_PREFIX"),
        ({"DATABASE_URL": DIRECT, "REALTIME_PREFIX": "public"}, "REALTIME_PREFIX"),
        ({"DATABASE_URL": DIRECT, "REALTIME_PREFIX": "pg_rt"}, "REALTIME_PREFIX"),
        ({"DATABASE_URL": DIRECT, "REALTIME_PREFIX": 'a"b'}, "REALTIME_PREFIX"),
    ],
)
def test_a_wrong_value_is_one_line_without_the_value(variables: Mapping[str, str], name: str) -> None:
    """The line names the variable."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({**BASE, **variables})
    assert caught.value.variable == name
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_error_names_an_unknown_setting() -> None:
    """A misspelt sslmode or a setting of another driver would be ignored: the error names it."""
    with pytest.raises(SettingsError, match="has unknown parameters: pool_size, sslmod;"):
        database_urls({"DATABASE_URL": "postgres://h/d?sslmod=require&application_name=a&pool_size=3"})


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgres://u:p@h/d", [("h", None)]),
        ("postgres://u:p@a,b:6000,c/d", [("a", None), ("b", 6000), ("c", None)]),
        ("postgres://a:1,[::1]:2/d?target_session_attrs=primary", [("a", 1), ("::1", 2)]),
        ("postgres://u@[fe80::1]/d", [("fe80::1", None)]),
        ("postgres:///d?host=/run/postgresql", [("/run/postgresql", None)]),
        ("postgres://%2Frun%2Fpg:5433/d", [("/run/pg", 5433)]),
        ("postgres:///d?host=a,b&port=5433", [("a", 5433), ("b", 5433)]),
        ("postgres:///d", [(None, None)]),
    ],
)
def test_hosts_of_a_url(url: str, hosts: list[tuple[str | None, int | None]]) -> None:
    database_urls({"DATABASE_URL": url})
    assert list(parse_address(url).hosts) == hosts


@pytest.mark.parametrize("kind", ["ipv6", "socket", "second host"])
async def test_events_over_each_kind_of_address(postgres_url: str, tmp_path: Path, kind: str) -> None:
    """IPv6 in brackets, the folder of a Unix socket, and a second host after a silent one."""
    port = urlsplit(postgres_url).port
    async with AsyncExitStack() as stack:

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = await asyncio.open_connection(HOST, port)
            stack.callback(there[1].transport.abort)
            stack.callback(writer.transport.abort)
            await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stack.callback(writer.transport.abort)
            await reader.read()

        if kind == "ipv6":
            try:
                server = await asyncio.start_server(forward, "::1", 0)
            except OSError:
                pytest.skip("this machine has no IPv6")
            url = f"postgres://tidewire@[::1]:{server.sockets[0].getsockname()[1]}/postgres?sslmode=disable"
        elif kind == "socket":
            server = await asyncio.start_unix_server(forward, tmp_path / ".s.PGSQL.5432")
            url = f"postgres://tidewire@/postgres?host={tmp_path}"
        else:
            server = await asyncio.start_server(hang, HOST, 0)
            silent = server.sockets[0].getsockname()[1]
            url = f"postgres://tidewire@{HOST}:{silent},{HOST}:{port}/postgres?sslmode=disable"
        await stack.enter_async_context(server)
        database_urls({"DATABASE_URL": url})
        log = PostgresLog(url)
        stack.push_async_callback(log.aclose)
        async with tailing(log, await log.head(("all",))) as (received, _):
            await publish(log, 1)
            await received.has(1)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()


def test_other_transports_need_no_database() -> None:
    assert Settings.from_env({"DATABASE_URL": "mysql://h"}).database_url is None


@pytest.mark.parametrize(
    ("url", "pooled"),
    [
        (POOLED, True),
        (DIRECT, False),
        ("postgres://u:p-pooler@h/d-pooler", False),
        ("postgres://h:6432/d?pgbouncer=true", True),
        ("postgres:///d?host=ep-a-1-pooler.neon.tech", True),
        ("postgres://a,b-pooler.neon.tech/d", True),
        ("postgres:///d?host=/var/run/postgresql", False),
    ],
)
def test_a_pooler_is_recognized_by_its_host_alone(url: str, pooled: bool) -> None:
    assert is_pooled(url) is pooled


async def test_functions_use_the_pooler_and_streams_never() -> None:
    """Functions publish through the pooler; a LISTEN through it would receive nothing."""
    async with Refusing.start() as direct, Refusing.start() as pooler:
        urls = [f"postgres://u@{HOST}:{server.port}/d?sslmode=disable" for server in (pooler, direct)]
        names = ("NETLIFY_DATABASE_URL", "NETLIFY_DATABASE_URL_UNPOOLED")
        settings = Settings.from_env({**BASE, **dict(zip(names, urls, strict=True))})
        for stateless, asked, other in ((True, pooler, direct), (False, direct, pooler)):
            transport = make_transport(settings, stateless=stateless)
            with pytest.raises(TransportUnavailable):
                await publish(transport, 1)
            assert asked.connections > 0
            assert other.connections == 0
            asked.connections = 0
            await transport.aclose()


def test_the_environment_alone_decides() -> None:
    assert database_urls(NETLIFY) == (DIRECT, POOLED)
