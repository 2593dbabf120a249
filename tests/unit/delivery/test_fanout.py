"""The fan-out of one record: matched, encoded and written no more often than needed."""

import asyncio
from functools import partial

import pytest
from tidewire.delivery.fanout import Fanout
from tidewire.delivery.ring_buffer import Ring
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position
from tidewire.model.partitions import ALL
from tidewire.model.record import Gap
from tidewire.protocol.sse import CLOUDEVENTS, Format

from tests.support.waiting import spin
from tests.unit.delivery.members import CountingFormat, Listener, executed_lines, joined, record


async def test_a_record_is_encoded_once_for_all_readers(
    fanout: Fanout,
) -> None:
    """All of them are written the same bytes object."""
    format = CountingFormat()
    group = [Listener(None, {"t"}, format) for _ in range(50)]
    others = [Listener(f"u{n}", None, format) for n in range(50)]
    joined(fanout, *group, *others)
    fanout.broadcast(record(1))
    fanout.flush()
    assert format.encoded == 1
    chunks = {id(member.seen.chunks[0]) for member in (*group, *others)}
    assert len(chunks) == 1


async def test_each_format_is_encoded_for_itself(fanout: Fanout) -> None:
    data, cloud = Listener(), Listener(format=CLOUDEVENTS)
    joined(fanout, data, cloud)
    fanout.broadcast(record(1))
    fanout.flush()
    assert data.seen.all[0].type == "t"
    assert cloud.seen.all[0].type == "message"


async def test_records_that_share_a_write_keep_their_own_places(
    fanout: Fanout,
) -> None:
    member = Listener()
    joined(fanout, member)
    for offset in range(1, 6):
        fanout.broadcast(record(offset))
    fanout.flush()
    places = [Cursor.parse(event.last_event_id) for event in member.seen.all]
    assert [place.positions[ALL].offset for place in places if place] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("users", "type", "reached"),
    [
        (None, "a", {"nobody", "only a", "u1", "u1 only b and a", "u1 only a*"}),
        (None, "ab", {"nobody", "u1", "u1 only a*"}),
        (None, "b", {"nobody", "u1", "u1 only b and a"}),
        (None, "x.y", {"nobody", "u1", "only x.* and z*"}),
        (None, "z", {"nobody", "u1", "only x.* and z*"}),
        (None, "x", {"nobody", "u1"}),
        (("u1",), "x.y", {"u1"}),
        (("u1",), "ab", {"u1", "u1 only a*"}),
        (("u1",), "a", {"u1", "u1 only b and a", "u1 only a*"}),
        (("u1",), "c", {"u1"}),
        (("u2", "u1", "u2"), "c", {"u1", "u2 only c"}),
        (("u9",), "a", set()),
    ],
)
async def test_a_record_reaches_exactly_its_audience(
    fanout: Fanout, users: tuple[str, ...] | None, type: str, reached: set[str]
) -> None:
    members = {
        "nobody": Listener(),
        "only a": Listener(None, {"a"}),
        "u1": Listener("u1"),
        "u1 only b and a": Listener("u1", {"b", "a"}),
        "u2 only c": Listener("u2", {"c"}),
        "u1 only a*": Listener("u1"),
        "only x.* and z*": Listener(),
    }
    members["u1 only a*"].interest = Interest("u1", frozenset(), ("a",))
    members["only x.* and z*"].interest = Interest(None, frozenset(), ("x.", "z"))
    joined(fanout, *members.values())
    fanout.broadcast(record(1, type=type, users=users))
    fanout.flush()
    assert {name for name, member in members.items() if member.seen.data == [1]} == reached
    assert all(member.seen.data in ([], [1]) for member in members.values())


