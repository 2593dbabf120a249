"""A fan-out behind a fallback: what was delivered early goes only to those that missed it when the log brings it."""

from tidewire.delivery.early_delivery import EarlyDelivery
from tidewire.delivery.fanout import Fanout
from tidewire.delivery.ring_buffer import Ring
from tidewire.model.cursor import Cursor, Position
from tidewire.model.partitions import ALL
from tidewire.model.record import Record

from tests.unit.delivery.members import Listener, joined, record


class Early:
    """A fan-out behind a fallback, and members that were live during the outage or came later."""

    def __init__(self) -> None:
        self.fanout = Fanout(Ring(), early=EarlyDelivery(60.0))
        self.fanout.positions[ALL] = Position(7, 0)
        self.there, self.later = Listener(), Listener()
        joined(self.fanout, self.there)

    def broadcast(self, *records: Record) -> None:
        for each in records:
            self.fanout.broadcast(each)
        self.fanout.flush()

    def deliver_early(self, offset: int) -> None:
        """Deliver to `there`, as its own bookkeeping would."""
        self.there.numbers.add(self.fanout.ring.end)
        self.broadcast(record(offset)._replace(position=None))


async def test_an_early_event_is_sent_only_to_those_that_missed_it() -> None:
    """When the log brings it, the cursor of all moves past it."""
    early = Early()
    early.deliver_early(1)
    joined(early.fanout, early.later)
    early.broadcast(record(1), record(2))
    assert (early.there.seen.data, early.later.seen.data) == ([1, 2], [1, 2])
    for member in (early.there, early.later):
        place = Cursor.parse(member.seen.cursor)
        assert place is not None
        assert place.positions[ALL].offset == 2
        early.fanout.leave(member)
    assert (early.there.written, early.later.written) == (2, 2)
    assert early.fanout.deliveries == 1 + 1 + 2
    assert (early.fanout.records, early.fanout.matched, early.fanout.filtered) == (3, 1 + 2, 0)


async def test_a_newcomer_that_missed_it_gets_it_first_of_all() -> None:
    early = Early()
    early.deliver_early(1)
    newcomer = Listener("u1")
    joined(early.fanout, newcomer)
    early.broadcast(record(1))
    assert newcomer.seen.data == [1]


async def test_a_cursor_moves_past_an_early_event_alone() -> None:
    early = Early()
    early.deliver_early(1)
    frames = len(early.there.seen.chunks)
    early.broadcast(record(1))
    assert early.there.seen.data == [1]
    place = Cursor.parse(early.there.seen.cursor)
    assert place is not None
    assert place.positions[ALL].offset == 1
    assert len(early.there.seen.chunks) == frames + 1
    assert early.fanout.delivery.count == 0, "it was delivered long before"


async def test_early_frames_are_told_apart_by_their_place_in_the_write() -> None:
    early = Early()
    for offset in (2, 4):
        early.deliver_early(offset)
    joined(early.fanout, early.later)
    early.broadcast(*(record(offset) for offset in range(1, 6)))
    assert early.there.seen.data == [2, 4, 1, 3, 5]
    assert early.later.seen.data == [1, 2, 3, 4, 5]
    places = [Cursor.parse(event.last_event_id) for event in early.later.seen.all]
    assert [place.positions[ALL].offset for place in places if place] == [1, 2, 3, 4, 5]
    assert early.fanout.deliveries == 2 + 3 + 5
    early.broadcast(record(6))
    assert early.there.seen.data[-1] == early.later.seen.data[-1] == 6
    for member in (early.there, early.later):
        early.fanout.leave(member)
    assert (early.there.written, early.later.written) == (2 + 3 + 1, 5 + 1)


async def test_a_full_member_leaves_during_an_early_write() -> None:
    early = Early()
    early.deliver_early(1)
    early.there.seen.full = True
    joined(early.fanout, early.later)
    early.broadcast(record(1), record(2))
    assert (early.there.live, early.later.live) == (False, True)
    assert early.later.seen.data == [1, 2]
    assert early.there.written == 2


async def test_an_event_that_the_log_has_is_not_delivered_early() -> None:
    """The answer to its append was lost, and the outbox took it too."""
    early = Early()
    early.broadcast(record(1), record(1)._replace(position=None))
    assert early.there.seen.data == [1]
    assert (early.fanout.ring.end, early.fanout.records) == (1, 1)


async def test_what_was_written_before_an_outage_stays_counted() -> None:
    early = Early()
    early.broadcast(record(1), record(2))
    early.fanout.leave(early.there)
    assert early.there.written == 2
    joined(early.fanout, early.there)
    early.deliver_early(3)
    early.broadcast(record(3))
    early.fanout.leave(early.there)
    assert early.there.written == 3
