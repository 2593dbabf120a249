"""The last records that the tail delivered, kept for subscribers that are a little behind."""

from collections.abc import Sequence

from shared.record import Gap, Record

MAX_RECORDS = 4_096
MAX_BYTES = 16 * 1024 * 1024  # of event data; one burst of the largest events must not take the memory


class Ring:
    """A bounded window over what was broadcast, numbered from 0 up; the oldest leaves first."""

    def __init__(self, max_records: int = MAX_RECORDS, max_bytes: int = MAX_BYTES) -> None:
        self.end = 0
        self.bytes = 0
        self._start = 0
        self._items: dict[int, Record | Gap] = {}
        self._max_records = max_records
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self._items)

    def append(self, item: Record | Gap) -> None:
        """Add one item; what no longer fits leaves."""
        self._items[self.end] = item
        self.end += 1
        self.bytes += _size(item)
        while self.end - self._start > self._max_records or self.bytes > self._max_bytes:
            self.bytes -= _size(self._items.pop(self._start))
            self._start += 1

    def since(self, number: int, most: int) -> Sequence[Record | Gap] | None:
        """Return up to `most` items from `number` on; None where the first of them has left."""
        if number < self._start:
            return None
        return [self._items[n] for n in range(number, min(self.end, number + most))]


def _size(item: Record | Gap) -> int:
    return len(item.event.data) if isinstance(item, Record) else 0
