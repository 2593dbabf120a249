"""What a fan-out counts: records, deliveries, lag, what it holds, and what it traces."""

import asyncio
from typing import cast

import pytest
from tidewire.delivery.fanout import Fanout
from tidewire.delivery.ring_buffer import Ring
from tidewire.delivery.tracer import Tracer
from tidewire.model.cursor import Position
from tidewire.model.partitions import ALL
from tidewire.model.record import Gap, Record

from tests.support.clocks import Clock
from tests.support.waiting import spin
from tests.unit.delivery.members import Listener, joined, record


class RecordingTracer:
    """Records the calls of a fan-out: (id, matched, written)."""

    def __init__(self) -> None:
        self.deliveries: list[tuple[str, int, int]] = []

    def delivered(self, record: Record, matched: int, written: int, began: int, ended: int) -> None:
        assert 0 < began <= ended
        self.deliveries.append((record.event.id, matched, written))


def tracing(tracer: RecordingTracer) -> Fanout:
    fanout = Fanout(Ring(), tracer=cast("Tracer", tracer))
    fanout.positions[ALL] = Position(7, 0)
    return fanout


async def test_a_record_is_traced_once_for_all_its_members() -> None:
    tracer = RecordingTracer()
    fanout = tracing(tracer)
    joined(fanout, *(Listener(f"u{number}") for number in range(5_000)), Listener(types={"other"}))
    fanout.broadcast(record(1))
    assert tracer.deliveries == [], "not before it is written"
    fanout.flush()
    fanout.flush()
    assert tracer.deliveries == [(record(1).event.id, 5_000, 5_000)]


async def test_a_trace_counts_matched_and_written_members() -> None:
    """A record without a subscriber has none."""
    tracer = RecordingTracer()
    fanout = tracing(tracer)
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
    assert tracer.deliveries == [(record(1).event.id, 3, 2), (record(3).event.id, 1, 1)]


def numbers(fanout: Fanout) -> tuple[int, ...]:
    """Records, deliveries, pairs that matched and pairs that did not."""
    return fanout.records, fanout.deliveries, fanout.matched, fanout.filtered


async def test_each_record_and_delivery_is_counted(fanout: Fanout) -> None:
    joined(fanout, Listener("u1"), Listener("u1"), Listener("u2", {"t"}), Listener(types={"other"}))
    fanout.broadcast(record(1))
    assert numbers(fanout) == (1, 0, 3, 1), "delivered when it is written"
    fanout.broadcast(record(2, users=("u1",)))
    fanout.flush()
    assert numbers(fanout) == (2, 5, 5, 3)
    fanout.broadcast(record(3, users=("nobody",)))
    fanout.flush()
    fanout.flush()
    assert numbers(fanout) == (3, 5, 5, 7)
    assert fanout.snapshot().members == 4


async def test_a_gap_is_counted_by_reason_and_member(fanout: Fanout) -> None:
    elsewhere = Listener(types={"b"})
    elsewhere.partitions = ("other",)
    joined(fanout, Listener("u1"), Listener("u2"), elsewhere)
    for reason in ("trimmed", "epoch", "trimmed"):
        fanout.broadcast(Gap(reason, ALL, Position(8, 0)))
    fanout.flush()
    assert fanout.gaps == {"trimmed": 4, "epoch": 2}
    assert numbers(fanout) == (0, 6, 0, 0), "no record, and a frame all the same"


async def test_a_member_knows_what_it_was_written_while_it_was_live(fanout: Fanout) -> None:
    """Records only, since it joined and until it left."""
    first, second = Listener(), Listener()
    joined(fanout, first)
    for offset in (1, 2):
        fanout.broadcast(record(offset))
    joined(fanout, second)
    fanout.broadcast(Gap("trimmed", ALL, Position(7, 2)))
    fanout.broadcast(record(3))
    fanout.broadcast(record(4, users=("nobody",)))
    fanout.flush()
    fanout.leave(first)
    fanout.broadcast(record(5))
    fanout.flush()
    fanout.leave(second)
    assert (first.written, second.written) == (3, 2)
    fanout.join(first)
    fanout.broadcast(record(6))
    fanout.flush()
    fanout.leave(first)
    fanout.leave(first)
    assert first.written == 4


async def test_lag_and_delivery_are_measured_from_the_append() -> None:
    """By the log's clock and ours, per record: a thousand members are written in one turn."""
    clock = Clock(2.5)
    fanout = Fanout(Ring(), clock=clock)
    fanout.broadcast(record(500))  # appended at 1.5 s
    assert fanout.tail_lag.count == 1
    assert fanout.tail_lag.sum == pytest.approx(1.0)
    joined(fanout, *(Listener() for _ in range(10)))
    fanout.broadcast(record(501))
    fanout.broadcast(record(502, users=("nobody",)))
    fanout.broadcast(record(503)._replace(position=None))
    fanout.broadcast(Gap("trimmed", ALL, Position(7, 502, "", 1)))
    assert (fanout.tail_lag.count, fanout.delivery.count) == (3, 0)
    clock.advance(3.0)
    fanout.flush()
    fanout.flush()
    assert fanout.delivery.count == 1
    assert fanout.delivery.sum == pytest.approx(3.999)


async def test_a_snapshot_counts_what_is_held() -> None:
    fanout = Fanout(Ring())
    joined(fanout, Listener("u1"), Listener("u1"), Listener("u2", {"t"}))
    waiting = [asyncio.create_task(fanout.waiters.any_item()) for _ in range(2)]
    await spin()
    assert fanout.snapshot() == (3, 2, 4, 0, 2, 0, 0)
    fanout.broadcast(record(1, users=("u1",)))
    held = fanout.snapshot()
    assert (held.waiting, held.ring_records, held.ring_bytes) == (0, 1, record(1, users=("u1",)).event.kept_bytes)
    member = Listener("u1")
    joined(fanout, member)  # which writes what is pending
    assert fanout.snapshot().pending_bytes == 0
    fanout.broadcast(record(2, users=("u1",)))
    pending = fanout.snapshot().pending_bytes
    fanout.flush()
    assert pending == len(member.seen.chunks[0])
    await asyncio.gather(*waiting)
