"""The outbox: a bounded queue of accepted events that wait for an unavailable log; `Fallback` empties it."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from tidewire.errors import EventRefused, TransportUnavailable
from tidewire.model.event import Event
from tidewire.transports.base import Receipt

Key = tuple[str, str]
"""Partition and key, which identify duplicates here as in the log."""

ENTRY_BYTES = 250  # an entry itself, its slot in the order, and one key with the key's slot
KEY_BYTES = 250  # each further key: a tuple, its slot, the partition's name


class Entry:
    """One event, and the outcome for the publishers that wait for it.

    `size`: bytes of memory. `is_promised`: a publisher was answered 202, and does not learn the outcome.
    """

    __slots__ = ("_outcome", "event", "is_promised", "keys", "size")

    def __init__(self, event: Event, keys: Sequence[Key]) -> None:
        self.event = event
        self.keys = keys
        self.size = event.kept_bytes + ENTRY_BYTES + KEY_BYTES * (len(keys) - 1)
        self.is_promised = False
        self._outcome: asyncio.Future[Receipt | None] | None = None

    def outcome(self) -> asyncio.Future[Receipt | None]:
        """Return the future receipt of the log, None if the log is unavailable again; not to be cancelled.

        It raises EventRefused if the log refuses the event for good, and TransportUnavailable if the event was in the
        overflow and is not kept.
        """
        if self._outcome is None:
            self._outcome = asyncio.get_running_loop().create_future()
        return self._outcome

    def settle(self, outcome: Receipt | EventRefused | TransportUnavailable | None) -> None:
        """Give the waiting publishers their outcome."""
        waiting, self._outcome = self._outcome, None
        if waiting is None:
            return
        if isinstance(outcome, Exception):
            waiting.set_exception(outcome)
            waiting.exception()  # retrieved, or asyncio logs it if every publisher has gone
        else:
            waiting.set_result(outcome)
            self.is_promised = self.is_promised or outcome is None


class Outbox:
    """At most `max_events` events in `max_bytes` of memory; a duplicate is the entry that is there already.

    Beyond that it holds the overflow: the events of one request, kept only until the log has accepted or refused them.
    """

    def __init__(self, keys: Callable[[Event], Sequence[Key]], max_events: int, max_bytes: int) -> None:
        self.bytes = 0
        self._keys_of = keys
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Entry, None] = OrderedDict()  # in order; any of them may be removed
        self._keys: dict[Key, Entry] = {}
        self._last_overflow: list[Entry] = []  # the overflow, unless there is room for it by now

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    @property
    def overflow(self) -> list[Entry]:
        """The entries beyond the limits: those of the last request, until enough others were removed."""
        is_over = len(self._entries) > self._max_events or self.bytes > self._max_bytes
        return [entry for entry in self._last_overflow if entry in self._entries] if is_over else []

    def take(self, events: Sequence[Event], *, as_overflow: bool = False) -> list[tuple[Entry, bool]]:
        """Add all events or none; return each one's entry, and whether it was there before.

        Raises TransportUnavailable if there is no room for all of them, unless `as_overflow` and there is no other one.
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
        if added and not has_room and (self.overflow or not as_overflow):
            raise TransportUnavailable(
                f"The log cannot be reached, and the outbox is full ({self._max_events:,} events,"
                f" {self._max_bytes // 1024:,} KiB): nothing of this request was kept"
            )
        if added and not has_room:
            self._last_overflow = added
        self._entries.update(dict.fromkeys(added))
        self._keys.update(keys)
        self.bytes += size
        return taken

    def first(self, maximum: int, max_bytes: int) -> list[Entry]:
        """Return the oldest entries, up to the limits; at least one."""
        batch: list[Entry] = []
        size = 0
        for entry in islice(self._entries, maximum):
            size += entry.size
            if batch and size > max_bytes:
                break
            batch.append(entry)
        return batch

    def remove(self, entry: Entry, outcome: Receipt | EventRefused | TransportUnavailable) -> None:
        """Remove an entry, and give the waiting publishers their outcome."""
        del self._entries[entry]
        self.bytes -= entry.size
        for key in entry.keys:
            if self._keys.get(key) is entry:
                del self._keys[key]
        entry.settle(outcome)

    def release_waiters(self) -> None:
        """Answer the publishers that wait for the log, except those of the overflow, which is not kept then."""
        overflow = set(self.overflow)
        for entry in self._entries:
            if entry not in overflow:
                entry.settle(None)
