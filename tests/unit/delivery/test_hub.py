"""The hub: what it publishes and counts, what it says about its transport, and the one read of a page."""

import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from tidewire.delivery import hub as module
from tidewire.delivery.hub import PING_SECONDS, REFUSAL_SECONDS, Hub
from tidewire.delivery.revocations import Revocation, Revocations
from tidewire.delivery.subscriber import State
from tidewire.delivery.tracer import Tracer
from tidewire.errors import TransportRefused, TransportUnavailable, Unauthorized, Unavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Start
from tidewire.model.event import Event
from tidewire.model.partitions import ALL, Partitions
from tidewire.model.record import Record
from tidewire.protocol.sse import DATA
from tidewire.transports.base import Receipt
from tidewire.transports.fallback.fallback import Fallback
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import event
from tests.contract.staged import StagedLog
from tests.contract.stores import CarrierStore, MemoryStore, yield_once
from tests.support.clocks import Clock, virtual_time
from tests.support.sinks import RecordingSink, subscribed
from tests.support.waiting import eventually

NOTHING_CAN = "until it is back, nothing can be published: "
IN_MEMORY = "until it is back, published events are kept in memory: "


class FailingLog(StagedLog):
    """A log that answers a ping and a publish as a test wants."""

    def __init__(self) -> None:
        super().__init__(MemoryLog())
        self.failure: TransportUnavailable | None = None
        self.seconds = 0.0

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        await self.ping()
        return await super().publish(events)

    async def ping(self) -> None:
        await asyncio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.getMessage() for line in caplog.records if line.name == module.__name__]


@virtual_time
async def test_a_transport_that_answers_needs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    log = FailingLog()
    log.seconds = PING_SECONDS - 0.1
    async with Hub(log) as hub:
        await hub.check_transport()
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("is_buffering", [False, True])
@virtual_time
async def test_a_start_without_the_transport_logs_why(caplog: pytest.LogCaptureFixture, is_buffering: bool) -> None:
    """And what happens to what is published meanwhile."""
    log = FailingLog()
    log.failure = TransportUnavailable("no route to it")
    async with Hub(Fallback(log) if is_buffering else log) as hub:
        await hub.check_transport()
        log.failure, log.seconds = None, 1_000.0
        began = asyncio.get_running_loop().time()
        await hub.check_transport()
        assert asyncio.get_running_loop().time() - began == pytest.approx(PING_SECONDS)
    meanwhile = IN_MEMORY if is_buffering else NOTHING_CAN
    started = "started while the transport is unavailable: "
    assert warnings_of(caplog) == [f"{started}{meanwhile}{why}" for why in ("no route to it", "no answer within 2 s")]


