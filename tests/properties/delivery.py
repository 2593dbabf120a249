"""One story about the delivery core, made from a seed: what may happen to an instance's streams, in a random order.

Events, heartbeats, `expiring`, `closing`, clients that read slowly, stall, vanish and resume with the last id that they
received; a log that is unavailable, or whose tail is held up; and, with early delivery, a fallback that delivers before
the log holds an event. At the end every byte that a client received is judged against what the log holds.

Everything is decided by the seed: time is virtual, and each point where another log would do I/O takes a random pause.
"""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

from tidewire.delivery.hub import Hub
from tidewire.delivery.ring_buffer import Ring
from tidewire.delivery.subscriber import Subscriber
from tidewire.errors import TransportUnavailable, Unavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Start
from tidewire.model.event import Event
from tidewire.model.partitions import Partitions
from tidewire.model.record import Record
from tidewire.protocol.sse import CLOUDEVENTS, DATA, READY, Format

from tests.contract.acts import read
from tests.contract.stores import MemoryStore
from tests.properties.judge import Judge, Received, Verdict
from tests.properties.random_sink import RandomSink
from tests.support.clocks import VirtualTimeLoop, pass_time
from tests.support.sse_decoder import SseDecoder
from tests.support.unavailable_log import Instance, UnavailableLog
from tests.support.waiting import spin

TYPES = ("a", "b", "c")
USERS = ("u1", "u2", "u3")
AUDIENCES: tuple[tuple[str, ...] | None, ...] = (None, ("u1",), ("u2", "u3"), USERS)
SCHEMES = (Partitions(), Partitions(frozenset({"a"})), Partitions(user_shards=2), Partitions(frozenset({"a", "b"}), 2))
PARTITIONS = tuple(f"{base}{shard}" for base in ("all", *TYPES) for shard in ("", ":u0", ":u1"))
HEARTBEAT = 15.0


@dataclass
class Connection:
    """One connection of a client, open or over; `received` is what the client has of its bytes."""

    hub: Hub
    cursor: str | None
    sink: RandomSink
    subscriber: Subscriber | None = None
    opening: asyncio.Task[None] | None = None
    received: bytes = b""


class Client:
    """A client across its connections, each of which carries the last id that it received."""

    def __init__(self, dice: random.Random) -> None:
        types = None if dice.random() < 0.5 else frozenset(dice.sample(TYPES, dice.randint(1, 2)))
        self.interest = Interest(dice.choice((None, *USERS)), types)
        self.format: Format = dice.choice((DATA, DATA, CLOUDEVENTS))
        self.last_id: str | None = None
        self.now: Connection | None = None
        self.past: list[Connection] = []
        self._dice = dice

    def connect(self, hub: Hub) -> None:
        connection = Connection(hub, self.last_id, RandomSink(self._dice))

        async def open() -> None:
            with suppress(TransportUnavailable, Unavailable):
                start = Start(connection.cursor)
                subscriber = connection.subscriber = await hub.add(self.interest, start, self.format, wait_for_log=True)
                subscriber.start(connection.sink)

        connection.opening = asyncio.create_task(open())
        self.now = connection

    async def disconnect(self, share: float) -> None:
        """Disconnect after this share of the bytes on the way has arrived."""
        connection, self.now = self.now, None
        if connection is None:
            return
        assert connection.opening is not None
        connection.opening.cancel()
        await asyncio.gather(connection.opening, return_exceptions=True)
        if connection.subscriber is not None:
            connection.hub.remove(connection.subscriber)
        connection.received = connection.sink.stream[: round(len(connection.sink.stream) * share)]
        decoder = SseDecoder(self.last_id or "")
        decoder.feed(connection.received)
        self.last_id = decoder.last_event_id or None
        self.past.append(connection)

    @property
    def over(self) -> bool:
        """Whether it has no connection that could bring anything."""
        if self.now is None or self.now.sink.ended:
            return True
        return self.now.opening is not None and self.now.opening.done() and self.now.subscriber is None