@pytest.mark.parametrize(("users", "type"), [(("wanted",), "t"), (None, "wanted")], ids=["by-user", "by-type"])
async def test_the_cost_of_a_record_follows_its_audience(users: tuple[str, ...] | None, type: str) -> None:
    """Not the number of connected members."""
    costs = []
    for connected in (10, 2_000):
        fanout = Fanout(Ring())
        joined(fanout, *(Listener(f"u{n}", {f"type-{n}"}) for n in range(connected)))
        wanted = Listener("wanted", {"t", "wanted"})
        joined(fanout, wanted)
        fanout.broadcast(record(1, type=type, users=users))  # the first one schedules the flush
        fanout.flush()

        def deliver(fanout: Fanout = fanout) -> None:
            fanout.broadcast(record(2, type=type, users=users))
            fanout.flush()

        costs.append(executed_lines(deliver))
        assert wanted.seen.data == [1, 2]
    assert costs[0] == costs[1] > 0


async def test_an_audience_costs_one_lookup_per_user(fanout: Fanout) -> None:
    joined(fanout, *(Listener(f"u{n}") for n in range(3_000)))
    costs = []
    for audience in (100, 1_000):
        users = tuple(f"u{n}" for n in range(audience))
        costs.append(executed_lines(partial(fanout.broadcast, record(1, users=users))))
        fanout.flush()
    assert costs[1] < costs[0] * 11


async def test_a_member_without_room_leaves_until_it_joins_again(
    fanout: Fanout,
) -> None:
    slow, fast = Listener(), Listener()
    joined(fanout, slow, fast)
    slow.seen.full = True
    for offset in (1, 2, 3):
        fanout.broadcast(record(offset))
        fanout.flush()
    assert slow.seen.data == [1]
    assert slow.writable is not None
    assert fast.seen.data == [1, 2, 3]
    assert slow.seen.faults == []
    slow.seen.release()
    fanout.join(slow)
    fanout.broadcast(record(4))
    fanout.flush()
    assert slow.seen.data == [1, 4]


async def test_pending_frames_are_not_sent_to_a_new_member(fanout: Fanout) -> None:
    """It has read them from the ring."""
    early, late = Listener(), Listener()
    joined(fanout, early)
    fanout.broadcast(record(1))
    joined(fanout, late)
    fanout.broadcast(record(2))
    fanout.flush()
    assert early.seen.data == [1, 2]
    assert late.seen.data == [2]


async def test_a_member_joins_a_group_whose_others_fall_behind(
    fanout: Fanout,
) -> None:
    """The flush before the join removed the group, and the newcomer with it."""
    slow, newcomer = Listener(), Listener()
    joined(fanout, slow)
    slow.seen.full = True
    fanout.broadcast(record(1))
    joined(fanout, newcomer)  # writes what is pending first, and so the only member leaves
    fanout.broadcast(record(2))
    fanout.flush()
    assert slow.writable is not None
    assert newcomer.seen.data == [2]


async def test_leaving_twice_or_without_having_joined_changes_nothing(fanout: Fanout) -> None:
    stays, leaves, never = Listener("u1"), Listener("u1"), Listener("u2")
    joined(fanout, stays, leaves)
    for member in (leaves, leaves, never):
        fanout.leave(member)
    fanout.broadcast(record(1, users=("u1",)))
    fanout.flush()
    assert stays.seen.data == [1]
    assert leaves.seen.data == []


async def test_nothing_is_kept_of_members_that_left(fanout: Fanout) -> None:
    members = [Listener(f"u{n % 7}" if n % 5 else None, {f"t{n % 3}", "x"} if n % 2 else None) for n in range(100)]
    for number, member in enumerate(members[:50]):
        member.interest = Interest(None, frozenset({"x"}), (f"p{number % 3}.", "y."))
    joined(fanout, *members)
    for member in members:
        assert fanout.snapshot().index_entries > 0
        fanout.leave(member)
    now = fanout.snapshot()
    assert (now.members, now.groups, now.index_entries) == (0, 0, 0)


