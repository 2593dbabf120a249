"""Single flight: callers share one read, and no caller gets a result that is too old for it."""

import asyncio
from collections.abc import Sequence

import pytest
from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event
from tidewire.model.record import Record
from tidewire.transports.single_flight import KEPT, MAX_BYTES, SharedHead, SharedPages

from tests.support.clocks import Clock
from tests.support.waiting import spin

EPOCH = 1_764_000_000_000
TURNS = 5  # of the event loop: more than a call needs to begin its read or to join one


def record(offset: int, data: bytes = b"1") -> Record:
    return Record(Event(f"id-{offset}", "a", data), "all", Position(EPOCH, offset, "00000abc", EPOCH))


class Gate:
    """A read that waits to be let through, and counts."""

    def __init__(self, head: int = 0) -> None:
        self.head = head
        self.asked: list[tuple[str, ...]] = []
        self.open = asyncio.Event()

    async def __call__(self, partitions: Sequence[str]) -> Cursor:
        self.asked.append(tuple(partitions))
        head = self.head
        await self.open.wait()
        return Cursor({name: Position(EPOCH, head) for name in partitions})


async def test_callers_during_a_read_share_the_next_one() -> None:
    """The read under way may have begun before an append that they know of."""
    gate = Gate(head=1)
    shared = SharedHead(gate)
    first = asyncio.create_task(shared(("all",)))
    await spin(TURNS)
    gate.head = 2  # appended, and acknowledged, after the first read began
    crowd = [asyncio.create_task(shared(("all",) if n % 2 else ("task",))) for n in range(50)]
    await spin(TURNS)
    gate.open.set()
    assert (await first).positions["all"].offset == 1
    heads = await asyncio.gather(*crowd)
    assert {position.offset for cursor in heads for position in cursor.positions.values()} == {2}
    assert len(gate.asked) == 2
    assert set(gate.asked[1]) == {"all", "task"}


async def test_a_cancelled_caller_does_not_cancel_the_read() -> None:
    gate = Gate(head=7)
    shared = SharedHead(gate)
    leaving, staying = asyncio.create_task(shared(("all",))), asyncio.create_task(shared(("all",)))
    await spin(TURNS)
    leaving.cancel()
    await spin(TURNS)
    gate.open.set()
    assert (await staying).positions["all"].offset == 7


async def test_a_failed_head_fails_for_all_its_callers() -> None:
    """The next call reads again."""
    failures = [TransportUnavailable("no answer")]

    async def read(partitions: Sequence[str]) -> Cursor:
        if failures:
            raise failures.pop()
        return Cursor({name: Position(EPOCH, 3) for name in partitions})

    shared = SharedHead(read)
    answers = await asyncio.gather(shared(("all",)), shared(("all",)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [TransportUnavailable, TransportUnavailable]
    assert (await shared(("all",))).positions["all"].offset == 3


class Pages:
    """A log of one partition, read page by page; counts the reads."""

    def __init__(self, offsets: range, page: int = 10, data: bytes = b"1") -> None:
        self.records = [record(offset, data) for offset in offsets]
        self.page = page
        self.reads = 0
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, partition: str, after: Position, until: int) -> Sequence[Record]:
        self.reads += 1
        found = [r for r in self.records if r.position and after.offset < r.position.offset <= until][: self.page]
        await self.open.wait()
        return found


def offsets(records: Sequence[Record]) -> list[int]:
    return [r.position.offset for r in records if r.position is not None]


async def test_readers_of_one_position_read_its_page_once() -> None:
    pages = Pages(range(1, 31))
    shared = SharedPages(pages, 8)
    answers = await asyncio.gather(*(shared("all", Position(EPOCH, 5), 30) for _ in range(100)))
    assert all(offsets(answer) == list(range(6, 16)) for answer in answers)
    assert pages.reads == 1


async def test_a_shared_page_ends_at_each_readers_end() -> None:
    shared = SharedPages(Pages(range(1, 31)), 8)
    assert offsets(await shared("all", Position(EPOCH, 5), 30)) == list(range(6, 16))
    assert offsets(await shared("all", Position(EPOCH, 5), 8)) == [6, 7, 8]


async def test_an_empty_page_is_not_shared_with_a_later_end() -> None:
    pages = Pages(range(0))  # 6 was trimmed
    pages.open.clear()
    shared = SharedPages(pages, 8)
    early = asyncio.create_task(shared("all", Position(EPOCH, 5), 6))
    await spin(TURNS)
    pages.records = [record(7)]
    late = asyncio.create_task(shared("all", Position(EPOCH, 5), 7))
    await spin(TURNS)
    pages.open.set()
    assert offsets(await early) == []
    assert offsets(await late) == [7]


async def test_histories_with_the_same_offsets_share_no_page() -> None:
    pages = Pages(range(1, 11))
    shared = SharedPages(pages, 8)
    await shared("all", Position(EPOCH, 5, "0000aaaa"), 10)
    await shared("all", Position(EPOCH, 5, "0000bbbb"), 10)
    assert pages.reads == 2


async def test_pages_expire_by_time_and_by_memory() -> None:
    clock = Clock()
    pages = Pages(range(1, 11), data=b" " * (MAX_BYTES // 20))
    shared = SharedPages(pages, 8, clock)
    await shared("all", Position(EPOCH, 0), 10)
    await shared("all", Position(EPOCH, 0), 10)
    assert pages.reads == 1
    clock.advance(KEPT + 0.1)
    await shared("all", Position(EPOCH, 0), 10)
    assert pages.reads == 2
    for start in range(1, 5):  # half of the bound each
        await shared("all", Position(EPOCH, start), 10)
    await shared("all", Position(EPOCH, 0), 10)
    assert pages.reads == 7


async def test_a_read_that_fails_is_not_kept() -> None:
    failures = [TransportUnavailable("no answer")]

    async def read(partition: str, after: Position, until: int) -> Sequence[Record]:
        if failures:
            raise failures.pop()
        return [record(1)]

    shared = SharedPages(read, 8)
    with pytest.raises(TransportUnavailable):
        await shared("all", Position(EPOCH, 0), 1)
    assert offsets(await shared("all", Position(EPOCH, 0), 1)) == [1]


async def test_readers_leave_connections_to_publishers() -> None:
    pages = Pages(range(1, 31))
    pages.open.clear()
    shared = SharedPages(pages, 3)
    crowd = [asyncio.create_task(shared("all", Position(EPOCH, after), 30)) for after in range(20)]
    await spin(TURNS)
    assert pages.reads == 3
    pages.open.set()
    assert [offsets(await each)[0] for each in crowd] == list(range(1, 21))
    assert pages.reads == 20
