"""Heads that are never behind the tail, and the lag that they show."""

import asyncio

import pytest
from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Cursor, Position

from tests.support.clocks import pass_time, virtual_time
from tests.unit.delivery.tails import Here, VerifyingTail, at

OLDER = "The log answered with an older state than this process has already read from it"


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
    await pass_time(0.5)
    leaving.cancel()  # which must not cancel it for the others
    for heads in await asyncio.gather(*reading):
        assert heads.positions == {"a": at(4)}
    assert tail.verified == 1
    here.positions["a"] = at(5)
    with pytest.raises(TransportUnavailable):
        await here.followed.heads(("a",))
    assert tail.verified == 4, "each time anew"


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
async def test_the_lag_is_unknown_while_the_log_is_unavailable() -> None:
    here = Here()
    await here.follow("a")
    here.store.is_unavailable = True
    assert await here.followed.records_behind() is None
    here.store.is_unavailable = False
    here.store.head_seconds = 3.0
    began = asyncio.get_running_loop().time()
    assert await here.followed.records_behind() is None
    assert asyncio.get_running_loop().time() - began == pytest.approx(2.0), "a health check waits no longer"
