"""Progress is claimed after it was observed: `ready` and health follow the tail's first answered read."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from tidewire.delivery.hub import Hub
from tidewire.model.cursor import Position
from tidewire.transports.base import Handler, Tail
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import publish
from tests.contract.staged import StagedLog
from tests.support.clocks import pass_time, virtual_time
from tests.support.sinks import subscribed


class RefusedTail:
    """A tail whose reads are refused until `answer` is called, as by a node in cluster mode (CROSSSLOT)."""

    running = True

    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self._read = asyncio.get_running_loop().create_future()

    def answer(self) -> None:
        if not self._read.done():
            self._read.set_result(None)

    def follow(self, positions: Mapping[str, Position | None]) -> Awaitable[None]:
        self._tail.follow(positions)
        return self._read

    def unfollow(self, partitions: Sequence[str]) -> None:
        self._tail.unfollow(partitions)


class RefusingLog(StagedLog):
    """A log that answers every read; its tail runs only after `answer` was called."""

    tail: RefusedTail

    @asynccontextmanager
    async def _opened(self, handler: Handler) -> AsyncIterator[Tail]:
        async with super().on_message(handler) as tail:
            self.tail = RefusedTail(tail)
            yield self.tail

    def on_message(self, handler: Handler) -> AbstractAsyncContextManager[Tail]:
        return self._opened(handler)


def is_ready(hub: Hub) -> bool:
    return hub.tail_running


@virtual_time
async def test_ready_waits_for_the_first_answered_read() -> None:
    """The stream got `ready`, heartbeats, and no event ever: the tail's reads were refused, each of them."""
    log = RefusingLog(MemoryLog())
    await publish(log, "before")
    async with Hub(log) as hub, subscribed(hub, since="earliest") as sink:
        await sink.has("before")
        assert is_ready(hub), "an answer needs a moment"
        await pass_time(60.0)
        assert sink.order == ["before"]
        assert not is_ready(hub)
        assert len(sink.chunks) > 3, "the connection is not silent meanwhile"
        log.tail.answer()
        assert (await sink.ready())["replayed"] == 1
        assert is_ready(hub)
        await publish(log, "live")
        await sink.has("live")


@virtual_time
async def test_an_unfollowed_partition_is_no_failure() -> None:
    log = RefusingLog(MemoryLog())
    async with Hub(log) as hub:
        async with subscribed(hub):
            await pass_time(60.0)
            assert not is_ready(hub)
        assert is_ready(hub)
