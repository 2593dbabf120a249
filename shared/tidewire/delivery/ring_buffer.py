"""The last records that were broadcast, kept for subscribers that are a little behind the tail."""

from collections import deque
from collections.abc import Sequence

from tidewire.model.record import Gap, Record

MAX_RECORDS = 4_096
MAX_BYTES = 16 * 1024 * 1024  # of memory, audiences included: a burst of the largest events must not take more


class Ring:
    """A bounded window over what was broadcast, numbered from 0 up; the oldest item leaves first.

    A number is a place in what this process has broadcast, as an offset is one in the log: items without an offset have
    one too. A subscriber remembers the number up to which it has read.
    """

    def __init__(self, max_records: int = MAX_RECORDS, max_bytes: int = MAX_BYTES) -> None:
        self.end = 0  # the number of the next item
        self.bytes = 0
        self._start = 0
        self._items: dict[int, Record | Gap] = {}
        self._sizes: deque[int] = deque()  # of the items, in their order
        self._max_records = max_records
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self._items)

    def append(self, item: Record | Gap) -> None:
        """Add one item; the oldest ones leave until the rest fits."""
        size = item.event.kept_bytes if isinstance(item, Record) else 0
        self._items[self.end] = item
        self._sizes.append(size)
        self.end += 1
        self.bytes += size
        while self.end - self._start > self._max_records or self.bytes > self._max_bytes:
            del self._items[self._start]
            self.bytes -= self._sizes.popleft()
            self._start += 1

    def since(self, number: int, maximum: int) -> Sequence[Record | Gap] | None:
        """Return at most `maximum` items from `number` on; None if the first of them has left."""
        if number < self._start:
            return None
        return [self._items[n] for n in range(number, min(self.end, number + maximum))]
