"""An application with its own connections to the database of Tidewire."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from tests.support.instance_settings import on_postgres
from tests.support.postgres_server import PostgresServer
from tests.support.processes import Instance, MakeInstance

Connect = Callable[[], Awaitable[Any]]


@pytest.fixture
async def application(postgres_url: str, postgres_server: PostgresServer) -> AsyncIterator[Connect]:
    """Opens connections of an application; the settings of realtime_publish are reset to the defaults."""
    postgres_server.ask("delete from rt.settings; insert into rt.settings default values")
    async with AsyncExitStack() as stack:

        async def connect() -> Any:
            connection = await asyncpg.connect(postgres_url)
            stack.push_async_callback(connection.close)
            return connection

        yield connect


async def start(make_instance: MakeInstance, url: str, **more: str) -> Instance:
    """Start an instance without blocking the event loop."""
    return await asyncio.to_thread(make_instance, **on_postgres(url, **more))
