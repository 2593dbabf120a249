"""From replay to live: each subscriber gets each event once and in order, whenever it subscribes."""

import asyncio
import random
from collections.abc import Sequence
from typing import Literal

import pytest
from tidewire.delivery.hub import Hub
from tidewire.model.cursor import Cursor
from tidewire.transports.base import Retention

from tests.contract.acts import place, publish
from tests.contract.staged import StagedLog
from tests.contract.stores import LogStore
from tests.support.sinks import RecordingSink, subscribed
from tests.support.waiting import eventually, spin


async def test_a_subscription_during_publishing_misses_nothing(
    store: LogStore,
) -> None:
    total, every = 400, 10
    async with Hub(store.open()) as hub, Hub(store.open()) as publisher:
        sinks: list[RecordingSink] = []
        published = asyncio.Event()

        async def follow() -> None:
            async with subscribed(hub, since="earliest") as sink:
                sinks.append(sink)
                await sink.has(total - 1)

        async with asyncio.TaskGroup() as tasks:
            for number in range(total):
                await publish(publisher.transport, number)
                if number % every == 0:
                    tasks.create_task(follow())
            published.set()
    assert len(sinks) == total // every
    for sink in sinks:
        assert sink.data == list(range(total))


async def test_each_event_acknowledged_after_ready_arrives(store: LogStore) -> None:
    async with Hub(store.open()) as hub, Hub(store.open()) as publisher:
        for number in range(20):  # each is the first subscriber, for which a tail is opened
            async with subscribed(hub) as sink:
                await sink.ready()
                await publish(publisher.transport, number)
                await sink.has(number)
            assert sink.data == [number]


async def test_clients_that_change_instances_get_each_event_once(
    store: LogStore,
) -> None:
    total = 400
    rng = random.Random(11)
    async with Hub(store.open()) as one, Hub(store.open()) as other:
        hubs = (one, other)

        async def hop(seed: int) -> list[int]:
            dice = random.Random(seed)
            cursor, seen = None, []
            while total - 1 not in seen:
                async with subscribed(dice.choice(hubs), cursor=cursor, since="now" if cursor else "earliest") as sink:
                    wanted = dice.randint(1, 60)
                    await sink.received(wanted, or_data=total - 1)
                assert sink.gaps == []
                seen += sink.data
                cursor = sink.cursor
            return seen

        async with asyncio.TaskGroup() as tasks:
            clients = [tasks.create_task(hop(seed)) for seed in range(8)]
            number = 0
            while number < total:
                size = min(rng.randint(1, 9), total - number)
                await publish(rng.choice(hubs).transport, *range(number, number + size))
                number += size
    for client in clients:
        assert client.result() == list(range(total))


async def test_a_tail_slower_than_the_read_of_the_head_repeats_nothing(store: LogStore) -> None:
    log = StagedLog(store.open())
    async with Hub(log) as hub, subscribed(hub) as early:
        await early.ready()
        log.hold_tail()
        await publish(log, 1, 2, 3)
        async with subscribed(hub, since="earliest") as late:
            await late.until(lambda: late.data == [1, 2, 3])  # from the log
            log.release_tail()
            await publish(log, 4)
            await late.has(4)
            await early.has(4)
    assert late.data == early.data == [1, 2, 3, 4]


async def test_a_tail_that_catches_up_in_steps_skips_nothing(store: LogStore) -> None:
    log = StagedLog(store.open())
    async with Hub(log) as hub, subscribed(hub) as early:
        await early.ready()
        log.hold_tail()
        await publish(log, 1, 2, 3)
        async with subscribed(hub, since="earliest") as first:
            await first.ready()
            await publish(log, 4, 5)
            async with subscribed(hub, cursor=early.cursor) as second:
                await second.ready()
                assert second.data == [1, 2, 3, 4, 5]
                log.release_tail()
                log.hold_tail()
                await publish(log, 6)
                async with subscribed(hub, cursor=second.cursor) as third:
                    await third.ready()
                    log.release_tail()
                    await publish(log, 7)
                    for sink in (early, first, second, third):
                        await sink.has(7)
    for sink in (early, first, second):
        assert sink.data == [1, 2, 3, 4, 5, 6, 7]
    assert third.data == [6, 7]