@virtual_time
async def test_a_refusal_counts_until_an_append_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or for so long after the last one; an outage is no refusal."""
    clock, log = Clock(), FailingLog()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock))
    async with Hub(log) as hub:

        def refusal() -> str | None:
            return hub.refusal

        assert refusal() is None

        async def fails(failure: TransportUnavailable) -> None:
            log.failure = failure
            with pytest.raises(type(failure)):
                await hub.dispatch([event(1), event(2)])

        await fails(TransportRefused("read-only"))
        clock.advance(REFUSAL_SECONDS - 1)
        await fails(TransportRefused("no memory"))
        clock.advance(REFUSAL_SECONDS)
        assert refusal() == "no memory"
        clock.advance(0.001)
        assert refusal() is None
        await fails(TransportRefused("read-only"))
        await fails(TransportUnavailable("no answer"))
        assert refusal() == "read-only"
        log.failure = None
        await hub.dispatch([event(3)])
        assert refusal() is None
        assert (hub.refused, hub.published) == (8, 1)
        await fails(TransportUnavailable("no answer"))
        assert refusal() is None


@virtual_time
async def test_an_append_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock))

    class Slow(StagedLog):
        async def publish(self, events: Sequence[Event]) -> list[Receipt]:
            clock.advance(3.0)
            return await super().publish(events)

    async with Hub(Slow(MemoryLog())) as hub:
        await hub.dispatch([event(1), event(2)])
        await hub.dispatch([event(3)])
        assert hub.published == 3
        assert (hub.publish_seconds.count, hub.publish_seconds.sum) == (2, 6.0)


@virtual_time
async def test_without_a_log_a_repeated_event_is_delivered_once() -> None:
    """The transport recognizes it; what no log keeps is delivered here at once."""

    class Repeating(StagedLog):
        async def publish(self, events: Sequence[Event]) -> list[Receipt]:
            return [Receipt(each.id, None, duplicate=each.id == "again") for each in events]

    async with Hub(Repeating(MemoryLog())) as hub, subscribed(hub) as sink:
        await sink.ready()
        await hub.dispatch([event(1), event(2, id="again"), event(3)])
        await sink.has(3)
        assert sink.data == [1, 3]


@virtual_time
async def test_a_publish_without_a_log_reaches_each_partition() -> None:
    scheme = Partitions(frozenset({"a"}))
    async with Hub(CarrierStore().open(scheme), scheme) as hub:
        async with subscribed(hub, types={"a"}) as a, subscribed(hub, types={"b"}) as b:
            await a.ready()
            await b.ready()
            await hub.dispatch([event(1, type="a"), event(2, type="b")])
            await a.has(1)
            await b.has(2)
        assert (a.data, b.data) == ([1], [2])


@virtual_time
async def test_without_a_log_nothing_is_remembered() -> None:
    """An id that comes again is another event, and no control partition is read."""
    async with Hub(CarrierStore().open()) as hub, subscribed(hub) as sink:
        await sink.ready()
        assert hub.snapshot().readers == {ALL: 1}
        for number in (1, 2):
            await hub.dispatch([event(number, id="same")])
        await sink.has(2)
        assert sink.data == [1, 2]


class Traces:
    """A tracer that keeps what it is called with, and names the events of an append."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.events: Sequence[Event] = ()

    @contextmanager
    def append(self, events: Sequence[Event]) -> Iterator["Traces"]:
        self.calls.append("append")
        self.events = [msgspec.structs.replace(each, traceparent="00-1-1-01") for each in events]
        yield self
        self.calls.append("appended")

    def took(self, receipts: Sequence[Receipt]) -> None:
        self.calls.append(f"took {len(receipts)}")

    def delivered(self, record: Record, matched: int, written: int, began: int, ended: int) -> None:
        self.calls.append(f"delivered {record.event.traceparent} to {written}")

    async def aclose(self) -> None:
        self.calls.append("closed")


async def test_an_event_is_traced_from_its_append_to_its_delivery() -> None:
    """The log holds it with its trace; the last traces are sent when the hub closes."""
    traces = Traces()
    async with Hub(MemoryLog(pause=yield_once), tracer=cast(Tracer, traces)) as hub, subscribed(hub) as sink:
        await eventually(lambda: hub.snapshot().fanout.members == 1)
        await hub.dispatch([])
        assert traces.calls == []
        (receipt,) = await hub.dispatch([event(1)])
        assert receipt.positions is not None
        await sink.has(1)
        await asyncio.sleep(0)
        assert sorted(traces.calls) == ["append", "appended", "delivered 00-1-1-01 to 1", "took 1"]
        assert hub.tracer is not None
    assert traces.calls[-1] == "closed"


@virtual_time
async def test_a_hub_says_what_it_holds() -> None:
    async with Hub(MemoryLog()) as hub:

        class Buffered(RecordingSink):
            buffered = 70

        async with subscribed(hub, "u1", sink=Buffered()) as one, subscribed(hub, sink=Buffered()) as two:
            await one.ready()
            await two.ready()
            third = await hub.add(Interest(), Start(), DATA)
            now = hub.snapshot()
            assert now.subscribers == {State.LIVE: 2, State.REPLAYING: 1}
            assert now.readers[ALL] == 3
            assert (now.buffered, now.in_slots, now.fanout.members) == (140, 3, 2)
            hub.remove(third)
        now = hub.snapshot()
        assert (now.subscribers, now.readers, now.buffered, now.in_slots) == ({}, {}, 0, 0)


