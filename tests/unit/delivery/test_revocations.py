"""Revocations at their edges: which token, for how long, and what of the log is read for them."""

import logging
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import cast

import pytest
from tidewire.delivery.revocations import Revocation, Revocations
from tidewire.errors import TransportUnavailable, Unauthorized
from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event
from tidewire.model.permissions import REVOCATIONS
from tidewire.model.record import Gap, Record
from tidewire.transports.base import Transport
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import head
from tests.support.clocks import Clock

NOW = 1_000_000.0
DAY = 86_400.0


class CountingLog(MemoryLog):
    """Counts what is read, and can be unavailable."""

    def __init__(self) -> None:
        super().__init__()
        self.is_unavailable = False
        self.seeks = 0
        self.replayed: list[tuple[int, int]] = []  # (after, until) of each replay

    async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
        self.seeks += 1
        return await super().seek(partitions, time)

    async def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        if self.is_unavailable:
            raise TransportUnavailable("no answer")
        self.replayed.append((after.positions[REVOCATIONS].offset, until.positions[REVOCATIONS].offset))
        async for item in super().replay(after, until):
            yield item


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The monotonic clock of the process, which has run for 500 s."""
    clock = Clock(500.0)
    monkeypatch.setattr(
        "tidewire.delivery.revocations.time", SimpleNamespace(time=lambda: NOW - 500.0 + clock.now, monotonic=clock)
    )
    return clock


def revoked(user_id: str, before: float, offset: int = 1) -> Record:
    """A record of the control partition."""
    return Record(Revocation(user_id, before).event(), REVOCATIONS, Position(7, offset, f"{offset:08x}", 1))


def is_revoked(revocations: Revocations, user_id: str | None, issued_at: float) -> bool:
    try:
        revocations.check(user_id, issued_at)
    except Unauthorized as error:
        return error.detail == "The token was revoked"
    return False


def test_a_token_from_before_is_revoked_and_a_later_one_is_not(clock: Clock) -> None:
    revocations = Revocations(MemoryLog(), DAY)
    assert revocations.on_item(revoked("u1", NOW - 10))
    issued = (NOW - 10.1, NOW - 10, NOW)
    assert [is_revoked(revocations, "u1", at) for at in issued] == [True, False, False]
    assert not is_revoked(revocations, "u2", 0.0)
    assert not is_revoked(revocations, None, 0.0)


def test_a_time_near_the_epoch_is_taken_as_it_is(clock: Clock) -> None:
    revocations = Revocations(MemoryLog(), 2 * NOW)
    revocations.on_item(revoked("u1", 0.5))
    revocations.on_item(revoked("u2", -0.5))
    assert [is_revoked(revocations, "u1", at) for at in (0.4, 0.6)] == [True, False]
    assert [is_revoked(revocations, "u2", at) for at in (-0.6, -0.4)] == [True, False]


def test_the_later_of_two_revocations_counts(clock: Clock) -> None:
    """An announcement that an instance reads again takes nothing back."""
    revocations = Revocations(MemoryLog(), DAY)
    for before in (NOW - 30, NOW - 10, NOW - 20):
        revocations.on_item(revoked("u1", before))
    assert is_revoked(revocations, "u1", NOW - 11)
    assert len(revocations) == 1


def test_each_revocation_is_reported_as_it_is_read(clock: Clock) -> None:
    revocations = Revocations(MemoryLog(), DAY)
    reported: list[tuple[str, float, bool]] = []
    revocations.on_revoked = lambda each: reported.append(
        (each.user_id, each.before, is_revoked(revocations, each.user_id, each.before - 1))
    )
    revocations.on_item(revoked("u1", NOW - 10))
    revocations.on_item(revoked("u2", NOW - 20))
    assert reported == [("u1", NOW - 10, True), ("u2", NOW - 20, True)], "known before its streams end"


def test_a_revocation_is_forgotten_when_the_log_has_trimmed_it(clock: Clock) -> None:
    """By the time that has passed here: a wall clock that jumps brings no token back."""
    revocations = Revocations(MemoryLog(), DAY)
    for user_id, before in (("u1", NOW), ("u2", NOW + 100), ("u3", NOW + 200)):
        revocations.on_item(revoked(user_id, before))
    clock.advance(DAY - 0.1)
    revocations.on_item(revoked("u4", NOW + DAY))
    assert len(revocations) == 4
    clock.advance(0.1)
    revocations.on_item(revoked("u5", NOW + DAY))
    assert len(revocations) == 4
    assert not is_revoked(revocations, "u1", NOW - 1)
    clock.advance(200.0)
    revocations.on_item(revoked("u2", NOW + DAY))
    assert len(revocations) == 3
    assert [is_revoked(revocations, user, NOW + 99) for user in ("u2", "u3", "u4", "u5")] == [True, False, True, True]
    clock.advance(10 * DAY)
    revocations.on_item(revoked("u9", NOW))
    assert len(revocations) == 0


def test_a_malformed_record_is_an_error_line_without_its_data(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    revocations = Revocations(MemoryLog(), DAY)
    with caplog.at_level(logging.ERROR):
        assert revocations.on_item(Record(Event("e", REVOCATIONS, b'{"userId":"secret"}'), REVOCATIONS, None))
    assert [record.getMessage() for record in caplog.records] == [
        "a record of the partition realtime.revocations is not a revocation"
    ]
    assert len(revocations) == 0


async def revoke(log: MemoryLog, *user_ids: str) -> Position:
    """Append revocations up to now; return the head after them."""
    await log.publish([Revocation(user_id, NOW).event() for user_id in user_ids])
    return await head(log, REVOCATIONS)


async def test_an_empty_log_costs_no_request(clock: Clock) -> None:
    log = CountingLog()
    revocations = Revocations(log, DAY)
    await revocations.catch_up(await head(log, REVOCATIONS))
    await revocations.catch_up()
    assert (log.seeks, log.replayed) == (0, [])


async def test_only_what_is_not_known_yet_is_read(clock: Clock) -> None:
    log = CountingLog()
    revocations = Revocations(log, DAY)
    await revocations.catch_up(await revoke(log, "u1", "u2"))
    assert (log.seeks, log.replayed, len(revocations)) == (1, [(0, 2)], 2)
    await revocations.catch_up(await head(log, REVOCATIONS))
    end = await revoke(log, "u3")
    assert revocations.on_item(Record(Revocation("u3", NOW).event(), REVOCATIONS, end)), "the tail has brought it"
    await revocations.catch_up(end)
    assert log.replayed == [(0, 2)]
    await revocations.catch_up(await revoke(log, "u4"))
    assert log.replayed == [(0, 2), (3, 4)]
    assert log.seeks == 1
    assert len(revocations) == 4


async def test_a_record_without_a_place_moves_none(clock: Clock) -> None:
    """Delivered early, behind a fallback: the log's place is still to be read."""
    log = CountingLog()
    revocations = Revocations(log, DAY)
    await revocations.catch_up(await revoke(log, "u1"))
    assert revocations.on_item(revoked("u2", NOW)._replace(position=None))
    await revocations.catch_up(await revoke(log, "u2"))
    assert log.replayed == [(0, 1), (1, 2)]


