"""The partition schemes in use, as a process with subscribers follows them in the log."""

import re
from collections.abc import Callable, Iterable, Mapping

from tidewire.delivery.control_partitions import ControlPartition
from tidewire.errors import TransportRefused
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position
from tidewire.model.partition_schemes import (
    LEARNED,
    MAX_ANNOUNCEMENTS,
    TOO_MANY,
    Announcement,
    Registry,
    fit_cursor,
    read_announcement,
)
from tidewire.model.partitions import ALL, SCHEMES, Partitions
from tidewire.model.record import Gap, Record
from tidewire.transports.base import Log, Transport

_SHARD = re.compile(r"u(0|[1-9][0-9]{0,3})")
"""As a scheme writes it: with leading zeros, a forged cursor could create any number of logs."""


class KnownSchemes(ControlPartition):
    """The partition schemes that the log says are in use; `on_change` is called once it says something else."""

    def __init__(self, transport: Transport, own: Partitions, on_change: Callable[[], None]) -> None:
        super().__init__(transport, SCHEMES)
        self._own = own
        self._on_change = on_change
        self._registry = Registry()

    def partitions_for(self, interest: Interest) -> tuple[str, ...]:
        """Return the partitions that can hold an event matching `interest`."""
        return (
            self._own.partitions_for(interest)
            if self._log is None
            else self._registry.partitions_for(self._own, interest)
        )

    def starts(self, interest: Interest, missing: Iterable[str], time: int) -> Mapping[int, list[str]]:
        """Return the times (ms) from which to read partitions that a cursor of `time` does not name.

        A process that did not know a scheme yet may have moved the cursor past the time at which the scheme began.
        """
        begins = self._registry.begins(interest)
        starts: dict[int, list[str]] = {}
        for name in missing:
            began = begins.get(name, time)
            starts.setdefault(began if began < time < began + LEARNED else time, []).append(name)
        return starts

    def left_over(self, interest: Interest, cursor: Cursor) -> tuple[list[str], list[str]]:
        """Return the other partitions of a cursor that may hold events for `interest`: the readable and the lost ones.

        They belong to a scheme that is no longer in use, or that was never announced. Reading a partition creates its
        log: so that a forged cursor cannot create any name, only names that a scheme could have had are readable.
        """
        readable: list[str] = []
        lost: list[str] = []
        if not cursor.time:  # of a receipt: it names the partitions of one event, those of other users included
            return readable, lost
        needed, types = self.partitions_for(interest), self._registry.types(self._own)
        for name in cursor.positions:
            base, colon, shard = name.partition(":")
            may_hold = (base == ALL or interest.allows_type(base)) and not base.startswith("realtime.")
            if name in needed or not may_hold or (colon and interest.user_id is None):
                continue
            if (base == ALL or base in types) and (not colon or _SHARD.fullmatch(shard)):
                readable.append(name)
            elif cursor.positions[name].offset:  # 0: an instance read it under a scheme that has no writer
                lost.append(name)
        return readable, lost

    def on_item(self, item: Record | Gap) -> bool:
        """Take an item of the tail; False if announcements are missing before it."""
        before, at = self._at, item.position
        follows = before is not None and at is not None and before[:2] == (at.epoch, at.offset - 1)
        if isinstance(item, Gap) or at is None or not follows or self._until is not None:
            self._until = at
            return False
        self._at = at
        announcement = read_announcement(item.event)
        if announcement is not None:
            self._set([*self._registry.announced, (announcement, at.time)])
        return True

    async def _read(self, log: Log, after: Position | None, until: Position) -> None:
        announced: list[tuple[Announcement, int]] = []
        if until.offset:
            start = until._replace(offset=max(0, until.offset - MAX_ANNOUNCEMENTS), check="")  # older ones do not count
            async for item in log.replay(Cursor({SCHEMES: start}), Cursor({SCHEMES: until})):
                if isinstance(item, Record) and item.position is not None:
                    announcement = read_announcement(item.event)
                    if announcement is not None:
                        announced.append((announcement, item.position.time))
        self._set(announced)

    def _set(self, announced: Iterable[tuple[Announcement, int]]) -> None:
        before = self._registry.schemes(self._own)
        self._registry = Registry(announced=announced)
        if self._registry.schemes(self._own) != before:
            self._on_change()

    def check(self) -> None:
        """Raise TransportRefused if no cursor could name all partitions of the schemes in use."""
        if not fit_cursor(self._registry.schemes(self._own)):
            raise TransportRefused(TOO_MANY)
