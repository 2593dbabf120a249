"""The outbox: events in the order they were taken, bounded, on their way into a log that is away."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from tidewire.errors import EventRefused, TransportUnavailable
from tidewire.model.event import Event
from tidewire.transports.base import Receipt

Key = tuple[str, str]
"""Partition and key: what makes an event a repetition in the log makes it one here."""

ENTRY_BYTES = 250  # an entry itself, its slot in the order, and one key with the key's slot
KEY_BYTES = 250  # each further key: a tuple, its slot, the partition's name


class Entry:
    """One event, and whoever waits for what becomes of it.

    `size`: bytes of memory. `is_promised`: a publisher was answered 202, and does not learn what becomes of it.
    """

    __slots__ = ("_answer", "event", "is_promised", "keys", "size")

    def __init__(self, event: Event, keys: Sequence[Key]) -> None:
        self.event = event
        self.keys = keys
        self.size = event.kept_bytes + ENTRY_BYTES + KEY_BYTES * (len(keys) - 1)
        self.is_promised = False
        self._answer: asyncio.Future[Receipt | None] | None = None

    def answer(self) -> asyncio.Future[Receipt | None]:
        """Return what will be the log's receipt, or None where the log went away again; not to be cancelled.

        It raises EventRefused where the log refuses the event for good, and TransportUnavailable where the event was a
        guest and is not kept.
        """
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
        return self._answer

    def settle(self, outcome: Receipt | EventRefused | TransportUnavailable | None) -> None:
        """Give those who wait the outcome."""
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
            answer.exception()  # seen, also where every publisher has gone
        else:
            answer.set_result(outcome)
            self.is_promised = self.is_promised or outcome is None


class Outbox:
    """At most `max_events` events in `max_bytes` of memory; the same event again is the entry that is there.

    Beyond that it holds the guests: the events of one request, kept only until the log has accepted or refused them.
    """

    def __init__(self, keys: Callable[[Event], Sequence[Key]], max_events: int, max_bytes: int) -> None:
        self.bytes = 0
        self._keys_of = keys
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Entry, None] = OrderedDict()  # in order, and any of them may leave
        self._keys: dict[Key, Entry] = {}
        self._invited: list[Entry] = []  # guests, unless there is room for them by now

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    @property
    def guests(self) -> list[Entry]:
        """The entries that it has no room for: the last ones, until enough of the others have left."""
        is_over = len(self._entries) > self._max_events or self.bytes > self._max_bytes
        return [entry for entry in self._invited if entry in self._entries] if is_over else []

    def take(self, events: Sequence[Event], *, as_guests: bool = False) -> list[tuple[Entry, bool]]:
        """Add all events or none; return each one's entry, and whether it was there before.

        Raises TransportUnavailable where there is no room for all of them, and they are no guests or others are here.
        """
        taken: list[tuple[Entry, bool]] = []
        keys: dict[Key, Entry] = {}
        for event in events:
            entry = Entry(event, self._keys_of(event))
            there = [self._keys.get(key) or keys.get(key) for key in entry.keys]
            known = next(iter(there)) if all(there) else None
            if known is None:
                keys.update({key: entry for key, other in zip(entry.keys, there, strict=True) if other is None})
            taken.append((known or entry, known is not None))
        added = [entry for entry, known in taken if not known]
        size = sum(entry.size for entry in added)
        has_room = len(self._entries) + len(added) <= self._max_events and self.bytes + size <= self._max_bytes
        if added and not has_room and (self.guests or not as_guests):
            raise TransportUnavailable(
                f"The log cannot be reached, and the outbox has no room ({self._max_events:,} events,"
                f" {self._max_bytes // 1024:,} KiB): nothing of this request was kept"
            )
        if added and not has_room:
            self._invited = added
        self._entries.update(dict.fromkeys(added))
        self._keys.update(keys)
        self.bytes += size
        return taken

    def first(self, maximum: int, max_bytes: int) -> list[Entry]:
        """Return the oldest entries: at least one, and no more than are allowed."""
        batch: list[Entry] = []
        size = 0
        for entry in islice(self._entries, maximum):
            size += entry.size
            if batch and size > max_bytes:
                break
            batch.append(entry)
        return batch

    def remove(self, entry: Entry, outcome: Receipt | EventRefused | TransportUnavailable) -> None:
        """Remove an entry, and give whoever waits the outcome."""
        del self._entries[entry]
        self.bytes -= entry.size
        for key in entry.keys:
            if self._keys.get(key) is entry:
                del self._keys[key]
        entry.settle(outcome)

    def give_up_waiting(self) -> None:
        """Let all who wait know that the log is away, except for guests, which are not kept while it is."""
        guests = set(self.guests)
        for entry in self._entries:
            if entry not in guests:
                entry.settle(None)
