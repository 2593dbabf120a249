"""The fan-out of one record: matched, encoded and written no more often than needed."""

import asyncio
from typing import cast

import pytest
from tidewire.delivery.fanout import Fanout
from tidewire.delivery.ring_buffer import Ring
from tidewire.delivery.tracer import Tracer
from tidewire.model.cursor import Cursor, Position
from tidewire.model.partitions import ALL
from tidewire.model.record import Gap, Record
from tidewire.protocol.sse import CLOUDEVENTS, Format

from tests.support.waiting import spin
from tests.unit.delivery.members import CountingFormat, Listener, executed_lines, record


@pytest.fixture
def fanout() -> Fanout:
    fanout = Fanout(Ring())
    fanout.positions[ALL] = Position(7, 0)
    return fanout


def joined(fanout: Fanout, *members: Listener) -> None:
    for member in members:
        fanout.join(member)


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


async def test_records_of_one_turn_are_one_write_per_member(fanout: Fanout) -> None:
    members = [Listener(), Listener("u1"), Listener("u1", {"t"})]
    joined(fanout, *members)
    for offset in range(1, 21):
        fanout.broadcast(record(offset))
        assert members[0].seen.chunks == []
    await spin()
    await members[0].seen.until(lambda: len(members[0].seen.data) == 20)
    for member in members:
        assert len(member.seen.chunks) == 1
        assert member.seen.data == list(range(1, 21))


async def test_a_record_after_a_pause_is_written_in_the_same_turn(fanout: Fanout) -> None:
    member = Listener()
    joined(fanout, member)
    fanout.broadcast(record(1))
    await spin()
    assert member.seen.data == [1]


async def test_a_write_under_load_is_delayed_by_milliseconds(fanout: Fanout, monkeypatch: pytest.MonkeyPatch) -> None:
    """And never left behind."""
    member = Listener()
    joined(fanout, member)
    monkeypatch.setattr("tidewire.delivery.fanout.REST", 1e9)  # as after a flush that took long
    fanout.broadcast(record(1))
    fanout.flush()
    for offset in range(2, 6):
        fanout.broadcast(record(offset))
    await member.seen.until(lambda: len(member.seen.data) == 5, seconds=1)
    assert len(member.seen.chunks) == 2


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
        (None, "a", {"nobody", "only a", "u1", "u1 only b and a"}),
        (None, "b", {"nobody", "u1", "u1 only b and a"}),
        (("u1",), "a", {"u1", "u1 only b and a"}),
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
    }
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
    members = [Listener(f"u{n % 7}", {f"t{n % 3}", "x"} if n % 2 else None) for n in range(100)]
    joined(fanout, *members)
    for member in members:
        fanout.leave(member)
    now = fanout.snapshot()
    assert (now.members, now.groups, now.index_entries) == (0, 0, 0)


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
    await asyncio.sleep(0)
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


class RecordingTracer:
    """Records the calls of a fan-out: (id, matched, written)."""

    def __init__(self) -> None:
        self.deliveries: list[tuple[str, int, int]] = []

    def delivered(self, record: Record, matched: int, written: int, began: int, ended: int) -> None:
        assert 0 < began <= ended
        self.deliveries.append((record.event.id, matched, written))


def tracing(recorder: RecordingTracer) -> Fanout:
    fanout = Fanout(Ring(), tracer=cast("Tracer", recorder))
    fanout.positions[ALL] = Position(7, 0)
    return fanout


async def test_a_record_is_traced_once_for_all_its_members() -> None:
    recorder = RecordingTracer()
    fanout = tracing(recorder)
    joined(fanout, *(Listener(f"u{number}") for number in range(5_000)), Listener(types={"other"}))
    fanout.broadcast(record(1))
    assert recorder.deliveries == [], "not before it is written"
    fanout.flush()
    fanout.flush()
    assert recorder.deliveries == [(record(1).event.id, 5_000, 5_000)]


async def test_a_trace_counts_matched_and_written_members() -> None:
    """A record without a subscriber has none."""
    recorder = RecordingTracer()
    fanout = tracing(recorder)
    stays, goes, slow = Listener(), Listener(), Listener()
    slow.seen.full = True
    joined(fanout, stays, goes, slow)
    fanout.broadcast(record(1))
    fanout.leave(goes)
    fanout.flush()  # the slow one takes it, and no more
    fanout.broadcast(Gap("trimmed", ALL, Position(7, 1)))
    fanout.broadcast(record(2, users=("nobody",)))
    fanout.broadcast(record(3))
    fanout.flush()
    assert recorder.deliveries == [(record(1).event.id, 3, 2), (record(3).event.id, 1, 1)]