class Story:
    """The world of one seed."""

    def __init__(self, seed: int, *, early: bool) -> None:
        self.dice = random.Random(seed)
        self.early = early
        self.verdict = Verdict()
        self.scheme = self.dice.choice(SCHEMES)
        self.store = MemoryStore(self.pause)
        self.published: list[Event] = []
        self.repeated: set[str] = set()  # an instance that cannot reach the log delivers these as if they were new
        self.taken: set[str] = set()
        self.publishing: dict[asyncio.Task[None], None] = {}
        self.clients = [Client(self.dice) for _ in range(self.dice.randint(2, 4))]
        self.instances = [self._make_instance() for _ in range(2)]

    def _make_instance(self) -> "Instance | Plain":
        ring = Ring(self.dice.randint(1, 12))
        return Instance(self.store, self.scheme, max_events=12, ring=ring) if self.early else Plain(self, ring)

    async def pause(self) -> None:
        """Take any number of turns, as a remote reply does."""
        await spin(self.dice.choice((0, 0, 0, 1, 2, 5)))

    async def tell(self) -> Verdict:
        acts: list[Callable[[], Awaitable[None]]] = [
            *[self.publish] * 8,
            *[self.expire] * 3,
            *[self.connect] * 4,
            *[self.spin] * 6,
            *[self.pass_time] * 3,
            *[self.stall, self.read_on] * 2,
            self.publish_again,
            self.disconnect,
            self.vanish,
            self.close_one,
            self.hold_tail,
            self.log_leaves,
            self.log_returns,
            self.log_returns,
            self.replace,
        ]
        for client in self.clients:
            client.connect(self.dice.choice(self.instances).hub)
        for _ in range(self.dice.randint(20, 60)):
            await self.dice.choice(acts)()
        await self.settle()
        return self.verdict

    # What may happen ------------------------------------------------------------------------------

    async def publish(self) -> None:
        count = self.dice.choice((1, 1, 2, 6))
        self._dispatch([self._make_event(self.dice.choice(TYPES), self.dice.choice(AUDIENCES)) for _ in range(count)])
        await self.spin()

    async def publish_again(self) -> None:
        if self.published:
            again = self.dice.choice(self.published[-30:])
            self.repeated.add(again.id)
            self._dispatch([again])

    async def expire(self) -> None:
        """The tokens of all clients are about to end: a control frame between two events, at any moment."""
        for client in self.clients:
            if client.now is not None and client.now.subscriber is not None:
                client.now.subscriber.write_control(client.format.expiring(self.dice.randint(1, 30)))

    async def connect(self) -> None:
        client = self.dice.choice(self.clients)
        if client.over:
            await client.disconnect(1.0)
            client.connect(self.dice.choice(self.instances).hub)

    async def disconnect(self) -> None:
        await self.dice.choice(self.clients).disconnect(self.dice.choice((1.0, 1.0, self.dice.random())))

    async def vanish(self) -> None:
        """The connection is dead, and neither side has noticed."""
        client = self.dice.choice(self.clients)
        if client.now is not None:
            client.now.sink.gone = True

    async def close_one(self) -> None:
        client = self.dice.choice(self.clients)
        if client.now is not None and client.now.subscriber is not None:
            client.now.subscriber.close(self.dice.choice(("max-age", "token-expired", "revoked")))

    async def stall(self) -> None:
        client = self.dice.choice(self.clients)
        if client.now is not None:
            client.now.sink.stalled = True

    async def read_on(self) -> None:
        client = self.dice.choice(self.clients)
        if client.now is not None:
            client.now.sink.release()

    async def spin(self) -> None:
        await spin(self.dice.randint(0, 6))

    async def pass_time(self) -> None:
        seconds = self.dice.choice((0.0005, 0.002, 0.02, 0.3, HEARTBEAT / 16, HEARTBEAT, 70.0))
        self.store.clock.advance(seconds)
        await pass_time(seconds)

    async def hold_tail(self) -> None:
        log = self.dice.choice(self.instances).log
        if not log.is_unavailable:
            log.hold_tail()
            await self.spin()
            asyncio.get_running_loop().call_later(self.dice.choice((0.001, 1.0, 20.0)), _release, log)

    async def log_leaves(self) -> None:
        self.dice.choice(self.instances).log.leave()

    async def log_returns(self) -> None:
        self.dice.choice(self.instances).log.come_back()

    async def replace(self) -> None:
        """A deployment replaces an instance; its clients reconnect to any other."""
        number = self.dice.randrange(len(self.instances))
        old = self.instances[number]
        old.log.come_back()
        for client in self.clients:
            if client.now is not None and client.now.hub is old.hub:
                if client.now.subscriber is not None:
                    client.now.subscriber.close("draining")
                await client.disconnect(1.0)
        await self._published()
        await old.hub.aclose()
        self.instances[number] = self._make_instance()

    # How it happens -------------------------------------------------------------------------------

    def _make_event(self, type: str, users: tuple[str, ...] | None) -> Event:
        number = len(self.published)
        event = Event(f"e{number}", type, b"%d" % number, users)
        self.published.append(event)
        return event

    def _dispatch(self, events: Sequence[Event]) -> None:
        hub = self.dice.choice(self.instances).hub

        async def publish() -> None:
            with suppress(TransportUnavailable):
                self.taken.update(receipt.id for receipt in await hub.dispatch(events))

        self.publishing[asyncio.create_task(publish())] = None

    async def _published(self) -> None:
        await asyncio.gather(*self.publishing)
        self.publishing.clear()

    async def settle(self) -> None:
        """Everything works again: each client gets its remaining events, and then everything is judged."""
        for instance in self.instances:
            instance.log.come_back()
        await self._published()
        await self._eventually(lambda: all(_backlog(instance) == 0 for instance in self.instances), "the outbox")
        for client in self.clients:
            if client.now is not None:
                client.now.sink.release()
                client.now.sink.fullness = 0.0
            if client.over or (client.now is not None and client.now.sink.gone):
                await client.disconnect(1.0)
                client.connect(self.instances[0].hub)
                assert client.now is not None
                client.now.sink.fullness = 0.0
        await self._eventually(lambda: all(self._is_ready(client) for client in self.clients), "ready")
        last = [self._make_event(type, users) for type in TYPES for users in (None, *((user,) for user in USERS))]
        self._dispatch(last)
        await self._published()
        for client in self.clients:
            own = [event for event in last if client.interest.matches(event)]
            await self._eventually(partial(self._has, client, own), "the last events")
        await pass_time(HEARTBEAT + 1)
        for client in self.clients:
            await client.disconnect(1.0)
        await self._judge()
        for instance in self.instances:
            await instance.hub.aclose()
        await self.store.aclose()

    async def _eventually(self, condition: Callable[[], bool], what: str) -> None:
        for _ in range(600):
            if condition():
                return
            await pass_time(0.5)
        self.verdict.blame("stuck", what)

    def _is_ready(self, client: Client) -> bool:
        return client.now is not None and b"event: " + READY.encode() in client.now.sink.stream

    def _has(self, client: Client, events: Sequence[Event]) -> bool:
        assert client.now is not None
        stream = client.now.sink.stream
        mark = b"data: %b\n" if client.format is DATA else b'"data":%b}\n'
        return all(mark % event.data in stream for event in events)

    async def _judge(self) -> None:
        log = self.store.open(self.scheme)
        found = await read(log, await log.seek(PARTITIONS, None))
        records = {name: [r for r in found if isinstance(r, Record) and r.partition == name] for name in PARTITIONS}
        logged = {record.event.id for each in records.values() for record in each}
        for id in sorted(self.taken - logged):
            self.verdict.blame("lost", f"{id} was accepted, and is not in the log")
        digest = hashlib.sha256()
        repeated = self.repeated if self.early else None
        for client in self.clients:
            # Until a scheme is announced, a subscriber also reads the partitions of the default one.
            needed = {*self.scheme.partitions_for(client.interest), *Partitions().partitions_for(client.interest)}
            judge = Judge(self.verdict, client.interest, sorted(needed), records, repeated)
            judge.judge([Received(each.cursor, each.received, each.sink.faults) for each in client.past])
            for connection in client.past:
                digest.update(connection.received)
        self.verdict.digest = digest.hexdigest()[:16]


