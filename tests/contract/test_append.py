"""Publishing: the promises of a receipt, and retries that append nothing."""

import asyncio
import random

import pytest
from tidewire.model.event import Event
from tidewire.model.partitions import ALL
from tidewire.model.record import Record
from tidewire.transports.base import Log, Retention

from tests.contract.acts import (
    at,
    contents,
    event,
    events,
    head,
    offsets,
    place,
    publish,
    read,
    start_of,
)
from tests.contract.stores import LogStore


async def test_receipts_have_the_order_and_contiguous_offsets(
    log: Log,
) -> None:
    batch = events(range(5))
    receipts = [*await log.publish(batch[:1]), *await log.publish(batch[1:])]

    assert [receipt.id for receipt in receipts] == [e.id for e in batch]
    assert offsets(receipts) == [1, 2, 3, 4, 5]
    assert not any(receipt.duplicate for receipt in receipts)
    assert contents(await read(log, at(start_of(place(receipts[0]))))) == [0, 1, 2, 3, 4]


async def test_a_record_has_the_position_of_its_receipt(log: Log) -> None:
    receipts = await publish(log, *range(3))
    items = await read(log, at(start_of(place(receipts[0]))))
    assert [item.position for item in items] == [place(receipt) for receipt in receipts]
    assert all(item.partition == ALL for item in items)


async def test_all_processes_share_one_epoch_and_one_count(store: LogStore) -> None:
    logs = [store.open() for _ in range(3)]
    receipts = [receipt for log in logs for receipt in await publish(log, 1, 2)]
    assert offsets(receipts) == [1, 2, 3, 4, 5, 6]
    assert len({place(receipt).epoch for receipt in receipts}) == 1


async def test_a_head_of_an_empty_log_stays_valid(
    store: LogStore,
) -> None:
    reader, publisher = store.open(), store.open()
    before = await head(reader)
    receipts = await publish(publisher, "first")
    assert (before.epoch, before.offset) == (place(receipts[0]).epoch, 0)
    assert contents(await read(reader, at(before))) == ["first"]


async def test_every_field_of_an_event_is_kept_unchanged(log: Log) -> None:
    originals = [
        Event("1", "a.b_c-D", b'{"price": 1.0, "e": 1e5, "n": 123456789012345678901234567890}'),
        Event("2", "t", b'[1 ,\r\n\t2, "\\u00e9\\ud83d\\ude00"]', ("u1", "ü 2")),
        Event("3", "t", '"é😀\u2028"'.encode(), None, {"source": "/s", "subject": "x", "ext": "é"}),
        Event("4", "t", b"null"),
    ]
    receipts = await log.publish(originals)
    items = await read(log, at(start_of(place(receipts[0]))))
    assert [item.event for item in items if isinstance(item, Record)] == originals


async def test_a_retry_appends_nothing_and_gets_the_first_position(log: Log) -> None:
    (first,) = await log.publish([event("first", id="same")])
    await publish(log, "between")
    (again,) = await log.publish([event("changed", id="same")])

    assert (first.duplicate, again.duplicate) == (False, True)
    assert place(again) == place(first)
    assert contents(await read(log, at(start_of(place(first))))) == ["first", "between"]


async def test_concurrent_retries_from_many_processes_append_one_event(store: LogStore) -> None:
    logs = [store.open() for _ in range(4)]
    answers = await asyncio.gather(*(log.publish([event("once", id="same")]) for log in logs * 5))
    receipts = [receipt for answer in answers for receipt in answer]

    assert [receipt.duplicate for receipt in receipts].count(False) == 1
    assert len({place(receipt) for receipt in receipts}) == 1
    assert (await head(logs[0])).offset == 1


async def test_an_id_twice_in_one_batch_is_appended_once(log: Log) -> None:
    batch = [event("a", id="x"), event("b", id="y"), event("c", id="x"), event("d", id="z")]
    receipts = await log.publish(batch)
    assert offsets(receipts) == [1, 2, 1, 3]
    assert [receipt.duplicate for receipt in receipts] == [False, False, True, False]
    assert contents(await read(log, at(start_of(place(receipts[0]))))) == ["a", "b", "d"]


async def test_a_retried_batch_appends_only_what_is_new_in_it(log: Log) -> None:
    first, second, third = events(range(3))
    await log.publish([first])
    receipts = await log.publish([first, second, third])
    assert [receipt.duplicate for receipt in receipts] == [True, False, False]
    assert offsets(receipts) == [1, 2, 3]
    assert contents(await read(log, at(start_of(place(receipts[0]))))) == [0, 1, 2]


async def test_after_its_window_an_id_is_a_new_event(store: LogStore) -> None:
    log = store.open(retention=Retention(idempotency_window=0.2))
    (first,) = await log.publish([event("then", id="same")])
    assert (await log.publish([event("then", id="same")]))[0].duplicate
    await store.pass_time(0.25)
    (second,) = await log.publish([event("now", id="same")])
    assert not second.duplicate
    assert offsets([first, second]) == [1, 2]


async def test_an_id_is_kept_longer_than_its_event(store: LogStore) -> None:
    log = store.open(retention=Retention(events=2))
    (first,) = await log.publish([event("old", id="same")])
    await publish(log, *range(5))
    (again,) = await log.publish([event("old", id="same")])
    assert again.duplicate
    assert place(again) == place(first)


@pytest.mark.parametrize(
    ("one", "other", "duplicate"),
    [
        (("/shop", "1"), ("/shop", "1"), True),
        (("/shop", "1"), ("/blog", "1"), False),
        (("/shop", "1"), (None, "1"), False),
        (("/shop", "1"), ("/shop", "2"), False),
        (("/a b", "c"), ("/a", "b"), False),
    ],
    ids=["same-source", "other-source", "no-source", "other-id", "a-space-in-the-source"],
)
async def test_a_cloudevents_id_is_unique_within_its_source_only(
    log: Log, one: tuple[str, str], other: tuple[str | None, str], duplicate: bool
) -> None:
    await log.publish([event(1, source=one[0], id=one[1])])
    (receipt,) = await log.publish([event(2, source=other[0], id=other[1])])
    assert receipt.duplicate is duplicate


async def test_a_batch_is_contiguous_among_other_publishers(store: LogStore) -> None:
    logs = [store.open() for _ in range(4)]
    sizes = [random.Random(7).randint(1, 12) for _ in range(40)]
    answers = await asyncio.gather(
        *(logs[n % len(logs)].publish(events(range(n * 100, n * 100 + size))) for n, size in enumerate(sizes))
    )
    for receipts in answers:
        first = place(receipts[0]).offset
        assert offsets(receipts) == list(range(first, first + len(receipts)))
    taken = sorted(offset for receipts in answers for offset in offsets(receipts))
    assert taken == list(range(1, sum(sizes) + 1))

    kept = contents(await read(logs[0], at(start_of(place(answers[0][0])))))
    expected: list[object] = []
    for n, receipts in sorted(enumerate(answers), key=lambda pair: place(pair[1][0]).offset):
        expected += range(n * 100, n * 100 + len(receipts))
    assert kept == expected


async def test_times_never_go_back_along_the_offsets(store: LogStore) -> None:
    log = store.open()
    receipts = await publish(log, 1, 2)
    await store.pass_time(0.01)
    receipts += await publish(log, 3, 4)
    times = [place(receipt).time for receipt in receipts]
    assert times == sorted(times)
    assert times[0] < times[-1]
