"""A page of the log as it is stored: read entry by entry, made into records only where somebody asks for one.

A replay to one subscriber needs of each entry its place, who it is for and the bytes of its data. Making an event, a
position and a record of it, and taking those apart again, costs several times what reading it does.
"""

import re
from collections.abc import Sequence
from typing import Self, overload

import msgspec

from shared.cursor import Position
from shared.record import Record, Stored, read_stored

CHECK, TIME = 8, 21  # where the check ends in an entry, and where the time does; the packed event follows
_STAMPS = re.compile(rb"(?:[0-9a-f]{8}[0-9]{13})*+")


class StoredRecords(Sequence[Record]):
    """Records of one partition in order and without a hole, the first one at `epoch`, `first`.

    `values[i]` is the entry at offset `first + i`: check (8 hex digits), time (13 digits), packed event; `stored[i]` is
    what was read from it.
    """

    __slots__ = ("epoch", "first", "partition", "stored", "values")

    def __init__(
        self, partition: str, epoch: int, first: int, values: Sequence[bytes], stored: Sequence[Stored]
    ) -> None:
        self.partition = partition
        self.epoch = epoch
        self.first = first
        self.values = values
        self.stored = stored

    @classmethod
    def parse(cls, partition: str, epoch: int, first: int, values: Sequence[bytes]) -> Self | None:
        """Return the records of these entries; None where one of them cannot be read."""
        try:
            stored = [read_stored(value[TIME:]) for value in values]
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        if not _STAMPS.fullmatch(b"".join([value[:TIME] for value in values])):
            return None
        return cls(partition, epoch, first, values, stored)

    @property
    def size(self) -> int:
        """Bytes of the entries."""
        return sum(map(len, self.values))

    def position(self, index: int) -> Position:
        """Return the place of one record."""
        value = self.values[index]
        return Position(self.epoch, self.first + index, value[:CHECK].decode(), int(value[CHECK:TIME]))

    def up_to(self, offset: int) -> Sequence[Record]:
        """Return those that are not past an offset."""
        return self if self.first + len(self.values) - 1 <= offset else self[: max(0, offset - self.first + 1)]

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "StoredRecords": ...
    def __getitem__(self, index: int | slice) -> "Record | StoredRecords":
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self.values))
            part = slice(start, stop)
            return StoredRecords(self.partition, self.epoch, self.first + start, self.values[part], self.stored[part])
        index = range(len(self.values))[index]
        return Record(self.stored[index].event(), self.partition, self.position(index))
