"""An event delivered early is not delivered again by the log, and an event from the log is not delivered early."""

import functools

import pytest
from tidewire.delivery import early_delivery as module
from tidewire.delivery.early_delivery import Early, EarlyDelivery, ReadNumbers
from tidewire.model.audience import Interest
from tidewire.model.cursor import Position
from tidewire.model.event import Event
from tidewire.model.partitions import ALL
from tidewire.model.record import Record

from tests.support.clocks import Clock
from tests.unit.delivery.members import executed_lines, record

EVERYTHING = Interest()


def early(name: int) -> Record:
    """The same event as `record` makes, before a log has given it a place."""
    return record(name)._replace(position=None)


def test_a_logged_record_is_known_by_its_early_number() -> None:
    delivery = EarlyDelivery(60.0)
    assert delivery.add(early(1), 7)
    known = delivery.on_logged(record(1))
    assert known is not None
    assert (known.number, known.position) == (7, record(1).position)
    assert delivery.on_logged(record(2)) is None


def test_an_early_or_logged_event_is_not_delivered_again() -> None:
    delivery = EarlyDelivery(60.0)
    assert delivery.add(early(1), 0)
    assert not delivery.add(early(1), 1)
    delivery.on_logged(record(2))
    assert not delivery.add(early(2), 2)
    assert delivery.add(early(2)._replace(partition="another"), 3)


def test_after_the_window_the_same_id_is_another_event() -> None:
    clock = Clock()
    delivery = EarlyDelivery(10.0, clock=clock)
    assert delivery.add(early(1), 0)
    delivery.on_logged(record(2))
    clock.advance(10.0)
    assert delivery.add(early(1), 1)
    assert delivery.add(early(2), 2)


def test_remembered_ids_are_bounded_and_hold_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EARLY", 3)
    delivery = EarlyDelivery(60.0)
    for number in range(5):
        delivery.add(record(number, "x" * 1000)._replace(position=None), number)
    assert [known.number for known in delivery.events.values()] == [2, 3, 4]
    assert delivery.numbers == range(2, 5)
    assert {known.event.data for known in delivery.events.values()} == {b""}


def test_audiences_that_are_remembered_are_bounded_in_bytes() -> None:
    """50,000 events of a thousand users each would be gigabytes."""
    delivery = EarlyDelivery(60.0)
    users = tuple(f"user-{number:0250}" for number in range(1_000))
    for number in range(200):
        event = Event(str(number), "t", b"1", tuple(user + str(number) for user in users))
        assert delivery.add(Record(event, "all", None), number)
    kept = [known.event for known in delivery.events.values()]
    assert kept[-1].id == "199"
    text = sum(len(user) for event in kept for user in event.user_ids or ())
    assert 16 * 1024 * 1024 < text <= 32 * 1024 * 1024


def test_an_event_added_again_counts_once_in_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id may come again after the window, for as long as the process lives."""
    clock = Clock()
    size = early(1).event.kept_bytes - len(early(1).event.data)
    monkeypatch.setattr(module, "MAX_EARLY_BYTES", 3 * size)
    delivery = EarlyDelivery(10.0, clock=clock)

    def remembered() -> list[int]:
        return [known.number for known in delivery.events.values()]

    for name in (1, 2, 3):
        assert delivery.add(early(name), name)
    clock.advance(10.0)
    assert delivery.add(early(1), 4)
    assert remembered() == [2, 3, 4], "each of the three still has its memory"
    assert delivery.add(early(5), 5)
    assert remembered() == [3, 4, 5]
    for number in range(6, 100):
        delivery.add(early(number % 10), number)
        assert len(remembered()) == 3


def test_the_first_reader_of_the_log_notes_the_place() -> None:
    """A tail that began after it never brings it."""
    delivery = EarlyDelivery(60.0)
    assert delivery.find(record(1)) is None
    delivery.add(early(1), 0)
    delivery.add(early(2), 1)
    found = [delivery.find(one) for one in (early(1), record(1), record(1)._replace(position=Position(9, 9)), early(1))]
    assert [one and one.position for one in found] == [None, *[record(1).position] * 3]
    assert delivery.numbers == range(2), "in the order of delivery, whichever is found first"
    assert delivery.find(record(3)) is None


class Reading:
    """One subscriber's ring numbers; an early event is remembered at each of `at`."""

    def __init__(self, *at: int, start: int = 0, interest: Interest = EVERYTHING) -> None:
        self.delivery = EarlyDelivery(60.0)
        for number in at:
            self.delivery.add(early(number), number)
        self.numbers = ReadNumbers(self.delivery, interest, start)

    def received(self, number: int | None) -> list[int]:
        """The early events that count as sent when everything before `number` was read."""
        return [each.number for each in self.delivery.events.values() if self.numbers.received(each, number)]


