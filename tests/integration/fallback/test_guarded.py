"""While the log is unavailable: revoked tokens and rate limits."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from tidewire.delivery.hub import Hub
from tidewire.delivery.revocations import Revocation, Revocations
from tidewire.errors import Unauthorized
from tidewire.model.audience import Interest
from tidewire.protocol.sse import CLOSING
from tidewire.transports.base import Log
from tidewire.transports.fallback.fallback import Fallback
from tidewire.transports.redis.streams import RedisStreams

from tests.contract.acts import event
from tests.contract.stores import MemoryStore
from tests.support.clocks import pass_time, virtual_time
from tests.support.sinks import RecordingSink, subscribed
from tests.support.unavailable_log import UnavailableLog

KEEP = 1e12  # seconds: the times of these tests are small numbers


def guard(log: Log) -> Hub:
    return Hub(log, revocations=Revocations(log, KEEP))


async def _sent_away(sink: RecordingSink) -> None:
    await sink.until(lambda: sink.ended)
    assert sink.order == [CLOSING]


@virtual_time
async def test_a_revoked_stream_of_an_outage_ends_after_it() -> None:
    """It was accepted in the outage, when the revocation could not be read."""
    store = MemoryStore()
    async with guard(store.open()) as elsewhere:
        await elsewhere.dispatch([Revocation("u1", 200).event()])
        log = UnavailableLog(store.open())
        log.leave()
        async with guard(Fallback(log)) as hub:
            async with (
                subscribed(hub, "u1", issued_at=100, wait_for_log=True) as old,
                subscribed(hub, "u1", issued_at=300, wait_for_log=True) as new,
            ):
                log.come_back()
                await old.until(lambda: old.ended)
                assert old.all[-1].data == '{"reason":"revoked"}'
                await new.ready()  # the store's clock stands still, so that an earlier event would have the same time
                await hub.dispatch([event("on")])
                await new.has("on")
            with pytest.raises(Unauthorized):
                hub.check_revoked(Interest("u1"), 100)


@virtual_time
async def test_nothing_is_replayed_to_a_revoked_stream() -> None:
    """After an outage of any length, whichever stream reconnects first."""
    store = MemoryStore()
    async with guard(store.open()) as elsewhere:
        await elsewhere.dispatch([event("theirs", users=["u1"]), Revocation("u1", 200).event()])
        log = UnavailableLog(store.open())
        log.leave()
        async with guard(Fallback(log)) as hub, AsyncExitStack() as streams:
            sinks = [  # each reconnects to the log at another moment
                await streams.enter_async_context(
                    subscribed(hub, "u1", since="earliest", issued_at=100, wait_for_log=True)
                )
                for _ in range(20)
            ]
            await pass_time(60)  # virtual; the attempts to read the revocations are seconds apart by now
            log.come_back()
            await asyncio.gather(*map(_sent_away, sinks))


@virtual_time
async def test_streams_that_left_in_an_outage_are_not_followed() -> None:
    log = UnavailableLog(MemoryStore().open())
    log.leave()
    async with guard(Fallback(log)) as hub:
        async with subscribed(hub, "u1", wait_for_log=True):
            await pass_time(60)  # virtual
        log.come_back()
        await pass_time(60)  # virtual
        assert hub.fanout.positions == {}
        assert hub.snapshot().readers == {}


async def test_a_rate_is_counted_in_this_process_in_an_outage() -> None:
    fallback = Fallback(RedisStreams("redis://127.0.0.1:9"))  # nothing listens there
    assert await fallback.take("k", 2, 3, 1_000.0) == 0
    assert await fallback.take("k", 2, 3, 1_000.0) > 0
    await fallback.aclose()
