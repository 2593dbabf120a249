"""A replay is complete and exact, or starts with a gap."""

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from tidewire.model.cursor import Cursor, Position
from tidewire.model.partitions import Partitions
from tidewire.model.record import Gap, Record
from tidewire.transports.base import Log, Retention
from tidewire.transports.log_base import FIRST, GROWTH, PAGE

from tests.contract.acts import (
    at,
    contents,
    event,
    events,
    head,
    place,
    publish,
    read,
    seek,
    start_of,
)
from tests.contract.stores import LogStore


async def take(items: AsyncIterator[Record | Gap], count: int) -> list[Record | Gap]:
    """Consume some items and leave the rest."""
    return [await anext(items) for _ in range(count)]


async def test_a_replay_over_several_pages_is_exact_at_both_ends(log: Log) -> None:
    receipts = await publish(log, *range(1, 2 * PAGE + 151))
    after, until = place(receipts[99]), place(receipts[2 * PAGE + 129])
    assert contents(await read(log, at(after), at(until))) == list(range(101, 2 * PAGE + 131))


@pytest.mark.parametrize("count", [PAGE - 1, PAGE, PAGE + 1, 2 * PAGE])
async def test_the_end_of_a_page_is_not_a_hole(log: Log, count: int) -> None:
    receipts = await publish(log, *range(count))
    assert contents(await read(log, at(start_of(place(receipts[0]))))) == list(range(count))


async def test_what_is_appended_during_a_replay_is_not_part_of_it(log: Log) -> None:
    receipts = await publish(log, *range(PAGE + 50))
    replay = log.replay(at(start_of(place(receipts[0]))), await log.head(("all",)))
    items = await take(replay, 10)
    await publish(log, "late")
    items += [item async for item in replay]
    assert contents(items) == list(range(PAGE + 50))


async def test_a_cursor_at_the_head_reads_nothing(log: Log) -> None:
    receipts = await publish(log, 1, 2, 3)
    assert await read(log, at(place(receipts[-1]))) == []


async def test_trimming_by_length_is_a_gap_before_the_rest(
    store: LogStore,
) -> None:
    log = store.open(retention=Retention(events=4))
    receipts = await publish(log, *range(1, 11))
    items = await read(log, at(place(receipts[1])))
    assert contents(items) == ["<trimmed>", 7, 8, 9, 10]
    gap = items[0].position
    assert gap is not None
    assert (gap.epoch, gap.offset) == (place(receipts[0]).epoch, 6)


async def test_trimming_by_age_is_a_gap_before_the_rest(store: LogStore) -> None:
    log = store.open(retention=Retention(age=0.3))
    receipts = await publish(log, "old", "older")
    await store.pass_time(0.4)
    await publish(log, "new")
    assert contents(await read(log, at(start_of(place(receipts[0]))))) == ["<trimmed>", "new"]


async def test_a_cursor_right_before_the_oldest_kept_record_has_no_gap(store: LogStore) -> None:
    log = store.open(retention=Retention(events=4))
    receipts = await publish(log, *range(1, 11))
    assert contents(await read(log, at(place(receipts[5])))) == [7, 8, 9, 10]


async def test_what_is_trimmed_during_a_replay_is_a_gap_in_its_middle(store: LogStore) -> None:
    log = store.open(retention=Retention(events=2 * PAGE + 100))
    receipts = await publish(log, *range(1, 2 * PAGE + 101))
    replay = log.replay(at(start_of(place(receipts[0]))), await log.head(("all",)))
    first = contents(await take(replay, 3))
    await publish(log, *range(2 * PAGE + 50))  # keeps the last 50 of the records that are not read yet
    rest = contents([item async for item in replay])
    assert first == [1, 2, 3]
    # The first page was fetched before. The next is read ahead, and may have any part of its records.
    assert rest[: FIRST - 3] == [*range(4, FIRST + 1)]
    assert rest[-50:] == [*range(2 * PAGE + 51, 2 * PAGE + 101)]
    for last, item in pairwise(rest):
        if isinstance(last, int) and isinstance(item, int):
            assert item == last + 1, "an offset was skipped without a gap"
    assert "<trimmed>" in rest


async def test_a_wiped_store_is_a_gap_before_everything_stored(store: LogStore) -> None:
    log = store.open()
    receipts = await publish(log, "lost", "lost")
    await store.wipe()
    await publish(log, "kept", "kept too", "and this")
    for receipt in receipts:
        assert contents(await read(log, at(place(receipt)))) == [
            "<epoch>",
            "kept",
            "kept too",
            "and this",
        ]


