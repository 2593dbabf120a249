"""Revocations reach each process through the log, also processes that start later."""

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import SimpleNamespace

import pytest
from tidewire.delivery.hub import Hub
from tidewire.delivery.revocations import Revocation, Revocations
from tidewire.errors import Unauthorized
from tidewire.model.audience import Interest
from tidewire.model.cursor import Start
from tidewire.model.event import Event, new_id
from tidewire.model.partitions import Partitions
from tidewire.model.permissions import REVOCATIONS
from tidewire.model.record import Gap, Record
from tidewire.protocol.json_page import DATA_PAGE, Page
from tidewire.transports.base import Handler, Tail, Transport

from tests.contract.acts import event, publish
from tests.contract.staged import StagedLog
from tests.contract.stores import LogStore, MemoryStore, Store
from tests.support.sinks import RecordingSink, subscribed
from tests.support.waiting import eventually

SCHEME = Partitions(frozenset({"a"}), user_shards=2)
KEEP = 3_600.0 * 24 * 365 * 100  # seconds: the times of these tests are small numbers


def guarded(store: Store) -> Hub:
    return guard(store.open(SCHEME), SCHEME)


def guard(transport: Transport, scheme: Partitions = Partitions(), *, keep: float = KEEP) -> Hub:
    return Hub(transport, scheme, revocations=Revocations(transport, keep))


@asynccontextmanager
async def admitted(hub: Hub, user_id: str, issued_at: float) -> AsyncIterator[RecordingSink]:
    async with subscribed(hub, user_id, issued_at=issued_at) as sink:
        await sink.ready()
        yield sink


async def refused(hub: Hub, user_id: str | None, issued_at: float) -> bool:
    """Whether a poll with this token is refused; a poll reads the log, without a tail."""
    try:
        await hub.read(Interest(user_id), Start(), DATA_PAGE, Page(), issued_at=issued_at)
    except Unauthorized:
        return True
    return False


def known(hub: Hub) -> int:
    """Return the number of revocations that the process knows."""
    assert hub.revocations is not None
    return len(hub.revocations)


def revoke(user_id: str, before: float) -> Event:
    return Revocation(user_id, before).event()


async def test_a_revocation_ends_the_streams_of_its_user(any_store: Store) -> None:
    """In each process, and no other user's streams."""
    async with guarded(any_store) as here, guarded(any_store) as there, AsyncExitStack() as stack:
        old = [await stack.enter_async_context(admitted(hub, "u1", 100)) for hub in (here, there)]
        others = [
            await stack.enter_async_context(admitted(hub, user, issued))
            for hub in (here, there)
            for user, issued in (("u2", 100), ("u1", 200), ("u1", 300))
        ]
        await here.dispatch([revoke("u1", 200)])
        for sink in old:
            await sink.until(lambda sink=sink: sink.ended)  # type: ignore[misc]  # binds the loop variable
            assert [event.data for event in sink.all][-1] == '{"reason":"revoked"}'
        await there.dispatch([event("on")])
        for sink in others:
            await sink.has("on")
            assert sink.order == ["realtime.ready", "on"], "a revocation is not delivered to subscribers"
        for sink in old:
            assert sink.data == []


async def test_a_new_process_knows_earlier_revocations(store: LogStore) -> None:
    async with guarded(store) as first:
        await first.dispatch([revoke(f"u{n}", n) for n in range(250)])
        await first.dispatch([revoke("u7", 3)])
    async with guarded(store) as later:
        for issued in (0.0, 6.9):
            with pytest.raises(Unauthorized):
                await admitted(later, "u7", issued).__aenter__()
        assert not later.subscribers
        async with admitted(later, "u7", 7), admitted(later, "u300", 0):
            pass
    async with guarded(store) as without_a_tail:
        assert await refused(without_a_tail, "u249", 248)
        assert not await refused(without_a_tail, "u249", 249)
        assert not await refused(without_a_tail, None, 0)
        await without_a_tail.dispatch([revoke("u1", 300)])
        assert await refused(without_a_tail, "u1", 299)


