"""Members that want the same events form a group; an index finds the groups of a record."""

from collections.abc import Awaitable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from tidewire.model.audience import Interest
from tidewire.model.event import Event
from tidewire.model.record import Gap, Record
from tidewire.protocol.sse import Format

if TYPE_CHECKING:
    from tidewire.delivery.early_delivery import Early


class Sink(Protocol):
    """Where the bytes of one subscriber go.

    A sink never raises, because a client that has gone must not cost the next client its events: without a client, it
    takes all bytes and drops them.
    """

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        """Take the bytes. None: writable again at once; otherwise once the returned object was awaited."""

    def end(self, chunk: bytes) -> None:
        """Take the last bytes, if there is room for them, and end the response."""

    @property
    def buffered(self) -> int:
        """Bytes taken that the kernel does not have yet, 0 if that is unknown."""


class Member(Protocol):
    """A subscriber that is up to date with the tail."""

    interest: Interest
    format: Format
    partitions: tuple[str, ...]
    sink: Sink
    written: int

    @property
    def live(self) -> bool:
        """Whether it is in a group."""

    def fall_behind(self, writable: Awaitable[None] | None) -> None:
        """Take over the tail's place and read on from there; the member has left its group.

        Everything up to that place was written. `writable`: the sink takes no more until it is done.
        """

    def received(self, early: "Early") -> bool:
        """Return whether the member was sent this event before the log held it."""


class Group:
    """Members with the same interest and format: a record is matched and encoded once for all of them."""

    __slots__ = ("bytes", "early", "format", "interest", "members", "partitions", "pending", "records")

    def __init__(self, interest: Interest, format: Format, partitions: tuple[str, ...]) -> None:
        self.interest = interest
        self.format = format
        self.partitions = partitions
        self.members: dict[Member, int] = {}  # with `records` when each joined: so counting costs nothing per member
        self.pending: list[bytes] = []
        self.early: dict[int, Early] = {}  # by index in `pending`: frames of events that were delivered early before
        self.bytes = 0  # of the pending frames
        self.records = 0  # matched by the group since it was made


class GroupIndex:
    """The groups by user and by type: the cost of a match follows the groups that match, not those that exist."""

    def __init__(self) -> None:
        self._groups: dict[tuple[Interest, Format], Group] = {}
        self._by_user: dict[str, list[Group]] = {}
        self._by_type: dict[str, list[Group]] = {}
        self._by_prefix: dict[str, list[Group]] = {}
        self._all_types: list[Group] = []

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def entries(self) -> int:
        """How many names and lists the index holds: 0 without groups."""
        return len(self._by_user) + len(self._by_type) + len(self._by_prefix) + len(self._all_types)

    def group_of(self, member: Member) -> Group | None:
        """Return the group that the member belongs to, None if there is none."""
        return self._groups.get((member.interest, member.format))

    def make_group(self, member: Member) -> Group:
        """Add the group that the member belongs to."""
        key = (member.interest, member.format)
        group = self._groups[key] = Group(*key, member.partitions)
        for index in self._indexes(group):
            index.append(group)
        return group

    def remove(self, group: Group) -> None:
        """Remove a group, and everything of it in the index."""
        interest = group.interest
        del self._groups[interest, group.format]
        for index in self._indexes(group):
            index.remove(group)
        if interest.user_id is not None and not self._by_user[interest.user_id]:
            del self._by_user[interest.user_id]
        for by_name, names in ((self._by_type, interest.types or ()), (self._by_prefix, interest.prefixes)):
            for name in names:
                if not by_name[name]:
                    del by_name[name]

    def matches(self, item: Record | Gap) -> Sequence[Group]:
        """Return the groups that a record is for, or that read the partition of a gap."""
        if isinstance(item, Gap):
            return [group for group in self._groups.values() if item.partition in group.partitions]
        event: Event = item.event
        if event.user_ids is None:
            by_prefix = [
                group for prefix, groups in self._by_prefix.items() if event.type.startswith(prefix) for group in groups
            ]
            return [*self._all_types, *self._by_type.get(event.type, ()), *by_prefix]
        return [
            group
            for user_id in dict.fromkeys(event.user_ids)  # named twice, still one event
            for group in self._by_user.get(user_id, ())
            if group.interest.allows_type(event.type)
        ]

    def _indexes(self, group: Group) -> Iterator[list[Group]]:
        user_id, types = group.interest.user_id, group.interest.types
        if user_id is not None:
            yield self._by_user.setdefault(user_id, [])
        if types is None:
            yield self._all_types
            return
        for type in types:
            yield self._by_type.setdefault(type, [])
        for prefix in group.interest.prefixes:
            yield self._by_prefix.setdefault(prefix, [])
