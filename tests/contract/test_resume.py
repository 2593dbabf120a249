"""A client resumes: from its cursor, a receipt or a time, or with an invalid cursor."""

import re
from typing import Literal

import pytest
from tidewire.delivery import replay
from tidewire.delivery.hub import Hub
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Start
from tidewire.protocol.sse import DATA
from tidewire.transports.base import Retention
from tidewire.transports.log_base import FIRST, GROWTH, PAGE

from tests.contract.acts import event, place, publish
from tests.contract.stores import LogStore, RedisStore
from tests.support.sinks import RecordingSink, subscribed


async def test_a_resume_on_any_instance_gets_missed_then_live_events(
    store: LogStore,
) -> None:
    async with Hub(store.open()) as one, Hub(store.open()) as other:
        async with subscribed(one) as first:
            await first.ready()
            await publish(one.transport, 1, 2)
            await first.has(2)
        await publish(one.transport, 3, 4)
        async with subscribed(other, cursor=first.cursor) as again:
            assert await again.ready() == {"recovered": True, "replayed": 2}
            await publish(one.transport, 5)
            await again.has(5)
    assert first.data == [1, 2]
    assert again.order == [3, 4, "realtime.ready", 5]


async def test_each_id_of_a_stream_is_a_cursor_to_resume_from(store: LogStore) -> None:
    async with Hub(store.open()) as hub:
        await publish(hub.transport, *range(10))
        async with subscribed(hub, since="earliest") as sink:
            await sink.ready()
        for number, seen in enumerate(sink.events):
            async with subscribed(hub, cursor=seen.last_event_id) as again:
                await again.ready()
            assert again.data == list(range(number + 1, 10))


async def test_the_ready_frame_sets_the_cursor(store: LogStore) -> None:
    async with Hub(store.open()) as hub:
        async with subscribed(hub) as first:
            await first.ready()
        await publish(hub.transport, "missed")
        async with subscribed(hub, cursor=first.cursor) as again:
            await again.ready()
    assert again.data == ["missed"]


async def test_events_for_others_are_never_replayed(store: LogStore) -> None:
    async with Hub(store.open()) as hub:
        async with subscribed(hub, "u2") as theirs:
            await theirs.ready()
        await hub.dispatch([event("secret", users=["u1"]), event("open"), event("b", type="b")])
        starts: list[Literal["earliest"] | int] = ["earliest", 0]
        for start in starts:
            async with subscribed(hub, "u2", {"t"}, since=start) as sink:
                await sink.ready()
            assert sink.data == ["open"]
        async with subscribed(hub, "u2", {"t"}, cursor=theirs.cursor) as sink:
            await sink.ready()
        assert sink.data == ["open"]
        async with subscribed(hub, cursor=theirs.cursor) as sink:
            await sink.ready()
        assert sink.data == ["open", "b"]


async def test_a_receipt_is_a_cursor_after_its_event(store: LogStore) -> None:
    async with Hub(store.open()) as hub:
        receipts = await publish(hub.transport, 1, 2, 3)
        assert receipts[1].positions is not None
        async with subscribed(hub, cursor=Cursor(receipts[1].positions).encode()) as sink:
            await sink.ready()
    assert sink.data == [3]


async def test_a_start_by_time_gets_events_at_or_after_it(store: LogStore) -> None:
    async with Hub(store.open()) as hub:
        await publish(hub.transport, "before")
        await store.pass_time(0.005)
        (receipt,) = await publish(hub.transport, "then")
        await publish(hub.transport, "after")
        async with subscribed(hub, since=place(receipt).time) as sink:
            assert (await sink.ready())["recovered"] is True
    assert sink.data == ["then", "after"]


async def test_trimmed_events_are_a_gap_before_the_rest(store: LogStore) -> None:
    async with Hub(store.open(retention=Retention(events=2))) as hub:
        async with subscribed(hub) as first:
            await first.ready()
        await publish(hub.transport, 1, 2, 3, 4)
        async with subscribed(hub, cursor=first.cursor) as again:
            assert await again.ready() == {"recovered": False, "replayed": 2}
    assert again.order == ["realtime.gap", 3, 4, "realtime.ready"]
    assert again.gaps == ["trimmed"]


async def test_a_resume_from_the_id_of_a_gap_has_no_second_gap(
    store: LogStore,
) -> None:
    async with Hub(store.open(retention=Retention(events=2))) as hub:
        async with subscribed(hub) as first:
            await first.ready()
        await publish(hub.transport, 1, 2, 3, 4)
        async with subscribed(hub, cursor=first.cursor) as again:
            await again.ready()
        async with subscribed(hub, cursor=again.all[0].last_event_id) as third:
            assert await third.ready() == {"recovered": True, "replayed": 2}
    assert third.data == [3, 4]


