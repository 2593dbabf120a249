"""Partition schemes in use, computed from their announcements."""

import pytest
from tidewire.model.audience import Interest
from tidewire.model.cursor import MAX_OFFSET, Cursor, Position
from tidewire.model.partition_schemes import Announcement, Registry, longest_cursor
from tidewire.model.partitions import ALL, Partitions

OLD, NEW = Partitions(), Partitions(frozenset({"a"}))
HOUR = 3_600_000


def announced(scheme: Partitions, time: int, *, since: int | None = None) -> tuple[Announcement, int]:
    """An announcement of the scheme that is kept for one hour, with the time of its record."""
    return Announcement(tuple(sorted(scheme.types)), scheme.user_shards, HOUR, since), time


def test_a_partition_of_two_schemes_begins_with_the_older() -> None:
    """A later begin would hide the records of the older scheme from a new reader."""
    for first, second in ((OLD, NEW), (NEW, OLD)):
        registry = Registry("", [announced(first, 1_000), announced(second, 2_000)])
        assert registry.begins(Interest(None))[ALL] == 1_000
    registry = Registry("", [announced(NEW, 2_000), announced(OLD, 2_500, since=500)])
    assert registry.begins(Interest(None)) == {ALL: 500, "a": 2_000}


def test_a_scheme_that_is_not_renewed_ends() -> None:
    """At the last millisecond of its time it is still in use."""
    old = announced(OLD, 1_000)
    assert Registry("", [old, announced(NEW, 1_000 + HOUR)]).in_use.keys() == {OLD, NEW}
    assert Registry("", [old, announced(NEW, 1_001 + HOUR)]).in_use.keys() == {NEW}


@pytest.mark.parametrize("shards", [1, 2, 10, 11, 100, 101, 256])
def test_the_longest_cursor_has_the_longest_names(shards: int) -> None:
    """Rounded up to whole groups of base64: at most four characters more."""
    last = Position(2**48 - 1, MAX_OFFSET, "01234567", 2**40)
    names = [ALL, f"{ALL}:u{shards - 1}", "order", f"order:u{shards - 1}"]
    written = Cursor(dict.fromkeys(names, last)).encode()
    assert 0 <= longest_cursor([Partitions(frozenset({"order"}), shards)]) - len(written) <= 4