async def test_after_a_gap_all_is_read_up_to_its_place(clock: Clock) -> None:
    """Also if records follow it, before the log could be read."""
    log = CountingLog()
    revocations = Revocations(log, DAY)
    await revocations.catch_up(await revoke(log, "u1"))
    end = await revoke(log, "u2", "u3")
    assert not revocations.on_item(Gap("trimmed", REVOCATIONS, end))
    log.is_unavailable = True
    with pytest.raises(TransportUnavailable):
        await revocations.catch_up()
    later = await revoke(log, "u4")
    assert revocations.on_item(Record(Revocation("u4", NOW).event(), REVOCATIONS, later))
    log.is_unavailable = False
    await revocations.catch_up()
    assert log.replayed == [(0, 1), (0, 3)]
    assert len(revocations) == 4
    await revocations.catch_up()
    assert log.replayed == [(0, 1), (0, 3)], "once"


class NoLog:
    """A transport that keeps nothing."""

    async def publish(self, events: Sequence[Event]) -> list[object]:
        return []


async def test_without_a_log_a_gap_leaves_nothing_to_read(clock: Clock) -> None:
    revocations = Revocations(cast("Transport", NoLog()), DAY)
    revocations.on_item(revoked("u1", NOW)._replace(position=None))
    assert revocations.on_item(Gap("no-log", REVOCATIONS, None))
    await revocations.catch_up(Position(7, 9))
    assert is_revoked(revocations, "u1", 0.0)
