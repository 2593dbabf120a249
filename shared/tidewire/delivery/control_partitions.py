"""Partitions that the hub reads for itself: no subscriber needs them, and no cursor names them."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from tidewire.delivery.followed_tail import FollowedTail
from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Position
from tidewire.model.record import Gap, Record
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.base import Log, Transport

logger = logging.getLogger(__name__)
warnings = ThrottledLog(logger)


class ControlPartition(ABC):
    """What one control partition says, known up to a place in it: from the tail, or read from the log."""

    def __init__(self, transport: Transport, name: str) -> None:
        self.name = name
        self._log = transport if isinstance(transport, Log) else None
        self._at: Position | None = None  # everything up to here is known; None: nothing was read yet
        self._until: Position | None = None  # what lies before it has yet to be read
        self._reading = asyncio.Lock()

    async def catch_up(self, head: Position | None = None) -> None:
        """Read what is not known yet, up to `head` or to where an earlier read has failed.

        Raises TransportUnavailable; the next call tries again.
        """
        if self._log is None:
            return
        known = self._at if self._until is None else self._until  # or it is being read
        if head is not None and (known is None or known[:3] != head[:3]):
            self._until = head
        if self._until is None:
            return
        async with self._reading:
            while (until := self._until) is not None:
                await self._read(self._log, self._at, until)
                self._at = until
                if self._until is until:
                    self._until = None

    @abstractmethod
    def on_item(self, item: Record | Gap) -> bool:
        """Take an item of the tail; False if something before it is missing, and `catch_up` has to read it."""

    @abstractmethod
    async def _read(self, log: Log, after: Position | None, until: Position) -> None:
        """Take the records up to `until`; everything up to `after` is known. Raises TransportUnavailable."""


class ControlPartitions:
    """All control partitions of a hub. The tail follows them while the hub has subscribers."""

    def __init__(
        self, tail: FollowedTail, positions: dict[str, Position], partitions: Sequence[ControlPartition]
    ) -> None:
        """`positions` is the tail's place, which each of their items moves."""
        self._tail = tail
        self._positions = positions
        self._by_name = {partition.name: partition for partition in partitions}
        self._retrying: asyncio.Task[None] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the partitions that the tail must follow."""
        return tuple(self._by_name)

    def on_item(self, item: Record | Gap) -> bool:
        """Take an item of the tail; False if it is of no control partition."""
        control = self._by_name.get(item.partition)
        if control is None:
            return False
        if item.position is not None and item.partition in self._positions:
            self._positions[item.partition] = item.position
        if not control.on_item(item) and (self._retrying is None or self._retrying.done()):
            self._retrying = asyncio.create_task(self._retry())
        return True

    async def catch_up(self, heads: Mapping[str, Position]) -> None:
        """Read all control partitions up to these heads. Raises TransportUnavailable."""
        for name, control in self._by_name.items():
            await control.catch_up(heads.get(name))

    def close(self) -> None:
        """Read no further."""
        if self._retrying is not None:
            self._retrying.cancel()

    async def _retry(self) -> None:
        backoff = Backoff()
        while self._by_name.keys() <= self._tail.readers.keys():
            try:
                await self.catch_up({})
                return
            except TransportUnavailable as error:
                warnings.warn(f"the control partitions cannot be read, trying again: {error.detail}")
                await asyncio.sleep(backoff.next())
