"""Control partitions: read up to a head, kept up to date by the tail, and read again with a back-off where it fails."""

import asyncio
import logging
from collections.abc import Callable
from typing import cast

import pytest
from tidewire.delivery import control_partitions as module
from tidewire.delivery.control_partitions import ControlPartition, ControlPartitions
from tidewire.delivery.followed_tail import FollowedTail
from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Position
from tidewire.model.record import Gap, Record
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.base import Log
from tidewire.transports.memory import MemoryLog

from tests.support.clocks import pass_time, virtual_time
from tests.unit.delivery.members import record

NAMES = ("realtime.one", "realtime.two")


def place(offset: int, check: str = "", time: int = 0) -> Position:
    return Position(7, offset, check, time)


class Read(ControlPartition):
    """Notes each read of the log; it fails while there are failures left."""

    def __init__(self, name: str = NAMES[0]) -> None:
        super().__init__(MemoryLog(), name)
        self.reads: list[tuple[int | None, int]] = []  # (after, until)
        self.times: list[float] = []
        self.failures = 0
        self.received: list[Record | Gap] = []
        self.in_read: Callable[[], object] = lambda: None

    def on_item(self, item: Record | Gap) -> bool:
        self.received.append(item)
        if isinstance(item, Gap):
            self._until = item.position
        return isinstance(item, Record)

    async def _read(self, log: Log, after: Position | None, until: Position) -> None:
        self.times.append(asyncio.get_running_loop().time())
        if self.failures:
            self.failures -= 1
            raise TransportUnavailable("no answer")
        self.reads.append((None if after is None else after.offset, until.offset))
        await pass_time(1)
        self.in_read()


@virtual_time
async def test_the_log_is_read_from_what_is_known_to_the_head() -> None:
    control = Read()
    await control.catch_up()
    assert control.reads == [], "there is no head to read to"
    await control.catch_up(place(3))
    await control.catch_up(place(3, time=99))
    await control.catch_up()
    assert control.reads == [(None, 3)]
    await control.catch_up(place(5))
    assert control.reads == [(None, 3), (3, 5)]


@pytest.mark.parametrize("head", [place(2), place(3, "11111111"), Position(8, 3)], ids=["offset", "check", "epoch"])
@virtual_time
async def test_any_other_head_is_another_log(head: Position) -> None:
    """A store that fell back gives the same offset again: only the check differs."""
    control = Read()
    await control.catch_up(place(3))
    await control.catch_up(head)
    assert control.reads == [(None, 3), (3, head.offset)]


@virtual_time
async def test_a_failed_read_is_due_until_it_succeeds() -> None:
    control = Read()
    control.failures = 2
    with pytest.raises(TransportUnavailable):
        await control.catch_up(place(3))
    with pytest.raises(TransportUnavailable):
        await control.catch_up()
    await control.catch_up()
    await control.catch_up()
    assert control.reads == [(None, 3)]


@virtual_time
async def test_a_head_that_comes_during_a_read_is_read_too() -> None:
    control = Read()
    later = iter([place(4), place(4, "44444444")])
    control.in_read = lambda: (head := next(later, None)) and control.on_item(Gap("trimmed", control.name, head))
    await control.catch_up(place(3))
    assert control.reads == [(None, 3), (3, 4), (4, 4)]
    await control.catch_up()
    assert len(control.reads) == 3


@virtual_time
async def test_readers_that_meet_read_once() -> None:
    control = Read()
    await asyncio.gather(*(control.catch_up(place(3)) for _ in range(5)))
    assert control.reads == [(None, 3)]


class FakeTail:
    """A tail that follows these partitions."""

    def __init__(self, *names: str) -> None:
        self.readers = dict.fromkeys(names, 1)


class Followed:
    """Two control partitions that a tail follows, and its places."""

    def __init__(self) -> None:
        self.one, self.two = Read(NAMES[0]), Read(NAMES[1])
        self.tail = FakeTail("all", *NAMES)
        self.positions = {NAMES[0]: place(1)}
        self.control = ControlPartitions(cast("FollowedTail", self.tail), self.positions, (self.one, self.two))

    def miss(self, control: Read, offset: int = 9) -> None:
        """Bring a gap, after which the partition must be read."""
        assert self.control.on_item(Gap("trimmed", control.name, place(offset)))


