"""The fan-out of one record: matched, encoded and written no more often than needed."""

import asyncio
from collections.abc import Awaitable, Mapping
from unittest.mock import patch

import pytest
from tidewire.delivery.fanout import MAX_REST, WRITE_BYTES, Fanout
from tidewire.delivery.ring_buffer import Ring
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position
from tidewire.model.partitions import ALL
from tidewire.model.record import Gap
from tidewire.protocol.sse import CLOUDEVENTS, Format

from tests.support.clocks import virtual_time
from tests.unit.delivery.members import CountingFormat, Listener, executed_lines, joined, record


@pytest.fixture
def fanout() -> Fanout:
    fanout = Fanout(Ring())
    fanout.positions[ALL] = Position(7, 0)
    return fanout


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


async def test_a_frame_is_written_to_live_members_after_what_is_pending(fanout: Fanout) -> None:
    live, gone, full = Listener(), Listener(), Listener()
    joined(fanout, live, full)
    gone.live = False
    fanout.broadcast(record(1))
    fanout.write((live, gone), b"data: 7\n\n")
    assert live.seen.data == [1, 7]
    assert (full.seen.data, gone.seen.data) == ([1], [])
    full.seen.full = True
    fanout.write((live, full), b"data: 8\n\n")
    assert not full.live
    fanout.write((live, full), b"data: 9\n\n")
    assert (live.seen.data, full.seen.data) == ([1, 7, 8, 9], [1, 8])
    assert fanout.snapshot().members == 1


async def test_a_backlog_is_written_in_chunks(fanout: Fanout) -> None:
    """What the tail brings in one turn is not kept for each client, and each client that is full reads the log."""
    large = "x" * (WRITE_BYTES // 2)
    fast, slow = Listener(), Listener()
    joined(fanout, fast, slow)
    slow.seen.full = True
    fanout.broadcast(record(1, large))
    fanout.broadcast(record(2, large))
    assert fast.seen.chunks == []
    fanout.broadcast(record(3))
    assert [len(event.data) > 9 for event in fast.seen.all] == [True, True], "written before the third counts"
    assert not slow.live
    assert fanout.snapshot().members == 1
    fanout.broadcast(record(4))
    fanout.flush()
    assert fast.seen.data[2:] == [3, 4]
    assert len(fast.seen.chunks) == 2
    assert len(slow.seen.chunks) == 1


@pytest.mark.parametrize(("missing", "written"), [(1, 0), (0, 1)])
async def test_a_chunk_is_full_at_its_limit(fanout: Fanout, missing: int, written: int) -> None:
    other, member = Listener("u1"), Listener("u2")
    joined(fanout, other)
    fanout.broadcast(record(1, ""))
    frame = fanout.snapshot().pending_bytes
    joined(fanout, member)
    fanout.flush()
    for _ in range(2):
        member.seen.chunks.clear()
        fanout.broadcast(record(1, "x" * (WRITE_BYTES - frame - missing)))
        fanout.broadcast(record(1, ""))
        assert len(member.seen.chunks) == written
        fanout.flush()
        assert len(member.seen.chunks) == written + 1


async def test_the_place_of_a_full_member_is_before_the_next_record(fanout: Fanout) -> None:
    """Its sink was full when a backlog was written: what comes next it reads in the log, from the tail's place."""
    places: list[Mapping[str, Position]] = []

    class Slow(Listener):
        def fall_behind(self, writable: Awaitable[None] | None) -> None:
            super().fall_behind(writable)
            places.append(dict(fanout.positions))

    slow = Slow()
    joined(fanout, slow)
    slow.seen.full = True
    fanout.broadcast(record(1, "x" * WRITE_BYTES))
    fanout.broadcast(record(2))
    assert places == [{ALL: record(1).position}]


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


class Costly:
    """A clock by which a write to a member takes `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._taken = 1_000.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() + self._taken

    def pay(self) -> None:
        self._taken += self.seconds


@pytest.mark.parametrize(
    ("took", "rest"), [(0.0, 0.0), (0.0018, 0.0), (0.003, 0.0015), (0.008, 0.004), (0.1, MAX_REST), (9.0, MAX_REST)]
)
@virtual_time
async def test_after_a_costly_flush_the_next_one_rests(took: float, rest: float) -> None:
    """Half as long as it took, for at most 5 ms; a rest below 1 ms would cost more than it saves."""
    costly = Costly()

    class Member(Listener):
        def __init__(self) -> None:
            super().__init__()
            self.written_at: list[float] = []
            self.sink = self

        buffered = 0

        def write(self, chunk: bytes) -> None:
            costly.pay()
            self.written_at.append(asyncio.get_running_loop().time())

        def end(self, chunk: bytes) -> None:
            raise AssertionError("nothing ends")

    with patch("tidewire.delivery.fanout.time", costly):
        fanout, member = Fanout(Ring()), Member()
        joined(fanout, member)
        costly.seconds = took
        fanout.broadcast(record(1))
        await asyncio.sleep(0)
        now = asyncio.get_running_loop().time()
        fanout.broadcast(record(2))
        fanout.broadcast(record(3))
        await asyncio.sleep(0.1)
        assert member.written_at == [now, pytest.approx(now + rest, abs=1e-6)]


@virtual_time
async def test_after_a_rest_a_record_is_written_in_its_turn() -> None:
    costly = Costly()
    with patch("tidewire.delivery.fanout.time", costly):
        fanout, member = Fanout(Ring()), Listener()
        joined(fanout, member)
        fanout.broadcast(record(1))
        await asyncio.sleep(0)
        costly.seconds = 9.0
        costly.pay()
        fanout.broadcast(record(2))
        await asyncio.sleep(0)
        assert member.seen.data == [1, 2]
