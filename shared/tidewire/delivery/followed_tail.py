"""The one tail of a process: the partitions that it reads, with the number of their readers; and checked heads."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Cursor, Position
from tidewire.primitives.backoff import Backoff
from tidewire.transports.base import Advising, Dozing, Explaining, Handler, Log, Ringing, Tail, Transport, Verifying

FIRST_READ_SECONDS = 2.0  # within which the store should have answered the tail's first read of a partition
HEAD_TRIES = 3  # to read heads that are not behind the tail; between two of them the tail finds out why they are
LAG_SECONDS = 2.0  # for the heads that the tail's lag is measured against


class FollowedTail:
    """Opens a transport's tail with the first reader, and follows each partition for as long as it has a reader.

    `positions` is the tail's place in each followed partition. The fan-out moves it with each record; this class adds
    partitions to it and removes them.
    """

    def __init__(self, transport: Transport, positions: dict[str, Position], on_item: Handler) -> None:
        self.log = transport if isinstance(transport, Log) else None
        self.readers: dict[str, int] = {}
        self._transport = transport
        self._positions = positions
        self._on_item = on_item
        self._context: AbstractAsyncContextManager[Tail] | None = None
        self._tail: Tail | None = None
        self._opening = asyncio.Lock()
        self._first_reads: dict[str, _FirstRead] = {}
        self._verifying: asyncio.Task[None] | None = None

    def acquire(self, partitions: Iterable[str]) -> None:
        """Count one more reader of each partition; `follow` makes the tail read them."""
        for name in partitions:
            self.readers[name] = self.readers.get(name, 0) + 1

    def release(self, partitions: Iterable[str]) -> None:
        """Count one reader less; a partition without readers is no longer followed."""
        for name in partitions:
            self.readers[name] -= 1
            if self.readers[name]:
                continue
            del self.readers[name]
            self._positions.pop(name, None)
            self._first_reads.pop(name, None)
            if self._tail is not None:
                self._tail.unfollow((name,))

    async def follow(self, partitions: Sequence[str]) -> Cursor:
        """Make the tail read these partitions; return the heads of those that it did not read yet.

        Raises TransportUnavailable.
        """
        async with self._opening:
            if self._context is None:
                self._context = self._transport.on_message(self._on_item)
                self._tail = await self._context.__aenter__()
        assert self._tail is not None
        new = [name for name in partitions if name not in self._positions]
        if not new:
            return Cursor({})
        if self.log is None:
            if (listening := self._tail.follow(dict.fromkeys(new))) is not None:
                await listening  # before `ready`, which promises that whatever is published from then on arrives
            return Cursor({})
        heads = await self.log.head(new)
        # Meanwhile another reader may have been faster, or the last one may have left.
        added = {
            name: head for name, head in heads.positions.items() if name not in self._positions and name in self.readers
        }
        self._positions.update(added)
        if (answered := self._tail.follow(added)) is not None:
            self._await_first_read(added, answered)
        return heads

    async def heads(self, partitions: Sequence[str]) -> Cursor:
        """Return the log's heads, none of them behind the tail. Raises TransportUnavailable.

        Heads that are behind were read from a node that is not the primary any more, on a connection that a failover
        left open; or the log fell back to an older state, and the tail has not noticed yet. A subscriber that starts at
        such a head would go live past events that it was never sent.
        """
        assert self.log is not None
        backoff = Backoff(base=0.02)
        for _ in range(HEAD_TRIES):
            tail = {name: self._positions[name] for name in partitions if name in self._positions}
            heads = await self.log.head(partitions)
            if not self.is_past(heads, tail):
                return heads
            await self._verify()
            await asyncio.sleep(backoff.next())
        raise TransportUnavailable("The log answered with an older state than this process has already read from it")

    def is_past(self, heads: Cursor, tail: Mapping[str, Position] | None = None) -> bool:
        """Return whether the tail is past one of the heads: its place in `tail`, unless it has gone back meanwhile."""
        now = self._positions
        tail = now if tail is None else tail
        return any(
            name in tail and head[:2] < min(tail[name], now.get(name, tail[name]))[:2]
            for name, head in heads.positions.items()
        )

    async def wait_for_first_read(self, partitions: Iterable[str]) -> None:
        """Return once the store has answered a read of each of these partitions."""
        reads = {read.answered for name in partitions if (read := self._first_reads.get(name)) is not None}
        if reads:
            await asyncio.wait(reads)

    @property
    def trouble(self) -> str | None:
        """Why the tail does not read all followed partitions; None if it does."""
        if self._tail is None:
            return None
        if not self._tail.running:
            why = self._tail.failure if isinstance(self._tail, Explaining) else None
            return "the tail is reconnecting" if why is None else f"the tail is reconnecting: {why}"
        if any(read.is_late for read in self._first_reads.values()):
            return "the tail waits for the answer to its first read of a partition"
        return None

    @property
    def advice(self) -> str | None:
        """Why the tail is slower than it should be, and what to do; None if it is not."""
        tail: object = self._tail
        return tail.advice if isinstance(tail, Advising) else None

    @property
    def bell_heard(self) -> bool | None:
        """Whether the tail hears its doorbell; None if it has none, or nothing is followed."""
        tail: object = self._tail
        return tail.bell_heard if isinstance(tail, Ringing) and self._positions else None

    async def records_behind(self) -> int | None:
        """Return how many records of the followed partitions the tail has not read yet.

        None if the log is unavailable, or may sleep. Costs one request for heads if anything is followed.
        """
        if self.log is None or not self._positions:
            return 0
        tail: object = self._tail
        if isinstance(tail, Dozing) and tail.dozes:
            return None
        try:
            async with asyncio.timeout(LAG_SECONDS):
                heads = await self.log.head(tuple(self._positions))
        except (TimeoutError, TransportUnavailable):
            return None
        places = self._positions
        return sum(
            max(head.offset - (places[name].offset if places[name].epoch == head.epoch else 0), 0)
            for name, head in heads.positions.items()
            if name in places
        )

    async def aclose(self) -> None:
        """Close the tail."""
        context, self._context = self._context, None
        if context is not None:
            await context.__aexit__(None, None, None)

    async def _verify(self) -> None:
        """Let the tail find out why heads lie behind it: once for all readers that meet this at the same time."""
        if not isinstance(self._tail, Verifying):
            return
        if self._verifying is None or self._verifying.done():
            self._verifying = asyncio.ensure_future(self._tail.verify())
        await asyncio.shield(self._verifying)

    def _await_first_read(self, partitions: Iterable[str], answered: Awaitable[None]) -> None:
        read = _FirstRead(asyncio.ensure_future(answered), asyncio.get_running_loop().time())
        self._first_reads.update(dict.fromkeys(partitions, read))
        read.answered.add_done_callback(lambda _: self._end_first_read(read))

    def _end_first_read(self, read: "_FirstRead") -> None:
        for name in [name for name, pending in self._first_reads.items() if pending is read]:
            del self._first_reads[name]


class _FirstRead(NamedTuple):
    answered: asyncio.Future[None]  # done with the first answered read
    since: float  # on the loop's clock

    @property
    def is_late(self) -> bool:
        return self.answered.get_loop().time() - self.since > FIRST_READ_SECONDS
