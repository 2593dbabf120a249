"""The schemes in use: learned from the log or the tail, and what they make of the partitions of a cursor."""

from collections.abc import AsyncIterator
from typing import cast

import pytest
from tidewire.delivery.known_schemes import KnownSchemes
from tidewire.errors import TransportRefused, TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event
from tidewire.model.partition_schemes import LEARNED, TOO_MANY, Announcement
from tidewire.model.partitions import ALL, SCHEMES, Partitions
from tidewire.model.record import Gap, Record
from tidewire.transports.base import Transport
from tidewire.transports.memory import MemoryLog

HOUR = 3_600_000
OWN = Partitions(frozenset({"a"}))
WITH_B = Partitions(frozenset({"b"}))
EVERYTHING = Interest()


def announced(offset: int, scheme: Partitions, *, time: int = 1_000, since: int | None = None) -> Record:
    """The record at this offset of the control partition."""
    announcement = Announcement(tuple(scheme.types), scheme.user_shards, HOUR, since)
    return Record(announcement.event(), SCHEMES, Position(7, offset, f"{offset:08x}", time))


class ControlLog(MemoryLog):
    """A log that holds these records in its control partition, and can be unavailable."""

    def __init__(self, *records: Record) -> None:
        super().__init__()
        self.records = list(records)
        self.is_unavailable = False
        self.replays: list[tuple[int, int]] = []  # (after, until)

    async def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        if self.is_unavailable:
            raise TransportUnavailable("no answer")
        begin, end = after.positions[SCHEMES], until.positions[SCHEMES]
        assert begin.check == "", "unknown: it is the check of an earlier record"
        self.replays.append((begin.offset, end.offset))
        yield Gap("trimmed", SCHEMES, begin)
        for record in self.records:
            if record.position is not None and begin.offset < record.position.offset <= end.offset:
                yield record


