"""Common steps of the contract tests."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec
from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event, new_id
from tidewire.model.partitions import ALL
from tidewire.model.record import Gap, Record
from tidewire.transports.base import Log, Receipt, Tail, Transport

from tests.support.waiting import Growing


def event(
    data: object = None,
    *,
    id: str | None = None,
    type: str = "t",
    users: Sequence[str] | None = None,
    source: str | None = None,
) -> Event:
    """Make an event with this data."""
    return Event(
        new_id() if id is None else id,
        type,
        msgspec.json.encode(data),
        None if users is None else tuple(users),
        {} if source is None else {"source": source},
    )


def events(numbers: Iterable[int]) -> list[Event]:
    """Make one event per number."""
    return [event(number) for number in numbers]


async def publish(transport: Transport, *data: object, batch: int = 100) -> list[Receipt]:
    """Publish one event per data, in batches."""
    receipts: list[Receipt] = []
    for start in range(0, len(data), batch):
        receipts += await transport.publish([event(d) for d in data[start : start + batch]])
    return receipts


def place(receipt: Receipt, partition: str = ALL) -> Position:
    """Return the position of the event in its receipt."""
    assert receipt.positions is not None
    return receipt.positions[partition]


def offsets(receipts: Iterable[Receipt], partition: str = ALL) -> list[int]:
    """Return the offsets of these receipts in one partition."""
    return [place(receipt, partition).offset for receipt in receipts]


async def head(log: Log, partition: str = ALL) -> Position:
    """Return the position after the last record."""
    return (await log.head((partition,))).positions[partition]


async def seek(log: Log, time: int | None, partition: str = ALL) -> Position:
    """Return the position before the first record at or after `time`."""
    return (await log.seek((partition,), time)).positions[partition]


def at(position: Position, partition: str = ALL) -> Cursor:
    """Return the cursor of this one position."""
    return Cursor({partition: position})


def start_of(position: Position) -> Position:
    """Return the position before the first record of this epoch."""
    return Position(position.epoch, 0)


async def read(log: Log, after: Cursor, until: Cursor | None = None) -> list[Record | Gap]:
    """Replay all of `(after, until]`, by default up to the head."""
    if until is None:
        until = await log.head(tuple(after.positions))
    return [item async for item in log.replay(after, until)]


def contents(items: Iterable[Record | Gap]) -> list[object]:
    """Return the data of each record, and the reason of each gap in brackets."""
    return [msgspec.json.decode(i.event.data) if isinstance(i, Record) else f"<{i.reason}>" for i in items]


class Received(Growing):
    """A tail's handler that keeps what it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Record | Gap] = []
        self.data: list[object] = []

    def __call__(self, item: Record | Gap) -> None:
        self.items.append(item)
        self.data += contents([item])
        self.grow()

    async def has(self, data: object) -> None:
        """Return once this has been received."""
        await self.until(lambda: data in self.data)

    def __str__(self) -> str:
        return str(self.data)


@asynccontextmanager
async def tailing(log: Transport, after: Cursor | None = None) -> AsyncIterator[tuple[Received, Tail]]:
    """Open a tail that follows these positions."""
    received = Received()
    opened: AbstractAsyncContextManager[Tail] = log.on_message(received)
    async with opened as tail:
        if after is not None:
            tail.follow(after.positions)
        yield received, tail
