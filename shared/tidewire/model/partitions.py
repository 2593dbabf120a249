"""Partitions of the log: those that an event is appended to, and those that a subscriber reads."""

import zlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from tidewire.model.audience import Interest
from tidewire.model.event import Event
from tidewire.model.permissions import REVOCATIONS

ALL = "all"
SCHEMES = "realtime.schemes"
"""The control partition that records the schemes in use (`shared/tidewire/model/partition_schemes.py`)."""

MAX_COPIES = 16
"""Copies of one event. An event for more shards is stored once, in the partition that everyone reads: otherwise 1,000
users would make 1,000 copies of up to 256 KiB, and the receipt's cursor would be too long."""

_CONTROL = frozenset({REVOCATIONS, SCHEMES})


class Partitions(msgspec.Struct, frozen=True):
    """The partition scheme: types with a partition of their own, and the number of user shards (0 is none).

    With shards, an event with an audience goes to `<base>:u<hash(user) % shards>`, one copy per shard, each addressed
    to the users of that shard. `<base>` holds events for everyone, and events for more than `MAX_COPIES` shards. So a
    function that serves one user reads two small partitions instead of everybody's events. The control partitions
    (revocations, schemes) are not part of a scheme: no subscriber reads them.
    """

    types: frozenset[str] = frozenset()
    user_shards: int = 0

    def route(self, event: Event) -> list[tuple[str, Event]]:
        """Return (partition, event to store there) for each partition of the event."""
        base = event.type if event.type in self.types or event.type in _CONTROL else ALL
        if not self.user_shards or event.user_ids is None:
            return [(base, event)]
        shards: dict[str, list[str]] = {}
        for user_id in event.user_ids:
            shards.setdefault(self._shard(base, user_id), []).append(user_id)
        if len(shards) > MAX_COPIES:
            return [(base, event)]
        return [(shard, msgspec.structs.replace(event, user_ids=tuple(users))) for shard, users in shards.items()]

    def names(self) -> Iterator[str]:
        """Yield every partition of the scheme."""
        for base in (ALL, *sorted(self.types)):
            yield base
            yield from (f"{base}:u{shard}" for shard in range(self.user_shards))

    def copies(self, events: Iterable[Event]) -> int:
        """Return the number of records that these events become."""
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
        """Return the idempotency key of this event in this partition.

        With another number of shards, the shard of the same name has other users: an id that is known in `all:u2` of 8
        shards may be new to the users of `all:u2` of 5.
        """
        return f"{self.user_shards} {event.key}" if ":" in partition else event.key

    def _shard(self, base: str, user_id: str) -> str:
        return f"{base}:u{zlib.crc32(user_id.encode()) % self.user_shards}"
