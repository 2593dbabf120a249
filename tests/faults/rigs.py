"""Rigs: a real store behind a proxy, which a scenario breaks; one per transport with a log."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

from redis.asyncio import Redis
from tidewire.transports.base import Log
from tidewire.transports.postgres.log import PostgresLog
from tidewire.transports.redis.streams import RedisStreams
from tidewire.transports.upstash.rest_log import UpstashRest

from tests.contract.stores import PostgresStore
from tests.support.postgres_server import PostgresServer
from tests.support.processes import HOST, RedisServer
from tests.support.proxy import Proxy
from tests.support.redis_records import read_log
from tests.support.upstash_stand_in import StandIn
from tests.support.waiting import DEADLINE

TIME_OUT = 1.0  # seconds, of a rig with short time-outs

EMPTY = "truncate rt.partitions, rt.records, rt.ids; select 1"

MoreTraffic = Callable[[], Awaitable[None]]
"""Returns when some more events were acknowledged and delivered."""


class Rig(ABC):
    """A server behind a proxy. `open` makes a log that uses the proxy; `stored` reads the server itself."""

    proxy: Proxy
    time_outs: Mapping[str, float]  # seconds of the product's time-outs, by their names

    def __init__(self, folder: Path, *, quick: bool = True) -> None:
        self.folder = folder
        self.quick = quick
        self.stack = AsyncExitStack()
        self.silence = 1.3 if quick else 6.5  # seconds of a pause: longer than a publisher's time-out

    async def __aenter__(self) -> Self:
        self.stack.enter_context(self._shorten())
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stack.aclose()

    def open(self, *, direct: bool = False) -> Log:
        """Return one more process's log, through the proxy unless it is `direct`."""
        log = self._open(direct)
        self.stack.push_async_callback(log.aclose)
        return log

    async def end_sessions(self) -> None:
        """Let the server end each connection."""
        self.proxy.cut()

    @property
    @abstractmethod
    def server(self) -> RedisServer | PostgresServer:
        """The process that has the log now."""

    @abstractmethod
    async def stored(self) -> list[int]:
        """Return the data of each record, in order, read without the product."""

    @abstractmethod
    async def wipe(self) -> None:
        """Delete everything, and keep running."""

    @abstractmethod
    async def fail_over(self, meanwhile: MoreTraffic | None) -> None:
        """Replace the server by one with all of its data, or without the records of `meanwhile`."""

    @abstractmethod
    async def _start(self) -> None: ...

    @abstractmethod
    def _open(self, direct: bool) -> Log: ...

    @contextmanager
    def _shorten(self) -> Iterator[None]:
        with ExitStack() as patches:
            for name, seconds in self.time_outs.items() if self.quick else ():
                patches.enter_context(patch(f"tidewire.transports.{name}", seconds))
            yield


class RedisRig(Rig):
    """Redis Streams over TCP. A failover promotes a replica."""

    time_outs: Mapping[str, float] = {"redis.pool.TIMEOUT": TIME_OUT}
    _server: RedisServer

    @property
    def server(self) -> RedisServer:
        return self._server

    async def _start(self) -> None:
        self._server = await self._new_server("first")
        self.proxy = await self.stack.enter_async_context(Proxy(self.server.url))

    async def _new_server(self, name: str) -> RedisServer:
        folder = self.folder / name
        await asyncio.to_thread(folder.mkdir)
        server = RedisServer(folder, aof=True)
        self.stack.callback(server.stop)
        return await asyncio.to_thread(server.start)

    def _open(self, direct: bool) -> Log:
        url = self.server.url if direct else self.proxy.url
        return RedisStreams(url, block=0.5) if self.quick else RedisStreams(url)

    async def stored(self) -> list[int]:
        return [record.event["data"] for record in (await read_log(self.server)).get("all", [])]

    async def end_sessions(self) -> None:
        assert self.server.ask("CLIENT KILL TYPE normal").startswith(":")

    async def wipe(self) -> None:
        assert self.server.ask("FLUSHALL") == "+OK"

    async def fail_over(self, meanwhile: MoreTraffic | None) -> None:
        first, replica = self.server, await self._new_server("replica")
        assert first.ask("CONFIG SET repl-diskless-sync-delay 0") == "+OK"
        assert replica.ask(f"REPLICAOF {HOST} {first.port}") == "+OK"
        await _in_step(first)
        if meanwhile is not None:
            assert replica.ask("REPLICAOF NO ONE") == "+OK"
            await meanwhile()
            await asyncio.to_thread(first.kill)
        else:
            await self.proxy.refuse()  # nothing is acknowledged after the last check
            await _in_step(first)
            await asyncio.to_thread(first.kill)
            assert replica.ask("REPLICAOF NO ONE") == "+OK"
            await self.proxy.connect()
        self._server = replica
        self._lead_to(replica)

    def _lead_to(self, server: RedisServer) -> None:
        self.proxy.lead_to(server.port)


