"""The judge of a story about the delivery core: compares received events with the log."""

import json
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor
from tidewire.model.record import Record
from tidewire.protocol.sse import CLOSING, EXPIRING, GAP, READY

from tests.support.sse_decoder import SseDecoder, SseEvent

FAULTS = ("lost", "doubled", "reordered", "early_cursors", "gaps", "misused", "stuck")
CONTROL = (READY, GAP, CLOSING, EXPIRING)


class Received(NamedTuple):
    """What a client received on one connection, the cursor that it came with, and the faults that its sink saw."""

    cursor: str | None
    stream: bytes
    faults: Sequence[str]


@dataclass
class Verdict:
    """The result of one story; all but the first three and the digest are 0 if the promises hold."""

    connections: int = 0
    frames: int = 0
    events: int = 0
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    early_cursors: int = 0  # an id that covers an event which this connection had not been sent
    gaps: int = 0  # although nothing was lost
    misused: int = 0  # a sink was written to while it had no room, or after its end
    stuck: int = 0  # a client did not get the last event
    digest: str = ""
    faults: list[str] = field(default_factory=list)

    def blame(self, kind: str, what: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        self.faults.append(f"{kind}: {what}")


class Judge:
    """Compares the events that one client received with those of the log."""

    def __init__(
        self,
        verdict: Verdict,
        interest: Interest,
        partitions: Sequence[str],
        records: Mapping[str, Sequence[Record]],
        repeated: AbstractSet[str] | None,
    ) -> None:
        """`repeated`: with early delivery, the ids that were published again; an instance that cannot reach the log
        delivers these as if they were new. None: no event comes before the log holds it.
        """
        self._early = repeated is not None
        self._repeated = repeated or frozenset[str]()
        self._interest = interest
        self._verdict = verdict
        self._records = {name: records[name] for name in partitions}
        self._where: dict[str, tuple[str, int]] = {}
        for name, each in self._records.items():
            for record in each:
                assert record.position is not None
                if interest.matches(record.event):
                    self._where[record.event.id] = (name, record.position.offset)

    def judge(self, connections: Sequence[Received]) -> None:
        """Judge a client's connections, in their order."""
        first: dict[str, int] | None = None
        seen: set[str] = set()
        for connection in connections:
            place = self._judge_connection(connection, seen)
            first = first if first is not None or place is None else place
            for fault in connection.faults:
                self._verdict.blame("misused", fault)
        if first is None:
            return
        for id, (name, offset) in self._where.items():
            if offset > first[name] and id not in seen:
                self._verdict.blame("lost", f"{id} ({name} {offset}) of {self._interest}")

    def _judge_connection(self, connection: Received, all_seen: set[str]) -> dict[str, int] | None:
        """Judge each frame; return the position at which the connection began, or None if it brought no id."""
        self._verdict.connections += 1
        resumed = _offsets(connection.cursor)
        start = place = resumed
        seen: set[str] = set()
        for id, event in _frames(connection):
            self._verdict.frames += 1
            if event is not None and event.type == GAP:
                self._verdict.blame("gaps", event.data)
            at = _offsets(id)
            moved = False  # to the event; one that came before the log held it moves no cursor
            number = None if event is None or event.type in CONTROL else self._number(event)
            name, offset = ("", 0) if number is None else self._where.get(number, ("", 0))
            if number is not None:
                self._verdict.events += 1
                known = resumed is not None and offset <= resumed.get(name, 0) and number not in self._repeated
                # An instance whose append got no answer delivers the event early with a cursor that stays,
                # even to a client that had it from the log by another instance: at most once holds for a connection.
                again = self._early and at == place
                if number in seen or (known and not again):
                    self._verdict.blame("doubled", f"{number} ({name} {offset})")
                seen.add(number)
                moved = at is not None and at[name] == offset and (place is None or place[name] < offset)
                if not moved and not self._early:
                    self._verdict.blame("reordered", f"{number} ({name} {offset}) at {at}")
            if at is None or (event is not None and event.type in (CLOSING, EXPIRING)):
                continue
            if place is None:
                start = place = {**at, **({name: offset - 1} if moved else {})}
            for partition, end in at.items():
                if end < place[partition]:
                    self._verdict.blame("reordered", f"the cursor went back from {place[partition]} to {end}")
                for record in self._records[partition][place[partition] : end]:
                    if self._interest.matches(record.event) and record.event.id not in seen:
                        self._verdict.blame("early_cursors", f"{record.event.id} ({partition}, up to {end})")
            place = at
        all_seen |= seen
        return start

    def _number(self, event: SseEvent) -> str:
        data: Any = json.loads(event.data)
        return f"e{data['data'] if event.type == 'message' else data}"


def _frames(connection: Received) -> Iterator[tuple[str, SseEvent | None]]:
    decoder = SseDecoder(connection.cursor or "")
    for frame in connection.stream.split(b"\n\n")[:-1]:
        events = decoder.feed(frame + b"\n\n")
        yield decoder.last_event_id, events[0] if events else None


def _offsets(cursor: str | None) -> dict[str, int] | None:
    parsed = Cursor.parse(cursor) if cursor else None
    return None if parsed is None else {name: at.offset for name, at in parsed.positions.items()}
