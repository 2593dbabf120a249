"""Redis Pub/Sub: an event reaches whoever listens at that moment, and nothing is kept.

A subscriber that comes back with a cursor, and every open stream after the connection to Redis was lost, is told of
a gap. Channels are named as partitions are: `rt:all`, `rt:<type>`. A message is the name of the process that
published it (16 hex digits), then the event.
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec

import tidewire.transports.redis.lean_redis  # isort: skip  # before anything that imports redis  # noqa: F401
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Position
from tidewire.model.event import Event
from tidewire.model.partitions import Partitions
from tidewire.model.record import Gap, Record, pack, unpack
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.counters import RECONNECTS
from tidewire.primitives.recent_keys import RecentKeys
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.base import Handler, Receipt, Retention
from tidewire.transports.log_follower import BROKE, stop
from tidewire.transports.redis.connection import Address
from tidewire.transports.redis.layout import CARRY, TAKE, Call, Script, carrying, taking
from tidewire.transports.redis.redis_py import (
    ELSEWHERE,
    FAILURES,
    TIMEOUT,
    TailConnections,
    make_circuit,
    make_client,
    safe,
    unavailable,
)

log = logging.getLogger(__name__)
warnings = ThrottledLog(log)

PING = 20.0
"""Seconds between two messages to oneself: the connection may be half open for hours, or lead to a node that was
demoted and hears nothing of what is published."""

_CONFIRM = 5.0  # seconds for Redis to confirm a subscription; a subscriber hears 503 after it
_NAME = 16  # hex digits of a process's name
_TRIES = 3  # after a refusal by a node that is not the primary


class RedisPubSub:
    """A `Transport` on Redis Pub/Sub.

    A repeated id is dropped by every process that remembers it; one that was not listening the first time, or has
    forgotten, takes it for a new event.
    """

    def __init__(
        self,
        url: str,
        prefix: str = "rt",
        partitions: Partitions = Partitions(),
        retention: Retention = Retention(),
        *,
        ping: float = PING,
    ) -> None:
        Address.parse(
            url
        )  # redis-py would take an option that it does not know for one of its connections, and fail late
        self.name = os.urandom(_NAME // 2).hex().encode()
        self.seen = RecentKeys(retention.idempotency_window)
        self.ping_seconds = ping
        self._prefix = prefix
        self._scheme = partitions
        self._client = make_client(url)  # to send again repeats nothing: who has the event drops the second one
        self.circuit = make_circuit()
        self.tail_connections = TailConnections(url, ping)
        self._tails: set[_PubSubTail] = set()

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Publish all events or none, in one round trip."""
        new: dict[str, Event] = {}
        for event in events:
            if not self.seen.knows(self._keys(event)):
                new.setdefault(event.key, event)
        messages = [
            (self.channel(partition), self.name + pack(part))
            for event in new.values()
            for partition, part in self._scheme.route(event)
        ]
        if messages:
            await self.carry(messages)
        # Only now, and not before: the same id may have come by another process meanwhile, and been delivered. Known in
        # one partition, it is known in all: what is on its way to us from the others is still to be delivered.
        return [Receipt(event.id, None, not self.seen.add_all(self._keys(event))) for event in events]

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator["_PubSubTail"]:
        """Open the tail: one connection, whatever the number of subscribers; none while nobody follows."""
        tail = _PubSubTail(self, handler)
        self._tails.add(tail)
        task = asyncio.create_task(tail.run())
        try:
            yield tail
        finally:
            self._tails.discard(tail)
            await stop(task)

    async def take(self, bucket: str, cost: int, capacity: int, seconds: float) -> float:
        """Take from a bucket of all processes, in one round trip; see `Buckets.take`."""
        return int(await self._run(TAKE, taking(self._prefix, bucket, cost, capacity, seconds))) / 1000

    async def ping(self) -> None:
        """Return if a primary answers."""
        await self._run(CARRY, carrying(self._prefix, ()), ask=True)

    async def carry(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish (channel, message) pairs at the primary, all or none. Raises TransportUnavailable."""
        await self._run(CARRY, carrying(self._prefix, messages))

    async def _run(self, script: Script, call: Call, *, ask: bool = False) -> Any:
        """Run a script at the primary. Raises TransportUnavailable."""
        backoff = Backoff(base=0.02, cap=0.2)
        for left in reversed(range(_TRIES)):
            try:
                return await self.circuit.run(lambda: self._run_once(script, call), ask=ask)
            except FAILURES as error:
                raise unavailable(error) from error
            except TransportUnavailable as error:
                if not left or not isinstance(error.__cause__, ELSEWHERE):
                    raise
            await asyncio.sleep(backoff.next())
        raise AssertionError

    async def _run_once(self, script: Script, call: Call) -> Any:
        try:
            try:
                return await self._client.execute_command(*script.by_sha(*call))
            except NoScriptError:
                return await self._client.execute_command(*script.whole(*call))
        except (*ELSEWHERE, RedisTimeoutError):
            # What a failover or a NAT has done to one connection it has done to all that are open.
            await self._client.connection_pool.disconnect(inuse_connections=False)
            for tail in self._tails:
                tail.request_refresh()
            raise

    @property
    def is_away(self) -> bool:
        """Whether Redis is known to be away."""
        return self.circuit.is_open

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    @property
    def own_channel(self) -> str:
        """The channel that this process alone listens to; no partition's name has an equals sign."""
        return self.channel(f"={self.name.decode()}")

    def check_transport(self) -> Call:
        """Return the keys and arguments with which `CARRY` only sees whether it runs on the primary."""
        return carrying(self._prefix, ())

    def channel(self, partition: str) -> str:
        """Return the channel of a partition."""
        return f"{self._prefix}:{partition}"

    def _keys(self, event: Event) -> list[tuple[str, str]]:
        return [(partition, part.key) for partition, part in self._scheme.route(event)]


class _PubSubTail:
    """Subscribes to the channels of what is followed, on one connection."""

    def __init__(self, transport: RedisPubSub, handler: Handler) -> None:
        self.running = False
        self.failure: str | None = None
        self._transport = transport
        self._handler = handler
        self._followed: set[str] = set()
        self._live: set[str] = set()  # confirmed on this connection
        self._lost: set[str] = set()  # were confirmed on one that is gone: what came since is missing
        self._asked: Counter[str] = Counter()  # commands whose confirmation is on its way
        self._changed = asyncio.Event()
        self._moved = asyncio.Event()  # replaced by a new one each time that something is confirmed
        self._echoed = asyncio.Event()  # what this process sent to itself has come
        self._doubted = False

    def follow(self, positions: Mapping[str, Position | None]) -> "_Listening":
        """Subscribe to these partitions too; what is published arrives once the answer has been awaited."""
        self._followed.update(positions)
        self._changed.set()
        return _Listening(self, frozenset(positions))

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Unsubscribe from these partitions; the connection ends with the last one."""
        self._followed.difference_update(partitions)
        self._lost.difference_update(partitions)
        self._changed.set()

    def request_refresh(self) -> None:
        """See soon whether we still hear: others as old are silent or lead elsewhere. To leave may be a loss."""
        self._doubted = True
        self._changed.set()

    async def listening(self, partitions: frozenset[str]) -> None:
        """Return once Redis has confirmed these subscriptions; raises TransportUnavailable."""
        try:
            async with asyncio.timeout(_CONFIRM):
                while not partitions <= self._live:
                    await self._moved.wait()
        except TimeoutError:
            raise TransportUnavailable("Redis did not confirm the subscription in time") from None

    async def run(self) -> None:
        """Listen until cancelled; a failure of any kind is logged and followed by another try."""
        backoff = Backoff()
        while True:
            while not self._followed:
                self._changed.clear()
                await self._changed.wait()
            connection = self._transport.tail_connections.make()
            try:
                self._doubted = False
                await connection.connect()
                await self._command(connection, *CARRY.whole(*self._transport.check_transport()))
                await connection.read_response()  # raises on a replica
                await self._listen(connection, backoff)
                continue
            except FAILURES as error:
                self.failure = unavailable(error).detail
                warnings.warn(f"tail lost, reconnecting: {safe(error)}")
            except Exception:  # noqa: BLE001 - `exception` logs it
                self.failure = BROKE
                warnings.exception("tail failed, reconnecting")
            finally:
                self.running = False
                self._lost |= self._live & self._followed
                self._live.clear()
                self._asked.clear()
                await connection.disconnect(nowait=True)
            RECONNECTS.add()
            await asyncio.sleep(backoff.next())

    async def _listen(self, connection: AbstractConnection, backoff: Backoff) -> None:
        """Read what comes; return once nothing is followed any more."""
        asking = asyncio.create_task(self._ask(connection))
        try:
            while self._followed or self._asked:
                reply = await connection.read_response(disable_decoding=True)
                if not isinstance(reply, list) or len(reply) != 3:
                    continue  # a pong
                kind, channel, content = reply
                if channel.decode() == self._transport.own_channel:
                    self._echoed.set()  # confirmed, or a message
                    continue
                partition = channel.decode().removeprefix(self._transport.channel(""))
                if kind == b"message":
                    self._hear(partition, content)
                    continue
                self._confirm(partition, subscribed=kind == b"subscribe")
                if self._followed <= self._live:
                    self._transport.circuit.close()
                    self.running = True
                    backoff.reset()
        finally:
            await stop(asking)

    async def _ask(self, connection: AbstractConnection) -> None:
        """Tell Redis what is followed, and see in silence that we still hear. A failure ends the connection."""
        asked: set[str] = set()
        checking: asyncio.Task[None] | None = None
        try:
            await self._command(connection, "SUBSCRIBE", self._transport.own_channel)
            while True:
                self._changed.clear()
                wanted = set(self._followed)
                await self._send(connection, "UNSUBSCRIBE", asked - wanted)
                await self._send(connection, "SUBSCRIBE", wanted - asked)
                asked = wanted
                if not self._doubted:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._transport.ping_seconds):
                            await self._changed.wait()
                            continue
                self._doubted = False
                if checking is None or checking.done():
                    checking = asyncio.create_task(self._hear_ourselves(connection))
        finally:
            if checking is not None:
                await stop(checking)
            await connection.disconnect(nowait=True)

    async def _hear_ourselves(self, connection: AbstractConnection) -> None:
        """End the connection where a message does not come here that Redis has taken."""
        self._echoed.clear()
        try:
            await self._transport.carry([(self._transport.own_channel, b"")])
        except TransportUnavailable:  # nothing is known: but the connection has to bring an answer
            await self._command(connection, "PING")
            return
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._echoed.wait()
        except TimeoutError:
            warnings.warn("the tail hears nothing of what Redis has taken, reconnecting")
            await connection.disconnect(nowait=True)

    async def _send(self, connection: AbstractConnection, command: str, partitions: set[str]) -> None:
        if not partitions:
            return
        self._live -= partitions
        self._asked.update(partitions)
        await self._command(connection, command, *map(self._transport.channel, partitions))

    async def _command(self, connection: AbstractConnection, *command: str | bytes | int) -> None:
        if not connection.is_connected:
            raise RedisConnectionError  # redis-py would open another one, without our subscriptions
        await connection.send_command(*command, check_health=False)

    def _confirm(self, partition: str, *, subscribed: bool) -> None:
        self._asked[partition] -= 1
        if self._asked[partition] > 0:
            return  # left and followed again meanwhile: the last confirmation counts
        del self._asked[partition]
        if not subscribed:
            return
        self._live.add(partition)
        if partition in self._lost:
            self._lost.discard(partition)
            self._handler(Gap("no-log", partition, None))
        self._moved.set()
        self._moved = asyncio.Event()

    def _hear(self, partition: str, content: bytes) -> None:
        if content.startswith(self._transport.name) or partition not in self._followed:
            return  # what this process published, its hub has delivered already
        try:
            event = unpack(content[_NAME:])
        except msgspec.DecodeError:
            # The error's text may hold event data: it stays out of the log.
            log.error("channel of partition %s: a message is not an event", partition)  # noqa: TRY400
            return
        if self._transport.seen.add((partition, event.key)):
            self._handler(Record(event, partition, None))


class _Listening:
    """Done once Redis has confirmed; who does not care need not await it."""

    def __init__(self, tail: _PubSubTail, partitions: frozenset[str]) -> None:
        self._tail = tail
        self._partitions = partitions

    def __await__(self) -> Generator[Any, None, None]:
        return self._tail.listening(self._partitions).__await__()
