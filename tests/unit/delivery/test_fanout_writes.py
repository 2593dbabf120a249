"""When a fan-out writes: once per turn and member, in chunks of a limited size, with a rest after a costly flush."""

import asyncio
from collections.abc import Awaitable, Mapping
from unittest.mock import patch

import pytest
from tidewire.delivery.fanout import MAX_REST, WRITE_BYTES, Fanout
from tidewire.delivery.ring_buffer import Ring
from tidewire.model.cursor import Position
from tidewire.model.partitions import ALL

from tests.support.clocks import pass_time, virtual_time
from tests.support.waiting import spin
from tests.unit.delivery.members import Listener, joined, record


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


async def test_a_frame_is_written_after_what_is_pending(fanout: Fanout) -> None:
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
        await spin()
        now = asyncio.get_running_loop().time()
        fanout.broadcast(record(2))
        fanout.broadcast(record(3))
        await pass_time(0.1)
        assert member.written_at == [now, pytest.approx(now + rest, abs=1e-6)]


@virtual_time
async def test_after_a_rest_a_record_is_written_in_its_turn() -> None:
    costly = Costly()
    with patch("tidewire.delivery.fanout.time", costly):
        fanout, member = Fanout(Ring()), Listener()
        joined(fanout, member)
        fanout.broadcast(record(1))
        await spin()
        costly.seconds = 9.0
        costly.pay()
        fanout.broadcast(record(2))
        await spin()
        assert member.seen.data == [1, 2]
