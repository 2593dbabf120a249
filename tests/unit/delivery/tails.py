"""Tails and heads that a test sets, and a followed tail on them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

from tidewire.delivery.followed_tail import FollowedTail
from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Cursor, Position
from tidewire.model.record import Gap, Record
from tidewire.transports.base import Handler, Tail, Transport
from tidewire.transports.memory import MemoryLog

from tests.contract.staged import StagedLog


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
        self.is_unavailable = False
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
        if self.is_unavailable:
            raise TransportUnavailable("no answer")
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
