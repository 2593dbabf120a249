"""Publishers, subscribers and failures in any order: the rules of the state machine, for any log."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tidewire.delivery import replay
from tidewire.delivery.hub import HEARTBEAT_SLOTS, Hub
from tidewire.delivery.ring_buffer import Ring
from tidewire.delivery.subscriber import Subscriber
from tidewire.errors import TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Start
from tidewire.model.event import Event
from tidewire.model.partitions import Partitions
from tidewire.protocol.sse import DATA
from tidewire.transports import log_base
from tidewire.transports.base import Retention

from tests.contract.stores import LogStore
from tests.properties.model import Begin, Journal, Reader, sentinels
from tests.support.sinks import RecordingSink
from tests.support.waiting import spin

TYPES = ("a", "b", "c")
USERS = ("u1", "u2", "u3")
CLIENTS = 4
HUBS = 2
RETRY_SECONDS = 0.01  # after a refusal
SCHEMES = (
    Partitions(),
    Partitions(frozenset({"a"})),
    Partitions(user_shards=2),
    Partitions(frozenset({"a", "b"}), 2),
)
audiences = st.none() | st.lists(st.sampled_from(USERS), min_size=1, unique=True).map(tuple)
clients = st.integers(0, CLIENTS - 1)
hubs = st.integers(0, HUBS - 1)


class Client:
    """One client: at most one connection at a time, and the state that it keeps between connections."""

    def __init__(self, interest: Interest, journal: Journal) -> None:
        self.interest = interest
        self.reader = Reader(interest, journal)
        self.last_id: str | None = None
        self.sink: RecordingSink | None = None
        self.hub: Hub | None = None
        self.subscriber: Subscriber | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.taken = 0  # bytes of this connection that have certainly arrived

    def arrive(self, up_to: int) -> None:
        """The client has received the stream up to this byte."""
        assert self.sink is not None
        chunk = self.sink.stream[self.taken : up_to]
        self.taken = max(self.taken, up_to)
        self.reader.take(chunk)


class StreamMachine(RuleBasedStateMachine):
    """One example: a log, some hubs on it, some clients; and at the end everything is judged."""

    heartbeat_seconds = 15.0
    runner: asyncio.Runner
    store: LogStore

    def make_runner(self) -> asyncio.Runner:
        """Return what runs this example's event loop."""
        raise NotImplementedError

    def make_store(self, pause: Callable[[], Any]) -> LogStore:
        """Return an empty store, on which each I/O may take a `pause`."""
        raise NotImplementedError

    async def pass_heartbeat(self) -> None:
        """Return after everyone had a heartbeat."""
        for hub in self.hubs:
            for _ in range(HEARTBEAT_SLOTS):
                hub.beat()

    @initialize(
        scheme=st.sampled_from(SCHEMES),
        maximum=st.sampled_from([0, 0, 4, 12]),
        ring=st.integers(1, 8),
        page=st.integers(1, 5),
        seed=st.integers(0, 2**32),
        interests=st.lists(
            st.builds(
                Interest,
                st.none() | st.sampled_from(USERS),
                st.none() | st.frozensets(st.sampled_from(TYPES), min_size=1),
            ),
            min_size=CLIENTS,
            max_size=CLIENTS,
        ),
    )
    def begin(
        self, scheme: Partitions, maximum: int, ring: int, page: int, seed: int, interests: list[Interest]
    ) -> None:
        self._limits = (log_base.PAGE, replay.BATCH_ITEMS)
        log_base.PAGE = replay.BATCH_ITEMS = page  # so that a few events fill several
        self.dice = random.Random(seed)
        self.scheme, self.retention, self.ring = scheme, Retention(events=maximum), ring
        self.journal = Journal(scheme, maximum)
        self.runner = self.make_runner()
        self.store = self.make_store(self.pause)
        self.hubs: list[Hub] = []
        self.published: list[Event] = []
        self.publishing: dict[asyncio.Task[None], int] = {}
        self.clients = [Client(interest, self.journal) for interest in interests]
        self.runner.run(self._open_hubs())

    async def _open_hubs(self) -> None:
        self.hubs = [self._make_hub() for _ in range(HUBS)]

    def _make_hub(self) -> Hub:
        log = self.store.open(self.scheme, self.retention)
        hub = Hub(log, self.scheme, heartbeat=self.heartbeat_seconds, ring=Ring(self.ring))
        hub.fanout.schedule_flush = lambda: self._schedule(hub)  # type: ignore[method-assign]  # chance decides when
        return hub

    def _schedule(self, hub: Hub) -> None:
        """Flush soon or a little later: by chance, and not by how busy this machine is."""
        loop = asyncio.get_running_loop()
        if self.dice.random() < 0.3:
            loop.call_later(0.002, hub.fanout.flush)
        else:
            loop.call_soon(hub.fanout.flush)

    async def pause(self) -> None:
        """Take any number of turns, as a remote reply does."""
        await spin(self.dice.choice((0, 0, 0, 1, 2, 5)))

    # What may happen ------------------------------------------------------------------------------

    @rule(
        what=st.lists(st.tuples(st.sampled_from(TYPES), audiences), min_size=1, max_size=6),
        hub=hubs,
        turns=st.integers(0, 4),
    )
    def publish(self, what: list[tuple[str, tuple[str, ...] | None]], hub: int, turns: int) -> None:
        batch = [self._make_event(type, users) for type, users in what]
        self._publish(batch, hub, turns)

    @precondition(lambda self: self.published)
    @rule(data=st.data(), hub=hubs, turns=st.integers(0, 4))
    def publish_again(self, data: st.DataObject, hub: int, turns: int) -> None:
        old = data.draw(st.lists(st.sampled_from(self.published), min_size=1, max_size=3))
        self._publish([old[0], self._make_event("a", None), *old[1:]], hub, turns)

    @rule(client=clients, hub=hubs, since=st.sampled_from(["now", "earliest"]), turns=st.integers(0, 6))
    def connect(self, client: int, hub: int, since: str, turns: int) -> None:
        who = self.clients[client]
        if who.sink is None:
            self.runner.run(self._connect(who, self.hubs[hub], who.last_id, since, turns))

    @rule(client=clients, hub=hubs, cursor=st.text(max_size=8))
    def connect_with_nonsense(self, client: int, hub: int, cursor: str) -> None:
        who = self.clients[client]
        if who.sink is None:
            self.runner.run(self._connect(who, self.hubs[hub], cursor, "now", 3))

    @rule(client=clients, share=st.floats(0, 1))
    def drop(self, client: int, share: float) -> None:
        who = self.clients[client]
        if who.sink is not None:
            self.runner.run(self._drop(who, share))

    @rule(client=clients)
    def stop_reading(self, client: int) -> None:
        sink = self.clients[client].sink
        if sink is not None:
            sink.full = True

    @rule(client=clients, turns=st.integers(0, 4))
    def read_on(self, client: int, turns: int) -> None:
        sink = self.clients[client].sink
        if sink is not None and sink.full:
            sink.release()
            self.runner.run(self._spin(turns))

    @rule(turns=st.integers(1, 12))
    def wait(self, turns: int) -> None:
        self.runner.run(self._spin(turns))

    @rule()
    def heartbeat(self) -> None:
        self.runner.run(self.pass_heartbeat())

    @rule()
    def wipe(self) -> None:
        self.journal.wiped()
        self.runner.run(self.store.wipe())

    @rule(hub=hubs)
    def replace_instance(self, hub: int) -> None:
        self.runner.run(self._replace(hub))

    @rule()
    def settle(self) -> None:
        self.runner.run(self._settle())

    # How it happens -------------------------------------------------------------------------------

    def _make_event(self, type: str, users: tuple[str, ...] | None) -> Event:
        number = len(self.published)
        self.published.append(Event(f"e{number}", type, b"%d" % number, users))
        return self.published[-1]

    def _publish(self, batch: list[Event], hub: int, turns: int) -> None:
        async def start() -> None:
            task = asyncio.create_task(self._persist(batch, self.hubs[hub]))
            self.publishing[task] = len(batch)
            await self._spin(turns)

        self.runner.run(start())

    async def _persist(self, batch: list[Event], hub: Hub) -> None:
        while True:
            with suppress(TransportUnavailable):
                for event, receipt in zip(batch, await hub.dispatch(batch), strict=True):
                    self.journal.note(event, receipt)
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _connect(self, who: Client, hub: Hub, cursor: str | None, since: str, turns: int) -> None:
        who.sink, who.hub, who.taken = RecordingSink(cursor or ""), hub, 0
        before = self.journal.counts()

        async def connect(sink: RecordingSink) -> None:
            start = Start(cursor, "earliest" if since == "earliest" else "now")
            while True:
                with suppress(TransportUnavailable):
                    subscriber = await hub.add(who.interest, start, DATA)
                    break
                await asyncio.sleep(RETRY_SECONDS)
            waiting = sum(self.publishing.values())
            after = {slot: count + waiting for slot, count in self.journal.counts().items()}
            who.subscriber = subscriber
            who.reader.connect(Begin(cursor, since, before, after))
            subscriber.start(sink)

        who.connecting = asyncio.create_task(connect(who.sink))
        await self._spin(turns)

    async def _drop(self, who: Client, share: float) -> None:
        assert who.sink is not None
        assert who.connecting is not None
        who.connecting.cancel()
        await asyncio.gather(who.connecting, return_exceptions=True)
        if who.subscriber is not None:
            assert who.hub is not None
            who.hub.remove(who.subscriber)
            written = len(who.sink.stream)
            who.arrive(who.taken + round((written - who.taken) * share))
            seen = RecordingSink(who.last_id or "")
            seen.write(who.sink.stream[: who.taken])
            who.last_id = seen.cursor or who.last_id
        assert who.sink.faults == []
        who.sink = who.hub = who.subscriber = who.connecting = None

    async def _replace(self, number: int) -> None:
        old = self.hubs[number]
        for who in self.clients:
            if who.hub is old:
                await self._drop(who, 1.0)
        await asyncio.gather(*self.publishing)  # a stopping instance finishes what it has begun
        await old.aclose()
        self.hubs[number] = self._make_hub()

    async def _spin(self, turns: int) -> None:
        await spin(turns)
        self._collect()

    def _collect(self) -> None:
        for task in [task for task in self.publishing if task.done()]:
            del self.publishing[task]
            task.result()

    async def _settle(self) -> None:
        """Every client reads to the end: it has all events of its audience, and no others."""
        for who in self.clients:
            if who.sink is not None:
                assert who.connecting is not None
                who.sink.release()
                await who.connecting
                if who.sink.ended:  # it had read nothing for too long
                    await self._drop(who, 1.0)
        await asyncio.gather(*self.publishing)
        self._collect()
        # One after the other: many at once could be trimmed before they were read.
        for type, users in sentinels(TYPES, USERS):
            last = self._make_event(type, users)
            await self._persist([last], self.hubs[0])
            for sink in [who.sink for who in self.clients if who.sink and who.interest.matches(last)]:
                await sink.has(int(last.data))
        self.journal.check_contiguous()
        for who in self.clients:
            if who.sink is not None:
                who.arrive(len(who.sink.stream))
            who.reader.judge()
            if who.sink is not None:
                assert who.reader.place is not None
                assert self.journal.missing(who.interest, who.reader.place) == []

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        try:
            self.runner.run(self._settle())
            self.runner.run(self._close())
        finally:
            log_base.PAGE, replay.BATCH_ITEMS = self._limits
            self.runner.close()

    async def _close(self) -> None:
        for who in self.clients:
            if who.sink is not None:
                await self._drop(who, 1.0)
        for hub in self.hubs:
            assert hub.subscribers == set()
            assert hub.snapshot().fanout.groups == 0
            await hub.aclose()
        await self.store.aclose()
