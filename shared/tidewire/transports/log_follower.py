"""Following a log live: records in order, with the proof that none is missing, and a `Gap` before each loss."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import RESERVED_TYPES
from tidewire.model.record import Gap, Record
from tidewire.transports import log_base
from tidewire.transports.base import Handler

UNKNOWN_FAILURE = "it failed, and the log of the server says why"  # of a tail whose failure may hold event data


class TailPageSize:
    """How many records of a partition to request at once, so that one read of a tail holds few bytes.

    It starts small, doubles while reads are full, and shrinks when records are large: 500 of the largest events are
    125 MiB.
    """

    __slots__ = ("records",)

    FIRST = 100  # about what one publication brings; 25 MiB of the largest events

    def __init__(self) -> None:
        self.records = self.FIRST

    def adjust(self, sizes: Sequence[int], *, full: bool) -> None:
        """Take the sizes (bytes) of the records that the last read returned; `full`: a partition filled its page."""
        maximum = min(log_base.PAGE, self.records * 2) if full else self.FIRST
        fitting = log_base.PAGE_BYTES * len(sizes) // max(sum(sizes), 1) if sizes else maximum
        self.records = max(1, min(maximum, fitting))


class NewRecords(NamedTuple):
    """The next records of a partition; `last` is the last entry's epoch and offset, readable or not."""

    records: Sequence[Record]
    last: tuple[int, int]


def control_first(partitions: Iterable[str]) -> list[str]:
    """Return partitions in the order in which one read of them is delivered: the control partitions first.

    A partition scheme is announced before the first append under it. A stream that does not read the scheme's
    partitions yet must end before its cursor passes the announcement, or it would miss what they hold from then on.
    """
    return sorted(partitions, key=lambda name: not name.startswith(RESERVED_TYPES))


ReadHeads = Callable[[Sequence[str]], Awaitable[Cursor]]


class LogFollower:
    """The partitions that a tail follows, each with the position up to which its handler was given every record.

    However the records were read, the handler gets them in order and without a hole; if some are missing between two
    of them, it gets a Gap first.
    """

    def __init__(self, handler: Handler) -> None:
        self.positions: dict[str, Position] = {}
        self._handler = handler
        self._added = asyncio.Event()
        self._unread: dict[str, asyncio.Future[None]] = {}  # followed, but the store has not answered a read of them
        self._partly_read: set[asyncio.Future[None]] = set()  # a read of some of their partitions was answered

    def follow(self, positions: Mapping[str, Position | None]) -> asyncio.Future[None] | None:
        """Add partitions; those that are followed already stay at their positions.

        Return a future that is done once `mark_read` was called for all new ones; None if none of them is new.
        """
        new = {name: at for name, at in positions.items() if at is not None and name not in self.positions}
        if not new:
            return None
        self.positions.update(new)
        self._added.set()
        read = asyncio.get_running_loop().create_future()
        self._unread.update(dict.fromkeys(new, read))
        return read

    def mark_read(self, partitions: Iterable[str]) -> None:
        """Note that the store has answered a read of these partitions."""
        if not self._unread:
            return
        self._partly_read |= {read for name in partitions if (read := self._unread.pop(name, None)) is not None}
        self._end_reads()

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Remove partitions."""
        for name in partitions:
            self.positions.pop(name, None)
            self._unread.pop(name, None)
        self._end_reads()  # one node of a cluster may have answered, and the partitions of another are not wanted now

    def _end_reads(self) -> None:
        for read in self._partly_read.difference(self._unread.values()):
            self._partly_read.remove(read)
            if not read.done():
                read.set_result(None)

    async def wait_for_partitions(self) -> None:
        """Return once at least one partition is followed."""
        while not self.positions:
            self._added.clear()
            await self._added.wait()

    def ahead(self, heads: Mapping[str, Position]) -> dict[str, Position]:
        """Return the heads that lie after our positions: the log holds records that the handler was not given."""
        at = self.positions
        return {name: head for name, head in heads.items() if name in at and head[:2] > at[name][:2]}

    async def verify(self, read_heads: ReadHeads, partitions: Iterable[str] | None = None) -> bool:
        """Check that the log still holds our positions, and return whether it holds records after them.

        `partitions`: only these of the followed ones.
        A failover may have restored an older state. A read after our position does not notice that: the offsets that
        are counted again are below it.
        """
        names = self.positions.keys() if partitions is None else self.positions.keys() & set(partitions)
        before = {name: self.positions[name] for name in names}
        heads = (await read_heads(tuple(before))).positions
        for name, head in heads.items():
            at = before[name]
            if self.positions.get(name) != at:
                continue  # unfollowed meanwhile, and perhaps followed again from a later head
            if head.epoch != at.epoch:
                self._skip_to(Gap("epoch", name, Position(head.epoch, 0)))
            elif head.offset < at.offset or (head.offset == at.offset and at.check and head.check != at.check):
                self._skip_to(Gap("epoch", name, head))
        return bool(self.ahead(heads))

    def deliver(self, name: str, records: Sequence[Record]) -> None:
        """Give the handler the next records of a partition, as they were read after its position."""
        for index, record in enumerate(records):
            at = self.positions.get(name)
            if at is None:
                return
            position = record.position
            assert position is not None
            if position.epoch == at.epoch and position.offset <= at.offset:
                continue  # read before the partition was unfollowed, and followed again from a later position
            if position.epoch != at.epoch:
                self._skip_to(Gap("epoch", name, Position(position.epoch, position.offset - 1)))
            elif position.offset != at.offset + 1:
                self._skip_to(Gap("trimmed", name, Position(position.epoch, position.offset - 1)))
            elif index == 0 and not log_base.follows(at, record):
                self._skip_to(Gap("epoch", name, Position(position.epoch, position.offset - 1)))
            self.positions[name] = position
            self._handler(record)

    def skip_unreadable(self, name: str, epoch: int, offset: int) -> None:
        """Skip the last entry of a read if no record was made of it: else every next read would return it again."""
        at = self.positions.get(name)
        if at is not None and at.epoch == epoch and at.offset < offset:
            self._skip_to(Gap("trimmed", name, Position(epoch, offset, "", at.time)))

    def _skip_to(self, gap: Gap) -> None:
        assert gap.position is not None
        self.positions[gap.partition] = gap.position
        self._handler(gap)


class FollowingTail(ABC):
    """A `Tail` on a LogFollower: an adapter adds `run`, and how a new partition interrupts its wait."""

    def __init__(self, handler: Handler) -> None:
        self.running = False
        self.failure: str | None = None
        self.follower = LogFollower(handler)

    def follow(self, positions: Mapping[str, Position | None]) -> Awaitable[None] | None:
        """Read these partitions too; see `Tail.follow`."""
        read = self.follower.follow(positions)
        if read is not None:
            self._on_followed(positions)
        return read

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Stop reading these partitions, from the next read on."""
        self.follower.unfollow(partitions)

    @abstractmethod
    async def run(self) -> None:
        """Read until cancelled; a failure of any kind is logged and followed by another try."""

    @abstractmethod
    def _on_followed(self, partitions: Iterable[str]) -> None:
        """End the wait for records of other partitions: some of these were not followed before."""
