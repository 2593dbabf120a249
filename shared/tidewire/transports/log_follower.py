"""Following a log live: the place in each partition, and the proof that nothing was missed. What every tail shares."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import RESERVED_TYPES
from tidewire.model.record import Gap, Record
from tidewire.transports import log_base
from tidewire.transports.base import Handler

BROKE = "it failed, and the log of the server says why"  # of a tail whose failure has no words of its own


async def stop(tail: asyncio.Task[None]) -> None:
    """End a tail's task, and return when it has ended.

    Again until it does: before Python 3.12 the wait_for in which redis-py sends may swallow a cancellation
    (python/cpython#86296), and the tail would then sit out a whole blocking read.
    """
    while not tail.done():
        tail.cancel()
        await asyncio.wait((tail,), timeout=0.1)
    if not tail.cancelled():
        tail.exception()  # seen


class TailPage:
    """How many records of a stream to ask for at once, so that one read of a tail holds few bytes.

    It begins small, grows while reads are full, and follows the size of what came: 500 of the largest events are
    125 MiB.
    """

    __slots__ = ("records",)

    FIRST = 100  # what one publication may bring; 25 MiB of the largest events

    def __init__(self) -> None:
        self.records = self.FIRST

    def note(self, sizes: Sequence[int], *, full: bool) -> None:
        """Take account of what the last read brought, in bytes; `full` where a stream had as many as were asked for."""
        maximum = min(log_base.PAGE, self.records * 2) if full else self.FIRST
        fitting = log_base.PAGE_BYTES * len(sizes) // max(sum(sizes), 1) if sizes else maximum
        self.records = max(1, min(maximum, fitting))


def control_first(partitions: Iterable[str]) -> list[str]:
    """Return partitions in the order in which one read of them is handed over: the control partitions first.

    A partition scheme is announced before the first append under it. A stream that does not read it yet must end before
    its cursor passes the announcement, or what the new partitions hold from then on would be left out.
    """
    return sorted(partitions, key=lambda name: not name.startswith(RESERVED_TYPES))


ReadHeads = Callable[[Sequence[str]], Awaitable[Cursor]]


class Following:
    """The partitions that a tail follows, each at the place up to which its handler has heard everything.

    However the records were fetched, they reach the handler in order and without a hole; what is missing between
    two of them is a Gap first.
    """

    def __init__(self, handler: Handler) -> None:
        self.at: dict[str, Position] = {}
        self._handler = handler
        self._added = asyncio.Event()
        self._unread: dict[str, asyncio.Future[None]] = {}  # followed, and no read that covers it was answered yet

    def follow(self, positions: Mapping[str, Position | None]) -> asyncio.Future[None] | None:
        """Add partitions; those that are followed already stay where they are.

        Return what is done once `answered` was called for all new ones; None where none of them is new.
        """
        new = {name: at for name, at in positions.items() if at is not None and name not in self.at}
        if not new:
            return None
        self.at.update(new)
        self._added.set()
        read = asyncio.get_running_loop().create_future()
        self._unread.update(dict.fromkeys(new, read))
        return read

    def answered(self, partitions: Iterable[str]) -> None:
        """Note that the store answered a read which covered these partitions."""
        if not self._unread:
            return
        reads = {read for name in partitions if (read := self._unread.pop(name, None)) is not None}
        for read in reads.difference(self._unread.values()):
            if not read.done():
                read.set_result(None)

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Forget these partitions."""
        for name in partitions:
            self.at.pop(name, None)
            self._unread.pop(name, None)

    async def wanted(self) -> None:
        """Return once there is something to follow."""
        while not self.at:
            self._added.clear()
            await self._added.wait()

    async def verify(self, read_heads: ReadHeads) -> bool:
        """Check that the log still holds our places, and tell whether it holds more than we have heard.

        A failover may have brought back an older state. A read of what lies after our place would not notice: the
        numbers that are counted again are below it.
        """
        asked = dict(self.at)
        heads = (await read_heads(tuple(asked))).positions
        for name, head in heads.items():
            at = asked[name]
            if self.at.get(name) != at:
                continue  # left meanwhile, and perhaps followed again from a later head
            if head.epoch != at.epoch:
                self._jump(Gap("epoch", name, Position(head.epoch, 0)))
            elif head.offset < at.offset or (head.offset == at.offset and at.check and head.check != at.check):
                self._jump(Gap("epoch", name, head))
        return any(heads[name][:2] > at[:2] for name, at in self.at.items() if name in heads)

    def deliver(self, name: str, records: Sequence[Record]) -> None:
        """Hand over the next records of a partition, as they were read after its place."""
        for index, record in enumerate(records):
            at = self.at.get(name)
            if at is None:
                return
            position = record.position
            assert position is not None
            if position.epoch == at.epoch and position.offset <= at.offset:
                continue  # asked for before the partition was unfollowed and followed again, further on
            if position.epoch != at.epoch:
                self._jump(Gap("epoch", name, Position(position.epoch, position.offset - 1)))
            elif position.offset != at.offset + 1:
                self._jump(Gap("trimmed", name, Position(position.epoch, position.offset - 1)))
            elif index == 0 and not log_base.follows(at, record):
                self._jump(Gap("epoch", name, Position(position.epoch, position.offset - 1)))
            self.at[name] = position
            self._handler(record)

    def step_over(self, name: str, epoch: int, offset: int) -> None:
        """Leave an unreadable last entry behind: asked for again, it would come again at once, and for ever."""
        at = self.at.get(name)
        if at is not None and at.epoch == epoch and at.offset < offset:
            self._jump(Gap("trimmed", name, Position(epoch, offset, "", at.time)))

    def _jump(self, gap: Gap) -> None:
        assert gap.position is not None
        self.at[gap.partition] = gap.position
        self._handler(gap)
