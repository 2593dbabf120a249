"""The ring: bounded by count and by bytes; it reports items that have left it."""

import pytest
from tidewire.delivery.ring_buffer import Ring
from tidewire.model.cursor import Position
from tidewire.model.record import Gap, Record

from tests.unit.delivery.members import record


def kept(record: Record) -> int:
    return record.event.kept_bytes


def test_it_keeps_the_newest_and_reports_dropped_items() -> None:
    ring = Ring(max_records=3)
    for offset in range(1, 6):
        ring.append(record(offset))
    assert ring.end == 5
    assert ring.since(1, 10) is None
    items = ring.since(2, 10)
    assert items is not None
    assert [item.position.offset for item in items if item.position] == [3, 4, 5]


def test_at_its_end_there_is_nothing_and_nothing_is_missing() -> None:
    ring = Ring(max_records=2)
    assert ring.since(0, 10) == []
    for offset in range(1, 4):
        ring.append(record(offset))
    assert ring.since(3, 10) == []


def test_a_read_returns_at_most_its_maximum() -> None:
    ring = Ring()
    for offset in range(1, 10):
        ring.append(record(offset))
    items = ring.since(4, 2)
    assert items is not None
    assert [item.position.offset for item in items if item.position] == [5, 6]


def test_a_burst_of_large_events_is_bounded_by_bytes() -> None:
    ring = Ring(max_records=1_000, max_bytes=10 * kept(record(100, "x" * 998)))
    for offset in range(1, 101):
        ring.append(record(offset, "x" * 998))
    assert ring.since(90, 20) is not None
    assert ring.since(89, 20) is None


def test_what_fills_the_ring_exactly_stays() -> None:
    ring = Ring(max_bytes=2 * kept(record(1)))
    ring.append(record(1))
    ring.append(record(2))
    assert ring.since(0, 10) == [record(1), record(2)]
    ring.append(record(3))
    assert ring.since(0, 10) is None
    assert ring.since(1, 10) == [record(2), record(3)]


def test_an_audience_counts_like_data() -> None:
    """4,100 events to 1,000 users each took 412 MB in a ring of 16 MiB: only their data was counted."""
    users = tuple(f"user-{number}" for number in range(1_000))
    ring = Ring(max_bytes=1024 * 1024)
    for offset in range(1, 101):
        ring.append(record(offset, users=tuple(map(str.upper, users))))
    assert 10 < len(ring) < 20, "each takes 65 KB"


def test_an_event_larger_than_the_ring_empties_it() -> None:
    ring = Ring(max_bytes=kept(record(1)) + 100)
    ring.append(record(1))
    ring.append(record(2, "x" * 200))
    assert (ring.bytes, ring.end) == (0, 2)
    assert ring.since(1, 10) is None
    assert ring.since(2, 10) == []
    ring.append(record(3))
    assert ring.since(2, 10) == [record(3)]


def test_it_stays_bounded_however_much_passes_through() -> None:
    ring = Ring(max_records=100)
    for offset in range(10_000):
        ring.append(record(offset))
    items = ring.since(ring.end - 100, 200)
    assert items is not None
    assert len(ring) == len(items) == 100
    assert ring.bytes == sum(kept(item) for item in items if isinstance(item, Record))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_gap_takes_a_number_like_a_record(number: int) -> None:
    ring = Ring()
    gap = Gap("epoch", "all", Position(8, 0))
    ring.append(record(1))
    ring.append(gap)
    items = ring.since(number, 10)
    assert items == [record(1), gap][number:]
    assert ring.bytes == kept(record(1)), "a gap takes no memory that counts"
