"""One record to the matched subscribers: the index, the frames, and one write a turn.

Subscribers who want the same (user, types, format) and are up to date form a group: a record is matched once a
group, encoded once for all groups that read the same partitions, and what meets in one turn of the event loop is
joined and written once. The cost of a record follows the subscribers it is for, not those connected.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from tidewire.delivery.early_delivery import Early, Once
from tidewire.delivery.position_waiters import PositionWaiters
from tidewire.delivery.ring_buffer import Ring
from tidewire.delivery.tracer import Tracer
from tidewire.model.audience import Interest
from tidewire.model.cursor import Position, encode, encode_one
from tidewire.model.event import Event
from tidewire.model.record import Gap, GapReason, Record
from tidewire.primitives.counters import Histogram
from tidewire.protocol.sse import Format

REST = 0.5
"""After a flush that took t, the next one waits t * REST for company. A write costs a system call for each member,
whether it holds one frame or twenty: under load, when flush follows flush, the wait makes them fewer and larger. An
event that comes after a pause is written at once."""

WRITE_BYTES = 64 * 1024
"""Of frames that are joined for one write. A client that does not read costs what its server buffers of one such chunk,
and is then at the log: a backlog that the tail brings in one turn is not kept for each of them."""

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

    @property
    def buffered(self) -> int:
        """Bytes taken that the kernel does not have yet, 0 where that cannot be told."""


class Member(Protocol):
    """A subscriber who is up to date with the tail."""

    interest: Interest
    format: Format
    partitions: tuple[str, ...]
    sink: Sink
    written: int
    live: bool  # whether it is in a group

    def fall_behind(self, room: Awaitable[None] | None) -> None:
        """Take the tail's place as one's own and read on from there; the member has left its group.

        Everything up to that place was written. `room`: the sink takes no more until it is done.
        """

    def had(self, early: Early) -> bool:
        """Tell whether the member was sent this event before the log held it."""


class Fanout:
    """What the tail has brought, who is up to date with it, and the ring for those who are nearly.

    Nothing is written to a member beside the frames that are pending for it: each write flushes them first. So the
    place of a member that falls behind is the tail's, and lies after no frame that it was not given.
    """

    def __init__(
        self,
        ring: Ring,
        *,
        rereads: bool = False,
        clock: Callable[[], float] = time.time,
        tracer: Tracer | None = None,
    ) -> None:
        """Deliver what `broadcast` is given; `rereads`: members read again in the log what the tail has missed."""
        self.ring = ring
        self.positions: dict[str, Position] = {}  # the tail's place in each followed partition
        self.last_gap = -1  # the ring's number of the last gap: places from before it may never be reached
        self.records = 0
        self.deliveries = 0
        self.members = 0  # who are up to date now
        self.matched = 0  # pairs of a record and a member that it was for
        self.filtered = 0  # pairs of a record and a member that it was not for
        self.gaps: dict[GapReason, int] = {}  # told to members
        self.tail_lag = Histogram()  # seconds from the append to here, by two clocks: the log's and ours
        self.delivery = Histogram()  # seconds from the append until its last member was written to
        self._rereads = rereads
        self._clock = clock
        self._tracer = tracer
        self._traced: list[_Traced] = []  # the pending records, where they are traced
        self._appended: list[int] = []  # times (ms) of the pending records
        self.once: Once | None = None  # what was told early, where a fallback does that
        self._groups: dict[tuple[Interest, Format], _Group] = {}
        self._by_user: dict[str, list[_Group]] = {}
        self._by_type: dict[str, list[_Group]] = {}
        self._by_prefix: dict[str, list[_Group]] = {}
        self._all_types: list[_Group] = []
        self._dirty: list[_Group] = []  # groups with pending frames
        self._full = False  # one of them has as many as are written at once
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._awaited: dict[str, PositionWaiters] = {}
        self._rest_until = 0.0  # on the monotonic clock

    def broadcast(self, item: Record | Gap) -> None:
        """Hand one item to every member it is for, at the end of this turn of the loop: what the tail brings, and what
        no log has given a position.
        """
        early = None
        if self.once is not None and isinstance(item, Record):
            if item.position is not None:
                early = self.once.hear(item)
            elif not self.once.tell(item, self.ring.end):
                return
        if self._full:
            self.flush()  # before the item is counted as delivered: who has no room is at the place before it
        if self._rereads and isinstance(item, Gap):
            self._send_back(self._matched(item))
        if isinstance(item, Gap):
            self.last_gap = self.ring.end
        self.ring.append(item)
        if item.position is not None:
            self.positions[item.partition] = item.position
            if isinstance(item, Record):
                self.tail_lag.observe(self._clock() - item.position.time / 1000)
        self.records += isinstance(item, Record)
        self._bring(item, early)
        self._wake(item)

    def _send_back(self, groups: Sequence["_Group"]) -> None:
        """Let all members read the log from where they are: it may hold what the tail has missed, and where it fell
        back to an older state it holds much that the tail goes past.
        """
        self.flush()
        for member in [member for group in groups for member in group.members]:
            self.leave(member)
            member.fall_behind(None)

    def _wake(self, item: Record | Gap) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()
        if isinstance(item, Gap):
            for awaited in self._awaited.values():
                awaited.jump()
        elif item.position is not None and (waiting := self._awaited.get(item.partition)) is not None:
            waiting.wake(item.position)

    def _bring(self, item: Record | Gap, early: Early | None) -> None:
        frames: dict[tuple[Format, tuple[str, ...]], bytes] = {}
        matched = 0
        groups = self._matched(item)
        for group in groups:
            key = (group.format, group.partitions)
            frame = frames.get(key)
            if frame is None:
                frame = frames[key] = self.encode(item, group.format, group.partitions)
            if not group.pending:
                if not self._dirty:
                    self._schedule()
                self._dirty.append(group)
            if early is not None:
                group.again[len(group.pending)] = early
            else:
                matched += len(group.members)
                group.records += isinstance(item, Record)
            group.pending.append(frame)
            group.bytes += len(frame)
            self._full = self._full or group.bytes >= WRITE_BYTES
        if early is not None:
            return
        if isinstance(item, Gap):
            self.gaps[item.reason] = self.gaps.get(item.reason, 0) + matched
            return
        self.matched += matched
        self.filtered += self.members - matched
        if matched and item.position is not None:
            self._appended.append(item.position.time)
        if matched and self._tracer is not None:
            self._traced.append(_Traced(item, matched, groups, time.time_ns()))

    def flush(self) -> None:
        """Write what is pending, one write a member."""
        if not self._dirty:
            return
        began = time.monotonic()
        traced = [(item, item.members) for item in self._traced] if self._traced else ()  # now: who is slow leaves
        dirty, self._dirty, self._full = self._dirty, [], False
        for group in dirty:
            self._flush_group(group)
        if self._appended:
            now = self._clock()
            for appended in self._appended:  # a record, not a member: a thousand members are written in one turn
                self.delivery.observe(now - appended / 1000)
            self._appended.clear()
        ended = time.monotonic()
        self._rest_until = ended + min((ended - began) * REST, MAX_REST)
        if traced and self._tracer is not None:
            self._traced.clear()
            for item, written in traced:
                self._tracer.delivered(item.record, item.matched, written, item.brought, time.time_ns())

    def _flush_group(self, group: "_Group") -> None:
        pending, again = group.pending, group.again
        group.pending, group.again, group.bytes = [], {}, 0
        if not again:
            self.deliveries += len(pending) * len(group.members)
            self._write(group.members, b"".join(pending))
            return
        # What was told early goes to those who were not here then; the others' cursors move past it all the same.
        heartbeat = group.format.heartbeat(self.cursor(group.partitions))
        for member in tuple(group.members):
            frames = [frame for at, frame in enumerate(pending) if at not in again or not member.had(again[at])]
            self.deliveries += len(frames)
            member.written += len(frames) - (len(pending) - len(again))
            self._write((member,), b"".join(frames) + heartbeat)

    def _schedule(self) -> None:
        """Flush at the end of this turn, or, soon after a costly flush, when it has rested."""
        loop = asyncio.get_running_loop()
        rest = self._rest_until - time.monotonic()
        if rest > MIN_REST:
            loop.call_later(rest, self.flush)
        else:
            loop.call_soon(self.flush)

    def write(self, members: Iterable[Member], frame: bytes) -> None:
        """Write one frame to those of the members who are up to date, after all that is pending; see `_write`."""
        self.flush()
        self._write([member for member in members if member.live], frame)

    def _write(self, members: Iterable[Member], chunk: bytes) -> None:
        """Write one chunk to members for whom nothing else is pending; who has no room for more leaves."""
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
        group.members[member] = group.records
        self.members += 1

    def leave(self, member: Member) -> None:
        """Deliver nothing more to `member`; leaving twice is no error."""
        key = (member.interest, member.format)
        group = self._groups.get(key)
        if group is None or (joined := group.members.pop(member, None)) is None:
            return
        member.written += group.records - joined
        self.members -= 1
        if group.members:
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

    @property
    def pending_bytes(self) -> int:
        """Bytes of the frames that wait for the next flush, each counted once however many will get it."""
        return sum(len(frame) for group in self._dirty for frame in group.pending)

    def has_reached(self, positions: Mapping[str, Position]) -> bool:
        """Tell whether the tail is at or past `positions`."""
        return all(_place(self.positions.get(name)) >= _place(at) for name, at in positions.items())

    async def reached(self, positions: Mapping[str, Position]) -> None:
        """Return once the tail is at or past `positions`, or jumps.

        A subscriber may have read the log further than the tail is. Until the tail is there too, what it brings
        is older than what the subscriber has.
        """
        while not self.has_reached(positions):
            before = {name: self.positions.get(name) for name in positions}
            behind = next(name for name, at in positions.items() if _place(before[name]) < _place(at))
            await self._awaited.setdefault(behind, PositionWaiters()).reached(positions[behind])
            if any(_place(self.positions.get(name)) < _place(before[name]) for name in positions):
                return  # the tail went back: the log did, and the ring holds the gap

    async def moved(self) -> None:
        """Return once something more has been broadcast."""
        moved = asyncio.get_running_loop().create_future()
        self._waiting[moved] = None
        try:
            await moved
        finally:
            self._waiting.pop(moved, None)

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
            if group.interest.allows_type(event.type)
        ]

    def _indexes(self, group: "_Group") -> list[list["_Group"]]:
        user, types = group.interest.user_id, group.interest.types
        indexes = [] if user is None else [self._by_user.setdefault(user, [])]
        if types is None:
            return [*indexes, self._all_types]
        begun = (self._by_prefix.setdefault(prefix, []) for prefix in group.interest.prefixes)
        return [*indexes, *(self._by_type.setdefault(type, []) for type in types), *begun]


class _Traced(NamedTuple):
    record: Record
    matched: int
    groups: Sequence["_Group"]
    brought: int  # ns since 1970

    @property
    def members(self) -> int:
        """How many are written to if it is now: some may have gone since it was brought."""
        return sum(len(group.members) for group in self.groups)


class _Group:
    __slots__ = ("again", "bytes", "format", "interest", "members", "partitions", "pending", "records")

    def __init__(self, interest: Interest, format: Format, partitions: tuple[str, ...]) -> None:
        self.interest = interest
        self.format = format
        self.partitions = partitions
        self.members: dict[Member, int] = {}  # with `records` when each joined: to count costs nothing a member
        self.pending: list[bytes] = []
        self.again: dict[int, Early] = {}  # which of the pending frames were told early, before the log held them
        self.bytes = 0  # of the pending frames
        self.records = 0  # brought to the group since it was made


def cursor_text(positions: Mapping[str, Position], partitions: Sequence[str]) -> str:
    """Return the cursor text of `positions` in `partitions`; those without a position are left out."""
    if len(partitions) == 1 and (only := positions.get(partitions[0])) is not None:
        return encode_one(partitions[0], only)
    known = {name: positions[name] for name in partitions if name in positions}
    return encode(known, min((at.time for at in known.values()), default=0))


def _place(position: Position | None) -> tuple[int, int]:
    return (0, 0) if position is None else (position.epoch, position.offset)
