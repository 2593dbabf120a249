"""A store fell back to an older state: each reader gets a gap, and then everything that is stored."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tidewire.delivery.hub import Hub
from tidewire.delivery.ring_buffer import Ring
from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Cursor
from tidewire.transports.base import Handler, Log, Tail

from tests.contract.acts import publish
from tests.contract.staged import StagedLog
from tests.contract.stores import MemoryStore
from tests.support.clocks import virtual_time
from tests.support.sinks import RecordingSink, subscribed
from tests.support.unavailable_log import Instance
from tests.support.waiting import spin

AFTER = ["realtime.ready", *range(1, 6), "realtime.gap", 1, 2, "other"]


@virtual_time
async def test_live_streams_get_everything_stored() -> None:
    """They got the gap, but then only the records that were appended after it."""
    store = MemoryStore()
    log = store.open()
    async with Hub(log) as hub, subscribed(hub) as one, subscribed(hub) as other:
        await one.ready()
        await other.ready()
        await publish(log, 1, 2)
        fall_back = await store.back_up()
        await publish(log, 3, 4, 5)
        await one.has(5)
        await other.has(5)
        await fall_back()
        await publish(log, "other")
        await one.has("other")
        await other.has("other")
        await publish(log, "live")
        await one.has("live")
        assert one.order == other.order == [*AFTER, "live"]
        assert one.gaps == ["epoch"]


@virtual_time
async def test_a_stream_in_its_replay_gets_everything_stored() -> None:
    store = MemoryStore()
    log = store.open()
    await publish(log, 1, 2)
    fall_back = await store.back_up()
    await publish(log, 3, 4, 5)
    async with Hub(log) as hub:
        sink = RecordingSink()
        sink.full = True
        async with subscribed(hub, since="earliest", sink=sink):
            await sink.until(lambda: sink.is_waited_for)
            await fall_back()
            await publish(log, "other")
            sink.release()
            await sink.has("other", seconds=60)
            assert sink.gaps == ["epoch"]
            assert sink.order[sink.order.index("realtime.gap") :] == ["realtime.gap", 1, 2, "other"]


@virtual_time
async def test_a_slow_stream_out_of_the_ring_gets_everything_stored() -> None:
    store = MemoryStore()
    log = store.open()
    async with Hub(log, ring=Ring(2)) as hub, subscribed(hub) as fast, subscribed(hub) as slow:
        await fast.ready()
        await slow.ready()
        await publish(log, 1, 2)
        fall_back = await store.back_up()
        await slow.has(2)
        slow.full = True
        await publish(log, 3)
        await slow.has(3)
        await publish(log, 4, 5)
        await fast.has(5)
        await fall_back()
        await publish(log, "other")
        await fast.has("other")
        slow.release()
        await slow.has("other", seconds=60)
        assert slow.gaps == ["epoch"]
        assert slow.order[slow.order.index("realtime.gap") :] == ["realtime.gap", 1, 2, "other"]


@virtual_time
async def test_a_stream_whose_position_is_still_stored_has_no_gap() -> None:
    """It had read no record that the store has lost."""
    store = MemoryStore()
    log = store.open()
    async with Hub(log, ring=Ring(2)) as hub, subscribed(hub) as fast, subscribed(hub) as slow:
        await fast.ready()
        await slow.ready()
        await publish(log, 1)
        await slow.has(1)
        slow.full = True
        await publish(log, 2)
        await slow.has(2)
        fall_back = await store.back_up()
        await publish(log, 3, 4, 5)
        await fast.has(5)
        await fall_back()
        await publish(log, "other")
        await fast.has("other")
        slow.release()
        await slow.has("other", seconds=60)
        assert slow.order == ["realtime.ready", 1, 2, "other"]


@virtual_time
async def test_a_stream_that_waits_for_the_log_gets_everything_stored() -> None:
    store = MemoryStore()
    async with Instance(store) as instance:
        async with subscribed(instance.hub, wait_for_log=True) as first:
            await first.ready()
            await publish(instance.log, 1, 2)
            fall_back = await store.back_up()
            await publish(instance.log, 3, 4, 5)
            await first.has(5)
            cursor = first.cursor
        instance.log.leave()
        async with subscribed(instance.hub, cursor=cursor, wait_for_log=True) as waiting:
            await fall_back()
            instance.log.come_back()
            await waiting.ready()
            assert waiting.order == ["realtime.gap", 1, 2, "realtime.ready"]


class DemotedLog(StagedLog):
    """Its heads come from a former primary, until the tail is verified."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.old: Cursor | None = None
        self.verified = 0

    async def head(self, partitions: Sequence[str]) -> Cursor:
        heads = await super().head(partitions)
        return heads if self.old is None else self.old

    async def verify(self) -> None:
        """Drop the connections to the former primary."""
        self.verified += 1
        self.old = None


def verified_by(log: DemotedLog, verify: Callable[[], object]) -> None:
    """Give the log's tail this `verify`."""
    opened = log.on_message

    @asynccontextmanager
    async def on_message(handler: Handler) -> AsyncIterator[Tail]:
        tail: Any
        async with opened(handler) as tail:
            tail.verify = verify
            yield tail

    log.on_message = on_message  # type: ignore[method-assign]  # of this log alone


@virtual_time
async def test_heads_of_a_node_that_was_demoted_lose_nothing() -> None:
    """A client resumed at old heads: `recovered: true`, without three acknowledged events."""
    log = DemotedLog(MemoryStore().open())
    verified_by(log, log.verify)
    async with Hub(log) as hub, subscribed(hub) as live:
        await live.ready()
        await publish(log, 1)
        await live.has(1)
        old, cursor = await log.head(("all",)), live.cursor
        await publish(log, 2, 3, 4)
        await live.has(4)
        log.old = old
        async with subscribed(hub, cursor=cursor) as resumed:
            assert (await resumed.ready())["recovered"] is True
            assert resumed.data == [2, 3, 4]
        assert log.verified == 1


@virtual_time
async def test_heads_that_stay_behind_the_tail_are_an_outage() -> None:
    log = DemotedLog(MemoryStore().open())

    async def verify() -> None:
        await spin()

    verified_by(log, verify)
    async with Hub(log) as hub, subscribed(hub) as live:
        await live.ready()
        old = await log.head(("all",))
        await publish(log, 1)
        await live.has(1)
        log.old = old
        with pytest.raises(TransportUnavailable, match="older"):
            async with subscribed(hub):
                pass
        log.old = None
        async with subscribed(hub) as sink:
            await sink.ready()
