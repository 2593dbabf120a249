"""What every tail shares: its places, and the proof that each record is the very next one."""

from collections.abc import Callable, Sequence

import pytest
from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event
from tidewire.model.record import Gap, Record
from tidewire.transports.log_base import chain
from tidewire.transports.log_follower import LogFollower

from tests.contract.acts import Received

EPOCH = 7


def history(*keys: str, epoch: int = EPOCH) -> list[Record]:
    """The records of a log to which these keys were appended; their data is the key."""
    records, check = [], ""
    for offset, key in enumerate(keys, 1):
        check = chain(check, key)
        event = Event(key, "t", f'"{key}"'.encode())
        records.append(Record(event, "all", Position(epoch, offset, check, 1_000 + offset)))
    return records


def place(record: Record) -> Position:
    assert record.position is not None
    return record.position


LOG = history(*"abcdef")


def following(at: Position) -> tuple[LogFollower, Received]:
    received = Received()
    one = LogFollower(received)
    one.follow({"all": at})
    return one, received


def heads(*records: Record) -> "Heads":
    return Heads({record.partition: place(record) for record in records})


class Heads:
    """Answers with these heads, and lets a test act while the answer is on its way."""

    def __init__(self, places: dict[str, Position]) -> None:
        self.places = places
        self.meanwhile: Callable[[], object] = lambda: None

    async def __call__(self, partitions: Sequence[str]) -> Cursor:
        self.meanwhile()
        return Cursor({name: self.places[name] for name in partitions})


async def test_delivered_records_move_the_position() -> None:
    one, received = following(place(LOG[0]))
    one.deliver("all", LOG[1:4])
    one.deliver("all", LOG[4:])
    assert received.data == list("bcdef")
    assert one.positions == {"all": place(LOG[-1])}


async def test_records_of_an_older_read_are_dropped() -> None:
    """The partition was unfollowed, and followed again from a later position."""
    one, received = following(place(LOG[0]))
    one.unfollow(("all",))
    one.follow({"all": place(LOG[3])})
    one.deliver("all", LOG[1:])
    assert received.data == ["e", "f"]


async def test_records_of_an_unfollowed_partition_are_dropped() -> None:
    one, received = following(place(LOG[0]))
    one.unfollow(("all",))
    one.deliver("all", LOG[1:])
    assert received.data == []
    assert one.positions == {}


async def test_a_missing_offset_is_a_gap_anywhere_in_a_page() -> None:
    one, received = following(place(LOG[0]))
    one.deliver("all", [LOG[2], LOG[3], LOG[5]])
    assert received.data == ["<trimmed>", "c", "d", "<trimmed>", "f"]
    assert [item.position.offset for item in received.items if isinstance(item, Gap) and item.position] == [2, 5]


async def test_the_next_offset_of_another_history_is_a_gap() -> None:
    one, received = following(place(LOG[2]))
    one.deliver("all", history(*"abXde")[3:])
    assert received.data == ["<epoch>", "d", "e"]


async def test_another_epoch_is_a_gap_before_its_first_record() -> None:
    one, received = following(place(LOG[2]))
    one.deliver("all", history("x", "y", epoch=EPOCH + 1))
    assert received.data == ["<epoch>", "x", "y"]
    assert received.items[0].position == Position(EPOCH + 1, 0)


async def test_a_position_without_a_check_accepts_the_next_offset() -> None:
    one, received = following(Position(EPOCH, 3))
    one.deliver("all", LOG[3:])
    assert received.data == ["d", "e", "f"]


async def test_following_again_keeps_the_position() -> None:
    one, _ = following(place(LOG[3]))
    assert not one.follow({"all": place(LOG[0])})
    assert one.positions == {"all": place(LOG[3])}


async def test_an_unreadable_last_entry_is_skipped_once() -> None:
    one, received = following(place(LOG[0]))
    one.skip_unreadable("all", EPOCH, 2)
    one.skip_unreadable("all", EPOCH, 2)
    one.deliver("all", LOG[2:4])
    assert received.data == ["<trimmed>", "c", "d"]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (LOG[3], []),
        (LOG[5], []),
        (LOG[1], ["<epoch>"]),
        (history(*"abcX")[3], ["<epoch>"]),
        (history("x", epoch=EPOCH + 1)[0], ["<epoch>"]),
        (history("x", epoch=EPOCH - 1)[0], ["<epoch>"]),
    ],
    ids=["same", "further", "behind", "other-history", "newer-epoch", "older-epoch"],
)
async def test_a_log_without_our_position_is_a_gap(head: Record, expected: list[str]) -> None:
    one, received = following(place(LOG[3]))
    await one.verify(heads(head))
    assert received.data == expected
    await one.verify(heads(head))
    assert received.data == expected, "the same loss was reported twice"


async def test_a_new_epoch_is_read_from_its_first_record() -> None:
    one, received = following(place(LOG[3]))
    new = history("x", "y", epoch=EPOCH + 1)
    await one.verify(heads(new[1]))
    one.deliver("all", new)
    assert received.data == ["<epoch>", "x", "y"]


async def test_following_again_during_verify_is_no_gap() -> None:
    one, received = following(place(LOG[1]))
    late = heads(LOG[2])

    def follow_anew() -> None:
        one.unfollow(("all",))
        one.follow({"all": place(LOG[4])})

    late.meanwhile = follow_anew
    await one.verify(late)
    assert received.data == []
    assert one.positions == {"all": place(LOG[4])}


@pytest.mark.parametrize(("head", "more"), [(LOG[3], False), (LOG[5], True)])
async def test_verify_returns_whether_the_log_holds_more(head: Record, more: bool) -> None:
    one, _ = following(place(LOG[3]))
    assert await one.verify(heads(head)) is more


async def test_a_read_ends_when_its_unread_rest_is_unfollowed() -> None:
    """A cluster's nodes answer one after the other; a stream of the first partition must not wait for ever."""
    follower = LogFollower(lambda _: None)
    read = follower.follow({"a": Position(1, 0), "b": Position(1, 0)})
    assert read is not None
    follower.mark_read(["a"])
    assert not read.done()
    follower.unfollow(["b"])
    assert read.done()


async def test_a_read_that_nothing_answered_stays_pending() -> None:
    follower = LogFollower(lambda _: None)
    read = follower.follow({"a": Position(1, 0), "b": Position(1, 0)})
    assert read is not None
    follower.unfollow(["a", "b"])
    assert not read.done()
