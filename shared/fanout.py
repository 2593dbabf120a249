"""One record to the matched subscribers: the index, the frames, and one write a turn.

Subscribers who want the same (user, types, format) and are up to date form a group: a record is matched once a
group, encoded once for all groups that read the same partitions, and what meets in one turn of the event loop is
joined and written once. The cost of a record follows the subscribers it is for, not those connected.
"""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Protocol

from shared.cursor import Position, encode, encode_one
from shared.event import Event
from shared.filter import Interest
from shared.record import Gap, Record
from shared.ring import Ring
from shared.sse import Format

REST = 0.5
"""After a flush that took t, the next one waits t * REST for company. A write costs a system call for each member,
whether it holds one frame or twenty: under load, when flush follows flush, the wait makes them fewer and larger. An
event that comes after a pause is written at once."""

MIN_REST = 0.001  # seconds; a shorter wait would cost more than it saves
MAX_REST = 0.005  # seconds that an event may wait for others at most


class Sink(Protocol):
    """Where one subscriber's bytes go. Nothing here raises: one client that is gone must not keep the next from its
    events, so a sink without a client takes everything and does nothing.
    """

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        """Take the bytes. None: the next write may follow; otherwise it may once the answer is awaited."""

    def end(self, chunk: bytes) -> None:
        """Take the last bytes, where there is room for them, and end the answer."""


class Member(Protocol):
    """A subscriber who is up to date with the tail."""

    interest: Interest
    format: Format
    partitions: tuple[str, ...]
    sink: Sink

    def fall_behind(self, room: Awaitable[None]) -> None:
        """The sink took its last write but no more until `room`; the member has left its group."""


