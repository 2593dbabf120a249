"""A replay beside early events: what was delivered early is neither repeated nor lost, whenever the log comes back."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Literal

from tidewire.delivery.hub import Hub
from tidewire.delivery.subscriber import State
from tidewire.errors import TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Start
from tidewire.model.partitions import ALL
from tidewire.model.record import Gap, Record
from tidewire.protocol.sse import DATA
from tidewire.transports.base import Log
from tidewire.transports.fallback.fallback import Fallback

from tests.contract.acts import event
from tests.contract.stores import MemoryStore
from tests.support.clocks import virtual_time
from tests.support.sinks import RecordingSink, subscribed
from tests.support.unavailable_log import Instance, UnavailableLog


class BreakingLog(UnavailableLog):
    """A log that becomes unavailable in the middle of a read, after its second item, as often as a test says."""

    breaks = 0

    async def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        count = 0
        async for item in super().replay(after, until):
            if self.breaks and count == 2:
                self.breaks -= 1
                self.leave()
                raise TransportUnavailable("no answer in the middle")
            count += 1
            yield item


def offset_of(cursor: str) -> int:
    place = Cursor.parse(cursor)
    assert place is not None
    return place.positions[ALL].offset


@virtual_time
async def test_an_interrupted_replay_writes_early_events_meanwhile() -> None:
    """With the place that the replay has reached, so that a resume from there loses nothing."""
    store = MemoryStore()
    async with Instance(store) as there:
        await there.hub.dispatch([event(number) for number in range(5)])
    log = BreakingLog(store.open())
    log.breaks = 1
    async with Hub(Fallback(log)) as hub, subscribed(hub, since="earliest", wait_for_log=True) as sink:
        await sink.has(1)
        place = sink.cursor
        assert offset_of(place) == 2
        for name in ("early", "too"):
            await hub.dispatch([event(name)])
            await sink.has(name)
        assert sink.cursor == place
        await asyncio.sleep(10)
        assert sink.cursor == place
        assert hub.snapshot().subscribers == {State.REPLAYING: 1}
        log.come_back()
        assert (await sink.ready())["recovered"]
        await hub.dispatch([event("end")])
        await sink.has("end")
        await sink.until(lambda: offset_of(sink.cursor) == 8)
    assert sink.data == [0, 1, "early", "too", 2, 3, 4, "end"]


class SlowHeads(UnavailableLog):
    """A log whose heads are read when the test says so, and are new then."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.are_read = asyncio.Event()
        self.are_read.set()

    async def head(self, partitions: Sequence[str]) -> Cursor:
        await self.are_read.wait()
        return await super().head(partitions)


@virtual_time
async def test_an_early_event_that_a_replay_has_read_is_not_repeated() -> None:
    """It came to the ring before the head was read, and the log held it by then."""
    log = SlowHeads(MemoryStore().open())
    async with Hub(Fallback(log)) as hub, subscribed(hub) as witness:
        await witness.ready()
        log.hold_tail()
        log.are_read.clear()
        sinks = [RecordingSink(), RecordingSink()]
        starts: tuple[Literal["earliest", "now"], ...] = ("earliest", "now")
        adding = [
            asyncio.create_task(hub.add(Interest(), Start(since=since), DATA, wait_for_log=True)) for since in starts
        ]
        await asyncio.sleep(1)
        log.is_unavailable = True
        await hub.dispatch([event("early")])
        await witness.has("early")
        log.is_unavailable = False
        await asyncio.sleep(30)  # the log holds it, and the tail has not brought it yet
        log.are_read.set()
        added = await asyncio.gather(*adding)
        for subscriber, sink in zip(added, sinks, strict=True):
            subscriber.start(sink)
            await sink.ready()
        log.release_tail()
        await hub.dispatch([event("end")])
        for sink in (*sinks, witness):
            await sink.has("end")
        for subscriber in added:
            hub.remove(subscriber)
    assert witness.data == sinks[0].data == ["early", "end"]
    assert sinks[1].data == ["end"]
