"""Events that were delivered before the log held them: each is delivered at most once on a connection.

Only behind a fallback (`tidewire.transports.fallback`) can an event arrive twice: at once, from the outbox of this
process, and later from the log. Each item that is broadcast has a number in the ring. Each subscriber stores which
numbers it has read, and this module stores the number of each event delivered early. So no subscriber stores ids.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tidewire.model.audience import Interest
from tidewire.model.cursor import Position
from tidewire.model.event import Event
from tidewire.model.record import Record
from tidewire.primitives.recent_keys import RecentKeys

MAX_EARLY = 50_000
"""Early events that are remembered: five full outboxes. Beyond it the oldest is forgotten, and a subscriber that reads
so far behind receives it twice."""

MAX_EARLY_BYTES = 32 * 1024 * 1024  # of memory for them: their audiences, as they are kept without their data


class Early(NamedTuple):
    """An event that was delivered before the log held it."""

    number: int  # in the ring
    event: Event  # without its data: enough to know its audience
    time: float  # on the monotonic clock
    position: Position | None  # in the log; None: nobody in this process has read it there yet


class EarlyDelivery:
    """The early events of this process."""

    def __init__(self, window: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`window`: seconds for which the log recognizes a repeated id."""
        self.events: OrderedDict[tuple[str, str], Early] = OrderedDict()
        self._window = window
        self._clock = clock
        self._bytes = 0  # of `events`
        self._logged = RecentKeys(window, clock=clock)

    def add(self, record: Record, number: int) -> bool:
        """Remember an event that is about to be delivered early; False if it must not be delivered again.

        It must not if the answer to its append was lost: the event is then in the log and in the outbox.
        """
        key = (record.partition, record.event.key)
        known = self.events.get(key)
        if self._logged.knows((key,)) or (known is not None and known.time > self._clock() - self._window):
            return False
        event = record.event
        if known is not None:
            self._bytes -= known.event.kept_bytes
        early = self.events[key] = Early(number, Event(event.id, event.type, b"", event.user_ids), self._clock(), None)
        self.events.move_to_end(key)
        self._bytes += early.event.kept_bytes
        while len(self.events) > MAX_EARLY or self._bytes > MAX_EARLY_BYTES:
            _, oldest = self.events.popitem(last=False)
            self._bytes -= oldest.event.kept_bytes
        return True

    def on_logged(self, record: Record) -> Early | None:
        """Remember that the log holds an event; return its early delivery, None if there was none."""
        self._logged.add((record.partition, record.event.key))
        return self.find(record)

    def find(self, record: Record) -> Early | None:
        """Return the early delivery of an event, None if there was none; its place in the log is remembered.

        The first one that reads that place notes it, because a tail that began after the place never brings it.
        """
        if not self.events:
            return None
        key = (record.partition, record.event.key)
        known = self.events.get(key)
        if known is not None and known.position is None and record.position is not None:
            known = self.events[key] = known._replace(position=record.position)
        return known

    @property
    def numbers(self) -> range:
        """The numbers from the first early event to the last; empty if none is remembered."""
        if not self.events:
            return range(0)
        return range(next(iter(self.events.values())).number, next(reversed(self.events.values())).number + 1)


class ReadNumbers:
    """Which numbers of the ring one subscriber has read: all up to its own, except those that left the ring unread."""

    __slots__ = ("_before", "_delivery", "_interest", "_start")

    def __init__(self, delivery: EarlyDelivery, interest: Interest, number: int) -> None:
        """Begin at `number`: the subscriber has read nothing before it."""
        self._delivery = delivery
        self._interest = interest
        self._start = number
        self._before: tuple[range, ...] = ()  # what was read before `_start`, as far as early events are in it

    def skip(self, number: int, to: int) -> None:
        """Continue at `to` after everything before `number` was read: the items between them have left the ring.

        While the log is unavailable, each try of a replay calls this. So only ranges that hold early events are kept,
        and none for a skip of nothing: they would be as many as the tries.
        """
        if number == to:
            return
        early = self._delivery.numbers
        read = (*self._before, range(self._start, number))
        self._before = tuple(part for part in read if max(part.start, early.start) < min(part.stop, early.stop))
        self._start = to

    def received(self, early: Early, number: int | None) -> bool:
        """Return whether the event was sent early. Everything before `number` was read; None: all of the ring."""
        at = early.number
        was_read = at >= self._start and (number is None or at < number)
        return (was_read or any(at in part for part in self._before)) and self._interest.matches(early.event)

    def is_repetition(self, record: Record, number: int, place: Mapping[str, Position]) -> bool:
        """Return whether the event was sent before: early, or from the log, which was read up to `place`."""
        if record.position is not None:
            early = self._delivery.on_logged(record)  # the tail of this process may have begun after it
            return early is not None and self.received(early, number)
        early = self._delivery.find(record)
        if early is None or early.position is None:
            return False
        # In the ring the early one comes first; but a replay may have read the log up to the other.
        read = place.get(record.partition)
        return read is not None and read[:2] >= early.position[:2]
