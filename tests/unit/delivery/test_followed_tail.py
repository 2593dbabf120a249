"""The one tail: opened once, and followed for as long as there are readers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
from tidewire.delivery.followed_tail import FIRST_READ_SECONDS, FollowedTail
from tidewire.errors import TransportUnavailable
from tidewire.transports.base import Handler, Transport

from tests.support.clocks import pass_time, virtual_time
from tests.unit.delivery.members import record
from tests.unit.delivery.tails import ExplainingTail, Here, PlainTail, at


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
    await pass_time(10)
    assert not following.done()
    assert followed.trouble is None
    listening.set_exception(TransportUnavailable("no answer"))
    with pytest.raises(TransportUnavailable):
        await following
    assert await followed.records_behind() == 0


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
        await pass_time(1)
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
    await pass_time(FIRST_READ_SECONDS)
    assert here.trouble() is None, "an answer needs a moment"
    await pass_time(0.1)
    late = "the tail waits for the answer to its first read of a partition"
    assert here.trouble() == late
    await here.follow("c")
    one.set_result(None)
    await pass_time(0.1)
    assert here.trouble() is None, "the read of c is not late yet"
    await pass_time(FIRST_READ_SECONDS)
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
    await pass_time(FIRST_READ_SECONDS + 0.1)
    assert here.trouble() is not None
    two.set_result(None)
    await pass_time(0.1)
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