def test_what_was_read_between_start_and_number_is_received() -> None:
    reading = Reading(1, 2, 5, 8, 9, start=2)
    assert reading.received(8) == [2, 5], "the item with the number itself has yet to be read"
    assert reading.received(2) == []
    assert reading.received(None) == [2, 5, 8, 9], "a live one has read all of the ring"


def test_what_was_skipped_is_not_received_and_the_rest_is() -> None:
    reading = Reading(1, 2, 4, 5, 7, 8, 11, 12, 15, 16, 19, 20, start=2)
    reading.numbers.skip(5, 8)
    assert reading.received(12) == [2, 4, 8, 11]
    reading.numbers.skip(12, 16)
    assert reading.received(20) == [2, 4, 8, 11, 16, 19]
    reading.numbers.skip(20, 20)
    assert reading.received(None) == [2, 4, 8, 11, 16, 19, 20], "nothing had left the ring"


def test_only_an_event_of_its_audience_is_received() -> None:
    delivery = EarlyDelivery(60.0)
    delivery.add(record(1, users=("u1",))._replace(position=None), 1)
    (known,) = delivery.events.values()
    assert ReadNumbers(delivery, Interest("u1"), 0).received(known, 2)
    assert not ReadNumbers(delivery, Interest("u2"), 0).received(known, 2)
    assert not ReadNumbers(delivery, Interest("u1", frozenset({"other"})), 0).received(known, 2)


@pytest.mark.parametrize(("begin", "step", "rest"), [(0, 3, 1), (2_000, 1, 1), (6_000, 0, 0), (6_000, 3, 1)])
def test_skips_cost_nothing_where_no_early_event_is(begin: int, step: int, rest: int) -> None:
    """A replay skips with each try to reach the log: each was remembered, for the whole outage and for ever after."""
    costs = []
    for skips in (1, 300):
        reading = Reading(1_000, 1_001, 5_000)
        for turn in range(skips):
            reading.numbers.skip(begin + step * turn, begin + step * turn + rest)
        unread = Early(-1, early(1).event, 0.0, None)
        costs.append(executed_lines(functools.partial(reading.numbers.received, unread, None)))
    assert costs[0] == costs[1]


def test_a_logged_record_is_a_repetition_of_what_was_read_early() -> None:
    reading = Reading(1, 5)
    assert reading.numbers.is_repetition(record(1), 2, {})
    assert not reading.numbers.is_repetition(record(1), 1, {}), "it has not come so far in the ring"
    assert not reading.numbers.is_repetition(record(5), 5, {})
    assert not reading.numbers.is_repetition(record(2), 9, {}), "never delivered early"
    assert not reading.delivery.add(early(2), 10), "the log has it: an early delivery would be the second"


@pytest.mark.parametrize(
    ("place", "is_repetition"),
    [
        (None, False),
        (Position(7, 2), False),
        (Position(7, 3), True),
        (Position(7, 4), True),
        (Position(6, 9), False),
        (Position(8, 0), True),
    ],
)
def test_an_early_event_repeats_what_was_read_in_the_log(place: Position | None, is_repetition: bool) -> None:
    """A replay may have read the log up to it, before the ring's early one has its turn."""
    reading = Reading(3)
    assert not reading.numbers.is_repetition(early(3), 3, {ALL: Position(7, 9)}), "nobody has seen it in the log"
    reading.delivery.find(record(3))
    places = {} if place is None else {ALL: place, "other": Position(9, 9)}
    assert reading.numbers.is_repetition(early(3), 3, places) is is_repetition
    assert not reading.numbers.is_repetition(early(4), 3, {ALL: Position(7, 9)})