async def test_a_group_that_ends_takes_nothing_from_others(fanout: Fanout) -> None:
    """They share names in the index: a user, a type, a prefix."""
    interests = [
        Interest("u1", frozenset({"a"})),
        Interest("u1", frozenset({"a", "b"}), ("p.",)),
        Interest("u2", frozenset({"b"}), ("p.", "q.")),
        Interest("u2"),
    ]
    for leaving in range(len(interests)):
        members = [Listener() for _ in interests]
        for member, interest in zip(members, interests, strict=True):
            member.interest = interest
            fanout.join(member)
        fanout.leave(members.pop(leaving))
        for type in ("a", "b", "p.1", "q.1"):
            for users in (None, ("u1",), ("u2",)):
                each = record(1, type, type=type, users=users)
                fanout.broadcast(each)
                fanout.flush()
                for member in members:
                    seen = bool(member.seen.data)
                    assert seen is member.interest.matches(each.event)
                    member.seen.data.clear()
        for member in members:
            fanout.leave(member)
        assert fanout.snapshot().index_entries == 0


async def test_a_gap_reaches_the_readers_of_its_partition_in_order(
    fanout: Fanout,
) -> None:
    fanout.positions["other"] = Position(7, 0)
    member, elsewhere = Listener("u1", {"a"}), Listener(None, {"b"})
    elsewhere.partitions = ("other",)
    joined(fanout, member, elsewhere)
    fanout.broadcast(record(1, type="a"))
    fanout.broadcast(Gap("epoch", ALL, Position(8, 0)))
    fanout.broadcast(record(2, type="a")._replace(position=Position(8, 1)))
    fanout.flush()
    assert member.seen.order == [1, "realtime.gap", 2]
    assert elsewhere.seen.order == []
    places = [Cursor.parse(event.last_event_id) for event in member.seen.all]
    assert [tuple(place.positions[ALL][:2]) for place in places if place] == [(7, 1), (8, 0), (8, 1)]


async def test_a_record_wakes_the_waiters_for_its_place(fanout: Fanout) -> None:
    """After the tail has moved: they compare their place with it. See test_position_waiters.py."""
    waiting = asyncio.create_task(fanout.waiters.reached({ALL: Position(7, 2)}))
    await spin()
    fanout.broadcast(record(1))
    assert fanout.snapshot().waiting == 1
    fanout.broadcast(record(2))
    assert fanout.snapshot().waiting == 0
    async with asyncio.timeout(1):
        await waiting


async def test_a_record_without_a_place_moves_no_cursor(fanout: Fanout) -> None:
    member: Listener = Listener()
    format: Format = member.format
    before = fanout.cursor(member.partitions)
    joined(fanout, member)
    fanout.broadcast(record(1)._replace(position=None))
    fanout.flush()
    assert member.seen.cursor == before == fanout.cursor(member.partitions)
    assert format.heartbeat(before) == b"id: " + before.encode() + b"\n\n"


async def test_after_a_gap_all_readers_read_the_log_again() -> None:
    """The log may hold what the tail has missed."""
    fanout = Fanout(Ring(), rereads=True)
    reader, elsewhere = Listener(), Listener(types={"b"})
    elsewhere.partitions = ("other",)
    joined(fanout, reader, elsewhere)
    fanout.broadcast(record(1))
    assert fanout.last_gap < 0
    fanout.broadcast(Gap("trimmed", ALL, Position(7, 9)))
    assert (reader.live, reader.writable, reader.seen.order) == (False, None, [1])
    assert reader.written == 1
    assert elsewhere.live
    assert fanout.snapshot().members == 1
    assert (fanout.last_gap, fanout.ring.end) == (1, 2)
    assert fanout.positions[ALL] == Position(7, 9)
    assert fanout.gaps == {"trimmed": 0}


async def test_a_cursor_names_the_known_partitions() -> None:
    fanout = Fanout(Ring())
    assert Cursor.parse(fanout.cursor((ALL,))) == Cursor({})
    assert fanout.cursor(()) == fanout.cursor((ALL,)) == Cursor({}).encode()
    fanout.positions |= {ALL: Position(7, 3, "00000003", 50), "a": Position(7, 5, "00000005", 40)}
    for names, known, time in (
        ((ALL,), {ALL}, 50),
        ((ALL, "a"), {ALL, "a"}, 40),
        ((ALL, "a", "b"), {ALL, "a"}, 40),
        (("b", "a"), {"a"}, 40),
    ):
        cursor = Cursor.parse(fanout.cursor(names))
        assert cursor is not None
        assert cursor == Cursor({name: fanout.positions[name]._replace(time=time) for name in known})
