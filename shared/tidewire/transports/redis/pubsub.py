"""Redis Pub/Sub: an event reaches the processes that are subscribed at that moment, and is not stored.

A subscriber that reconnects with a cursor gets a gap, and so does every open stream after the connection to Redis was
lost. Channels are named like partitions: `rt:all`, `rt:<type>`. A message is the name of the publishing process (16 hex
digits), then the event.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from redis.asyncio.connection import AbstractConnection

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
from tidewire.transports.errors import CommandError, ConnectionLost, NotServing, ReadTimeout, StoreError, describe
from tidewire.transports.log_base import stop
from tidewire.transports.log_follower import UNKNOWN_FAILURE
from tidewire.transports.redis.address import Address
from tidewire.transports.redis.layout import PUBLISH, TAKE, Call, Script, publish_call, take_call
from tidewire.transports.redis.pool import TIMEOUT, make_circuit_breaker, unavailable
from tidewire.transports.redis.redis_py import FAILURES, TailConnections, make_client, translate
from tidewire.transports.redis.subscriptions import Subscriptions

log = logging.getLogger(__name__)
warnings = ThrottledLog(log)

PING = 20.0
"""Seconds between two messages to this process's own channel: the connection may be half open for hours, or lead to a
node that was demoted and receives nothing of what is published."""

CONFIRM_TIMEOUT = 5.0  # seconds for Redis to confirm a subscription; a subscriber gets its 503 after it
_NAME_DIGITS = 16  # of a process's name
_TRIES = 3  # after a refusal by a node that is not the primary


class RedisPubSub:
    """A `Transport` on Redis Pub/Sub.

    A repeated id is dropped by every process that remembers it. A process that was not subscribed the first time, or
    has forgotten the id, delivers it as a new event.
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
        Address.parse(url)  # redis-py passes unknown options on to its connections, which fail late
        self.name = os.urandom(_NAME_DIGITS // 2).hex().encode()
        self.recent = RecentKeys(retention.idempotency_window)
        self.ping_seconds = ping
        self._prefix = prefix
        self._scheme = partitions
        self._client = make_client(url)
        self.breaker = make_circuit_breaker()
        self.tail_connections = TailConnections(url, ping)
        self._tails: set[_PubSubTail] = set()

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Publish all events or none, in one round trip."""
        new: dict[str, Event] = {}
        for event in events:
            if not self.recent.knows(self._keys(event)):
                new.setdefault(event.key, event)
        messages = [
            (self.channel(partition), self.name + pack(part))
            for event in new.values()
            for partition, part in self._scheme.route(event)
        ]
        if messages:
            await self.send(messages)
        # Not before: the same id may have come from another process meanwhile, and been delivered. An id that is known
        # in one partition is known in all, and what is on its way here in the others must still be delivered.
        return [Receipt(event.id, None, not self.recent.add_all(self._keys(event))) for event in events]

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator["_PubSubTail"]:
        """Open the tail: one connection for all subscribers, and none while no partition is followed."""
        tail = _PubSubTail(self, handler)
        self._tails.add(tail)
        task = asyncio.create_task(tail.run())
        try:
            yield tail
        finally:
            self._tails.discard(tail)
            await stop(task)

    async def take(self, bucket: str, cost: int, capacity: int, seconds: float) -> float:
        """Take from a bucket that all processes share, in one round trip; see `Buckets.take`."""
        return int(await self._run(TAKE, take_call(self._prefix, bucket, cost, capacity, seconds))) / 1000

    async def ping(self) -> None:
        """Return if a primary answers."""
        await self._run(PUBLISH, publish_call(self._prefix, ()), even_if_open=True)

    async def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish (channel, message) pairs at the primary, all or none. Raises TransportUnavailable."""
        await self._run(PUBLISH, publish_call(self._prefix, messages))

    async def _run(self, script: Script, call: Call, *, even_if_open: bool = False) -> Any:
        """Run a script at the primary. Raises TransportUnavailable."""
        backoff = Backoff(base=0.02)
        for left in reversed(range(_TRIES)):
            try:
                return await self.breaker.run(lambda: self._run_once(script, call), even_if_open=even_if_open)
            except StoreError as error:
                raise unavailable(error) from error
            except TransportUnavailable as error:
                if not left or not isinstance(error.__cause__, NotServing):
                    raise
            await asyncio.sleep(backoff.next())
        raise AssertionError

    async def _run_once(self, script: Script, call: Call) -> Any:
        """Run a script. Raises StoreError."""
        try:
            try:
                return await self._execute(script.by_sha(*call))
            except CommandError as error:
                if error.code != "NOSCRIPT":
                    raise
                return await self._execute(script.in_full(*call))
        except (NotServing, ReadTimeout):
            # A failover or a NAT has done the same to every open connection.
            await self._client.connection_pool.disconnect(inuse_connections=False)
            for tail in self._tails:
                tail.request_refresh()
            raise

    async def _execute(self, command: Sequence[str | bytes | int]) -> Any:
        try:
            return await self._client.execute_command(*command)
        except FAILURES as error:
            raise translate(error) from error

    @property
    def is_unavailable(self) -> bool:
        """Whether Redis is known to be unavailable."""
        return self.breaker.is_open

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    @property
    def own_channel(self) -> str:
        """The channel that this process alone subscribes to; no partition's name has an equals sign."""
        return self.channel(f"={self.name.decode()}")

    @property
    def primary_check(self) -> Sequence[str | bytes | int]:
        """The command that only checks whether it runs on the primary."""
        return PUBLISH.in_full(*publish_call(self._prefix, ()))

    def channel(self, partition: str) -> str:
        """Return the channel of a partition."""
        return f"{self._prefix}:{partition}"

    def _keys(self, event: Event) -> list[tuple[str, str]]:
        return [(partition, part.key) for partition, part in self._scheme.route(event)]


class _PubSubTail:
    """Subscribes to the channels of followed partitions, on one connection."""

    def __init__(self, transport: RedisPubSub, handler: Handler) -> None:
        self.running = False
        self.failure: str | None = None
        self.subscriptions = Subscriptions()
        self._transport = transport
        self._handler = handler
        self._changed = asyncio.Event()
        self._confirmation = asyncio.Event()  # replaced by a new one each time that a subscription is confirmed
        self._echo = asyncio.Event()  # this process's message to its own channel has arrived
        self._refresh_requested = False

    def follow(self, positions: Mapping[str, Position | None]) -> "_Confirmation":
        """Subscribe to these partitions too; events published once the answer was awaited arrive."""
        self.subscriptions.follow(positions)
        self._changed.set()
        return _Confirmation(self, frozenset(positions))

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Unsubscribe from these partitions; the connection ends with the last one."""
        self.subscriptions.unfollow(partitions)
        self._changed.set()

    def request_refresh(self) -> None:
        """Check the connection soon: others as old are silent or lead to another node. Closing it could lose events."""
        self._refresh_requested = True
        self._changed.set()

    async def confirmed(self, partitions: frozenset[str]) -> None:
        """Return once Redis has confirmed these subscriptions; raises TransportUnavailable."""
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT):
                while not partitions <= self.subscriptions.confirmed:
                    await self._confirmation.wait()
        except TimeoutError:
            raise TransportUnavailable("Redis did not confirm the subscription in time") from None

    async def run(self) -> None:
        """Receive until cancelled; a failure of any kind is logged and followed by another try."""
        backoff = Backoff()
        while True:
            while not self.subscriptions.followed:
                self._changed.clear()
                await self._changed.wait()
            connection = self._transport.tail_connections.make()
            try:
                self._refresh_requested = False
                await connection.connect()
                await self._send(connection, *self._transport.primary_check)
                await connection.read_response()  # raises on a replica
                await self._receive(connection, backoff)
                continue
            except (StoreError, *FAILURES) as error:
                failure = error if isinstance(error, StoreError) else translate(error)
                self.failure = unavailable(failure).detail
                warnings.warn(f"tail lost, reconnecting: {describe(failure)}")
            except Exception:  # noqa: BLE001 - `exception` logs it
                self.failure = UNKNOWN_FAILURE
                warnings.exception("tail failed, reconnecting")
            finally:
                self.running = False
                self.subscriptions.connection_lost()
                await connection.disconnect(nowait=True)
            RECONNECTS.add()
            await asyncio.sleep(backoff.next())

    async def _receive(self, connection: AbstractConnection, backoff: Backoff) -> None:
        """Handle messages and confirmations; return once no partition is followed any more."""
        subscribing = asyncio.create_task(self._keep_subscribed(connection))
        try:
            while not self.subscriptions.are_over:
                reply = await connection.read_response()
                if not isinstance(reply, list) or len(reply) != 3:
                    continue  # a pong
                kind, channel, content = reply
                if channel.decode() == self._transport.own_channel:
                    self._echo.set()  # the confirmation, or the message
                    continue
                partition = channel.decode().removeprefix(self._transport.channel(""))
                if kind == b"message":
                    self._deliver(partition, content)
                    continue
                self._confirm(partition, subscribed=kind == b"subscribe")
                if self.subscriptions.are_confirmed:
                    self._transport.breaker.close()
                    self.running = True
                    backoff.reset()
        finally:
            await stop(subscribing)

    async def _keep_subscribed(self, connection: AbstractConnection) -> None:
        """Subscribe to what is followed, and check the connection while it is silent. A failure ends the connection."""
        subscribed: set[str] = set()
        check: asyncio.Task[None] | None = None
        try:
            await self._send(connection, "SUBSCRIBE", self._transport.own_channel)
            while True:
                self._changed.clear()
                followed = set(self.subscriptions.followed)
                await self._change(connection, "UNSUBSCRIBE", subscribed - followed)
                await self._change(connection, "SUBSCRIBE", followed - subscribed)
                subscribed = followed
                if not self._refresh_requested:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._transport.ping_seconds):
                            await self._changed.wait()
                            continue
                self._refresh_requested = False
                if check is None or check.done():
                    check = asyncio.create_task(self._check_connection(connection))
        finally:
            if check is not None:
                await stop(check)
            await connection.disconnect(nowait=True)

    async def _check_connection(self, connection: AbstractConnection) -> None:
        """Close the connection if a message that Redis accepted does not arrive on it."""
        self._echo.clear()
        try:
            await self._transport.send([(self._transport.own_channel, b"")])
        except TransportUnavailable:  # proves nothing about this connection, which must bring an answer itself
            await self._send(connection, "PING")
            return
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._echo.wait()
        except TimeoutError:
            warnings.warn("the tail does not receive what Redis has accepted, reconnecting")
            await connection.disconnect(nowait=True)

    async def _change(self, connection: AbstractConnection, command: str, partitions: set[str]) -> None:
        if not partitions:
            return
        self.subscriptions.note_command(partitions)
        await self._send(connection, command, *map(self._transport.channel, partitions))

    async def _send(self, connection: AbstractConnection, *command: str | bytes | int) -> None:
        if not connection.is_connected:
            raise ConnectionLost("closed")  # redis-py would open another one, without our subscriptions
        await connection.send_command(*command, check_health=False)

    def _confirm(self, partition: str, *, subscribed: bool) -> None:
        if self.subscriptions.confirm(partition, subscribed=subscribed):
            self._handler(Gap("no-log", partition, None))
        self._confirmation.set()
        self._confirmation = asyncio.Event()

    def _deliver(self, partition: str, content: bytes) -> None:
        if content.startswith(self._transport.name) or partition not in self.subscriptions.followed:
            return  # the hub of this process has delivered its own events already
        try:
            event = unpack(content[_NAME_DIGITS:])
        except msgspec.DecodeError:
            log.error("channel of partition %s: a message is not an event", partition)  # noqa: TRY400 — the exception may quote event data
            return
        if self._transport.recent.add((partition, event.key)):
            self._handler(Record(event, partition, None))


class _Confirmation:
    """Awaitable: done once Redis has confirmed. A caller that does not need it need not await it."""

    def __init__(self, tail: _PubSubTail, partitions: frozenset[str]) -> None:
        self._tail = tail
        self._partitions = partitions

    def __await__(self) -> Generator[Any, None, None]:
        return self._tail.confirmed(self._partitions).__await__()