class Troubled(StagedLog):
    """A log whose tail is not running, says why, and gives advice."""

    class _Tail:
        running = False
        failure = "the store refuses the read"
        advice = "allow the read"

        def follow(self, positions: object) -> None: ...

        def unfollow(self, partitions: object) -> None: ...

    def on_message(self, handler: object) -> Any:
        tail = self._Tail()

        class Context:
            async def __aenter__(self) -> object:
                return tail

            async def __aexit__(self, *_: object) -> None: ...

        return Context()


@virtual_time
async def test_a_tail_that_nobody_needs_is_no_trouble() -> None:
    async with Hub(Troubled(MemoryLog())) as hub:

        def states() -> tuple[bool, str | None, str | None]:
            return hub.tail_running, hub.tail_trouble, hub.advice

        assert states() == (True, None, None)
        async with subscribed(hub):
            assert states() == (False, "the tail is reconnecting: the store refuses the read", "allow the read")
        assert states()[:2] == (True, None)


@virtual_time
async def test_a_closed_hub_has_no_timer() -> None:
    class Counting(Hub):
        beats = 0

        def beat(self) -> None:
            self.beats += 1
            super().beat()

    hub = Counting(MemoryLog(), heartbeat=16.0)
    async with subscribed(hub), subscribed(hub):
        await asyncio.sleep(10.5)
        assert hub.beats == 10
        await hub.aclose()
        await asyncio.sleep(100)
    assert hub.beats == 10


@virtual_time
async def test_closing_closes_the_transport() -> None:
    class Closing(StagedLog):
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1

    log = Closing(MemoryLog())
    async with Hub(log) as hub:
        assert log.closed == 0
    assert log.closed == 1
    with pytest.raises(Unavailable, match="another instance answers"):
        await hub.add(Interest(), Start(), DATA)
    assert hub.snapshot().readers == {}


@virtual_time
async def test_only_tokens_from_before_a_revocation_are_revoked() -> None:
    log = MemoryLog(pause=yield_once)
    async with Hub(log, revocations=Revocations(log, 1e12)) as hub:
        async with (
            subscribed(hub, "u1", issued_at=99.9) as old,
            subscribed(hub, "u1", issued_at=100.0) as new,
            subscribed(hub, "u2", issued_at=1.0) as other,
            subscribed(hub) as anonymous,
        ):
            sinks = (old, new, other, anonymous)
            for sink in sinks:
                await sink.ready()
            await hub.dispatch([Revocation("u1", 100.0).event()])
            await old.until(lambda: old.ended)
            assert [sink.closing for sink in sinks] == ["revoked", None, None, None]
        with pytest.raises(Unauthorized):
            await hub.add(Interest("u1"), Start(), DATA, issued_at=99.9)
        assert hub.snapshot().readers == {}
        with pytest.raises(Unauthorized):
            await hub.read(Interest("u1"), Start(), DATA, RecordingSink(), issued_at=99.9)
        hub.check_revoked(Interest("u1"), 100.0)
        hub.check_revoked(Interest("u1"), math.inf)


@virtual_time
async def test_a_cursor_of_a_scheme_unknown_so_far_loses_nothing() -> None:
    """The log is read for it: for a partition of an unknown scheme the client would get a gap, and no event."""
    store = MemoryStore()
    other = Partitions(frozenset({"a"}))
    log = StagedLog(store.open())
    async with Hub(log) as here, Hub(store.open(other), other) as there, subscribed(here) as keeps_it_open:
        await keeps_it_open.ready()
        log.hold_tail()
        async with subscribed(there) as sink:
            await sink.ready()
            await there.dispatch([event("one", type="a")])
            await sink.has("one")
        await there.dispatch([event("two", type="a")])
        async with subscribed(here, cursor=sink.cursor) as resumed:
            assert await resumed.ready() == {"recovered": True, "replayed": 1}
            assert resumed.order == ["two", "realtime.ready"]
            last = Cursor.parse(resumed.cursor)
            assert last is not None
            assert last.positions.keys() == {ALL, "a"}
