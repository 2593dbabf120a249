"""What must be true of every stream, by the receipts alone: the judge of the state machine."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event
from tidewire.model.partitions import Partitions
from tidewire.protocol.sse import CLOSING, GAP, READY
from tidewire.transports.base import Receipt

from tests.support.sse_decoder import SseDecoder, SseEvent

Slot = tuple[str, int]  # a partition in one epoch
Place = dict[str, tuple[int, int]]  # partition → epoch and offset


class Journal:
    """Everything that was acknowledged, by its place; and what may have become of it."""

    def __init__(self, scheme: Partitions, maximum: int) -> None:
        self.scheme = scheme
        self.maximum = maximum  # records that a partition keeps, 0 for all
        self.reasons: set[str] = {"trimmed"} if maximum else set()  # of gaps that may come
        self._records: dict[Slot, dict[int, Event]] = defaultdict(dict)

    def wiped(self) -> None:
        """Gaps may come from now on: of the new epoch, and, to a reader in a replay, of trimmed records."""
        self.reasons |= {"epoch", "trimmed"}

    def note(self, event: Event, receipt: Receipt) -> None:
        """Take down where an event is; no place may hold two, and none may be given away twice."""
        assert receipt.id == event.id
        assert receipt.positions is not None
        parts = dict(self.scheme.route(event))
        assert receipt.positions.keys() == parts.keys()
        for partition, (epoch, offset, check, _) in receipt.positions.items():
            assert check
            records = self._records[partition, epoch]
            known = records.setdefault(offset, parts[partition])
            assert known == parts[partition], f"{partition} {offset} holds {known.id} and {event.id}"
            # Within one epoch an id has one place: the window of the machine's logs never ends.
            assert [at for at, record in records.items() if record.id == event.id] == [offset]

    def check_contiguous(self) -> None:
        """Once all is acknowledged, every number up to the last one has been given."""
        for slot, records in self._records.items():
            assert sorted(records) == list(range(1, len(records) + 1)), f"holes in {slot}"

    def counts(self) -> dict[Slot, int]:
        """How many records are acknowledged in each partition and epoch."""
        return {slot: len(records) for slot, records in self._records.items()}

    def epoch(self, partition: str) -> int:
        """The partition's epoch now; 0 where nothing was published to it."""
        return max((epoch for name, epoch in self._records if name == partition), default=0)

    def between(self, interest: Interest, before: Place, after: Place) -> list[Event]:
        """What a subscriber should have been sent on the way from one place to another in the same epochs."""
        found = []
        for partition, (epoch, end) in after.items():
            old_epoch, start = before.get(partition, (epoch, end))
            assert old_epoch == epoch, f"{partition} went from epoch {old_epoch} to {epoch} without a gap"
            assert start <= end, f"{partition} went back from {start} to {end} without a gap"
            records = self._records.get((partition, epoch), {})
            found += [records[n] for n in range(start + 1, end + 1) if interest.matches(records[n])]
        return found

    def holds(self, slot: Slot, offset: int, event: SseEvent) -> bool:
        """Whether this event is the record at this place."""
        record = self._records.get(slot, {}).get(offset)
        return record is not None and record.data.decode() == event.data

    def missing(self, interest: Interest, place: Place) -> list[Event]:
        """The events that a subscriber at this place has still to get."""
        heads: Place = {}
        for partition, (epoch, offset) in place.items():
            now = self.epoch(partition) or epoch
            start = offset if now == epoch else 0
            heads[partition] = (now, max(len(self._records.get((partition, now), {})), start))
        current = {p: at if heads[p][0] == at[0] else (heads[p][0], 0) for p, at in place.items()}
        return self.between(interest, current, heads)


class Begin(NamedTuple):
    """The request of a connection, and the events acknowledged around that moment."""

    cursor: str | None
    since: str
    before: Mapping[Slot, int]  # acknowledged at the time of the request
    after: Mapping[Slot, int]  # … and at the time of the response, with the events on the way