class Plain:
    """An instance without a fallback, on a log that can be unavailable."""

    def __init__(self, story: Story, ring: Ring) -> None:
        self.log = UnavailableLog(story.store.open(story.scheme))
        self.hub = Hub(self.log, story.scheme, heartbeat=HEARTBEAT, ring=ring)


def _backlog(instance: Instance | Plain) -> int:
    return instance.fallback.backlog.events if isinstance(instance, Instance) else 0


def _release(log: UnavailableLog) -> None:
    if not log.is_unavailable:
        log.release_tail()


def play(seed: int, *, early: bool) -> Verdict:
    """Play the story of a seed, and return the verdict."""
    dice = random.Random(f"limits {seed}")
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner(loop_factory=VirtualTimeLoop))
        loop = runner.get_loop()

        def monotonic() -> float:
            """Let a flush take a moment now and then: the next one waits, and frames are pending for some turns."""
            return loop.time() + dice.choice((0.0, 0.0, 0.01))

        for module, clock in (("fanout", monotonic), ("hub", loop.time)):
            stack.enter_context(
                patch(f"tidewire.delivery.{module}.time", SimpleNamespace(monotonic=clock, time=loop.time))
            )
        page = dice.randint(1, 5)  # so that a few events fill several
        stack.enter_context(patch("tidewire.transports.log_base.PAGE", page))
        stack.enter_context(patch("tidewire.delivery.replay.BATCH_ITEMS", page))
        stack.enter_context(patch("tidewire.delivery.fanout.WRITE_BYTES", dice.choice((1, 200, 64 * 1024))))
        random.seed(seed)  # the back-offs
        story = Story(seed, early=early)
        stack.enter_context(patch("tidewire.delivery.start_place.time", SimpleNamespace(time=story.store.clock)))
        return runner.run(story.tell())