async def test_a_revocation_without_subscribers_is_not_missed(store: LogStore) -> None:
    """Without subscribers, no partition is followed."""
    async with guarded(store) as hub, guarded(store) as other:
        async with admitted(hub, "u1", 100):
            pass
        assert REVOCATIONS not in hub.fanout.positions, "no partition is followed without subscribers"
        await other.dispatch([revoke("u1", 200)])
        with pytest.raises(Unauthorized):
            await admitted(hub, "u1", 100).__aenter__()


async def test_a_wiped_store_brings_no_token_back(store: LogStore) -> None:
    async with guarded(store) as hub:
        await hub.dispatch([revoke("u1", 200)])
        assert await refused(hub, "u1", 100)
        await store.wipe()
        await hub.dispatch([revoke("u2", 200)])
        for user in ("u1", "u2"):
            assert await refused(hub, user, 100)


async def test_a_revocation_under_a_reused_offset_is_read(store: LogStore) -> None:
    async with guarded(store) as hub:
        await hub.dispatch([revoke("u1", 200)])
        restore = await store.back_up()
        await hub.dispatch([revoke("u2", 200)])
        assert await refused(hub, "u2", 100)
        await restore()
        await hub.dispatch([revoke("u3", 200)])  # the second one again
        for user in ("u1", "u2", "u3"):
            assert await refused(hub, user, 100)


async def test_after_a_gap_all_revocations_are_read_again(store: LogStore) -> None:
    log = LosingLog(store.open(SCHEME))
    async with guard(log, SCHEME) as hub, admitted(hub, "u1", 100) as sink:
        log.loses = True
        await log.publish([revoke("u2", 200)])
        await eventually(lambda: not log.loses)
        assert known(hub) == 0
        head = (await log.head((REVOCATIONS,))).positions[REVOCATIONS]
        log.give(Gap("trimmed", REVOCATIONS, head))
        await eventually(lambda: known(hub) == 1)
        await publish(log, "end")
        await sink.has("end")
        assert sink.order == ["realtime.ready", "end"], "a gap in the revocations is not delivered"


class LosingLog(StagedLog):
    """A log whose tail loses revocations while it `loses`; `give` delivers an item as the tail does."""

    loses = False
    give: Handler

    def on_message(self, handler: Handler) -> AbstractAsyncContextManager[Tail]:
        self.give = handler
        return super().on_message(self._lose_one)

    def _lose_one(self, item: Record | Gap) -> None:
        if self.loses and item.partition == REVOCATIONS:
            self.loses = False
        else:
            self.give(item)


async def test_a_record_that_is_no_revocation_is_logged(store: LogStore, caplog: pytest.LogCaptureFixture) -> None:
    async with guarded(store) as hub:
        for data in (b'{"secret": 1}', b"[]", b'{"userId": 5, "before": 1}'):
            await hub.dispatch([Event(new_id(), REVOCATIONS, data)])
        await hub.dispatch([revoke("u1", 200)])
        assert await refused(hub, "u1", 100)
    assert "is not a revocation" in caplog.text
    assert "secret" not in caplog.text


async def test_a_revocation_is_kept_as_long_as_the_log_keeps_it(store: LogStore) -> None:
    async with guard(store.open(), keep=60.0) as hub:
        await hub.dispatch([revoke("u1", 200)])  # long ago
        assert not await refused(hub, "u1", 100)
        assert known(hub) == 0, "otherwise each user ever revoked would be kept for ever"


async def test_a_clock_that_jumps_ahead_brings_no_token_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock was a day ahead: the process dropped all revocations of that day."""
    async with guard(MemoryStore().open(), keep=60.0) as hub:
        now = time.time()
        await hub.dispatch([revoke("u1", now)])
        assert await refused(hub, "u1", now - 1)
        monkeypatch.setattr(
            "tidewire.delivery.revocations.time", SimpleNamespace(time=lambda: now + 86_400, monotonic=time.monotonic)
        )
        await hub.dispatch([revoke("u2", now + 86_400)])
        for user in ("u1", "u2"):
            assert await refused(hub, user, now - 1)
