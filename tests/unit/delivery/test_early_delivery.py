"""An event delivered early is not delivered again by the log, and an event from the log is not delivered early."""

import pytest
from tidewire.delivery import early_delivery as module
from tidewire.delivery.early_delivery import EarlyDelivery
from tidewire.model.event import Event
from tidewire.model.record import Record

from tests.support.clocks import Clock
from tests.unit.delivery.members import record


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
    assert delivery.oldest == 2
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