@virtual_time
async def test_an_item_of_another_partition_is_not_taken() -> None:
    here = Followed()
    assert here.control.names == NAMES
    assert not here.control.on_item(record(2))
    assert not here.control.on_item(Gap("no-log", "all", None))
    assert (here.one.received, here.positions) == ([], {NAMES[0]: place(1)})


@virtual_time
async def test_an_item_moves_the_tails_place_if_it_is_followed() -> None:
    """One that was on its way when the last reader left adds no partition."""
    here = Followed()
    items = [record(offset, partition=name) for offset, name in ((2, NAMES[0]), (5, NAMES[1]))]
    items.append(items[0]._replace(position=None))
    for item in items:
        assert here.control.on_item(item)
    assert here.positions == {NAMES[0]: items[0].position}
    assert (here.one.received, here.two.received) == ([items[0], items[2]], [items[1]])


@virtual_time
async def test_all_are_read_up_to_their_heads() -> None:
    here = Followed()
    await here.control.catch_up({NAMES[0]: place(3), "all": place(8)})
    assert (here.one.reads, here.two.reads) == ([(None, 3)], [])
    await here.control.catch_up({NAMES[1]: place(4)})
    assert (here.one.reads, here.two.reads) == ([(None, 3)], [(None, 4)])


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A throttle that has logged nothing yet."""
    monkeypatch.setattr(module, "warnings", ThrottledLog(logging.getLogger(module.__name__)))


@pytest.mark.usefixtures("warnings")
@virtual_time
async def test_what_is_missing_is_read_again_until_it_succeeds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a back-off: a store that comes back is not met by all processes at once."""
    here = Followed()
    here.one.failures = 4
    monkeypatch.setattr("random.random", lambda: 1.0)  # the longest delays
    here.miss(here.one)
    here.miss(here.one)  # one task is enough
    await pass_time(60)
    assert here.one.reads == [(None, 9)]
    waits = [later - earlier for earlier, later in zip(here.one.times, here.one.times[1:], strict=False)]
    assert waits == pytest.approx([0.05, 0.1, 0.2, 0.4])
    assert [line.getMessage() for line in caplog.records] == [
        "the control partitions cannot be read, trying again: no answer"
    ]


@pytest.mark.usefixtures("warnings")
@virtual_time
async def test_a_later_miss_begins_a_new_reading() -> None:
    here = Followed()
    here.miss(here.one, 5)
    await pass_time(60)
    here.miss(here.two, 6)
    await pass_time(60)
    assert (here.one.reads, here.two.reads) == ([(None, 5)], [(None, 6)])


@pytest.mark.usefixtures("warnings")
@pytest.mark.parametrize("name", NAMES)
@virtual_time
async def test_without_subscribers_nothing_is_tried_again(name: str) -> None:
    """The next one reads everything before it is admitted."""
    here = Followed()
    here.one.failures = 1_000
    here.miss(here.one)
    await pass_time(60)
    del here.tail.readers[name]
    await pass_time(10)
    tries = len(here.one.times)
    await pass_time(600)
    assert 5 < tries == len(here.one.times)


@pytest.mark.usefixtures("warnings")
@virtual_time
async def test_the_tail_may_follow_the_control_partitions_alone() -> None:
    here = Followed()
    del here.tail.readers["all"]
    here.miss(here.one)
    await pass_time(60)
    assert here.one.reads == [(None, 9)]


@pytest.mark.usefixtures("warnings")
@virtual_time
async def test_a_closed_hub_reads_no_further() -> None:
    here = Followed()
    here.control.close()
    here.one.failures = 1_000
    here.miss(here.one)
    await pass_time(5)
    here.control.close()
    tries = len(here.one.times)
    await pass_time(600)
    assert 3 < tries == len(here.one.times)


async def test_without_a_log_nothing_is_read() -> None:
    class NoLog:
        pass

    class Nothing(Read):
        def __init__(self) -> None:
            ControlPartition.__init__(self, cast("MemoryLog", NoLog()), NAMES[0])
            self.reads, self.times = [], []

    control = Nothing()
    await control.catch_up(place(3))
    assert (control.reads, control.times) == ([], [])