class Known:
    """What a process with the scheme `OWN` knows; counts the changes."""

    def __init__(self, log: ControlLog) -> None:
        self.log = log
        self.changes = 0
        self.schemes = KnownSchemes(log, OWN, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def names(self) -> set[str]:
        return set(self.schemes.partitions_for(EVERYTHING))

    async def catch_up(self, offset: int | None = None) -> None:
        """Read up to this offset, by default up to where an earlier read has failed."""
        await self.schemes.catch_up(None if offset is None else Position(7, offset, f"{offset:08x}", 1_000))


async def known(*schemes: Partitions) -> Known:
    """What a process knows that has read the announcements of these schemes."""
    found = Known(ControlLog(*(announced(offset, scheme) for offset, scheme in enumerate(schemes, 1))))
    await found.catch_up(len(schemes))
    return found


async def test_an_empty_log_is_of_the_default_scheme_and_unread() -> None:
    here = await known()
    assert here.schemes.name == SCHEMES
    assert here.names == {ALL, "a"}
    assert (here.changes, here.log.replays) == (0, [])


async def test_a_transport_without_a_log_has_one_scheme() -> None:
    class NoLog:
        pass

    here = KnownSchemes(cast("Transport", NoLog()), OWN, lambda: None)
    assert here.partitions_for(EVERYTHING) == (ALL, "a")
    assert here.partitions_for(Interest(None, frozenset({"a"}))) == ("a",)


async def test_announcements_are_read_and_reported_as_a_change() -> None:
    here = await known(OWN, WITH_B)
    assert here.names == {ALL, "a", "b"}
    assert here.changes == 1
    await here.catch_up(2)
    here.log.records.append(announced(3, OWN))
    await here.catch_up(3)
    assert here.names == {ALL, "a", "b"}
    assert here.changes == 1, "it is the same scheme again"
    assert here.log.replays == [(0, 2), (0, 3)]


async def test_only_the_last_announcements_are_read() -> None:
    here = await known(*[OWN] * 63, WITH_B, OWN)
    await here.catch_up(64)
    assert here.log.replays == [(1, 65), (0, 64)]


async def test_a_scheme_that_has_ended_is_a_change_too() -> None:
    here = Known(ControlLog(announced(1, WITH_B, time=1_000)))
    await here.catch_up(1)
    assert here.schemes.on_item(announced(2, OWN, time=1_001 + HOUR))
    assert here.names == {ALL, "a"}
    assert here.changes == 2


async def test_the_tail_brings_the_next_one_without_a_read() -> None:
    here = await known(OWN)
    assert here.schemes.on_item(announced(2, WITH_B))
    assert here.names == {ALL, "a", "b"}
    assert here.changes == 2
    assert here.schemes.on_item(announced(3, Partitions(frozenset({"c"}))))
    assert here.names == {ALL, "a", "b", "c"}, "those before it stay"
    await here.catch_up(3)
    assert here.log.replays == [(0, 1)]


async def test_a_malformed_announcement_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    here = await known(OWN, WITH_B)
    broken = Record(Event("e", SCHEMES, b'{"types":7}'), SCHEMES, Position(7, 3, "00000003", 1_000))
    assert here.schemes.on_item(broken)
    assert here.schemes.on_item(announced(4, Partitions(frozenset({"c"}))))
    assert here.names == {ALL, "a", "b", "c"}
    here.log.records += [broken, announced(4, WITH_B)]
    await here.catch_up(9)
    assert here.names == {ALL, "a", "b"}
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


@pytest.mark.parametrize(
    "item",
    [
        announced(3, WITH_B),
        announced(1, WITH_B),
        announced(2, WITH_B)._replace(position=Position(8, 2, "", 1_000)),
        Gap("trimmed", SCHEMES, Position(7, 2)),
    ],
    ids=["a-hole", "again", "another-epoch", "gap"],
)
async def test_what_does_not_follow_is_read(item: Record | Gap) -> None:
    here = await known(OWN)
    assert not here.schemes.on_item(item)
    assert here.names == {ALL, "a"}
    assert item.position is not None
    here.log.records.append(announced(item.position.offset, WITH_B))
    await here.schemes.catch_up()
    assert here.names == {ALL, "a", "b"}
    assert here.log.replays[1:] == [(0, item.position.offset)]
    await here.schemes.catch_up()
    assert len(here.log.replays) == 2, "once"


async def test_the_first_record_of_a_new_process_is_read() -> None:
    here = Known(ControlLog(announced(1, WITH_B)))
    assert not here.schemes.on_item(here.log.records[0])
    await here.catch_up()
    assert here.names == {ALL, "a", "b"}


async def test_a_record_after_a_failed_read_is_read_with_it() -> None:
    here = await known(OWN)
    here.log.is_unavailable = True
    assert not here.schemes.on_item(announced(3, WITH_B))
    with pytest.raises(TransportUnavailable):
        await here.catch_up()
    assert not here.schemes.on_item(announced(2, OWN)), "what is before the failed one is still missing"
    assert not here.schemes.on_item(announced(4, OWN))
    here.log.is_unavailable = False
    here.log.records += [announced(3, WITH_B), announced(4, OWN)]
    await here.catch_up()
    assert here.names == {ALL, "a", "b"}
    assert here.schemes.on_item(announced(5, Partitions(frozenset({"c"})))), "all before it is known"
    assert here.names == {ALL, "a", "b", "c"}


BEGAN = 500_000


@pytest.mark.parametrize(
    ("time", "start"),
    [
        (BEGAN - 1, BEGAN - 1),
        (BEGAN, BEGAN),
        (BEGAN + 1, BEGAN),
        (BEGAN + LEARNED - 1, BEGAN),
        (BEGAN + LEARNED, BEGAN + LEARNED),
    ],
)
async def test_a_new_partition_is_read_from_its_begin_for_a_minute(time: int, start: int) -> None:
    """A process that did not know the scheme yet may have moved the cursor past its first events."""
    here = Known(ControlLog(announced(1, WITH_B, time=BEGAN + 99, since=BEGAN)))
    await here.catch_up(1)
    assert here.schemes.starts(EVERYTHING, ["b"], time) == {start: ["b"]}


async def test_partitions_with_the_same_start_are_read_together() -> None:
    here = Known(ControlLog(announced(1, Partitions(frozenset({"b", "c"})), since=BEGAN), announced(2, OWN, since=9)))
    await here.catch_up(2)
    starts = here.schemes.starts(EVERYTHING, ["b", "x", "c", "a", "y"], BEGAN + 5)
    assert starts == {BEGAN: ["b", "c"], BEGAN + 5: ["x", "a", "y"]}, "x and y are of no scheme"
    assert here.schemes.starts(Interest(None, frozenset({"a"})), ["b"], BEGAN + 5) == {BEGAN + 5: ["b"]}


USER = Interest("u1")
READABLE, LOST, NEITHER = (True, False), (False, True), (False, False)


@pytest.mark.parametrize(
    ("interest", "name", "expected"),
    [
        (USER, "a", NEITHER),  # it is read anyway
        (USER, "b", READABLE),
        (USER, "c", LOST),
        (USER, "all:u0", READABLE),
        (USER, "all:u7", READABLE),
        (USER, "b:u255", READABLE),
        (USER, "all:u9999", READABLE),
        (USER, "all:u10000", LOST),
        (USER, "all:u07", LOST),
        (USER, "all:u", LOST),
        (USER, "all:7", LOST),
        (USER, "all:x7", LOST),
        (USER, "all:u7x", LOST),
        (USER, "all:u-7", LOST),
        (USER, "all:u1:u2", LOST),
        (USER, "all:", LOST),
        (USER, "c:u1", LOST),
        (USER, "realtime.schemes", NEITHER),
        (USER, "realtime.other", NEITHER),
        (USER, "realtime.other:u1", NEITHER),
        (USER, "realtimes", LOST),
        (EVERYTHING, "b", READABLE),
        (EVERYTHING, "all:u7", NEITHER),  # of users
        (EVERYTHING, "c:u1", NEITHER),
        (EVERYTHING, "c", LOST),
        (Interest("u1", frozenset({"a", "x"})), "b", NEITHER),
        (Interest("u1", frozenset({"a", "x"})), "b:u1", NEITHER),
        (Interest("u1", frozenset({"a", "x"})), "all:u7", READABLE),
        (Interest("u1", frozenset({"a", "x"})), "x", LOST),
        (Interest("u1", frozenset({"b"})), "b:u7", READABLE),
        (Interest("u1", frozenset({"a"})), ALL, READABLE),
    ],
)
async def test_another_partition_of_a_cursor_is_read_lost_or_neither(
    interest: Interest, name: str, expected: tuple[bool, bool]
) -> None:
    """A forged cursor must not create any log, and what no scheme could have had is a gap."""
    here = await known(OWN, WITH_B)
    here.log.records.append(announced(3, OWN, time=1_001 + HOUR))  # no longer in use, and its partition is still read
    await here.catch_up(3)
    assert here.names == {ALL, "a"}
    place = Position(7, 5, "", 1_000)
    assert here.schemes.left_over(interest, Cursor({name: place})) == (
        [name] if expected[0] else [],
        [name] if expected[1] else [],
    )
    untouched = here.schemes.left_over(interest, Cursor({name: place._replace(offset=0)}))
    assert untouched == ([name] if expected[0] else [], []), "nothing was ever read there"
    of_a_receipt = here.schemes.left_over(interest, Cursor({name: place, ALL: Position(7, 5, "", 0)}))
    assert of_a_receipt == ([], []), "it names the partitions of one event, those of other users included"


async def test_each_partition_of_a_cursor_counts() -> None:
    here = await known(OWN)
    names = (ALL, "realtime.schemes", "a", "all:u1", "c", "all:u2", "d")
    found = here.schemes.left_over(USER, Cursor({name: Position(7, 5, "", 1_000) for name in names}))
    assert found == (["all:u1", "all:u2"], ["c", "d"])


async def test_more_partitions_than_a_cursor_can_name_are_refused() -> None:
    here = await known(OWN, Partitions(frozenset(f"type-{number}" for number in range(20)), 256))
    here.schemes.check()
    here = await known(OWN, Partitions(frozenset(f"type-{number:0100}" for number in range(20)), 256))
    with pytest.raises(TransportRefused) as caught:
        here.schemes.check()
    assert caught.value.detail == TOO_MANY
