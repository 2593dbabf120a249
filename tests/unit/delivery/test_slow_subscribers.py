"""Slow subscribers lose nothing, and cost the others nothing."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from tidewire.delivery.hub import Hub
from tidewire.delivery.ring_buffer import Ring
from tidewire.delivery.subscriber import State
from tidewire.transports.base import Retention
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import event, publish
from tests.contract.stores import CarrierStore, yield_once
from tests.support.clocks import pass_time, virtual_time
from tests.support.sinks import RecordingSink, subscribed
from tests.support.waiting import spin

RING = 16


def make_hub(retention: Retention | None = None) -> Hub:
    """A hub with a small ring over a log in memory, which yields at each point where another log does I/O."""
    return Hub(MemoryLog(retention=retention or Retention(), pause=yield_once), ring=Ring(RING))


@virtual_time
async def test_a_subscriber_out_of_the_ring_reads_the_log() -> None:
    """From its own place, and so loses and repeats nothing."""
    total = 40 * RING
    async with make_hub() as hub, subscribed(hub) as slow, subscribed(hub) as fast:
        await slow.ready()
        await fast.ready()
        slow.full = True
        for number in range(total):
            await publish(hub.transport, number)
        await fast.has(total - 1)
        assert slow.data == [0]
        slow.release()
        await slow.has(total - 1)
        await publish(hub.transport, "live")
        await slow.has("live")
        assert hub.stats.back_to_log == 1
        assert hub.stats.slow == 1
    assert slow.data == fast.data == [*range(total), "live"]
    assert slow.gaps == []


@virtual_time
async def test_a_subscriber_a_little_behind_reads_the_ring_only() -> None:
    async with make_hub() as hub, subscribed(hub) as slow, subscribed(hub) as fast:
        await slow.ready()
        await fast.ready()
        replays = hub.stats.replays
        slow.full = True
        for number in range(RING):
            await publish(hub.transport, number)
        await fast.has(RING - 1)
        slow.release()
        await slow.has(RING - 1)
        assert hub.stats.replays == replays
    assert slow.data == list(range(RING))


@virtual_time
async def test_a_slow_subscriber_costs_only_its_place_in_memory() -> None:
    async with make_hub() as hub, subscribed(hub) as slow, subscribed(hub) as fast:
        await slow.ready()
        await fast.ready()
        slow.full = True
        for number in range(1_000):
            await publish(hub.transport, number, "x" * 1_000)
        await fast.has(999)
        assert len(slow.chunks) <= 2  # ready, and the write after which it had no room
        now = hub.snapshot()
        assert (now.fanout.ring_records, now.fanout.pending_bytes) == (RING, 0)
        assert now.subscribers == {State.LIVE: 1, State.REPLAYING: 1}
        assert now.fanout.members == 1
        slow.release()
        await slow.has(999)


@virtual_time
async def test_catching_up_in_small_steps_loses_nothing() -> None:
    """And repeats nothing."""
    dice = random.Random(3)
    async with make_hub() as hub:
        sinks = [RecordingSink() for _ in range(10)]
        async with asyncio.TaskGroup() as tasks:

            async def follow(sink: RecordingSink) -> None:
                async with subscribed(hub, sink=sink):
                    await sink.has("end")

            for sink in sinks:
                tasks.create_task(follow(sink))
            for sink in sinks:
                await sink.ready()
            for number in range(600):
                await publish(hub.transport, number)
                sink = dice.choice(sinks)
                if sink.full:
                    sink.release()
                else:
                    sink.full = dice.random() < 0.5
                await spin(dice.randint(0, 4))
            await publish(hub.transport, "end")
            for sink in sinks:
                sink.release()
        assert hub.stats.back_to_log > 10  # or the test shows nothing
    for sink in sinks:
        assert sink.data == [*range(600), "end"]
        assert sink.faults == []


@virtual_time
async def test_records_trimmed_meanwhile_are_a_gap() -> None:
    async with make_hub(Retention(events=20)) as hub, subscribed(hub) as slow, subscribed(hub) as fast:
        await slow.ready()
        await fast.ready()
        slow.full = True
        await publish(hub.transport, "before")
        await slow.has("before")
        for number in range(100):
            await publish(hub.transport, number)
        await fast.has(99)
        slow.release()
        await slow.has(99)
        await publish(hub.transport, "live")
        await slow.has("live")
    assert slow.order == ["realtime.ready", "before", "realtime.gap", *range(80, 100), "live"]


@virtual_time
async def test_without_a_log_records_beyond_the_ring_are_a_gap() -> None:
    async with Hub(CarrierStore().open(), ring=Ring(RING)) as hub, subscribed(hub) as slow:
        await slow.ready()
        slow.full = True
        await hub.dispatch([event("first")])
        await slow.has("first")
        for number in range(RING):
            await hub.dispatch([event(number)])
        slow.release()
        await slow.has(RING - 1)  # all of it was still in the ring
        assert slow.gaps == []
        slow.full = True
        await hub.dispatch([event("second")])
        await slow.has("second")
        for _ in range(RING + 1):
            await hub.dispatch([event("lost")])
        slow.release()
        await slow.until(lambda: slow.gaps == ["no-log"])
        await hub.dispatch([event("live")])
        await slow.has("live")
    assert slow.order == ["realtime.ready", "first", *range(RING), "second", "realtime.gap", "live"]


Stall = Callable[[RecordingSink, Hub], Awaitable[None]]


async def stall_live(sink: RecordingSink, hub: Hub) -> None:
    await sink.ready()
    sink.full = True
    await publish(hub.transport, "the last")


async def stall_in_replay(sink: RecordingSink, hub: Hub) -> None:
    await spin()


async def stall_on_heartbeat(sink: RecordingSink, hub: Hub) -> None:
    await sink.ready()
    sink.full = True


@pytest.mark.parametrize("stall", [stall_live, stall_in_replay, stall_on_heartbeat])
@virtual_time
async def test_a_client_that_takes_nothing_for_a_minute_is_closed(stall: Stall) -> None:
    loop = asyncio.get_running_loop()
    async with make_hub() as hub, subscribed(hub) as fast:
        await publish(hub.transport, *range(10))
        sink = RecordingSink()
        sink.full = stall is stall_in_replay
        async with subscribed(hub, since="earliest", sink=sink):
            await stall(sink, hub)
            await sink.until(lambda: sink.is_waited_for, seconds=20)
            began = loop.time()
            await sink.until(lambda: sink.ended, seconds=90)
        assert 59 <= loop.time() - began <= 61
        assert sink.closing == "slow-consumer"
        await publish(hub.transport, "end")
        await fast.has("end")


@virtual_time
async def test_a_client_that_takes_a_little_now_and_then_is_kept() -> None:
    async with make_hub() as hub, subscribed(hub) as sink:
        await sink.ready()
        for number in range(10):
            sink.full = True
            await publish(hub.transport, number)
            await sink.until(lambda: sink.is_waited_for, seconds=20)
            await pass_time(50)
            sink.release()
        await sink.has(9)
        assert not sink.ended
    assert sink.data == list(range(10))
