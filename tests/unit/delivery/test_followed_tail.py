"""The one tail: opened once, followed for as long as there are readers, and heads that are never behind it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest
from tidewire.delivery.followed_tail import FIRST_READ_SECONDS, FollowedTail
from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Cursor, Position
from tidewire.model.record import Gap, Record
from tidewire.transports.base import Handler, Tail, Transport
from tidewire.transports.memory import MemoryLog

from tests.contract.staged import StagedLog
from tests.support.clocks import virtual_time
from tests.unit.delivery.members import record

OLDER = "The log answered with an older state than this process has already read from it"


def at(offset: int, epoch: int = 7) -> Position:
    return Position(epoch, offset)


class PlainTail:
    """A tail that can do no more than it must; `reads` answer its first reads in turn, None where nothing is left."""

    def __init__(self) -> None:
        self.running = True
        self.followed: list[Mapping[str, Position | None]] = []
        self.unfollowed: list[Sequence[str]] = []
        self.reads: list[Awaitable[None]] = []

    def follow(self, positions: Mapping[str, Position | None]) -> Awaitable[None] | None:
        self.followed.append(dict(positions))
        return self.reads.pop(0) if self.reads else None

    def unfollow(self, partitions: Sequence[str]) -> None:
        self.unfollowed.append(tuple(partitions))


class ExplainingTail(PlainTail):
    """Knows why it does not run, and when it is slow."""

    failure: str | None = None
    advice: str | None = None


class VerifyingTail(PlainTail):
    """Compares itself with the store; each time takes a second."""

    def __init__(self) -> None:
        super().__init__()
        self.verified = 0
        self.on_verified: Callable[[], None] = lambda: None

    async def verify(self) -> None:
        self.verified += 1
        await asyncio.sleep(1)
        self.on_verified()


class Store(StagedLog):
    """A log whose heads are set by the test."""

    def __init__(self, tail: PlainTail, **offsets: int) -> None:
        super().__init__(MemoryLog())
        self.tail = tail
        self.heads = {name: at(offset) for name, offset in offsets.items()}
        self.head_calls: list[tuple[str, ...]] = []
        self.on_head: Callable[[], object] = lambda: None
        self.head_seconds = 0.0
        self.is_away = False
        self.handlers: list[Handler] = []
        self.open = 0

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator[Tail]:
        self.handlers.append(handler)
        await asyncio.sleep(1)
        self.open += 1
        yield self.tail
        self.open -= 1

    async def head(self, partitions: Sequence[str]) -> Cursor:
        self.head_calls.append(tuple(partitions))
        found = Cursor({name: self.heads[name] for name in partitions})
        await asyncio.sleep(self.head_seconds)
        if self.is_away:
            raise TransportUnavailable("away")
        self.on_head()
        return found


class Here:
    """A followed tail on such a log."""

    def __init__(self, tail: PlainTail | None = None, **offsets: int) -> None:
        self.tail = PlainTail() if tail is None else tail
        self.store = Store(self.tail, **(offsets or {"a": 3, "b": 5}))
        self.positions: dict[str, Position] = {}
        self.items: list[Record | Gap] = []
        self.followed = FollowedTail(cast("Transport", self.store), self.positions, self.items.append)

    def trouble(self) -> str | None:
        return self.followed.trouble

    async def follow(self, *names: str) -> Cursor:
        """Follow for one more reader."""
        self.followed.acquire(names)
        return await self.followed.follow(names)


@virtual_time
async def test_the_tail_is_opened_once_and_closed_once() -> None:
    here = Here()
    assert here.trouble() is None
    await asyncio.gather(here.follow("a"), here.follow("a", "b"), here.follow("b"))
    (handler,) = here.store.handlers
    handler(record(1))
    assert here.items == [record(1)]
    assert here.store.open == 1
    await here.followed.aclose()
    await here.followed.aclose()
    assert here.store.open == 0


@virtual_time
async def test_a_tail_that_was_never_opened_needs_no_closing() -> None:
    here = Here()
    await here.followed.aclose()
    here.followed.acquire(("a",))
    here.followed.release(("a",))
    assert (here.followed.readers, here.tail.unfollowed) == ({}, [])


@virtual_time
async def test_each_partition_is_followed_from_its_head_once() -> None:
    here = Here()
    assert (await here.follow("a")).positions == {"a": at(3)}
    assert here.positions == {"a": at(3)}
    here.positions["a"] = at(4)
    assert (await here.follow("a", "b")).positions == {"b": at(5)}
    assert (await here.follow("b", "a")).positions == {}
    assert here.store.head_calls == [("a",), ("b",)]
    assert here.tail.followed == [{"a": at(3)}, {"b": at(5)}]
    assert here.positions == {"a": at(4), "b": at(5)}


@virtual_time
async def test_a_partition_is_followed_until_its_last_reader_leaves() -> None:
    here = Here()
    await here.follow("a", "b")
    here.followed.acquire(("a",))
    assert here.followed.readers == {"a": 2, "b": 1}
    here.followed.release(("a", "b"))
    assert (here.followed.readers, here.positions) == ({"a": 1}, {"a": at(3)})
    assert here.tail.unfollowed == [("b",)]
    here.followed.release(("a",))
    assert (here.followed.readers, here.positions) == ({}, {})
    assert here.tail.unfollowed == [("b",), ("a",)]
    await here.follow("a")
    assert here.positions == {"a": at(3)}


@virtual_time
async def test_heads_that_arrive_late_change_no_place() -> None:
    """Meanwhile another reader was faster, or the last one has left."""
    here = Here(a=3, b=5, c=7)
    here.followed.acquire(("a", "b", "c"))

    def meanwhile() -> None:
        here.positions["a"] = at(9)
        here.followed.release(("b",))

    here.store.on_head = meanwhile
    assert (await here.followed.follow(("a", "b", "c"))).positions == {"a": at(3), "b": at(5), "c": at(7)}
    assert here.positions == {"a": at(9), "c": at(7)}
    assert here.tail.followed == [{"c": at(7)}]


class Carrier:
    """A transport without a log, on this tail."""

    def __init__(self, tail: PlainTail) -> None:
        self._tail = tail

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator[PlainTail]:
        yield self._tail


@virtual_time
async def test_without_a_log_a_reader_waits_until_it_listens() -> None:
    """`ready` promises that what is published from then on arrives."""
    tail = PlainTail()
    followed = FollowedTail(cast("Transport", Carrier(tail)), {}, lambda _: None)
    assert followed.log is None
    assert (await followed.follow(("a", "b"))).positions == {}
    assert tail.followed == [{"a": None, "b": None}]
    listening = asyncio.get_running_loop().create_future()
    tail.reads = [listening]
    following = asyncio.create_task(followed.follow(("a",)))
    await asyncio.sleep(10)
    assert not following.done()
    assert followed.trouble is None
    listening.set_exception(TransportUnavailable("away"))
    with pytest.raises(TransportUnavailable):
        await following
    assert await followed.records_behind() == 0


@virtual_time
async def test_heads_at_or_before_the_log_are_returned() -> None:
    here = Here(a=3, b=5, c=0)
    await here.follow("a", "b")
    for offset in (2, 3):
        here.positions["a"] = at(offset)
        heads = await here.followed.heads(("a", "b", "c"))
        assert heads.positions == {"a": at(3), "b": at(5), "c": at(0)}, "c is not followed"
    assert here.store.head_calls[1:] == [("a", "b", "c")] * 2


@virtual_time
async def test_a_tail_that_moves_meanwhile_is_not_past_the_heads() -> None:
    """They were read before it got there."""
    here = Here()
    await here.follow("a")

    def meanwhile() -> None:
        here.positions["a"] = at(9)

    here.store.on_head = meanwhile
    assert (await here.followed.heads(("a",))).positions == {"a": at(3)}
    assert len(here.store.head_calls) == 2


@virtual_time
async def test_a_tail_that_goes_back_meanwhile_is_not_past_the_heads() -> None:
    here = Here()
    await here.follow("a")
    here.positions["a"] = at(9)

    def meanwhile() -> None:
        here.positions["a"] = at(2)

    here.store.on_head = meanwhile
    assert (await here.followed.heads(("a",))).positions == {"a": at(3)}
    assert len(here.store.head_calls) == 2
    here.positions["a"] = at(9)
    here.store.on_head = here.positions.clear  # nobody follows it any more: where it was still counts, once
    assert (await here.followed.heads(("a",))).positions == {"a": at(3)}
    assert len(here.store.head_calls) == 4


@pytest.mark.parametrize(("place", "is_past"), [(at(3), False), (at(4), True), (at(0, 8), True), (at(9, 6), False)])
@virtual_time
async def test_past_is_a_later_offset_or_epoch(place: Position, is_past: bool) -> None:
    here = Here()
    await here.follow("a")
    here.positions["a"] = place
    here.positions["b"] = at(5)
    assert here.followed.is_past(Cursor({"a": at(3), "b": at(5)})) is is_past
    assert here.followed.is_past(Cursor({"b": at(5), "a": at(3)})) is is_past
    assert not here.followed.is_past(Cursor({"b": at(5), "c": at(0)}))


@virtual_time
async def test_heads_behind_the_tail_are_read_again_and_refused() -> None:
    here = Here()
    await here.follow("a")
    here.positions["a"] = at(4)
    began = asyncio.get_running_loop().time()
    with pytest.raises(TransportUnavailable) as caught:
        await here.followed.heads(("a",))
    assert caught.value.detail == OLDER
    assert len(here.store.head_calls[1:]) == 3
    assert asyncio.get_running_loop().time() - began <= 0.02 + 0.04 + 0.08


@virtual_time
async def test_a_back_off_is_between_two_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)  # the longest delays
    here = Here()
    await here.follow("a")
    here.positions["a"] = at(4)
    began = asyncio.get_running_loop().time()
    with pytest.raises(TransportUnavailable):
        await here.followed.heads(("a",))
    assert asyncio.get_running_loop().time() - began == pytest.approx(0.02 + 0.04 + 0.08)


@virtual_time
async def test_the_tail_finds_out_once_for_all_who_meet() -> None:
    tail = VerifyingTail()
    here = Here(tail)
    await here.follow("a", "b")
    here.positions["a"] = at(4)

    def correct() -> None:
        here.store.heads["a"] = at(4)

    tail.on_verified = correct
    leaving, *reading = [asyncio.create_task(here.followed.heads(("a",))) for _ in range(4)]
    await asyncio.sleep(0.5)
    leaving.cancel()  # which must not cancel it for the others
    for heads in await asyncio.gather(*reading):
        assert heads.positions == {"a": at(4)}
    assert tail.verified == 1
    here.positions["a"] = at(5)
    with pytest.raises(TransportUnavailable):
        await here.followed.heads(("a",))
    assert tail.verified == 4, "each time anew"


@virtual_time
async def test_a_first_read_is_waited_for_where_it_is_pending() -> None:
    here = Here(a=1, b=1, c=1)
    one, two = (asyncio.get_running_loop().create_future() for _ in range(2))
    here.tail.reads = [one, two]
    await here.follow("a", "b")
    await here.follow("c")
    await here.followed.wait_for_first_read(("unknown",))
    waiting = {
        name: asyncio.create_task(here.followed.wait_for_first_read(names))
        for name, names in {"a": ("a",), "b": ("b", "unknown"), "c": ("c",), "all": ("a", "c")}.items()
    }

    async def pending() -> set[str]:
        await asyncio.sleep(1)
        return {name for name, task in waiting.items() if not task.done()}

    assert await pending() == {"a", "b", "c", "all"}
    one.set_result(None)
    assert await pending() == {"c", "all"}
    here.followed.release(("a",))  # its read was answered before
    two.set_result(None)
    assert await pending() == set()
    await here.followed.wait_for_first_read(("a", "b", "c"))


@virtual_time
async def test_a_first_read_without_an_answer_is_trouble() -> None:
    here = Here(a=1, b=1, c=1)
    one, two = (asyncio.get_running_loop().create_future() for _ in range(2))
    here.tail.reads = [one, two]
    await here.follow("a", "b")
    await asyncio.sleep(FIRST_READ_SECONDS)
    assert here.trouble() is None, "an answer needs a moment"
    await asyncio.sleep(0.1)
    late = "the tail waits for the answer to its first read of a partition"
    assert here.trouble() == late
    await here.follow("c")
    one.set_result(None)
    await asyncio.sleep(0.1)
    assert here.trouble() is None, "the read of c is not late yet"
    await asyncio.sleep(FIRST_READ_SECONDS)
    assert here.trouble() == late
    here.followed.release(("c",))
    assert here.trouble() is None, "nobody needs it"
    two.set_result(None)


@virtual_time
async def test_a_partition_followed_again_waits_for_its_new_read() -> None:
    """The answer to the read of before says nothing about it."""
    here = Here()
    one, two = (asyncio.get_running_loop().create_future() for _ in range(2))
    here.tail.reads = [one, two]
    await here.follow("a")
    here.followed.release(("a",))
    await here.follow("a")
    one.set_result(None)
    await asyncio.sleep(FIRST_READ_SECONDS + 0.1)
    assert here.trouble() is not None
    two.set_result(None)
    await asyncio.sleep(0.1)
    assert here.trouble() is None


@virtual_time
async def test_a_tail_that_does_not_run_is_trouble() -> None:
    for tail, failure, text in (
        (PlainTail(), None, "the tail is reconnecting"),
        (ExplainingTail(), None, "the tail is reconnecting"),
        (ExplainingTail(), "it was refused", "the tail is reconnecting: it was refused"),
    ):
        here = Here(tail)
        await here.follow("a")
        if isinstance(tail, ExplainingTail):
            tail.failure = failure
        assert here.trouble() is None
        tail.running = False
        assert here.trouble() == text


@virtual_time
async def test_the_advice_is_the_tails_own() -> None:
    tail = ExplainingTail()
    here = Here(tail)
    assert here.followed.advice is None, "it is not open"
    tail.advice = "use another version"
    here = Here(tail)
    await here.follow("a")
    assert here.followed.advice == "use another version"
    plain = Here()
    await plain.follow("a")
    assert plain.followed.advice is None


@virtual_time
async def test_the_lag_counts_the_records_still_to_be_brought() -> None:
    here = Here(a=30, b=50, c=7)
    assert await here.followed.records_behind() == 0
    assert here.store.head_calls == [], "without a followed partition no head is read"
    await here.follow("a", "b", "c")
    assert await here.followed.records_behind() == 0
    here.positions |= {"a": at(29), "b": at(48), "c": at(9)}
    assert await here.followed.records_behind() == 1 + 2, "the tail of c has passed the head that was read"
    here.positions["b"] = at(90, 6)
    assert await here.followed.records_behind() == 1 + 50, "another log: none of its records has come"
    here.store.on_head = lambda: here.positions.pop("b", None)
    assert await here.followed.records_behind() == 1, "it was unfollowed meanwhile"


@virtual_time
async def test_the_lag_is_unknown_while_the_log_is_away() -> None:
    here = Here()
    await here.follow("a")
    here.store.is_away = True
    assert await here.followed.records_behind() is None
    here.store.is_away = False
    here.store.head_seconds = 3.0
    began = asyncio.get_running_loop().time()
    assert await here.followed.records_behind() is None
    assert asyncio.get_running_loop().time() - began == pytest.approx(2.0), "a health check waits no longer"