async def _in_step(server: RedisServer) -> None:
    """Return once a replica has confirmed all data of the server."""
    client: Any = Redis.from_url(server.url, single_connection_client=True)
    async with client, asyncio.timeout(DEADLINE):
        while True:
            await client.set("probe", 1)  # WAIT covers the writes of this connection, and so all earlier ones
            if await client.wait(1, 500):
                return


class UpstashRig(RedisRig):
    """The same Redis over REST; the proxy is in front of the stand-in for Upstash."""

    time_outs: Mapping[str, float] = {
        "upstash.session.READ_TIMEOUT": TIME_OUT,
        "upstash.session.EXCHANGE_TIMEOUT": 2 * TIME_OUT,
        "upstash.tail.VERIFY": 0.5,
    }

    async def _start(self) -> None:
        self._server = await self._new_server("first")
        self._upstash = self.stack.enter_context(StandIn(self.server.port))
        self.proxy = await self.stack.enter_async_context(Proxy(self._upstash.url))

    def _open(self, direct: bool) -> Log:
        url, token = self._upstash.url if direct else self.proxy.url, self._upstash.token
        return UpstashRest(url, token, poll_min=0.02, poll_max=0.2) if self.quick else UpstashRest(url, token)

    def _lead_to(self, server: RedisServer) -> None:
        self._upstash.redis_port = server.port


class PostgresRig(Rig):
    """Postgres. A failover restores an earlier state, as a promoted standby that was behind."""

    time_outs: Mapping[str, float] = {"postgres.connection.TIMEOUT": TIME_OUT}

    def __init__(self, folder: Path, server: PostgresServer, *, quick: bool = True) -> None:
        super().__init__(folder, quick=quick)
        self._server = server

    @property
    def server(self) -> PostgresServer:
        return self._server

    async def _start(self) -> None:
        await self.wipe()
        self.proxy = await self.stack.enter_async_context(Proxy(self.server.url))

    def _open(self, direct: bool) -> Log:
        url = self.server.url if direct else self.proxy.url
        return PostgresLog(url, check=0.5) if self.quick else PostgresLog(url)

    async def stored(self) -> list[int]:
        rows = self.server.ask('select (event::json ->> $1)::integer from rt.records order by epoch, "offset"', "data")
        return [data for (data,) in rows]

    async def end_sessions(self) -> None:
        self.server.ask(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'tidewire%'"
        )

    async def wipe(self) -> None:
        await asyncio.to_thread(self.server.ask, EMPTY)

    async def fail_over(self, meanwhile: MoreTraffic | None) -> None:
        assert meanwhile is not None, "for its clients, a failover to a standby with all data is a restart"
        restore = await PostgresStore(self.server.url).back_up()
        await meanwhile()
        await self.proxy.refuse()
        await restore()
        await self.proxy.connect()
