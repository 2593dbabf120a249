"""Once a connection: what was delivered before the log held it, known again when the log brings it.

Only behind a fallback (`tidewire.transports.fallback`) does an event come by two roads: from the outbox at once, and
from the log later, to this process as to all others. Each subscriber knows which numbers of the ring it has seen
(`Subscriber.had`), and here is which number an event had when it was told early. So nothing is kept a subscriber.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from tidewire.model.cursor import Position
from tidewire.model.event import Event
from tidewire.model.record import Record
from tidewire.primitives.recent_keys import RecentKeys

MAX_EARLY = 50_000
"""Events told early that are remembered: five full outboxes. Past it the oldest is forgotten, and a subscriber who
reads that far behind has it twice."""

MAX_EARLY_BYTES = 32 * 1024 * 1024  # of them, in memory: their audiences, as they are kept without their data


class Early(NamedTuple):
    """An event that was told before the log held it."""

    number: int  # in the ring
    event: Event  # without its data: who it was for
    time: float  # on the monotonic clock
    position: Position | None  # in the log, None: nobody here has read it there yet


class Once:
    """Both roads of this process. `window`: seconds in which the log takes an id for a repetition."""

    def __init__(self, window: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.early: OrderedDict[tuple[str, str], Early] = OrderedDict()
        self._window = window
        self._clock = clock
        self._bytes = 0  # that `early` takes
        self._heard = RecentKeys(window, clock=clock)

    def tell(self, record: Record, number: int) -> bool:
        """Remember what is told early; False where it must not be: it was, or the log has brought it already.

        That happens: an append whose answer was lost is in the log and in the outbox.
        """
        key = (record.partition, record.event.key)
        known = self.early.get(key)
        if self._heard.knows((key,)) or (known is not None and known.time > self._clock() - self._window):
            return False
        event = record.event
        if known is not None:
            self._bytes -= known.event.kept_bytes
        early = self.early[key] = Early(number, Event(event.id, event.type, b"", event.user_ids), self._clock(), None)
        self.early.move_to_end(key)
        self._bytes += early.event.kept_bytes
        while len(self.early) > MAX_EARLY or self._bytes > MAX_EARLY_BYTES:
            _, oldest = self.early.popitem(last=False)
            self._bytes -= oldest.event.kept_bytes
        return True

    def hear(self, record: Record) -> Early | None:
        """Remember what a tail or a replay brings; return how it was told early, None where it was not."""
        self._heard.add((record.partition, record.event.key))
        return self.find(record)

    def find(self, record: Record) -> Early | None:
        """Return how a record was told early, None where it was not; and remember its place, whoever has read it.

        The tail may have begun to follow after it, and never bring it.
        """
        if not self.early:
            return None
        key = (record.partition, record.event.key)
        known = self.early.get(key)
        if known is not None and known.position is None and record.position is not None:
            known = self.early[key] = known._replace(position=record.position)
        return known

    @property
    def oldest(self) -> int | None:
        """The number of what was told early the longest ago; None where nothing is remembered."""
        return next(iter(self.early.values())).number if self.early else None