@dataclass
class Reader:
    """A client across its connections: the bytes it took, judged one frame after the other."""

    interest: Interest
    journal: Journal
    place: Place | None = None
    begin: Begin | None = None
    gap_due: bool = False  # a cursor that cannot be read must be answered with a gap first
    received: list[Event] = field(default_factory=list)
    decoder: SseDecoder = field(default_factory=SseDecoder)
    _rest: bytes = b""
    _script: list[Begin | bytes] = field(default_factory=list)

    def connect(self, begin: Begin) -> None:
        """A new connection: the next frame is its first one."""
        self._script.append(begin)

    def take(self, chunk: bytes) -> None:
        """Bytes that have arrived; they are judged after all events that they may hold are acknowledged."""
        self._script.append(chunk)

    def judge(self) -> None:
        """Raise AssertionError if a promise was broken."""
        script, self._script = self._script, []
        for step in script:
            if isinstance(step, Begin):
                self._restart(step)
                continue
            *frames, self._rest = (self._rest + step).split(b"\n\n")
            for frame in frames:
                events = self.decoder.feed(frame + b"\n\n")
                assert len(events) <= 1
                self._judge_frame(events[0] if events else None)

    def _restart(self, begin: Begin) -> None:
        self._rest = b""
        self.begin = begin
        self.decoder = SseDecoder(begin.cursor or "")
        cursor = Cursor.parse(begin.cursor or "")
        self.place = _place(cursor.positions) if cursor is not None and cursor.positions else None
        self.gap_due = begin.cursor is not None and self.place is None

    def _judge_frame(self, event: SseEvent | None) -> None:
        if event is not None and event.type == CLOSING:
            return
        cursor = Cursor.parse(self.decoder.last_event_id)
        assert cursor is not None, "every frame has a place"
        after = _place(cursor.positions)
        schemes = (self.journal.scheme, Partitions())  # an earlier instance may have used the default one
        assert after.keys() == {name for scheme in schemes for name in scheme.partitions_for(self.interest)}
        if event is not None and event.type == GAP:
            self._judge_gap(event, after)
        else:
            assert not self.gap_due, "something came before the gap"
            before = self._first_place(after, event) if self.place is None else self.place
            expected = self.journal.between(self.interest, before, after)
            if event is None or event.type == READY:
                assert expected == [], f"the cursor went past {expected}"
            else:
                due = [(e.type, e.data.decode()) for e in expected]
                assert due == [(event.type, event.data)], f"sent {event}, due were {expected}"
                self.received += expected
        self.place = after

    def _judge_gap(self, event: SseEvent, after: Place) -> None:
        reason = msgspec.json.decode(event.data)["reason"]
        if self.gap_due:
            assert reason == "invalid"
            self.gap_due = False
            return
        assert reason in self.journal.reasons, f"a gap ({reason}) although nothing was lost"
        for partition, (epoch, offset) in after.items():
            old_epoch, _ = (self.place or {}).get(partition, (epoch, 0))
            if old_epoch != epoch == self.journal.epoch(partition) and not self.journal.maximum:
                assert offset == 0, "what is left of the new epoch must follow the gap"

    def _first_place(self, first: Place, event: SseEvent | None) -> Place:
        """The possible starts of a connection without a cursor, by its first id."""
        assert self.begin is not None
        place: Place = {}
        for partition, (epoch, offset) in first.items():
            slot = (partition, epoch)
            if self.begin.since == "earliest":
                # Younger records were kept when the connection began; older ones may be sent too.
                oldest = max(0, self.begin.after.get(slot, 0) - (self.journal.maximum or 10**9))
                sent = event is not None and self.journal.holds(slot, offset, event)
                place[partition] = (epoch, min(oldest, offset - 1 if sent else offset))
            else:
                assert offset >= self.begin.before.get(slot, 0), "`now` is in the past"
                place[partition] = (epoch, offset)
        return place


def _place(positions: Mapping[str, Position]) -> Place:
    return {name: position[:2] for name, position in positions.items()}


def sentinels(types: Sequence[str], users: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """Type and audience of events of which each subscriber waits for those that it should see."""
    for type in types:
        yield type, None
        for user in users:
            yield type, (user,)