class Fanout:
    """What the tail has brought, who is up to date with it, and the ring for those who are nearly."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.positions: dict[str, Position] = {}  # the tail's place in each followed partition
        self.records = 0
        self.deliveries = 0
        self._groups: dict[tuple[Interest, Format], _Group] = {}
        self._by_user: dict[str, list[_Group]] = {}
        self._by_type: dict[str, list[_Group]] = {}
        self._by_prefix: dict[str, list[_Group]] = {}
        self._all_types: list[_Group] = []
        self._dirty: list[_Group] = []
        self._waiting: set[asyncio.Future[None]] = set()
        self._rest_until = 0.0  # on the monotonic clock

    def broadcast(self, item: Record | Gap) -> None:
        """Hand one item of the tail to every member it is for, at the end of this turn of the loop."""
        self.ring.append(item)
        if item.position is not None:
            self.positions[item.partition] = item.position
        self.records += isinstance(item, Record)
        frames: dict[tuple[Format, tuple[str, ...]], bytes] = {}
        for group in self._matched(item):
            key = (group.format, group.partitions)
            frame = frames.get(key)
            if frame is None:
                frame = frames[key] = self.encode(item, group.format, group.partitions)
            if not group.pending:
                if not self._dirty:
                    self._schedule()
                self._dirty.append(group)
            group.pending.append(frame)
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    def flush(self) -> None:
        """Write what is pending, one write a member."""
        began = time.monotonic()
        dirty, self._dirty = self._dirty, []
        for group in dirty:
            self.deliveries += len(group.pending) * len(group.members)
            chunk = b"".join(group.pending)
            group.pending.clear()
            self.write(group.members, chunk)
        ended = time.monotonic()
        self._rest_until = ended + min((ended - began) * REST, MAX_REST)

    def _schedule(self) -> None:
        """Flush at the end of this turn, or, soon after a costly flush, when it has rested."""
        loop = asyncio.get_running_loop()
        rest = self._rest_until - time.monotonic()
        if rest > MIN_REST:
            loop.call_later(rest, self.flush)
        else:
            loop.call_soon(self.flush)

    def write(self, members: Iterable[Member], chunk: bytes) -> None:
        """Write one chunk to members who are up to date; who has no room for more leaves."""
        behind = []
        for member in members:
            room = member.sink.write(chunk)
            if room is not None:
                behind.append((member, room))
        for member, room in behind:
            self.leave(member)
            member.fall_behind(room)

    def join(self, member: Member) -> None:
        """Deliver to `member` from the next record on; it must have had everything up to the tail's place."""
        key = (member.interest, member.format)
        group = self._groups.get(key)
        if group is not None and group.pending:
            self.flush()  # these were in the ring too: the new member already has them
            group = self._groups.get(key)  # gone, where the flush found no member with room for more
        if group is None:
            group = self._groups[key] = _Group(*key, member.partitions)
            for index in self._indexes(group):
                index.append(group)
        group.members[member] = None

    def leave(self, member: Member) -> None:
        """Deliver nothing more to `member`; leaving twice is no error."""
        key = (member.interest, member.format)
        group = self._groups.get(key)
        if group is None or group.members.pop(member, self) is self or group.members:
            return
        del self._groups[key]
        for index in self._indexes(group):
            index.remove(group)
        interest = group.interest
        if interest.user_id is not None and not self._by_user[interest.user_id]:
            del self._by_user[interest.user_id]
        for by_name, names in ((self._by_type, interest.types or ()), (self._by_prefix, interest.prefixes)):
            for name in names:
                if not by_name[name]:
                    del by_name[name]

    def has_reached(self, positions: Mapping[str, Position]) -> bool:
        """Tell whether the tail is at or past `positions`."""
        return all(_place(self.positions.get(name)) >= _place(at) for name, at in positions.items())

    async def reached(self, positions: Mapping[str, Position]) -> None:
        """Return once the tail is at or past `positions`, or jumps.

        A subscriber may have read the log further than the tail is. Until the tail is there too, what it brings
        is older than what the subscriber has.
        """
        while not self.has_reached(positions):
            moved = asyncio.get_running_loop().create_future()
            self._waiting.add(moved)
            before = {name: self.positions.get(name) for name in positions}
            try:
                await moved
            finally:
                self._waiting.discard(moved)
            if any(_place(self.positions.get(name)) < _place(before[name]) for name in positions):
                return  # the tail went back: the log did, and the ring holds the gap

    def encode(self, item: Record | Gap, format: Format, partitions: tuple[str, ...]) -> bytes:
        """Return the item's bytes with the tail's place as the cursor."""
        cursor = self.cursor(partitions)
        return format.record(cursor, item) if isinstance(item, Record) else format.gap(cursor, item)

    def cursor(self, partitions: tuple[str, ...]) -> str:
        """Return the tail's place in `partitions` as cursor text."""
        return cursor_text(self.positions, partitions)

    def _matched(self, item: Record | Gap) -> Sequence["_Group"]:
        if isinstance(item, Gap):
            return [group for group in self._groups.values() if item.partition in group.partitions]
        event: Event = item.event
        if event.user_ids is None:
            begun = [
                group for prefix, groups in self._by_prefix.items() if event.type.startswith(prefix) for group in groups
            ]
            return [*self._all_types, *self._by_type.get(event.type, ()), *begun]
        return [
            group
            for user_id in dict.fromkeys(event.user_ids)  # named twice, still one event
            for group in self._by_user.get(user_id, ())
            if group.interest.takes(event.type)
        ]

    def _indexes(self, group: "_Group") -> list[list["_Group"]]:
        user, types = group.interest.user_id, group.interest.types
        indexes = [] if user is None else [self._by_user.setdefault(user, [])]
        if types is None:
            return [*indexes, self._all_types]
        begun = (self._by_prefix.setdefault(prefix, []) for prefix in group.interest.prefixes)
        return [*indexes, *(self._by_type.setdefault(type, []) for type in types), *begun]


class _Group:
    __slots__ = ("format", "interest", "members", "partitions", "pending")

    def __init__(self, interest: Interest, format: Format, partitions: tuple[str, ...]) -> None:
        self.interest = interest
        self.format = format
        self.partitions = partitions
        self.members: dict[Member, None] = {}
        self.pending: list[bytes] = []


def cursor_text(positions: Mapping[str, Position], partitions: Sequence[str]) -> str:
    """Return the cursor text of `positions` in `partitions`; those without a position are left out."""
    if len(partitions) == 1 and (only := positions.get(partitions[0])) is not None:
        return encode_one(partitions[0], only)
    known = {name: positions[name] for name in partitions if name in positions}
    return encode(known, min((at.time for at in known.values()), default=0))


def _place(position: Position | None) -> tuple[int, int]:
    return (0, 0) if position is None else (position.epoch, position.offset)