@pytest.mark.parametrize("with_cursor", [True, False], ids=["cursor", "now"])
async def test_an_outdated_head_loses_nothing_that_the_tail_read(store: LogStore, with_cursor: bool) -> None:
    log = StagedLog(store.open())
    async with Hub(log) as hub, subscribed(hub) as early:
        await early.ready()
        log.hold_heads()
        late = RecordingSink()
        cursor = early.cursor if with_cursor else None

        async def subscribe_late() -> None:
            async with subscribed(hub, cursor=cursor, sink=late):
                await late.has(4)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(subscribe_late())
            await log.head_asked()
            await publish(log, 1, 2, 3)
            await early.has(3)
            log.release_heads()
            await late.has(3)
            await publish(log, 4)
    assert late.data == [1, 2, 3, 4]


async def test_events_during_the_first_subscription_are_not_lost(
    store: LogStore,
) -> None:
    log = StagedLog(store.open())
    async with Hub(log) as hub:
        log.hold_heads()
        sinks = [RecordingSink() for _ in range(3)]

        async def subscribe(sink: RecordingSink) -> None:
            async with subscribed(hub, sink=sink):
                await sink.has(4)

        async with asyncio.TaskGroup() as tasks:
            for sink in sinks:
                tasks.create_task(subscribe(sink))
            await log.head_asked()
            await publish(log, 1, 2, 3)
            log.release_heads()
            for sink in sinks:
                await sink.ready()
            await publish(log, 4)
    for sink in sinks:  # from its own head, with nothing missing
        assert sink.data == [1, 2, 3, 4][-len(sink.data) :]


async def test_a_new_subscriber_keeps_the_tail_as_the_last_one_leaves(
    store: LogStore,
) -> None:
    async with Hub(store.open()) as hub:
        for number in range(20):
            async with subscribed(hub) as first:
                await first.ready()
                other = asyncio.create_task(_follow_until(hub, f"end {number}"))
                await spin(number % 4)
            await eventually(lambda: bool(hub.subscribers))
            await publish(hub.transport, f"end {number}")
            assert await other == [f"end {number}"]


async def test_a_partition_that_is_read_again_starts_at_its_head(
    store: LogStore,
) -> None:
    async with Hub(store.open()) as hub:
        for number in range(10):
            async with subscribed(hub) as sink:
                await sink.ready()
                await publish(hub.transport, number)
                await sink.has(number)
            await publish(hub.transport, "to nobody")
            assert hub.fanout.positions == {}
            assert sink.data == [number]


async def _follow_until(hub: Hub, data: object) -> list[object]:
    async with subscribed(hub) as sink:
        await sink.has(data)
    return sink.data


async def test_300_subscribers_at_once_are_all_served(
    store: LogStore,
) -> None:
    crowd, seconds = 300, 45.0  # long, for a busy machine: the test is that all are served
    async with Hub(store.open()) as hub:
        await publish(hub.transport, "history")

        async def subscribe(number: int) -> list[object]:
            async with subscribed(hub, f"u{number}", since="earliest") as sink:
                await sink.has("end", seconds)
            return sink.data

        async with asyncio.TaskGroup() as tasks:  # if one fails, the others end too
            subscriptions = [tasks.create_task(subscribe(number)) for number in range(crowd)]
            await eventually(lambda: len(hub.subscribers) == crowd, seconds)
            await publish(hub.transport, "end")
        assert [one.result() for one in subscriptions] == [["history", "end"]] * crowd


async def test_300_publishers_at_once_are_all_served(store: LogStore) -> None:
    log = store.open()
    answers = await asyncio.gather(*(publish(log, number) for number in range(300)))
    assert sorted(place(receipt).offset for (receipt,) in answers) == list(range(1, 301))


@pytest.mark.parametrize("since", ["earliest", 2**41])
async def test_a_log_that_grows_during_a_seek_is_no_gap(store: LogStore, since: Literal["earliest"] | int) -> None:
    class MovesOn(StagedLog):
        async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
            await publish(self, *range(2, 8))
            return await super().seek(partitions, time)

    log = MovesOn(store.open(retention=Retention(events=3)))
    await publish(log, 0, 1)
    async with Hub(log) as hub, subscribed(hub, since=since) as sink:
        assert (await sink.ready())["recovered"] is True
        await publish(log, 8)
        await sink.has(8)
    assert sink.gaps == []
    assert sink.data == ([5, 6, 7, 8] if since == "earliest" else [8])
