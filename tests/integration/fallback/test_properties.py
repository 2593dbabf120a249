"""Random outages, publishers, retries, and clients that subscribe, stall and resume: what always holds."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st
from tidewire.delivery.ring_buffer import Ring
from tidewire.errors import EventRefused, TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor
from tidewire.model.event import Event
from tidewire.model.partitions import Partitions
from tidewire.model.record import Record

from tests.contract.acts import event, read
from tests.contract.stores import MemoryStore
from tests.support.clocks import pass_time, virtual_time
from tests.support.sinks import RecordingSink, subscribed
from tests.support.unavailable_log import Instance

INSTANCES = 2
CLIENTS = 3
OUTBOX = 8
SCHEMES = (Partitions(), Partitions(frozenset({"a"}), user_shards=2))
INTEREST = Interest("u1")
USERS = (["u1"], ["u1", "u4"], None, ["u4"])  # in two shards
PARTITIONS = tuple(f"{base}{shard}" for base in ("a", "all") for shard in ("", ":u0", ":u1"))

instances = st.integers(0, INSTANCES - 1)
clients = st.integers(0, CLIENTS - 1)
seconds = st.sampled_from([0.0, 0.001, 0.02, 0.3, 3.0, 20.0])
actions = st.one_of(
    st.tuples(st.just("leave"), instances),
    st.tuples(st.just("come_back"), instances),
    st.tuples(st.just("answer_without_a_tail"), instances),
    st.tuples(st.just("lose_an_answer"), instances),
    st.tuples(st.just("publish_new"), instances, st.integers(1, 4)),
    st.tuples(st.just("publish_new"), instances, st.integers(1, 4)),
    st.tuples(st.just("publish_again"), instances, st.integers(1, 30)),
    st.tuples(st.just("publish_refused"), instances, st.sampled_from(["poison", "barred"]), st.integers(0, 2)),
    st.tuples(st.just("refuse_all"), instances),
    st.tuples(st.just("take_again"), instances),
    st.tuples(st.just("connect"), clients, instances),
    st.tuples(st.just("disconnect"), clients),
    st.tuples(st.just("stall"), clients),
    st.tuples(st.just("read_on"), clients),
    st.tuples(st.just("pass_time"), seconds),
    st.tuples(st.just("pass_time"), seconds),
)


class Client:
    """One client, with the events of each of its connections."""

    def __init__(self) -> None:
        self.connections: list[RecordingSink] = []
        self._stack: AsyncExitStack | None = None

    async def connect(self, instance: Instance) -> None:
        await self.disconnect()
        cursor = self.connections[-1].cursor if self.connections else None
        sink = RecordingSink(cursor or "")
        self._stack = AsyncExitStack()
        await self._stack.enter_async_context(
            subscribed(instance.hub, "u1", cursor=cursor or None, sink=sink, wait_for_log=True)
        )
        self.connections.append(sink)

    async def disconnect(self) -> None:
        if self._stack is not None:
            self.connections[-1].release()
            await self._stack.aclose()
            self._stack = None

    @property
    def sink(self) -> RecordingSink | None:
        """The sink of the open connection."""
        return self.connections[-1] if self._stack is not None and not self.connections[-1].ended else None

    @property
    def received(self) -> set[object]:
        """The data of all events that it received."""
        return {data for sink in self.connections for data in sink.data}

    @property
    def first_cursor(self) -> Cursor:
        """The first cursor that it got: from there on it must receive everything."""
        text = next(one.last_event_id for sink in self.connections for one in sink.all if one.last_event_id)
        cursor = Cursor.parse(text)
        assert cursor is not None
        return cursor


class World:
    """The store, its instances, its clients, and the events that each client must get."""

    def __init__(self, scheme: Partitions, ring: int) -> None:
        self.scheme = scheme
        self.store = MemoryStore()
        self.instances = [Instance(self.store, scheme, max_events=OUTBOX, ring=Ring(ring)) for _ in range(INSTANCES)]
        self.clients = [Client() for _ in range(CLIENTS)]
        self.published: list[Event] = []  # also those that were refused
        self.taken: set[str] = set()
        self.refused: set[str] = set()  # ids that the log never accepts
        self.durable: set[str] = set()
        self.early: list[list[str]] = [[] for _ in range(INSTANCES)]  # in the order of the receipts
        self.tries: Counter[str] = Counter()
        self.numbers = count()

    async def leave(self, number: int) -> None:
        self.instances[number].log.leave()

    async def come_back(self, number: int) -> None:
        self.instances[number].log.come_back()

    async def answer_without_a_tail(self, number: int) -> None:
        self.instances[number].log.is_unavailable = False

    async def lose_an_answer(self, number: int) -> None:
        self.instances[number].log.answers_lost += 1

    async def publish_new(self, number: int, count: int) -> None:
        types = ("a", "b")
        start = len(self.published)
        new = [
            event(n, id=f"{n}", type=types[n % 2], users=USERS[n // 2 % len(USERS)])
            for n in range(start, start + count)
        ]
        self.published += new
        await self.publish(number, new)

    async def publish_again(self, number: int, back: int) -> None:
        if self.published:
            await self.publish(number, [self.published[-min(back, len(self.published))]])

    async def publish_refused(self, number: int, kind: str, good: int) -> None:
        """Publish an event that the log refuses for good, with good ones in the same request."""
        bad_id = f"{kind} {len(self.refused)}"
        bad = event(bad_id, id=bad_id, type="a", users=USERS[len(self.refused) % len(USERS)])
        self.refused.add(bad.id)
        for instance in self.instances:
            getattr(instance.log, kind).add(bad.id)
        start = len(self.published)
        others = [event(n, id=f"{n}", type="b", users=["u1"]) for n in range(start, start + good)]
        self.published += others
        await self.publish(number, [bad, *others])

    async def refuse_all(self, number: int) -> None:
        """Refuse for longer than it takes to try an event, another one, and the first again."""
        self.instances[number].log.bars_all = True
        await pass_time(0.01)

    async def take_again(self, number: int) -> None:
        self.instances[number].log.bars_all = False
        await pass_time(0.01)

    async def connect(self, number: int, at: int) -> None:
        await self.clients[number].connect(self.instances[at])

    async def disconnect(self, number: int) -> None:
        await self.clients[number].disconnect()

    async def stall(self, number: int) -> None:
        if (sink := self.clients[number].sink) is not None:
            sink.full = True

    async def read_on(self, number: int) -> None:
        if (sink := self.clients[number].sink) is not None:
            sink.release()

    async def pass_time(self, time: float) -> None:
        await pass_time(time)

    async def publish(self, number: int, events: Sequence[Event]) -> None:
        self.tries.update(event.id for event in events)
        try:
            receipts = await self.instances[number].hub.dispatch(events)
        except (EventRefused, TransportUnavailable):
            return
        for receipt in receipts:
            self.taken.add(receipt.id)
            if receipt.durable:
                self.durable.add(receipt.id)
            else:
                self.early[number].append(receipt.id)

    async def settle(self) -> None:
        """Bring everything back, and wait until each event has arrived."""
        for instance in self.instances:
            instance.log.answers_lost = 0
            instance.log.bars_all = False
            instance.log.come_back()
        async with asyncio.timeout(120.0):
            for number, instance in enumerate(self.instances):
                await self.take_one(number)
                while instance.fallback.backlog.events:  # a refused event is set aside once a later one is stored
                    await self.take_one(number)
        for client in self.clients:
            if (sink := client.sink) is not None:
                sink.release()
        for client in self.clients:
            if client.sink is None:
                await client.connect(self.instances[0])
            assert client.sink is not None
            await client.sink.ready()
        last = [event("end", id=f"end {type}", type=type) for type in ("a", "b")]
        await self.instances[0].hub.dispatch(last)
        for client in self.clients:
            assert client.sink is not None
            sink = client.sink
            await sink.until(lambda sink=sink: sink.data.count("end") == 2)  # type: ignore[misc]  # binds the loop variable

    async def take_one(self, number: int) -> None:
        """Return once an instance has accepted one more event."""
        name = f"settled {next(self.numbers)}"
        fresh = [event(name, id=name, type="b", users=["u1"])]
        while name not in self.taken:
            await self.publish(number, fresh)
            await pass_time(0.1)

    async def logged(self) -> list[Record]:
        """Return all records."""
        log = self.store.open(self.scheme)
        return [item for item in await read(log, await log.seek(PARTITIONS, None)) if isinstance(item, Record)]

    async def owed(self, client: Client) -> set[object]:
        """Return the data of the log for a client, since its first cursor."""
        log = self.store.open(self.scheme)
        records = [item for item in await read(log, client.first_cursor) if isinstance(item, Record)]
        return {json.loads(record.event.data) for record in records if INTEREST.matches(record.event)}

    def in_order(self, logged: Sequence[Record]) -> bool:
        """Whether the log has the events of one outbox in their order; retries may be elsewhere."""
        places = {(record.partition, record.event.id): place for place, record in enumerate(logged)}
        for early in self.early:
            for partition in PARTITIONS:
                once = [places[partition, id] for id in early if self.tries[id] == 1 and (partition, id) in places]
                if once != sorted(once):
                    return False
        return True

    async def close(self) -> None:
        for client in self.clients:
            await client.disconnect()
        for instance in self.instances:
            instance.log.come_back()
            await instance.hub.aclose()


@settings(max_examples=200)
@given(st.lists(actions, min_size=20, max_size=50), st.sampled_from(SCHEMES), st.integers(2, 12))
def test_no_outage_loses_or_doubles_an_event(story: list[tuple[object, ...]], scheme: Partitions, ring: int) -> None:
    run(story, scheme, ring)


@virtual_time
async def run(story: list[tuple[object, ...]], scheme: Partitions, ring: int) -> None:
    world = World(scheme, ring)
    try:
        for number in range(CLIENTS):
            await world.connect(number, number % INSTANCES)
        await world.pass_time(0.3)
        for name, *arguments in story:
            await getattr(world, str(name))(*arguments)
        await world.settle()
        logged = await world.logged()
        ids = {record.event.id for record in logged}
        assert world.durable <= ids, "a durable event is lost"
        assert world.taken - world.refused <= ids, "a taken event is not in the log, although its process lives"
        assert not world.refused & ids
        assert len(logged) == len({(record.partition, record.event.id) for record in logged}), "twice in the log"
        assert world.in_order(logged) or any(action in ("lose_an_answer", "refuse_all") for action, *_ in story)
        for client in world.clients:
            for sink in client.connections:
                data = [one for one in sink.data if one != "end"]
                assert len(data) == len(set(data)), f"twice on one connection: {sink}"
                assert sink.faults == []
                assert sink.gaps == []
            assert client.received >= await world.owed(client), [str(sink) for sink in client.connections]
    finally:
        await world.close()
