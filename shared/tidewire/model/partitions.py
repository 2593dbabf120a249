"""Which slices of the log an event is appended to, and which ones a subscriber reads."""

import zlib
from collections.abc import Iterable, Sequence

import msgspec

from tidewire.model.audience import Interest
from tidewire.model.event import Event
from tidewire.model.permissions import REVOCATIONS

ALL = "all"
SCHEMES = "realtime.schemes"
"""The control partition that holds the schemes in use (`shared/tidewire/model/partition_schemes.py`)."""

MAX_COPIES = 16
"""Copies of one event. An audience that hits more shards is stored once, in the partition that everyone reads: 1,000
users would else make 1,000 copies of up to 256 KiB, and a receipt that names so many places is no cursor."""

_CONTROL = frozenset({REVOCATIONS, SCHEMES})


class Partitions(msgspec.Struct, frozen=True):
    """The partition scheme: types with a partition of their own, and user shards (0 is none).

    With shards, an event with an audience goes to `<base>:u<hash(user) % shards>` alone, one copy a shard, each
    addressed to that shard's users; `<base>` holds what everyone may see, and what is for users of more than
    `MAX_COPIES` shards. A function that serves one user then reads two small streams instead of everybody's events.
    What is revoked, and which schemes are in use, have partitions that no subscriber needs.
    """

    types: frozenset[str] = frozenset()
    user_shards: int = 0

    def route(self, event: Event) -> list[tuple[str, Event]]:
        """Return (partition, event as stored there) for each partition that the event belongs to."""
        base = event.type if event.type in self.types or event.type in _CONTROL else ALL
        if not self.user_shards or event.user_ids is None:
            return [(base, event)]
        shards: dict[str, list[str]] = {}
        for user_id in event.user_ids:
            shards.setdefault(self._shard(base, user_id), []).append(user_id)
        if len(shards) > MAX_COPIES:
            return [(base, event)]
        return [(shard, msgspec.structs.replace(event, user_ids=tuple(users))) for shard, users in shards.items()]

    def copies(self, events: Iterable[Event]) -> int:
        """Return how many records the log keeps of these events."""
        return sum(len(self.route(event)) if self.user_shards and event.user_ids else 1 for event in events)

    def partitions_for(self, interest: Interest) -> tuple[str, ...]:
        """Return the partitions that can hold an event matching `interest`."""
        if interest.types is None:
            bases: Sequence[str] = (ALL, *sorted(self.types))
        else:
            own = sorted(filter(interest.allows_type, self.types))
            named = not interest.prefixes and interest.types <= self.types  # else some of its types are in `ALL`
            bases = own if named else (ALL, *own)
        if not self.user_shards or interest.user_id is None:
            return tuple(bases)
        return tuple(name for base in bases for name in (base, self._shard(base, interest.user_id)))

    def scope(self, partition: str, event: Event) -> str:
        """Return what makes a second append of this event to this partition a duplicate.

        A shard of the same name holds other users under another number of shards: that its id is known in `all:u2` of 8
        says nothing of the users of `all:u2` of 5.
        """
        return f"{self.user_shards} {event.key}" if ":" in partition else event.key

    def _shard(self, base: str, user_id: str) -> str:
        return f"{base}:u{zlib.crc32(user_id.encode()) % self.user_shards}"