async def test_a_wiped_store_that_is_still_empty_is_a_gap_too(store: LogStore) -> None:
    log = store.open()
    receipts = await publish(log, "lost")
    await store.wipe()
    items = await read(log, at(place(receipts[0])))
    assert contents(items) == ["<epoch>"]
    assert items[0].position is not None
    assert items[0].position[:2] == (await head(log))[:2]


async def test_a_cursor_ahead_of_the_log_is_a_gap(log: Log) -> None:
    receipts = await publish(log, 1, 2)
    ahead = Position(place(receipts[0]).epoch, 9, "0badc0de", 1)
    assert contents(await read(log, at(ahead))) == ["<epoch>", 1, 2]


@pytest.mark.parametrize("counted_again", [1, 2, 3, 5])
async def test_reused_offsets_of_an_older_state_are_a_gap(store: LogStore, counted_again: int) -> None:
    log = store.open()
    await publish(log, "a", "b", "c")
    fall_back = await store.back_up()
    lost = await publish(log, "lost 4", "lost 5")
    await fall_back()
    again = [f"other {n}" for n in range(4, 4 + counted_again)]
    await publish(log, *again)

    items = contents(await read(log, at(place(lost[-1]))))
    assert items == ["<epoch>", "a", "b", "c", *again]


async def test_a_position_that_the_older_state_holds_stays_valid(
    store: LogStore,
) -> None:
    log = store.open()
    receipts = await publish(log, "a", "b", "c")
    fall_back = await store.back_up()
    await publish(log, "lost")
    await fall_back()
    await publish(log, "other 4", "other 5")
    assert contents(await read(log, at(place(receipts[-1])))) == ["other 4", "other 5"]


async def test_pages_of_a_lost_history_are_not_reused(
    store: LogStore,
) -> None:
    log = store.open()
    receipts = await publish(log, "a", "b", "c")
    fall_back = await store.back_up()
    await publish(log, "lost 4", "lost 5")
    assert contents(await read(log, at(place(receipts[-1])))) == ["lost 4", "lost 5"]
    await fall_back()
    await publish(log, "other 4", "other 5")
    assert contents(await read(log, at(place(receipts[-1])))) == ["other 4", "other 5"]


async def test_a_wipe_during_a_replay_ends_it_with_a_gap(store: LogStore) -> None:
    log = store.open()
    receipts = await publish(log, *range(3 * PAGE))
    replay = log.replay(at(start_of(place(receipts[0]))), await log.head(("all",)))
    items = await take(replay, 5)
    await store.wipe()
    await publish(log, "new")
    items += [item async for item in replay]
    whole = (FIRST, FIRST + FIRST * GROWTH, PAGE, 2 * PAGE)  # one page may be read ahead; a first page may be small
    assert contents(items) in [[*range(count), "<trimmed>"] for count in whole]


async def test_partitions_are_merged_by_time_and_each_is_complete(store: LogStore) -> None:
    log = store.open(Partitions(frozenset({"a", "b"})))
    names = ("a", "b", "all")
    after = await log.head(names)
    for number in range(30):
        await log.publish([event(number, type="abc"[number % 3])])
        await store.pass_time(0.002)
    assert contents(await read(log, after)) == list(range(30))


async def test_gaps_of_all_partitions_come_before_the_records_of_any(store: LogStore) -> None:
    log = store.open(Partitions(frozenset({"a", "b"})), Retention(events=2))
    names = ("a", "b", "all")
    after = await log.head(names)
    for _ in range(4):
        await log.publish([event(1, type="a"), event(2, type="b"), event(3, type="c")])
    items = contents(await read(log, after))
    assert items[:3] == ["<trimmed>"] * 3
    assert sorted(str(item) for item in items[3:]) == ["1", "1", "2", "2", "3", "3"]


async def test_only_partitions_that_both_cursors_name_are_read(store: LogStore) -> None:
    log = store.open(Partitions(frozenset({"a"})))
    start = await log.head(("a", "all"))
    await log.publish([event("in a", type="a"), event("in all")])
    end = await log.head(("a", "all"))
    only_a = Cursor({"a": start.positions["a"]})
    assert contents([item async for item in log.replay(only_a, end)]) == ["in a"]


async def test_a_cut_replay_resumes_after_its_last_position(log: Log) -> None:
    receipts = await publish(log, *range(PAGE + 30))
    replay = log.replay(at(start_of(place(receipts[0]))), await log.head(("all",)))
    items = await take(replay, PAGE + 5)
    last = items[-1].position
    assert last is not None
    assert contents([*items, *await read(log, at(last))]) == list(range(PAGE + 30))


async def test_earliest_after_a_wipe_is_in_the_new_epoch(store: LogStore) -> None:
    log = store.open()
    receipts = await log.publish(events(range(3)))
    await store.wipe()
    earliest = await seek(log, None)
    assert earliest.offset == 0
    assert earliest.epoch > place(receipts[0]).epoch
