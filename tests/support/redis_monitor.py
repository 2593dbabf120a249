"""The commands that clients send to Redis, in their order."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from redis.asyncio import Redis

_LINE = re.compile(r"\+[\d.]+ \[\d+ (\S+)\] (.*)")
_ARGUMENT = re.compile(r'"((?:[^"\\]|\\.)*)"')


class Watch:
    """All commands of clients, in order; commands of scripts are left out."""

    def __init__(self, reader: asyncio.StreamReader, client: Redis) -> None:
        self._reader = reader
        self._client = client
        self._sentinels = 0

    async def commands(self) -> list[list[str]]:
        """Return the commands since the last call."""
        self._sentinels += 1
        sentinel = ["echo", f"sentinel-{self._sentinels}"]
        await self._client.echo(sentinel[1])
        commands = []
        async for command in self.live():
            if command == sentinel:
                break
            commands.append(command)
        return commands

    async def live(self) -> AsyncIterator[list[str]]:
        """Yield each command when it is sent."""
        while True:
            match = _LINE.match((await self._reader.readline()).decode(errors="replace"))
            assert match is not None
            if match[1] != "lua":
                name, *arguments = _ARGUMENT.findall(match[2])
                yield [name.lower(), *arguments]


@asynccontextmanager
async def watching(client: Redis) -> AsyncIterator[Watch]:
    """Watch the server of this client, whose own commands are the sentinels."""
    await client.ping()  # opens its connection before the watch begins
    parts = urlsplit(f"redis://{_address(client)}")
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=2**22)
    try:
        writer.write(b"MONITOR\r\n")
        assert await reader.readline() == b"+OK\r\n"
        yield Watch(reader, client)
    finally:
        writer.close()
        await writer.wait_closed()


def _address(client: Redis) -> str:
    arguments = client.connection_pool.connection_kwargs
    return f"{arguments['host']}:{arguments['port']}"