async def test_a_wiped_store_is_a_gap_before_everything_stored(store: LogStore) -> None:
    async with Hub(store.open()) as hub:
        await publish(hub.transport, "lost")
        async with subscribed(hub) as first:
            await first.ready()
        await store.wipe()
        await publish(hub.transport, "new", "newer")
        async with subscribed(hub, cursor=first.cursor) as again:
            assert await again.ready() == {"recovered": False, "replayed": 2}
    assert again.order == ["realtime.gap", "new", "newer", "realtime.ready"]
    assert again.gaps == ["epoch"]


async def test_an_older_state_is_a_gap_although_its_offsets_fit(store: LogStore) -> None:
    async with Hub(store.open()) as hub:
        await publish(hub.transport, 1, 2)
        fall_back = await store.back_up()
        async with subscribed(hub) as first:
            await first.ready()
            await publish(hub.transport, "lost")
            await first.has("lost")
        await fall_back()
        async with Hub(store.open()) as restarted:
            await publish(restarted.transport, "other", "and more")
            async with subscribed(restarted, cursor=first.cursor) as again:
                assert (await again.ready())["recovered"] is False
    assert again.order == ["realtime.gap", 1, 2, "other", "and more", "realtime.ready"]
    assert again.gaps == ["epoch"]


async def test_a_store_wiped_under_a_live_stream_is_a_gap(
    store: LogStore,
) -> None:
    async with Hub(store.open()) as hub:
        async with subscribed(hub) as sink:
            await sink.ready()
            await publish(hub.transport, "old")
            await sink.has("old")
            await store.wipe()
            await publish(hub.transport, "new", "newer")
            await sink.has("newer")
        async with subscribed(hub, cursor=sink.cursor) as again:
            assert await again.ready() == {"recovered": True, "replayed": 0}
    assert sink.order == ["realtime.ready", "old", "realtime.gap", "new", "newer"]
    assert sink.gaps == ["epoch"]


@pytest.mark.parametrize("cursor", ["", "0", "1", "nonsense", "1" + "A" * 5_000, "1AAAAAAAA", "1!!"])
async def test_an_invalid_cursor_is_a_gap_before_everything_stored(store: LogStore, cursor: str) -> None:
    async with Hub(store.open()) as hub:
        await publish(hub.transport, 1, 2)
        async with subscribed(hub, cursor=cursor) as sink:
            assert await sink.ready() == {"recovered": False, "replayed": 2}
    assert sink.order == ["realtime.gap", 1, 2, "realtime.ready"]
    assert sink.gaps == ["invalid"]


async def test_a_cursor_of_another_store_is_a_gap(store: LogStore) -> None:
    async with Hub(store.open()) as hub:
        (receipt,) = await publish(hub.transport, 1)
        assert receipt.positions is not None
        foreign = {name: p._replace(epoch=p.epoch - 1_000) for name, p in receipt.positions.items()}
        async with subscribed(hub, cursor=Cursor(foreign).encode()) as sink:
            await sink.ready()
    assert sink.order == ["realtime.gap", 1, "realtime.ready"]
    assert sink.gaps == ["epoch"]


async def test_a_plain_poll_reads_as_a_stream_does_without_a_tail(
    store: LogStore,
) -> None:
    async with Hub(store.open(retention=Retention(events=3))) as hub:
        sink = RecordingSink()
        await hub.read(Interest(), Start(), DATA, sink)
        await publish(hub.transport, *range(5))
        again = RecordingSink()
        await hub.read(Interest(), Start(sink.cursor), DATA, again)
        assert hub.fanout.positions == {}
    assert sink.order == ["realtime.ready"]
    assert again.order == ["realtime.gap", 2, 3, 4, "realtime.ready"]


@pytest.mark.parametrize(("silent", "minimum", "maximum"), [(0.0, 2, 4), (60.0, 0, 0)], ids=["long", "short"])
async def test_a_long_replay_of_others_events_moves_the_cursor(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch, silent: float, minimum: int, maximum: int
) -> None:
    monkeypatch.setattr(replay, "SILENT", silent)
    async with Hub(redis_store.open()) as hub:
        await hub.dispatch([event(number, users=["u1"]) for number in range(2 * PAGE + 10)])
        sink = RecordingSink()
        await hub.read(Interest("u2"), Start(since="earliest"), DATA, sink)
    alone = re.findall(rb"(?:^|\n\n)id: (\S+)(?=\n\n)", sink.stream)
    assert minimum <= len(alone) <= maximum
    reached = [cursor.positions["all"].offset for text in alone if (cursor := Cursor.parse(text.decode())) is not None]
    assert reached == sorted(set(reached))
    growing = FIRST * (1 + GROWTH)  # records of the first two pages
    assert {*reached} <= {FIRST, growing, growing + PAGE, 2 * PAGE + 10}, "the ends of pages"
