"""Redis Pub/Sub as redis-py's client and connections, in this process: they behave as a test says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from tidewire.model.event import Event
from tidewire.model.record import pack
from tidewire.transports.redis.pubsub import RedisPubSub

from tests.contract.acts import Received


class FakeRedis:
    """A server, with redis-py's client and the tail's connections to it."""

    def __init__(self) -> None:
        self.url: tuple[Any, ...] = ()
        self.commands: list[tuple[Any, ...]] = []
        self.faults: list[Exception | None] = []
        """What the client's next commands raise; None: nothing."""
        self.result = 0
        self.opened: list[FakeConnection] = []
        self.refusals: list[Exception] = []
        """What opening the tail's next connections raises."""
        self.lost_at_once = False
        """Whether the tail's next connection is lost as soon as it is open."""
        self.waited = False
        """Whether closing a connection has waited for its peer."""
        self.silent = False
        """Whether messages reach no connection, and no subscription is confirmed."""
        self.is_replica = False
        self.dropped: list[bool] = []
        self.closed = False
        self.connection_pool = self

    async def execute_command(self, *command: Any) -> Any:
        self.commands.append(command)
        await asyncio.sleep(0)
        if self.faults and (fault := self.faults.pop(0)) is not None:
            raise fault
        messages = command[4:]
        for channel, message in zip(messages[::2], messages[1::2], strict=False):
            if not isinstance(channel, int):
                self.publish(channel, message)
        return self.result

    def publish(self, channel: str, message: bytes) -> None:
        for connection in self.opened:
            if channel in connection.channels and not self.silent:
                connection.arrive([b"message", channel.encode(), message])

    async def disconnect(self, inuse_connections: bool = True) -> None:
        self.dropped.append(inuse_connections)

    async def aclose(self) -> None:
        self.closed = True

    def make(self) -> "FakeConnection":
        connection = FakeConnection(self)
        self.opened.append(connection)
        return connection

    @property
    def sent(self) -> list[tuple[Any, ...]]:
        """The commands of the tail's last connection."""
        return self.opened[-1].commands


class FakeConnection:
    def __init__(self, redis: FakeRedis) -> None:
        self.commands: list[tuple[Any, ...]] = []
        self.channels: set[str] = set()
        self.is_connected = False
        self.faults: dict[str, Any] = {}
        self._redis = redis
        self._arrived = asyncio.Queue[Any]()

    async def connect(self) -> None:
        await asyncio.sleep(0)
        if self._redis.refusals:
            raise self._redis.refusals.pop(0)
        self.is_connected, self._redis.lost_at_once = not self._redis.lost_at_once, False

    def arrive(self, reply: Any) -> None:
        self._arrived.put_nowait(reply)

    async def send_command(self, *command: Any, check_health: bool = True) -> None:
        assert self.is_connected
        assert check_health is False, "redis-py would read the reply of a PING of its own"
        self.commands.append(command)
        if command[0] == "SUBSCRIBE":
            self.channels.update(command[1:])
        if command[0] == "UNSUBSCRIBE":
            self.channels.difference_update(command[1:])
        if command[0].endswith("SUBSCRIBE"):
            if not self._redis.silent:
                self.confirm(*command)
        elif command[0] == "PING":
            self.arrive([b"pong", b""])
        else:
            self.arrive(ReadOnlyError("a replica") if self._redis.is_replica else 0)

    def confirm(self, command: str, *channels: str) -> None:
        for channel in channels:
            self.arrive([command.lower().encode(), channel.encode(), len(self.channels)])

    async def read_response(self) -> Any:
        reply = await self._arrived.get()
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def disconnect(self, nowait: bool = False) -> None:
        self._redis.waited |= nowait is not True
        if self.is_connected:
            self.is_connected = False
            self.channels.clear()
            self.arrive(RedisConnectionError("closed"))


def event(id: str = "1", type: str = "t", users: tuple[str, ...] | None = None) -> Event:
    return Event(id, type, f'"{id}"'.encode(), users)


def other(*sent: Event) -> list[bytes]:
    """The messages of another process."""
    return [b"0123456789abcdef" + pack(one) for one in sent]


@asynccontextmanager
async def tailing(transport: RedisPubSub, *partitions: str) -> AsyncIterator[tuple[Received, Any]]:
    received = Received()
    async with asyncio.timeout(600), transport.on_message(received) as tail:  # of virtual time
        if partitions:
            await tail.follow(dict.fromkeys(partitions))
        yield received, tail
