"""A page of the log as it is stored: read by slicing, made into records only where somebody asks for one.

A replay to one subscriber needs of each entry its place, who it is for and the bytes of its data. Decoding it, making
an event, a position and a record of it, and taking those apart again cost four times what this does.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Self, overload

import msgspec

from shared.cursor import Position
from shared.event import Event
from shared.record import Head, Record, read_head

CHECK, TIME = 8, 21  # where the check ends in an entry, and where the time does; the packed event follows
_ID = b',"id":"'
_DATA = b'","data":'  # from the end of the id on
_BRACE = ord("}")
_MAX_KNOWN = 1_024  # heads kept; a log repeats few types and audiences
_MAX_KNOWN_LENGTH = 512  # bytes; a head with a thousand users is decoded each time

_known: dict[bytes, Head] = {}
_check_data = msgspec.json.Decoder(msgspec.Raw).decode


class StoredRecords(Sequence[Record]):
    """Records of one partition in order and without a hole, the first one at `epoch`, `first`.

    `values[i]` is the entry at offset `first + i`: check (8 hex digits), time (13 digits), packed event. `heads`,
    `times` and `data` are what was read from it.
    """

    __slots__ = ("data", "epoch", "first", "heads", "partition", "times", "values")

    def __init__(
        self,
        partition: str,
        epoch: int,
        first: int,
        values: Sequence[bytes],
        heads: Sequence[Head],
        times: Sequence[int],
        data: Sequence[bytes],
    ) -> None:
        self.partition = partition
        self.epoch = epoch
        self.first = first
        self.values = values
        self.heads = heads
        self.times = times
        self.data = data

    @classmethod
    def parse(cls, partition: str, epoch: int, first: int, values: Sequence[bytes]) -> Self | None:
        """Return the records of these entries; None where one is not laid out as `record.pack` does."""
        heads, times, data = [], [], []
        stamp, time = b"", 0  # many records are of the same millisecond
        try:
            for value in values:
                # A quote within a string is escaped, so neither mark can be found inside an id, a type or a user's
                # name. Any other order of the fields, or an id with a quote, is not read here: an audience that stood
                # behind the id must not be overlooked.
                before, _, rest = value.partition(_ID)
                id, _, event_data = rest.partition(_DATA)
                if b'"' in id or event_data[-1] != _BRACE:
                    return None
                text = before[TIME:]
                heads.append(_known.get(text) or _learn(text))
                if before[CHECK:TIME] != stamp:
                    stamp = before[CHECK:TIME]
                    time = int(stamp)
                times.append(time)
                # One JSON value and nothing after it: broken data becomes a gap, and an audience that stands behind the
                # data is not passed on as a part of it, to everyone.
                event_data = event_data[:-1]
                _check_data(event_data)
                data.append(event_data)
        except (ValueError, IndexError):
            return None
        return cls(partition, epoch, first, values, heads, times, data)

    @property
    def size(self) -> int:
        """Bytes of event data."""
        return sum(map(len, self.data))

    def position(self, index: int) -> Position:
        """Return the place of one record."""
        return Position(self.epoch, self.first + index, self.values[index][:CHECK].decode(), self.times[index])

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
            columns = (self.values[part], self.heads[part], self.times[part], self.data[part])
            return StoredRecords(self.partition, self.epoch, self.first + start, *columns)
        index = range(len(self.values))[index]
        value, head = self.values[index], self.heads[index]
        start = value.index(_ID, TIME) + len(_ID) - 1
        id = msgspec.json.decode(value[start : value.index(_DATA, start) + 1], type=str)
        event = Event(id, head.type, self.data[index], head.user_ids, head.attributes)
        return Record(event, self.partition, self.position(index))


def _learn(text: bytes) -> Head:
    head = read_head(text)
    if len(text) <= _MAX_KNOWN_LENGTH:
        while len(_known) >= _MAX_KNOWN:
            del _known[next(islice(_known, 1))]
        _known[text] = head
    return head
