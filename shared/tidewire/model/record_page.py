"""A page of the log in its stored form: a Record is made only when it is accessed.

A replay to one subscriber needs each entry's position, audience and bytes of data. Making an Event, a Position and a
Record of them, and taking those apart again, costs several times as much as decoding the entry.
"""

import re
from collections.abc import Sequence
from typing import Self, overload

import msgspec

from tidewire.model.audience import Interest
from tidewire.model.cursor import Position
from tidewire.model.record import Record, StoredEvent, read_stored

CHECK, TIME = 8, 21  # the end of the check in an entry, and the end of the time; the packed event follows
ENTRY_BYTES, USER_BYTES = 400, 100  # of Python objects, per entry and per user, in addition to the entry's bytes
_STAMPS = re.compile(rb"(?:[0-9a-f]{8}[0-9]{13})*+")


class RecordPage(Sequence[Record]):
    """Contiguous records of one partition, the first one at `epoch`, `first`.

    `values[i]` is the entry at offset `first + i`: check (8 hex digits), time (13 digits), packed event; `stored[i]` is
    its decoded event.
    """

    __slots__ = ("_audience", "epoch", "first", "one_line", "partition", "stored", "values")

    def __init__(
        self, partition: str, epoch: int, first: int, values: Sequence[bytes], stored: Sequence[StoredEvent]
    ) -> None:
        self.partition = partition
        self.epoch = epoch
        self.first = first
        self.values = values
        self.stored = stored
        together = b"".join(values)
        self.one_line = b"\n" not in together and b"\r" not in together  # JSON may have line ends between its tokens
        self._audience: tuple[Sequence[int], dict[str, list[int]]] | None = None

    @classmethod
    def parse(cls, partition: str, epoch: int, first: int, values: Sequence[bytes]) -> Self | None:
        """Return the records of these entries; None if one of them is unreadable."""
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

    @property
    def kept_bytes(self) -> int:
        """About how many bytes of memory the page takes; each user id is an object beside its entry."""
        users = sum(len(stored.user_ids) for stored in self.stored if stored.user_ids is not None)
        return self.size + ENTRY_BYTES * len(self.values) + USER_BYTES * users

    def matching(self, interest: Interest) -> Sequence[int]:
        """Return the indexes of the records that the interest matches, in order.

        The audience index is built once per page and shared by all readers: when an instance dies, its subscribers
        reconnect elsewhere and read the same pages, each for a few events of its own user.
        """
        if self._audience is None:
            self._audience = self._index_audience()
        everyone, users = self._audience
        indexes = everyone
        if interest.user_id is not None and (own := users.get(interest.user_id)):
            indexes = sorted((*everyone, *own))
        if interest.types is None:
            return indexes
        return [index for index in indexes if interest.allows_type(self.stored[index].type)]

    def _index_audience(self) -> tuple[Sequence[int], dict[str, list[int]]]:
        audiences = [stored.user_ids for stored in self.stored]
        if audiences.count(None) == len(audiences):
            return range(len(audiences)), {}
        everyone: list[int] = []
        users: dict[str, list[int]] = {}
        for index, user_ids in enumerate(audiences):
            if user_ids is None:
                everyone.append(index)
            else:
                for user_id in dict.fromkeys(user_ids):  # a user who is named twice gets one event
                    users.setdefault(user_id, []).append(index)
        return everyone, users

    def position(self, index: int) -> Position:
        """Return the position of one record."""
        value = self.values[index]
        return Position(self.epoch, self.first + index, value[:CHECK].decode(), int(value[CHECK:TIME]))

    def up_to(self, offset: int) -> Sequence[Record]:
        """Return the records up to an offset."""
        return self if self.first + len(self.values) - 1 <= offset else self[: max(0, offset - self.first + 1)]

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "RecordPage": ...
    def __getitem__(self, index: int | slice) -> "Record | RecordPage":
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self.values))
            part = slice(start, stop)
            return RecordPage(self.partition, self.epoch, self.first + start, self.values[part], self.stored[part])
        index = range(len(self.values))[index]
        return Record(self.stored[index].event(), self.partition, self.position(index))
