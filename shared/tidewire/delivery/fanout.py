"""One record to all matching members: matched once per group, encoded once, and one write per member and turn.

Members with the same interest and format form a group. A record is matched once per group, and encoded once for all
groups that read the same partitions. All frames for a member in one turn of the event loop are joined and written
once. The cost of a record grows with the members that it is for, not with those connected.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tidewire.delivery.groups import Group, GroupIndex, Member
from tidewire.delivery.position_waiters import PositionWaiters
from tidewire.delivery.ring_buffer import Ring
from tidewire.model.cursor import Position, encode, encode_one
from tidewire.model.record import Gap, GapReason, Record
from tidewire.primitives.counters import Histogram
from tidewire.protocol.sse import Format

if TYPE_CHECKING:
    from tidewire.delivery.early_delivery import Early, EarlyDelivery
    from tidewire.delivery.tracer import Tracer

REST = 0.5
"""After a flush that took t, the next one waits t * REST for more frames. A write costs one system call per member,
whether it holds one frame or twenty: under load, when flush follows flush, the wait makes them fewer and larger. An
event that comes after a pause is written at once."""

WRITE_BYTES = 64 * 1024
"""Of frames that are joined for one write. A client that does not read costs what its server buffers of one such chunk,
and then reads the log: a backlog that the tail brings in one turn is not kept for each of them."""

MIN_REST = 0.001  # seconds; a shorter wait would cost more than it saves
MAX_REST = 0.005  # seconds that an event may wait for others


class FanoutSnapshot(NamedTuple):
    """What a fan-out holds now."""

    members: int
    groups: int
    index_entries: int
    pending_bytes: int  # of frames that wait for the next flush, each counted once for all its members
    waiting: int  # subscribers that wait for the tail to bring something
    ring_records: int
    ring_bytes: int


class Fanout:
    """Delivers to the members, and keeps the ring for subscribers that are a little behind.

    Each write to a member flushes the frames that are pending for it first. If a member falls behind, its place is
    therefore the tail's, and every frame before that place has been written to it.
    """

    def __init__(
        self,
        ring: Ring,
        *,
        rereads: bool = False,
        early: "EarlyDelivery | None" = None,
        clock: Callable[[], float] = time.time,
        tracer: "Tracer | None" = None,
    ) -> None:
        """Deliver what `broadcast` is given; `rereads`: after a gap of the tail the members read the log again."""
        self.ring = ring
        self.early = early
        self.clock = clock
        self.positions: dict[str, Position] = {}  # the tail's place in each followed partition
        self.waiters = PositionWaiters(self.positions)
        self.last_gap = -1  # the number of the last gap in the ring: earlier places may never be reached
        self.records = 0
        self.deliveries = 0
        self.members = 0
        self.matched = 0  # pairs of a record and a member that it was for
        self.filtered = 0  # pairs of a record and a member that it was not for
        self.gaps: dict[GapReason, int] = {}  # announced to members
        self.tail_lag = Histogram()  # seconds from the append to here, by two clocks: the log's and ours
        self.delivery = Histogram()  # seconds from the append until its last member was written to
        self._rereads = rereads
        self._tracer = tracer
        self._traced: list[_Traced] = []  # the pending records, if they are traced
        self._appended: list[int] = []  # times (ms) of the pending records
        self._index = GroupIndex()
        self._dirty: list[Group] = []  # groups with pending frames
        self._full = False  # one of them has as many as are written at once
        self._rest_until = 0.0  # on the monotonic clock

    def broadcast(self, item: Record | Gap) -> None:
        """Deliver an item of the tail, or a record that no log has given a position, at the end of this turn."""
        early = None
        if self.early is not None and isinstance(item, Record):
            if item.position is not None:
                early = self.early.on_logged(item)
            elif not self.early.add(item, self.ring.end):
                return
        if self._full:
            self.flush()  # before the item counts as delivered: a member without room is at the place before it
        if isinstance(item, Gap):
            if self._rereads:
                self._send_to_log(self._index.matches(item))
            self.last_gap = self.ring.end
        self.ring.append(item)
        if item.position is not None:
            self.positions[item.partition] = item.position
            if isinstance(item, Record):
                self.tail_lag.observe(self.clock() - item.position.time / 1000)
        self.records += isinstance(item, Record)
        self._match(item, early)
        self.waiters.on_item(item)

    def flush(self) -> None:
        """Write what is pending, with one write per member."""
        if not self._dirty:
            return
        began = time.monotonic()
        traced = [(item, item.members) for item in self._traced]  # before slow members leave
        dirty, self._dirty, self._full = self._dirty, [], False
        for group in dirty:
            self._flush_group(group)
        if self._appended:
            now = self.clock()
            for appended in self._appended:  # per record, not per member: a thousand members are written in one turn
                self.delivery.observe(now - appended / 1000)
            self._appended.clear()
        ended = time.monotonic()
        self._rest_until = ended + min((ended - began) * REST, MAX_REST)
        if self._tracer is not None:
            self._traced.clear()
            for item, written in traced:
                self._tracer.delivered(item.record, item.matched, written, item.brought, time.time_ns())

    def write(self, members: Iterable[Member], frame: bytes) -> None:
        """Write one frame to those of the members that are live, after everything that is pending."""
        self.flush()
        self._write([member for member in members if member.live], frame)

    def join(self, member: Member) -> None:
        """Deliver to `member` from the next record on; it must have received everything up to the tail's place."""
        group = self._index.group_of(member)
        if group is not None and group.pending:
            self.flush()  # these were in the ring too: the new member already has them
            group = self._index.group_of(member)  # None if the flush found no member with room
        if group is None:
            group = self._index.make_group(member)
        group.members[member] = group.records
        self.members += 1

    def leave(self, member: Member) -> None:
        """Deliver nothing more to `member`; leaving twice is no error."""
        group = self._index.group_of(member)
        if group is None or (joined := group.members.pop(member, None)) is None:
            return
        member.written += group.records - joined
        self.members -= 1
        if not group.members:
            self._index.remove(group)

    def schedule_flush(self) -> None:
        """Flush at the end of this turn, or, soon after a costly flush, when it has rested."""
        loop = asyncio.get_running_loop()
        rest = self._rest_until - time.monotonic()
        if rest > MIN_REST:
            loop.call_later(rest, self.flush)
        else:
            loop.call_soon(self.flush)

    def cursor(self, partitions: tuple[str, ...]) -> str:
        """Return the tail's place in `partitions` as cursor text."""
        return cursor_text(self.positions, partitions)

    def snapshot(self) -> FanoutSnapshot:
        """Return what the fan-out holds now."""
        pending = sum(len(frame) for group in self._dirty for frame in group.pending)
        index = self._index
        return FanoutSnapshot(
            self.members, len(index), index.entries, pending, len(self.waiters), len(self.ring), self.ring.bytes
        )

    def _send_to_log(self, groups: Sequence[Group]) -> None:
        """Let all members read the log from their place: it may hold what the tail has missed, and if it fell back to
        an older state it holds much that the tail goes past.
        """
        self.flush()
        for member in [member for group in groups for member in group.members]:
            self.leave(member)
            member.fall_behind(None)

    def _match(self, item: Record | Gap, early: "Early | None") -> None:
        frames: dict[tuple[Format, tuple[str, ...]], bytes] = {}
        matched = 0
        groups = self._index.matches(item)
        for group in groups:
            key = (group.format, group.partitions)
            frame = frames.get(key)
            if frame is None:
                frame = frames[key] = self._encode(item, group.format, group.partitions)
            if not group.pending:
                if not self._dirty:
                    self.schedule_flush()
                self._dirty.append(group)
            if early is not None:
                group.early[len(group.pending)] = early
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

    def _encode(self, item: Record | Gap, format: Format, partitions: tuple[str, ...]) -> bytes:
        cursor = self.cursor(partitions)
        return format.record(cursor, item) if isinstance(item, Record) else format.gap(cursor, item)

    def _flush_group(self, group: Group) -> None:
        pending, early = group.pending, group.early
        group.pending, group.early, group.bytes = [], {}, 0
        if not early:
            self.deliveries += len(pending) * len(group.members)
            self._write(group.members, b"".join(pending))
            return
        # Events that were delivered early go to the members that missed them; the cursors of all move past them.
        heartbeat = group.format.heartbeat(self.cursor(group.partitions))
        for member in tuple(group.members):
            frames = [frame for at, frame in enumerate(pending) if at not in early or not member.received(early[at])]
            self.deliveries += len(frames)
            member.written += len(frames) - (len(pending) - len(early))
            self._write((member,), b"".join(frames) + heartbeat)

    def _write(self, members: Iterable[Member], chunk: bytes) -> None:
        """Write one chunk to members with nothing else pending; those whose sink is full leave their group."""
        behind = []
        for member in members:
            writable = member.sink.write(chunk)
            if writable is not None:
                behind.append((member, writable))
        for member, writable in behind:
            self.leave(member)
            member.fall_behind(writable)


class _Traced(NamedTuple):
    record: Record
    matched: int
    groups: Sequence[Group]
    brought: int  # ns since 1970

    @property
    def members(self) -> int:
        """How many members a flush writes to now: some may have left since the record was brought."""
        return sum(len(group.members) for group in self.groups)


def cursor_text(positions: Mapping[str, Position], partitions: Sequence[str]) -> str:
    """Return the cursor text of `positions` in `partitions`; those without a position are left out."""
    if len(partitions) == 1 and (only := positions.get(partitions[0])) is not None:
        return encode_one(partitions[0], only)
    known = {name: positions[name] for name in partitions if name in positions}
    return encode(known, min((at.time for at in known.values()), default=0))
